"""What the hub's log says of its own pauses."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from procs import Hub, ending, until

from hub.watchdog import PAUSE, TICK


def test_a_hub_that_did_not_run_says_so_itself(tmp_path: Path) -> None:
    """Else its log shows nothing but agents that fell silent."""
    hub = Hub(tmp_path).ready()
    with ending(hub):
        hub.send(signal.SIGSTOP)
        end = time.monotonic() + PAUSE + 3 * TICK
        until("it was stopped for a while", lambda: time.monotonic() > end)
        hub.send(signal.SIGCONT)
        said = until("it says so", lambda: [e for e in hub.events if e.get("event") == "the process did not run"])
        assert said[-1]["seconds"] > PAUSE
        assert "stopped" in said[-1]["reason"]
