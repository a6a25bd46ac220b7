"""Agents that were turned away lately, and why: they are not in the register, and somebody misses them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LATELY = 900.0
"""Seconds for which one is remembered: an agent that is refused asks again after five minutes at most."""
MOST = 64
"""Agents that are remembered, the last ones."""
COMING_BACK = frozenset({"busy", "draining"})
"""Codes of what passes by itself."""


@dataclass(slots=True)
class Refused:
    """One agent, by its name or where it gave none by its address; `at` is seconds of the caller's clock."""

    client: str
    code: str
    reason: str
    times: int
    at: float


class TurnedAway:
    """The agents refused last, each once per code."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], Refused] = {}  # the newest at the end

    def add(self, client: str, code: str, reason: str, now: float) -> None:
        """One was refused."""
        if code in COMING_BACK:
            return
        before = self._last.pop((client, code), None)
        times = before.times if before is not None and now - before.at < LATELY else 0
        self._last[client, code] = Refused(client, code, reason, times + 1, now)
        if len(self._last) > MOST:
            del self._last[next(iter(self._last))]

    def lately(self, now: float) -> Iterator[Refused]:
        """Those of the last LATELY seconds, the newest first."""
        return (refused for refused in reversed(self._last.values()) if now - refused.at < LATELY)
