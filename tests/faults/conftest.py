"""What fault tests may use: how busy the machine is while they look at the clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import figures
import pytest
from herd import Lateness

CROWDED = 0.8
"""Share of the time for which some process waited for a processor; a test and what it starts make a third of it."""
PRESSURE = Path("/proc/pressure/cpu")


def waited() -> float:
    """Seconds for which some process of this machine has waited for a processor; 0 where the kernel does not tell."""
    try:
        return int(PRESSURE.read_text().split("total=")[1].split()[0]) / 1e6
    except OSError:
        return 0.0


class Machine(Lateness):
    """How busy the machine is in a `with` block."""

    def __enter__(self) -> Machine:
        self._began, self._waited = monotonic(), waited()
        super().__enter__()
        return self

    @property
    def overrun(self) -> bool:
        """Whether others take so much of the machine that times say nothing about nodetap."""
        share = (waited() - self._waited) / (monotonic() - self._began)
        return share > CROWDED or super().overrun


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: others run beside it."""
    items.sort(key=lambda item: item.path.name != "test_soak.py")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The machine while a test runs; figures say where it was overrun."""
    with Machine() as present:
        monkeypatch.setattr(figures, "machine", present)
        yield present
