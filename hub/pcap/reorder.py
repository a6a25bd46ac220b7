"""When live frames of many agents may go out: in order of time, as far as a short wait brings that about. Pure.

Each agent says up to which time it has told everything. A frame waits for all others to have come that far, but not for
agents that are further behind than `window`, frozen ones and those whose clocks are wrong, and no longer than `window`
itself, whatever time it bears. How late it is, is asked of no clock: the agents' own say it, the median of them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median_low


@dataclass(slots=True)
class _Agent:
    """What one agent said last, when, and what of it may wait: when that came, and its newest time."""

    reached: int
    heard: int
    waiting: deque[tuple[int, int]] = field(default_factory=deque)


class Reorder:
    """All times in nanoseconds: those of frames since 1970, `now` of a clock that nobody sets."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._agents: dict[str, _Agent] = {}

    def heard(self, name: str, reached: int, newest: int | None, now: int) -> None:
        """An agent told everything up to `reached`; where it sent frames, the newest is of that time."""
        agent = self._agents.setdefault(name, _Agent(reached, now))
        agent.reached, agent.heard = reached, now
        if newest is not None:
            agent.waiting.append((now, newest))

    def gone(self, name: str) -> None:
        """Nobody waits for an agent any more."""
        self._agents.pop(name, None)

    def release(self, now: int) -> tuple[int | None, set[str]]:
        """Frames before this time may go out (None: all), and all frames of these agents."""
        if not self._agents:
            return None, set()
        floor = now + median_low([agent.reached - agent.heard for agent in self._agents.values()]) - self.window
        bound = min((agent.reached for agent in self._agents.values() if agent.reached > floor), default=floor)
        overdue = set()
        for name, agent in self._agents.items():
            while agent.waiting and agent.waiting[0][1] < bound:
                agent.waiting.popleft()
            if agent.waiting and agent.waiting[0][0] <= now - self.window:
                overdue.add(name)
                agent.waiting.clear()
        return bound, overdue
