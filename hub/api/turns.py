"""Whose question the store answers next, so that nobody stands in another's way. Pure.

No client has more than half of the places (rounded up). One that comes free goes to whom of the waiting has the fewest,
among those to who came first.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """`places`, and tickets of any kind for those who wait for one."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.share = (places + 1) // 2
        self._running: Counter[str] = Counter()
        self._waiting: list[tuple[str, T]] = []

    @property
    def running(self) -> int:
        """Places that are taken."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """Tickets that wait."""
        return len(self._waiting)

    def has_share(self, client: str) -> bool:
        """Whether a client has as many places as one may have."""
        return self._running[client] >= self.share

    def ask(self, client: str, ticket: T) -> bool:
        """Whether the client may run now; else the ticket waits."""
        self._waiting.append((client, ticket))
        return any(mine is ticket for _, mine in self._grant())

    def give_up(self, ticket: T) -> None:
        """The ticket waits no more; nothing where it did not."""
        self._waiting = [(client, mine) for client, mine in self._waiting if mine is not ticket]

    def done(self, client: str) -> list[tuple[str, T]]:
        """The client gives a place back: who may run now, with their tickets."""
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        return self._grant()

    def _grant(self) -> list[tuple[str, T]]:
        granted = []
        while self.running < self.places:
            able = [at for at, (client, _) in enumerate(self._waiting) if not self.has_share(client)]
            if not able:
                break
            one = self._waiting.pop(min(able, key=lambda at: self._running[self._waiting[at][0]]))
            self._running[one[0]] += 1
            granted.append(one)
        return granted
