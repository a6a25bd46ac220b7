"""When a ring is so full that packets should cost less, and when that is over. Pure."""

from __future__ import annotations

HIGH, LOW = 1 / 2, 1 / 8
"""Shares of a ring that wait to be read: above the first there is pressure, below the second it may end."""
CALM = 5.0
"""Seconds below LOW after which it ends: or it would come and go with each burst."""


class Pressure:
    """Whether there is pressure, from the share of the ring that waits, looked at again and again."""

    def __init__(self) -> None:
        self.high = False
        self._calm_since: float | None = None

    def look(self, share: float, now: float) -> bool:
        """`share` of the ring waits at `now` (seconds that only rise); whether there is pressure from now on."""
        if share > HIGH:
            self.high = True
        if share > LOW:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        if self._calm_since is not None and now - self._calm_since >= CALM:
            self.high = False
        return self.high
