"""Fetches on their way to agents: one part of one question at a time each, on the hub's loop."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Protocol

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
    """The connection ended."""


class Fetcher:
    """All fetches of a hub."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._open: dict[int, tuple[Line, int, asyncio.Future[Fetched]]] = {}

    def number(self) -> int:
        """A new question's number."""
        return next(self._ids)

    async def fetch(self, line: Line, fetch: Fetch) -> Fetched:
        """The part asked for. Raises TimeoutError after `fetch.within` seconds, LineLost."""
        future: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()
        self._open[fetch.id] = line, fetch.part, future
        try:
            if line.unsent < MOST_UNSENT:
                line.post(fetch)
            async with asyncio.timeout(fetch.within):
                return await future
        finally:
            del self._open[fetch.id]

    def end(self, line: Line, id: int) -> None:
        """Nobody goes on with a question."""
        if line.unsent < MOST_UNSENT:
            line.post(Fetch(id, 0))

    def arrived(self, line: Line, fetched: Fetched) -> None:
        """From a connection; what nobody waits for is dropped."""
        asked, part, future = self._open.get(fetched.id, (None, 0, None))
        if asked is line and part == fetched.part and future is not None and not future.done():
            future.set_result(fetched)

    def left(self, line: Line) -> None:
        """A connection ended."""
        for asked, _, future in list(self._open.values()):
            if asked is line and not future.done():
                future.set_exception(LineLost())

    @property
    def waiting(self) -> int:
        """Parts that somebody waits for."""
        return len(self._open)
