"""`/v1/packets`, `/v1/flows` and `/v1/calls`: rows as the store makes them, and how complete they are."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, closing
from functools import partial
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from hub.api import audit, params
from hub.api.context import Hub, Limits
from hub.api.problems import Problem, problem_of
from hub.api.size import Size
from hub.query.answer import build
from hub.query.completeness import Window, completeness
from hub.query.output import OUTPUTS, SETTINGS
from hub.query.select import Query, Question
from hub.query.sql import Params, compile_filter
from hub.store.reader import Reader

log = structlog.get_logger()

SAYS = "ndjson"
"""The format that ends with how complete it is; the others have no place for that, and break off where they are cut."""


async def packets(hub: Hub, request: Request) -> Response:
    """Packet rows."""
    return await _answer(hub, request, "packets", params.read(request, params.PACKETS, hub.now_ns()))


async def flows(hub: Hub, request: Request) -> Response:
    """Flow records, or their sums."""
    return await _answer(hub, request, "flows", params.read(request, params.FLOWS, hub.now_ns()))


async def calls(hub: Hub, request: Request) -> Response:
    """Calls, or their sums."""
    return await _answer(hub, request, "calls", params.read(request, params.CALLS, hub.now_ns()))


def _question(hub: Hub, table: str, values: Mapping[str, Any]) -> Question:
    return Question(
        table,
        filter=params.filter_of(values, table),
        since=values["since"],
        until=values["until"],
        limit=values["limit"],
        fields=values["fields"],
        output=values["format"],
        by=values.get("by", ()),
        top=values.get("top", 0),
        sort=values["sort"],
        sketch=values.get("sketch") == "yes",
        commit=hub.store.committed(),
        rolled=hub.store.rolled(table),
    )


async def _answer(hub: Hub, request: Request, table: str, values: Mapping[str, Any]) -> Response:
    question = _question(hub, table, values)
    query = build(question)
    headers = {
        "nodetap-since": _point(question.since),
        "nodetap-until": _point(question.until),
        "nodetap-most": f"rows={hub.limits.rows}, bytes={hub.limits.bytes}, seconds={hub.limits.timeout:g}",
    }
    if values["explain"] == "yes":
        return JSONResponse(explained(question, query), headers=headers)
    if values["completeness"] == "only":
        return JSONResponse(await complete(hub, question, query), headers=headers)
    ask, client = partial(_ask, query, question.output, hub.limits), audit.who(request).client
    rows = hub.runner.stream(ask, hub.limits.timeout, client)
    first = await anext(rows, b"")  # an error before the first row has a status of its own
    body = _body(hub, question, query, first, rows)
    return StreamingResponse(body, headers=headers, media_type=OUTPUTS[question.output].media_type)


def explained(question: Question, query: Query) -> dict[str, Any]:
    """What is asked of the store: the condition of the filter, the whole query, and the values of their parameters."""
    params = Params()
    condition = compile_filter(question.filter, params, question.table) if question.filter else "1"
    return {
        "filter": {"sql": condition, "params": params.values},
        "query": {"sql": query.sql, "params": query.params, "tables": list(query.tables or (question.table,))},
    }


def _point(nanoseconds: int | None) -> str:
    return "" if nanoseconds is None else str(nanoseconds)


def _ask(query: Query, output: str, limits: Limits, reader: Reader) -> Iterator[bytes]:
    """The answer's bytes as the store makes them; closing it cancels the query."""
    counted = output == SAYS  # where a cut can be told, rows are counted as they are sent
    chunks = reader.stream(
        query.sql,
        query.params,
        fmt=query.store_format,
        timeout=limits.timeout,
        max_memory=limits.max_memory,
        settings=SETTINGS if counted else {**SETTINGS, "max_result_rows": limits.rows},
    )
    with closing(chunks):
        yield from OUTPUTS[output].joined(chunks)


async def _body(
    hub: Hub, question: Question, query: Query, first: bytes, rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """The answer's bytes. NDJSON ends with its completeness or with what broke it off; the rest breaks off."""
    says = question.output == SAYS
    size = Size(hub.limits.rows, hub.limits.bytes, lines=says)
    async with aclosing(_formatted(question.output, query.head, _sized(size, says, first, rest))) as chunks:
        try:
            async for chunk in chunks:
                yield chunk
            if says:
                yield _line("nodetap.completeness", await complete(hub, question, query, size.cut))
        except Exception as error:
            log.warning("an answer broke off", table=question.table, error=str(error)[:300])
            if not says:
                raise
            yield _line("nodetap.error", problem_of(error).to_map())


async def _sized(
    size: Size, says: bool, first: bytes, rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """The store's chunks, up to the size; closes them. Raises Problem where an answer cut there could not say so."""
    async with aclosing(rest):
        chunk: bytes | None = first
        while chunk is not None and not size.cut:
            if fits := size.fitting(chunk):
                yield fits
            chunk = None if size.cut else await anext(rest, None)
    if size.cut and not says:
        raise Problem("query_failed", f"the answer has more {size.cut} than this hub sends: ask for less")


async def _formatted(output: str, head: bytes, rows: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The rows, with what comes before, between and behind them."""
    array = output == "json"
    before = b"[\n" if array else head
    async with aclosing(rows):
        async for chunk in rows:
            yield before + (_elements(chunk) if array else chunk)
            before = b",\n" if array else b""
    if array:
        yield b"[]\n" if before == b"[\n" else b"\n]\n"
    elif before:
        yield before


def _elements(lines: bytes) -> bytes:
    """Whole JSON lines as the elements of an array."""
    return lines[:-1].replace(b"\n", b",\n")


def _line(name: str, value: Mapping[str, Any]) -> bytes:
    return json.dumps({name: value}, separators=(",", ":")).encode() + b"\n"


async def complete(hub: Hub, question: Question, query: Query, cut: str | None = None) -> dict[str, Any]:
    """How complete the answer of a query is; `cut` says what the hub has no more of to send, `rows` or `bytes`."""
    agents = hub.register.agents(hub.now_ns())
    unreported = hub.register.unreported()

    def ask(reader: Reader) -> dict[str, Any]:
        rows = partial(reader.rows, timeout=hub.limits.page_timeout)
        window, gone = Window(question.since, question.until), question.rolled.gone(sums=bool(query.tables))
        return completeness(rows, question.table, window, agents, unreported, gone, query.rounded)

    said = await hub.runner.call(ask)
    return {**said, "cut": cut, "complete": said["complete"] and cut is None}
