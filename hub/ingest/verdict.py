"""What the hub says of an agent, in one vocabulary: log lines, `nodetap agents`, metrics and `doctor` use these words.

Pure: `judge` looks at what is known of one agent at one moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VERDICTS = ("healthy", "quiet", "lagging", "degraded", "stalled", "left", "gone")

SILENT = 10.0
"""Seconds without a message after which a connected agent counts as stalled; it reports three times in that."""
LAGGING = 30.0
"""Seconds after which the oldest batch that waits for the store makes an agent lagging."""
RESTARTS = 3
"""Restarts of its capture after which an agent is degraded, whatever it does now."""
CONTESTED = 180.0
"""Seconds for which two agents are said to fight over a name after one took it back from the other."""
QUIET = 60.0
"""Seconds without a captured packet after which a healthy agent is called quiet."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one agent. Ages in seconds; `stall` is what the agent itself says has stalled, or empty."""

    connected: bool
    finished: bool  # its last run ended in good order
    silent_for: float
    state: str
    level: str
    lag: float
    packets_age: float
    stall: str
    restarts: int = 0  # of its capture, in this run
    contested: float | None = None  # since one of two runs took the name back; None: that never happened


def judge(known: Known) -> tuple[str, dict[str, Any]]:
    """The verdict and its evidence; the detector is named wherever something is wrong."""
    if not known.connected:
        return ("left", {"detector": "bye"}) if known.finished else ("gone", {"silent_s": round(known.silent_for, 1)})
    if known.stall:
        return "stalled", {"detector": known.stall}
    if known.silent_for > SILENT:
        return "stalled", {"detector": "silence", "silent_s": round(known.silent_for, 1)}
    if known.contested is not None and known.contested < CONTESTED:
        return "degraded", {"detector": "name", "taken_back_s": round(known.contested, 1)}
    if known.level != "packets":
        return "degraded", {"detector": "pressure", "level": known.level}
    if known.restarts >= RESTARTS:
        return "degraded", {"detector": "capture", "restarts": known.restarts}
    if known.lag > LAGGING:
        return "lagging", {"detector": "lag", "lag_s": round(known.lag, 1)}
    if known.packets_age > QUIET:
        return "quiet", {"packets_age_s": round(known.packets_age, 1)}
    return "healthy", {}
