"""`/v1/follow`: rows as they are stored, in commit order, resumable.

Who does not read holds one page here, nothing in the store. Rows that were there when the connection began are always
sent; of those that come later, who asked for a `max_lag` skips what is older than that and is told how much it was.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, closing
from functools import partial
from math import inf
from threading import Event
from typing import Any, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hub.api import params
from hub.api.context import Hub, Limits
from hub.api.problems import Problem, problem_of
from hub.query import follow as cursors
from hub.query.follow import Following, Place
from hub.query.output import SETTINGS, whole_lines
from hub.query.select import Query, chosen
from hub.query.window import format_ns
from hub.store.errors import StoreBusy
from hub.store.reader import Reader

log = structlog.get_logger()

T = TypeVar("T")
PAUSE = 0.1
"""Seconds between two looks: a busy hub commits often, and a look costs as much as a thousand rows."""
BUSY_PAUSE = 0.2
"""Seconds until a follower asks again where every reader was taken."""


async def follow(hub: Hub, request: Request) -> Response:
    """Rows as they are stored."""
    values = params.read(request, params.FOLLOW, hub.now_ns())
    table = values["table"]
    chosen(table, values["fields"])
    following = Following(hub.store.id, table, params.filter_of(values, table), values["fields"])
    place, since = await _start(hub, following, values)
    if hub.followers >= hub.limits.followers:
        raise Problem("busy", f"{hub.followers} follow already: ask again later")
    stream = _Stream(hub, following, place, values["heartbeat"], values["max_lag"], values["seconds"] or inf)
    return StreamingResponse(_body(hub, stream, since), media_type="application/x-ndjson")


async def _start(hub: Hub, following: Following, values: Mapping[str, Any]) -> tuple[Place, int | None]:
    """The place to begin at, and the packet time from which on its rows are; None is open."""
    newest = hub.store.committed()
    if values["cursor"] is not None:
        place = cursors.decode(values["cursor"], following.store, following.table)
        return place, _open(place.backlog[0]) if place.backlog else await _begins(hub, following, place)
    if values["since"] is None:
        return Place(newest), hub.now_ns()
    ((first,),) = await _rows(hub, cursors.oldest(following))  # what retention took before is no loss to who begins now
    return Place(max(first - 1, 0), None, (values["since"], newest)), _open(values["since"])


def _open(since: int) -> int | None:
    return None if since == params.EARLIEST else since


async def _begins(hub: Hub, following: Following, place: Place) -> int:
    ((first,),) = await _rows(hub, cursors.begins(following, place))
    return hub.now_ns() if first is None else int(first)


async def _rows(hub: Hub, query: Query) -> list[tuple[Any, ...]]:
    """A short answer."""
    return await _call(hub, lambda reader: reader.rows(query.sql, query.params, timeout=hub.limits.page_timeout))


async def _call(hub: Hub, work: Callable[[Reader], T]) -> T:
    """`work` with a reader; a follower waits its turn where others are sent away."""
    while True:
        try:
            return await hub.runner.call(work)
        except StoreBusy:
            await asyncio.sleep(BUSY_PAUSE)


async def _body(hub: Hub, stream: _Stream, since: int | None) -> AsyncGenerator[bytes, None]:
    hub.followers += 1
    try:
        async with aclosing(stream.lines(since)) as lines:
            async for line in lines:
                yield line
    except Exception as error:
        log.warning("a follower broke off", table=stream.following.table, error=str(error)[:300])
        yield _line("nodetap.error", problem_of(error).to_map())
    finally:
        hub.followers -= 1


class _Stream:
    """One follower: where it is, and what it is sent."""

    def __init__(
        self, hub: Hub, following: Following, place: Place, heartbeat: float, max_lag: float, seconds: float
    ) -> None:
        self.following = following
        self._hub = hub
        self._place = place
        self._heartbeat, self._due = heartbeat, 0.0
        self._max_lag = max_lag
        self._seconds = seconds
        self._backlog = hub.store.committed()
        self._reach = cursors.CHUNK_ROWS
        self._live = place.row is None and place.commit >= self._backlog
        """Whether it was up to date once: from then on it may skip."""

    @property
    def _cursor(self) -> str:
        return cursors.encode(self.following.store, self.following.table, self._place)

    async def lines(self, since: int | None) -> AsyncGenerator[bytes, None]:
        """Rows and heartbeats; the first heartbeat has the packet time at which the rows begin, the last ends it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        yield self._beat({"since": since})
        newest = self._backlog
        while True:
            while self._place.row is not None or self._place.commit < newest:
                async with aclosing(self._chunk(newest)) as lines:
                    async for line in lines:
                        yield line
                        if loop.time() >= min(self._due, end):
                            yield self._beat()
                        if loop.time() >= end:
                            return
            await asyncio.sleep(min(PAUSE, max(end - loop.time(), 0.0)))
            wait = max(min(self._due, end) - loop.time(), 0.0)
            newest = max(newest, await self._hub.register.wait_commit(newest, wait))
            if loop.time() >= min(self._due, end):
                yield self._beat()
            if loop.time() >= end:
                return

    def _beat(self, more: Mapping[str, Any] | None = None) -> bytes:
        self._due = asyncio.get_running_loop().time() + self._heartbeat
        told = {"cursor": self._cursor, "time": format_ns(self._hub.now_ns()), **(more or {})}
        return _line("nodetap.heartbeat", told)

    async def _chunk(self, newest: int) -> AsyncGenerator[bytes, None]:
        """The rows of the next commits, page by page; the place goes along."""
        commits = await _rows(self._hub, cursors.commits(self.following, self._place, newest))
        found = cursors.chunk(commits, newest, self._reach)
        if found.lost_rows:
            yield _lost(found)
        if (lag := self._lag(found)) is not None:
            yield await self._skip(lag)
            yield self._beat()  # from where it goes on, whatever comes next
            return
        rows, layers = await self._probe(found.last)
        whole, pages = not rows, 0
        while not whole:
            page = Page(cursors.page(self.following, self._place, found.last, layers))
            async with aclosing(page.blocks(self._hub)) as blocks:
                async for block in blocks:
                    self._place = cursors.last_place(block, self.following)
                    yield block
            whole, pages = page.whole, pages + 1
        self._place = self._place.passed(found.last)
        self._reach = min(2 * self._reach, cursors.MOST_CHUNK_ROWS) if pages <= 1 else cursors.CHUNK_ROWS

    async def _probe(self, last: int) -> tuple[int, int | None]:
        """Whether there are rows, and their layers: all fields of a packet cost more to ask for than rows to find."""
        if self.following.table != "packets" or self.following.fields:
            return 1, None
        ((rows, layers),) = await _rows(self._hub, cursors.probe(self.following, self._place, last))
        return rows, layers

    def _lag(self, found: cursors.Chunk) -> float | None:
        """By how many seconds it is late, where that is more than it wants to be."""
        lag = (self._hub.now_ns() - (found.since or self._hub.now_ns())) / 1e9
        if not self._max_lag or lag <= self._max_lag:
            self._live = self._live or self._place.commit >= self._backlog
            return None
        return lag if self._live else None

    async def _skip(self, lag: float) -> bytes:
        """Go on from now."""
        newest, cursor = self._hub.store.committed(), self._cursor
        ((rows,),) = await _rows(self._hub, cursors.between(self.following, self._place, newest))
        self._place = self._place.passed(newest)
        detail = f"{lag:.1f} s late, more than {self._max_lag:g}: skipped {rows} rows, going on from now"
        return _line("nodetap.skipped", {"rows": rows, "seconds": round(lag, 3), "cursor": cursor, "detail": detail})


