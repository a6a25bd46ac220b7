"""How much one client may ask: so many requests a second, and so many at once of each kind.

Pure: `now` is seconds of any monotonic clock. What is held for a client that has gone is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

AT_ONCE: dict[str, int] = {"ask": 16, "follow": 32, "frames": 3, "live": 6, "doctor": 12, "relay": 256}
"""Requests of one client at once, by kind (`hub.api.routes.Row.kind`): fewer than the hub takes from all together. Of
those that `ask` the store some wait for their turn."""
SAVED = 5.0
"""Seconds without requests that a client may make up for at once."""
MOST_CLIENTS = 10_000
"""Clients that are told apart; beyond them new ones share one allowance."""
REST = ""
"""The client that these are."""


@dataclass(slots=True)
class _Client:
    left: float
    seen: float
    held: Counter[str] = field(default_factory=Counter)


class Allowance:
    """A bucket of requests for each client, `rate` of which come in a second; and what each has open."""

    def __init__(self, rate: float, at_once: Mapping[str, int] | None = None) -> None:
        self._rate, self._burst = rate, max(rate * SAVED, 10.0)
        self._at_once = AT_ONCE if at_once is None else at_once
        self._clients: dict[str, _Client] = {}

    def take(self, client: str, now: float) -> float:
        """0 where one more request may be made now, else the seconds after which it may."""
        one = self._client(client, now)
        one.left = min(self._burst, one.left + (now - one.seen) * self._rate)
        one.seen = now
        if one.left < 1.0:
            return (1.0 - one.left) / self._rate
        one.left -= 1.0
        return 0.0

    def enter(self, client: str, kind: str, now: float) -> str | None:
        """Under what name the request is counted, to be given to `leave`; None where the client has its share."""
        if kind not in self._at_once:
            return REST
        one = self._client(client, now)
        if one.held[kind] >= self._at_once[kind]:
            return None
        one.held[kind] += 1
        return client if self._clients.get(client) is one else REST

    def leave(self, name: str, kind: str) -> None:
        """A request ended."""
        if kind in self._at_once:
            self._clients[name].held[kind] -= 1

    def _client(self, name: str, now: float) -> _Client:
        found = self._clients.get(name)
        if found is None:
            if len(self._clients) >= MOST_CLIENTS:
                self._forget(now)
            if len(self._clients) >= MOST_CLIENTS:
                return self._clients.setdefault(REST, _Client(self._burst, now))
            found = self._clients[name] = _Client(self._burst, now)
        return found

    def _forget(self, now: float) -> None:
        """Drop who has nothing open and would have a full bucket."""
        full = [
            name
            for name, one in self._clients.items()
            if not one.held.total() and one.left + (now - one.seen) * self._rate >= self._burst
        ]
        for name in full:
            del self._clients[name]
