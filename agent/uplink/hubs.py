"""Which hub to ask next: the one that may be asked soonest, then the one that failed least, then the first named.

Pure. What one hub says ("come again in 30 s", "wrong token") holds for that hub only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class _Hub:
    url: str
    failures: int = 0  # since it last acknowledged something
    not_before: float = 0.0


class Hubs:
    """The hubs one may speak to, at least one. Times are seconds of any monotonic clock."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._hubs = [_Hub(url) for url in urls]
        self._present = self._hubs[0]

    @property
    def url(self) -> str:
        """The hub to speak to."""
        return self._present.url

    def good(self) -> None:
        """The present hub acknowledged something."""
        self._present.failures = 0

    def failed(self, now: float, floor: float) -> float:
        """The present hub failed, and does not want to be asked for `floor` seconds: go to the next.

        Returns for how many seconds that one may not be asked either, 0 for none.
        """
        self._present.failures += 1
        self._present.not_before = now + floor
        self._present = min(self._hubs, key=lambda hub: (max(hub.not_before, now), hub.failures, hub is self._present))
        return max(0.0, self._present.not_before - now)
