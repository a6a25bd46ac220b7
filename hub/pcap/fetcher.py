"""Fetches on their way to agents: one part of one question at a time each, on the hub's loop."""

from __future__ import annotations

import asyncio
from itertools import count
from time import monotonic
from typing import Protocol

from hub.fanout.plan import Habits
from protocol.messages import Fetch, Fetched

MOST_UNSENT = 32
"""Messages that may wait for an agent's socket when it is asked."""


class Line(Protocol):
    """What is needed of an agent's connection."""

    agent: str
    answers: list[str]

    @property
    def unsent(self) -> int:
        """Messages that wait for its socket."""

    def post(self, message: Fetch) -> None:
        """Queue a message to the agent."""


class LineLost(Exception):
    """The connection ended; the text says why, where another hub has it that did not pass the question on."""


class Fetcher:
    """All fetches of a hub. `habits` learn who does not answer; whoever asks says how long to wait for whom."""

    def __init__(self, habits: Habits | None = None) -> None:
        self.habits = habits or Habits()
        self.stopped = False
        """Whether the hub is going: live captures end."""
        self._ids = count(1)
        self._overdue: dict[
            str, tuple[Line, int, int, float]
        ] = {}  # by agent: what it was late for, and when it is over
        self._open: dict[int, tuple[Line, int, asyncio.Future[Fetched]]] = {}

    def number(self) -> int:
        """A new question's number."""
        return next(self._ids)

    async def fetch(self, line: Line, fetch: Fetch, full: float) -> Fetched:
        """The part asked for. Raises TimeoutError after `fetch.within` seconds, LineLost.

        Others are given `full` seconds: an answer within them is good enough to be waited for the next time.
        """
        future: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()
        self._open[fetch.id] = line, fetch.part, future
        over = monotonic() + full
        try:
            if line.unsent < MOST_UNSENT:
                line.post(fetch)
            async with asyncio.timeout(fetch.within):
                return await future
        except TimeoutError:
            self.habits.missed(line.agent)
            self._overdue[line.agent] = line, fetch.id, fetch.part, over
            raise
        finally:
            del self._open[fetch.id]

    def end(self, line: Line, id: int, live: int = 0) -> None:
        """Nobody goes on with a question."""
        if line.unsent < MOST_UNSENT:
            line.post(Fetch(id, 0, live=live))

    def arrived(self, line: Line, fetched: Fetched) -> None:
        """From a connection; what nobody waits for is dropped, but for what it says of the agent's habits."""
        asked, part, future = self._open.get(fetched.id, (None, 0, None))
        if asked is line and part == fetched.part and future is not None and not future.done():
            self.habits.answered(line.agent)
            future.set_result(fetched)
            return
        overdue = self._overdue.get(line.agent)
        if overdue is not None and overdue[:3] == (line, fetched.id, fetched.part):
            del self._overdue[line.agent]
            if monotonic() <= overdue[3]:
                self.habits.answered(line.agent)

    def left(self, line: Line) -> None:
        """A connection ended."""
        if (overdue := self._overdue.get(line.agent)) is not None and overdue[0] is line:
            del self._overdue[line.agent]
        for asked, _, future in list(self._open.values()):
            if asked is line and not future.done():
                future.set_exception(LineLost(getattr(line, "trouble", "")))

    @property
    def waiting(self) -> int:
        """Parts that somebody waits for."""
        return len(self._open)