class Page:
    """The blocks of one page, as the store makes them. It is bounded, so the store never waits for who takes them."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._unwanted = Event()
        self.whole = False
        """Whether nothing more is to be had of its commits, once its blocks are taken."""

    async def blocks(self, hub: Hub) -> AsyncGenerator[bytes, None]:
        """Whole lines."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()

        def put(block: bytes) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, block)

        work = asyncio.ensure_future(_call(hub, partial(self._make, put, hub.limits)))
        work.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (block := await queue.get()) is not None:
                yield block
            self.whole = await work
        finally:
            self._unwanted.set()

    def _make(self, put: Callable[[bytes], object], limits: Limits, reader: Reader) -> bool:
        """Hand over the blocks, on a thread; whether those were all."""
        query, rows, size = self._query, 0, 0
        chunks = reader.stream(
            query.sql, query.params, fmt=query.store_format, timeout=limits.page_timeout,
            max_memory=limits.max_memory, settings=SETTINGS,
        )  # fmt: skip
        with closing(chunks):
            for block in whole_lines(chunks):
                put(block)
                rows, size = rows + block.count(b"\n"), size + len(block)
                if size >= cursors.PAGE_BYTES or self._unwanted.is_set():
                    return False
        return rows < cursors.PAGE_ROWS


def _lost(found: cursors.Chunk) -> bytes:
    detail = f"retention removed {found.lost_rows} rows of {found.lost_commits} commits before they were followed"
    return _line("nodetap.lost", {"commits": found.lost_commits, "rows": found.lost_rows, "detail": detail})


def _line(name: str, value: Mapping[str, Any]) -> bytes:
    return json.dumps({name: value}, separators=(",", ":")).encode() + b"\n"
