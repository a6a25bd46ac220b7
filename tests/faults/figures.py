"""Figures of fault tests, one JSON line each: tools/reliability.py makes the table of docs/reliability.md of them."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Protocol

FIGURES = Path(__file__).resolve().parents[2] / ".bench" / "reliability.jsonl"


class Machine(Protocol):
    """What a test runs on."""

    @property
    def overrun(self) -> bool:
        """Whether others take so much of it that times say nothing."""


machine: Machine | None = None
"""What the present test runs on (`conftest.py`)."""


def record(scenario: str, fault: str, expectation: str, measured: str) -> None:
    """Keep what was measured in a scenario, "1" to "22" or a part of one ("6b"); call it where the test has passed.

    A row of the table is one scenario, test and fault: a test with parameters says in `fault` which one it is.
    Appends one line to NODETAP_FIGURES, by default .bench/reliability.jsonl, in one write: tests side by side may.
    """
    if machine is not None and machine.overrun:
        measured += " (machine overrun: times not judged)"
    line = {
        "scenario": scenario,
        "fault": fault,
        "expectation": expectation,
        "measured": measured,
        "form": "full" if os.environ.get("NODETAP_FAULTS") == "full" else "scaled",
        "day": date.today().isoformat(),
        "test": os.environ["PYTEST_CURRENT_TEST"].partition(" (")[0].partition("[")[0],
    }
    path = Path(os.environ.get("NODETAP_FIGURES", FIGURES))
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps(line, ensure_ascii=False) + "\n").encode())
    finally:
        os.close(file)
    print(f"scenario {scenario}: {measured}")
