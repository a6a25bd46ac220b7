"""`/v1/follow`: rows as they are stored, in commit order, resumable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hub.api import params
from hub.api.context import Hub
from hub.api.problems import Problem, problem_of
from hub.query import follow as cursors
from hub.query.follow import Following, Place
from hub.query.output import SETTINGS
from hub.query.select import Query, chosen
from hub.query.window import format_ns
from hub.store.errors import StoreBusy
from hub.store.reader import Reader

log = structlog.get_logger()

T = TypeVar("T")
BUSY_PAUSE = 0.2
"""Seconds until a follower asks again where every reader was taken."""
Pages: TypeAlias = "AsyncGenerator[tuple[bytes, Place], None]"
"""Lines, and the place they lead to."""


async def follow(hub: Hub, request: Request) -> Response:
    """Rows as they are stored."""
    values = params.read(request, params.FOLLOW, hub.now_ns())
    table = values["table"]
    chosen(table, values["fields"])
    following = Following(hub.store.id, table, params.filter_of(values, table), values["fields"])
    place = await _start(hub, following, values)
    if hub.followers >= hub.limits.followers:
        raise Problem("busy", f"{hub.followers} follow already: ask again later")
    body = _body(hub, following, place, values["heartbeat"])
    return StreamingResponse(body, media_type="application/x-ndjson")


async def _start(hub: Hub, following: Following, values: Mapping[str, Any]) -> Place:
    newest = hub.store.committed()
    if values["cursor"] is not None:
        return cursors.decode(values["cursor"], following.store, following.table)
    if values["since"] is None:
        return Place(newest)
    query = cursors.oldest(following)  # what retention took before is no loss to who begins now
    ((first,),) = await _call(hub, lambda reader: reader.rows(query.sql, timeout=hub.limits.page_timeout))
    return Place(max(first - 1, 0), None, (values["since"], newest))


async def _call(hub: Hub, work: Callable[[Reader], T]) -> T:
    """`work` with a reader; a follower waits its turn where others are sent away."""
    while True:
        try:
            return await hub.runner.call(work)
        except StoreBusy:
            await asyncio.sleep(BUSY_PAUSE)


async def _body(hub: Hub, following: Following, place: Place, heartbeat: float) -> AsyncGenerator[bytes, None]:
    hub.followers += 1
    try:
        async with aclosing(_lines(hub, following, place, heartbeat)) as lines:
            async for line in lines:
                yield line
    except Exception as error:
        log.warning("a follower broke off", table=following.table, error=str(error)[:300])
        yield _line("nodetap.error", problem_of(error).to_map())
    finally:
        hub.followers -= 1


async def _lines(hub: Hub, following: Following, place: Place, heartbeat: float) -> AsyncGenerator[bytes, None]:
    """Pages and heartbeats without end."""
    loop = asyncio.get_running_loop()
    yield _heartbeat(hub, following, place)
    due = loop.time() + heartbeat
    newest = hub.store.committed()
    while True:
        while place.row is not None or place.commit < newest:
            async for line, reached in _chunk(hub, following, place, newest):
                place = reached
                if line:
                    yield line
                if loop.time() >= due:
                    yield _heartbeat(hub, following, place)
                    due = loop.time() + heartbeat
        newest = max(newest, await hub.register.wait_commit(newest, max(due - loop.time(), 0.0)))
        if loop.time() >= due:
            yield _heartbeat(hub, following, place)
            due = loop.time() + heartbeat


async def _chunk(
    hub: Hub, following: Following, place: Place, newest: int
) -> AsyncGenerator[tuple[bytes, Place], None]:
    """The rows of the next commits, page by page, each with the place it leads to."""
    limits = hub.limits

    def look(reader: Reader) -> list[tuple[Any, ...]]:
        query = cursors.commits(following, place, newest)
        return reader.rows(query.sql, query.params, timeout=limits.page_timeout)

    found = cursors.chunk(await _call(hub, look), newest)
    if found.lost_rows:
        yield _lost(found), place
    while True:
        query = cursors.page(following, place, found.last)
        rows = await _call(hub, partial(_page, query, limits.page_timeout, limits.max_memory))
        if rows.count(b"\n") < cursors.PAGE_ROWS:
            yield rows, place.passed(found.last)
            return
        place = cursors.last_place(rows, following)
        yield rows, place


def _page(query: Query, timeout: float, max_memory: int, reader: Reader) -> bytes:
    chunks = reader.stream(
        query.sql, query.params, fmt=query.store_format, timeout=timeout, max_memory=max_memory, settings=SETTINGS
    )
    return b"".join(chunks)


def _heartbeat(hub: Hub, following: Following, place: Place) -> bytes:
    cursor = cursors.encode(following.store, following.table, place)
    return _line("nodetap.heartbeat", {"cursor": cursor, "time": format_ns(hub.now_ns())})


def _lost(found: cursors.Chunk) -> bytes:
    detail = f"retention removed {found.lost_rows} rows of {found.lost_commits} commits before they were followed"
    return _line("nodetap.lost", {"commits": found.lost_commits, "rows": found.lost_rows, "detail": detail})


def _line(name: str, value: Mapping[str, Any]) -> bytes:
    return json.dumps({name: value}, separators=(",", ":")).encode() + b"\n"
