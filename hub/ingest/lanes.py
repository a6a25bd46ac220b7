"""The writer's queue: one lane per agent, emptied in turn, so that none waits for what another has piled up.

Pure. Deficit round robin: M. Shreedhar and G. Varghese, "Efficient Fair Queueing using Deficit Round Robin", SIGCOMM
1995. A lane's turn gives it QUANTUM; it may spend what it has saved, and saves nothing while it is empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

QUANTUM = 2 << 20
"""Cost that one turn is worth. Larger things take several turns."""


@dataclass(slots=True)
class _Lane(Generic[T]):
    items: deque[tuple[T, int]] = field(default_factory=deque)
    saved: int = 0


class Lanes(Generic[T]):
    """Things by lane, each with its cost. `spacing`: seconds that must lie between two things of a lane."""

    def __init__(self, spacing: Mapping[str, float] | None = None) -> None:
        self._spacing = spacing or {}
        self._lanes: dict[str, _Lane[T]] = {}  # those that are not empty
        self._turns: deque[str] = deque()  # the same, the next one first
        self._held: dict[str, float] = {}  # until when nothing of a lane is ready
        self._count = 0
        self.cost = 0
        """Cost of all that is queued."""

    def __len__(self) -> int:
        return self._count

    def put(self, lane: str, item: T, cost: int) -> None:
        """Queue a thing behind those of its lane."""
        if lane not in self._lanes:
            self._lanes[lane] = _Lane()
            self._turns.append(lane)
        self._lanes[lane].items.append((item, cost))
        self._count += 1
        self.cost += cost

    def wait(self, now: float) -> float | None:
        """Seconds until something is ready, 0 where something is; None where nothing is queued."""
        if not self._held:
            return 0.0 if self._count else None
        return min((max(0.0, self._held.get(name, now) - now) for name in self._turns), default=None)

    def take(self, limit: int, most: int, now: float, hard: int = 0) -> list[T]:
        """What comes next: at most `most` things of a cost of `limit` together; but one that is ready, at any cost.

        With `hard`, a larger limit, one of each lane within that: with fewer at a time all lanes would wait as long.
        """
        hard = max(limit, hard)
        taken: list[T] = []
        served: set[str] = set()
        passed = 0  # turns, one after the other, in which nothing could be taken
        while len(taken) < most and passed < len(self._turns):
            name = self._turns[0]
            lane = self._lanes[name]
            item, cost = lane.items[0]
            if self._held.get(name, now) > now or (taken and cost > (limit if name in served else hard)):
                passed += 1
                self._turns.rotate(-1)
                continue
            passed = 0
            if cost > lane.saved:
                lane.saved += QUANTUM
                self._turns.rotate(-1)
                continue
            self._spend(lane, cost, now)
            served.add(name)
            taken.append(item)
            limit, hard = limit - cost, hard - cost
        return taken

    def _spend(self, lane: _Lane[T], cost: int, now: float) -> None:
        """The lane whose turn it is gives away its first thing."""
        name = self._turns[0]
        lane.items.popleft()
        lane.saved -= cost
        if name in self._spacing:
            self._held[name] = now + self._spacing[name]
        self._count -= 1
        self.cost -= cost
        if not lane.items:
            self._turns.popleft()
            del self._lanes[name]
