"""How good the link is, in numbers: round trips, questions answered, how far the clocks are apart, why links ended.

Pure. The loop writes, other threads read single numbers at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOST = 3.0
"""A deadline follows what was measured up to so many times its least value."""
MARGIN = 2.0
"""An answer is late only beyond so many times what it usually takes."""
REASONS = 12
"""Reasons for which links ended that are counted apart."""


@dataclass(slots=True)
class Answers:
    """Questions of one kind and their answers. `usual` and `jitter` in seconds: smoothed as RFC 6298 does (section 2),
    `jitter` is its mean deviation."""

    asked: int = 0
    answered: int = 0
    usual: float = 0.0
    jitter: float = 0.0

    def answer(self, seconds: float) -> None:
        """One was answered after that many seconds."""
        if self.answered == 0:
            self.usual, self.jitter = seconds, seconds / 2
        else:
            self.jitter += (abs(seconds - self.usual) - self.jitter) / 4
            self.usual += (seconds - self.usual) / 8
        self.answered += 1

    def patience(self, least: float) -> float:
        """Seconds to wait for an answer: `least`, or more where answers usually take long, at most MOST times that."""
        return min(MOST * least, max(least, MARGIN * (self.usual + 4 * self.jitter)))


@dataclass(slots=True)
class Quality:
    """One agent's link since the start. `progress` are acknowledgements, and for how long each was waited for."""

    ping: Answers = field(default_factory=Answers)
    echo: Answers = field(default_factory=Answers)
    progress: Answers = field(default_factory=Answers)
    clock_offset: float = 0.0  # the hub's clock minus ours, seconds, give or take half a round trip
    ended: dict[str, int] = field(default_factory=dict)

    def end(self, reason: str) -> None:
        """A link that had streamed ended, for this reason."""
        if reason not in self.ended and len(self.ended) >= REASONS:
            reason = "other"
        self.ended[reason] = self.ended.get(reason, 0) + 1

    def clock(self, theirs: int, ours: int, round_trip: float) -> None:
        """The hub said it was `theirs` (ns since 1970) when it answered; it is `ours` now, `round_trip` s after asking.

        The true offset is at most half a round trip away (as in NTP, RFC 5905, section 8).
        """
        self.clock_offset = (theirs - ours) / 1e9 + round_trip / 2

    def to_map(self) -> dict[str, Any]:
        """What the hub shows of it."""
        return {
            "round_trip": round(self.ping.usual, 6),
            "jitter": round(self.ping.jitter, 6),
            "pings": self.ping.asked,
            "pongs": self.ping.answered,
            "echoes": self.echo.asked,
            "echo_replies": self.echo.answered,
            "clock_offset": round(self.clock_offset, 6),
            "ended": dict(self.ended),
        }
