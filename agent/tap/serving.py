"""Where the hub's fetches of live frames are answered: a part once there is something, or when it has waited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np

from agent.capture import Interface
from agent.tap.sight import Wanted
from agent.tap.tap import MOST_OPEN, Capture, Tap
from protocol.limits import MAX_DETAIL
from protocol.messages import Fetch, Fetched
from protocol.parts import Part, pack

GRACE = 5.0
"""Seconds that a capture goes on after the hub has stopped waiting for a part of it."""
PACE = 0.05
"""Seconds between two parts that are not full: a hub that is near would ask for each frame."""


@dataclass(slots=True, eq=False)
class _Open:
    """One capture of a hub, by its number. `news` is set when there may be more."""

    news: asyncio.Event = field(default_factory=asyncio.Event)
    capture: Capture | None = None
    part: int = 0
    busy: bool = True
    answered: float = 0.0


class Live:
    """Answers out of one tap. On the loop; a capture is known by who asks and its number.

    `dropped` says how many frames the kernel has dropped.
    """

    def __init__(
        self, tap: Tap, interfaces: list[Interface], agent: str, log: Any, dropped: Callable[[], int] = lambda: 0
    ) -> None:
        self._tap, self._interfaces, self._agent, self._log, self._dropped = tap, interfaces, agent, log, dropped
        self._open: dict[tuple[str, int], _Open] = {}

    async def answer(self, connection: str, fetch: Fetch) -> Fetched:
        """The next part, or why there is none. Never raises but when cancelled."""
        key = (connection, fetch.id)
        if fetch.part == 0:
            self._end(key, "the hub has enough")
            return Fetched(fetch.id, 0, last=1)
        if fetch.part == 1 and key not in self._open:
            refused = await self._begin(key, fetch)
            if refused is not None:
                return refused
        found = self._open.get(key)
        if found is None or found.capture is None or found.busy or fetch.part != found.part + 1:
            return _refused(fetch, "out_of_turn", f"part {fetch.part} of a capture that is not there or busy")
        found.part, found.busy = fetch.part, True
        try:
            return await self._part(found, found.capture, fetch)
        finally:
            found.busy = False
            if found.capture.ended:
                self._open.pop(key, None)

    def left(self, connection: str) -> None:
        """A connection ended: so do its captures."""
        for key in [key for key in self._open if key[0] == connection]:
            self._end(key, "the connection to the hub ended")

    # -- inside ----------------------------------------------------------------------------------------------------

    def _end(self, key: tuple[str, int], reason: str) -> None:
        found = self._open.pop(key, None)
        if found is not None and found.capture is not None:
            self._tap.close(found.capture, reason)

    async def _begin(self, key: tuple[str, int], fetch: Fetch) -> Fetched | None:
        """Open a capture; why not, where that cannot be."""
        found = self._open[key] = _Open()
        try:
            wanted = await asyncio.to_thread(Wanted, fetch.filter, self._agent)
        except Exception as error:
            self._open.pop(key, None)
            code = "bad_filter" if isinstance(error, ValueError) else "failed"
            return _refused(fetch, code, str(error) if code == "bad_filter" else f"{type(error).__name__}: {error}")
        if self._open.get(key) is not found:  # ended meanwhile
            return _refused(fetch, "out_of_turn", "it was ended before it began")
        loop = asyncio.get_running_loop()

        def news() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(found.news.set)

        found.capture = self._tap.open(wanted, fetch.within + GRACE, news, self._dropped())
        if found.capture is None:
            del self._open[key]
            return _refused(fetch, "busy", f"{MOST_OPEN} captures are running; ask again later")
        found.busy = False
        self._log.info("live capture begins", filter=fetch.filter, connection=key[0])
        return None

    async def _part(self, found: _Open, capture: Capture, fetch: Fetch) -> Fetched:
        capture.until = monotonic() + fetch.within + GRACE
        await self._wait(found, capture, fetch)
        part, gaps, promise = self._tap.take(capture, fetch.size, fetch.frames)
        found.answered = monotonic()
        capture.until = found.answered + fetch.within + GRACE
        if capture.ended:
            return _refused(fetch, "ended", capture.ended)
        body, names = (b"", []) if part is None else self._packed(part)
        return Fetched(
            fetch.id, fetch.part, 0 if part is None else len(part), body, names, promise,
            gaps=[[gap.first, gap.last, -1 if gap.frames is None else gap.frames, gap.reason] for gap in gaps],
            kept=capture.catch.begun,
        )  # fmt: skip

    async def _wait(self, found: _Open, capture: Capture, fetch: Fetch) -> None:
        """Until a part is worth its way: full, or there is a frame and the last part is a while ago, or time is up."""
        late = monotonic() + fetch.live / 1000
        early = min(late, found.answered + PACE)
        while not capture.ended:
            found.news.clear()
            now, waiting = monotonic(), capture.catch.bytes
            due = early if waiting else late
            if now >= due or waiting >= fetch.size:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(due - now):
                    await found.news.wait()

    def _packed(self, part: Part) -> tuple[bytes, list[Any]]:
        """The body, and the interfaces that its blocks are on."""
        blocks = part.blocks.copy()  # another capture may have the same
        words, at = blocks.view("<u4"), part.start // 4 + 2
        present, places = np.unique(words[at], return_inverse=True)
        words[at] = places
        faces = [self._interfaces[number] for number in present.tolist()]
        return pack(Part(part.time, part.length, blocks)), [[face.name, face.linktype] for face in faces]


def _refused(fetch: Fetch, code: str, detail: str) -> Fetched:
    return Fetched(fetch.id, fetch.part, last=1, refused=code, detail=detail[:MAX_DETAIL])
