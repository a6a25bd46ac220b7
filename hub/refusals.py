"""Refusals in the log: said once a minute of each client, with how many there were."""

from __future__ import annotations

from dataclasses import dataclass, field

EVERY = 60.0
"""Seconds between two lines about refusals of one client; the second says how many there were."""
MOST = 1_000
"""Clients that are told apart; beyond them nothing is said of new ones until the minute is over."""


@dataclass(slots=True)
class Refusals:
    """Refusals, at most one line per client and code in `EVERY` seconds. Pure: `now` is seconds of any clock."""

    _since: dict[tuple[str, str], float] = field(default_factory=dict)
    _count: dict[tuple[str, str], int] = field(default_factory=dict)

    def count(self, client: str, code: str, now: float) -> int:
        """How many refusals a line is to tell of now, this one included; 0 where none is due."""
        key = client, code
        if key not in self._since and len(self._since) >= MOST:
            self._forget(now)
            if len(self._since) >= MOST:
                return 0
        self._count[key] = self._count.get(key, 0) + 1
        if now - self._since.get(key, now - EVERY) < EVERY:
            return 0
        self._since[key] = now
        return self._count.pop(key)

    def _forget(self, now: float) -> None:
        for key in [key for key, since in self._since.items() if now - since >= EVERY]:
            del self._since[key]
            self._count.pop(key, None)
