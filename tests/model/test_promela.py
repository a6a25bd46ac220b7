"""The models, checked by spin over all their states; and that each property refutes the faults it is there for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from promela import Table, table

from agent.uplink.machine import TABLE, Command, Event, State

HERE = Path(__file__).parent
MEGABYTES = 1000
SAFETY = ("acknowledged_is_stored", "stored_once", "buffers_are_freed")
"""Of these no fairness is needed, nor a search for cycles."""

pytestmark = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")), reason="spin or gcc is not installed (apt-get install spin gcc)"
)

Check = Callable[..., bool]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Whether a claim of a model holds in all states. Weakly fair: what can go on for ever does so at some time."""
    built: dict[object, Path] = {}

    def holds(model: str, claim: str, *defines: str, of: Table = TABLE) -> bool:
        key = model, defines, table(of)
        if key not in built:
            built[key] = _build(tmp_path_factory.mktemp(model), model, defines, of)
        return _search(built[key], claim)

    return holds


def _build(folder: Path, model: str, defines: tuple[str, ...], of: Table) -> Path:
    for file in HERE.glob("*.pml"):
        shutil.copy(file, folder)
    (folder / "table.pml").write_text(table(of))
    spin = ["spin", *(f"-D{d}" for d in defines), "-a", f"{model}.pml"]
    subprocess.run(spin, cwd=folder, check=True, capture_output=True)
    broken = of is not TABLE or any(
        d.startswith("BUG") for d in defines
    )  # soon refuted: the compiler is what takes time
    options = [
        "-O0" if broken else "-O1",
        "-w",
        "-DCOLLAPSE",
        "-DNFAIR=4",
        f"-DMEMLIM={MEGABYTES}",
    ]  # what is soon refuted is soon compiled
    subprocess.run(["gcc", *options, "-o", "pan", "pan.c"], cwd=folder, check=True)
    return folder


def _search(folder: Path, claim: str) -> bool:
    fair = [] if claim in SAFETY else ["-f"]
    run = ["nice", "./pan", "-a", *fair, "-m100000", "-N", claim]
    out = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=250).stdout
    errors = re.search(r"errors: (\d+)", out)
    assert errors is not None, out
    assert "max search depth too small" not in out
    assert "Search not completed" not in out or errors[1] != "0", out
    return errors[1] == "0"


@pytest.mark.parametrize(
    ("model", "claim", "defines"),
    [
        ("delivery", "acknowledged_is_stored", ["N=1"]),
        ("delivery", "stored_once", ["N=1"]),
        ("delivery", "all_is_settled", ["N=1"]),
        ("delivery", "acknowledged_is_stored", ["N=2", "ONE_HUB"]),
        ("delivery", "stored_once", ["N=2", "ONE_HUB"]),
        ("delivery", "all_is_settled", ["N=2", "ONE_HUB"]),
        ("link", "every_stall_ends", []),
        ("link", "work_resumes", []),
        ("link", "buffers_are_freed", []),
        ("link", "whoever_is_told_stops", []),
        ("link", "whoever_is_told_drains", ["NO_DEADLINE"]),
    ],
)
def test_it_holds(check: Check, model: str, claim: str, defines: list[str]) -> None:
    assert check(model, claim, *defines)


@pytest.mark.parametrize(
    ("model", "claim", "defines"),
    [
        ("delivery", "acknowledged_is_stored", ["N=1", "BUG_ACK_EARLY"]),
        ("delivery", "stored_once", ["N=1", "BUG_FORGET_DOUBT"]),
        ("delivery", "stored_once", ["N=1", "BUG_DOUBT_ANYWHERE"]),
        ("delivery", "stored_once", ["N=1", "BUG_NO_DEDUPE"]),
        ("delivery", "stored_once", ["N=1", "BUG_NO_RECOVERY"]),
        ("delivery", "all_is_settled", ["N=1", "BUG_NO_TOMBSTONE"]),
        ("link", "every_stall_ends", ["BUG_NO_PROGRESS"]),
        ("link", "every_stall_ends", ["BUG_NO_ECHO"]),
        ("link", "every_stall_ends", ["BUG_POLITE"]),
        ("link", "whoever_is_told_drains", ["NO_DEADLINE", "BUG_STOP_FORGOTTEN"]),
    ],
)
def test_a_fault_is_refuted(check: Check, model: str, claim: str, defines: list[str]) -> None:
    assert not check(model, claim, *defines)


@pytest.mark.parametrize(
    ("state", "event", "command", "claim"),
    [
        (State.STREAMING, Event.STALLED, Command.ABORT, "work_resumes"),
        (State.STREAMING, Event.LOST, Command.FREE, "buffers_are_freed"),
        (State.DRAINING, Event.STALLED, Command.FREE, "buffers_are_freed"),
        (State.STREAMING, Event.REFUSED, Command.BACK_OFF, "work_resumes"),
        (State.BACKOFF, Event.WAKE, Command.CONNECT, "work_resumes"),
    ],
)
def test_a_command_that_is_missing_is_refuted(
    check: Check, state: State, event: Event, command: Command, claim: str
) -> None:
    new, commands = TABLE[state, event]
    assert command in commands
    broken = {**TABLE, (state, event): (new, [c for c in commands if c is not command])}
    assert not check("link", claim, of=broken)
