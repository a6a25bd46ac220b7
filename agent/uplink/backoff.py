"""How long to wait before the next connection: full jitter, `random(0, min(cap, base * 2**n))`.

`n` goes back to zero only at the first acknowledgement: a hub that welcomes and takes nothing is no success.
Source: the comparison of jitters at https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SUPERSEDED_WAIT = 30.0
"""Seconds to leave the name to the other connection, before jitter."""
REFUSED_FLOOR = {"bad_token": 10.0, "unknown_version": 30.0}
"""Seconds to wait at least after a refusal that will not go away by itself."""


@dataclass(slots=True)
class Backoff:
    """Counts attempts since the last acknowledgement; gives waits in seconds."""

    base: float = 0.25
    cap: float = 30.0
    rng: random.Random = field(default_factory=random.Random)
    attempts: int = 0

    def acknowledged(self) -> None:
        """The hub took something: the next failure is the first one again."""
        self.attempts = 0

    def next(self, at_once: bool = False, floor: float = 0.0) -> float:
        """The wait before the next attempt. `at_once`: none, if this is the first failure since an acknowledgement.

        `floor` is what the hub asked for (retry after) or the refusal calls for; jitter comes on top of it.
        """
        n, self.attempts = self.attempts, self.attempts + 1
        if at_once and n == 0 and floor == 0.0:
            return 0.0
        wait = self.rng.uniform(0.0, min(self.cap, self.base * 2.0 ** min(n, 30)))
        return floor + wait

    def superseded(self) -> float:
        """The wait after another connection of the same name took over."""
        self.attempts += 1
        return SUPERSEDED_WAIT + self.rng.uniform(0.0, SUPERSEDED_WAIT)
