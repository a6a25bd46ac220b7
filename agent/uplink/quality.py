"""How good the link is, in numbers: round trips, questions answered, how far the clocks are apart, why links ended.

Pure. The loop writes, other threads read single numbers at any time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

MOST = 3.0
"""A deadline follows what was measured up to so many times its least value."""
MARGIN = 2.0
"""An answer is late only beyond so many times what it usually takes."""
SAMPLES = 8
"""Looks at the hub's clock of which the one with the shortest delay is believed (RFC 5905, section 10, has as many)."""
CERTAIN = 0.05
"""Seconds by which two answers may contradict each other before one of the clocks was set: they run unevenly."""
REASONS = 12
"""Reasons for which links ended that are counted apart."""


@dataclass(slots=True)
class Answers:
    """Questions of one kind and their answers. `usual` and `jitter` in seconds: smoothed as RFC 6298 does (section 2),
    `jitter` is its mean deviation; `missed` are links given up in a row because an answer was late."""

    asked: int = 0
    answered: int = 0
    usual: float = 0.0
    jitter: float = 0.0
    missed: int = 0

    def answer(self, seconds: float) -> None:
        """One was answered after that many seconds."""
        if self.answered == 0:
            self.usual, self.jitter = seconds, seconds / 2
        else:
            self.jitter += (abs(seconds - self.usual) - self.jitter) / 4
            self.usual += (seconds - self.usual) / 8
        self.answered += 1
        self.missed = 0

    def late(self) -> None:
        """One was waited for so long that the link was given up."""
        self.missed += 1

    def patience(self, least: float) -> float:
        """Seconds to wait for an answer: `least`, or more where answers usually take long, at most MOST times that.

        It doubles with each link given up in a row (RFC 6298, section 5.5): a hub that is slow because everybody comes
        back at once must not see everybody leave at once, again and again.
        """
        usual = max(least, MARGIN * (self.usual + 4 * self.jitter))
        return min(MOST * least, usual * 2.0 ** min(self.missed, 2))


class Clock:
    """How far the hub's clock is from ours: `offset`, the hub's minus ours, seconds; 0 until the hub told its own.

    Kept against our steady clock: that ours was set is seen at the next `look`. That the hub's was set is seen by an
    answer that contradicts an earlier one.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        self._heard: deque[tuple[float, float, float]] = deque(maxlen=SAMPLES)

    def hear(self, theirs: int, wall: int, steady: float, delay: float, trip: float) -> None:
        """The hub said that it was `theirs` (ns since 1970) when it answered; now it is `wall` (the same) and `steady`
        (seconds), `delay` seconds after the question.

        `trip` is the usual round trip: what the hub's queue took of the delay is no part of the answer's way.
        """
        least = theirs / 1e9 - steady  # were the answer's way no time at all
        if any(max(least, low) > min(least + delay, low + late) + CERTAIN for late, low, _ in self._heard):
            self._heard.clear()
        self._heard.append((delay, least, least + min(trip, delay) / 2))
        self.look(wall, steady)

    def look(self, wall: int, steady: float) -> None:
        """Find `offset` for now."""
        if self._heard:
            self.offset = min(self._heard)[2] - (wall / 1e9 - steady)

    def forget(self) -> None:
        """From now on it is another hub's clock."""
        self._heard.clear()


@dataclass(slots=True)
class Quality:
    """One agent's link since the start. `progress` are acknowledgements, and for how long each was waited for."""

    ping: Answers = field(default_factory=Answers)
    echo: Answers = field(default_factory=Answers)
    progress: Answers = field(default_factory=Answers)
    clock: Clock = field(default_factory=Clock)
    ended: dict[str, int] = field(default_factory=dict)

    def end(self, reason: str) -> None:
        """A link that had streamed ended, for this reason."""
        if reason not in self.ended and len(self.ended) >= REASONS:
            reason = "other"
        self.ended[reason] = self.ended.get(reason, 0) + 1

    def gave_up(self, detector: str) -> None:
        """A link ended because the answer that this detector looks at was late."""
        self.end(detector)
        answers: Answers = getattr(self, detector)
        answers.late()

    @property
    def clock_offset(self) -> float:
        """The hub's clock minus ours, seconds, give or take half a round trip."""
        return self.clock.offset

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
