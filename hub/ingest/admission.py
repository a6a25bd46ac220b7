"""Who may connect now: so many handshakes a second; the rest is told when to come again.

Pure: `now` is seconds of any monotonic clock. A herd that comes back at once is told times one after the other, at half
the rate at which we take connections: the other half is for those who come by themselves.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

RATE = 100.0
"""Connections a second: a handshake, hello and welcome cost about 2 ms, and the agents that stream want the rest."""
BURST = 50.0
"""Connections that may come at once after a quiet time."""
LONGEST = 30.0
"""Seconds after which those who were turned away may come again at the latest, before jitter."""


@dataclass(slots=True)
class Admission:
    """A bucket of BURST tokens, RATE of which come in a second."""

    rng: random.Random = field(default_factory=random.Random)
    _tokens: float = BURST
    _seen: float | None = None
    _slot: float = 0.0  # the latest time that somebody was told

    def ask(self, now: float) -> int:
        """0 where one more may connect; else the seconds after which it may ask again."""
        since = now - self._seen if self._seen is not None else 0.0
        self._seen = now
        self._tokens = min(BURST, self._tokens + since * RATE)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0
        return self.later(now)

    def later(self, now: float) -> int:
        """Seconds, at least 1, after which one that cannot be taken now may come again: whole ones, HTTP knows no
        others (RFC 9110, 10.2.3)."""
        self._slot = min(now + LONGEST, max(now, self._slot) + 2 / RATE)
        return max(1, round(self._slot - now + self.rng.uniform(0.0, 2.0)))
