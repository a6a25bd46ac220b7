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

from hub.api import params
from hub.api.context import Hub, Limits
from hub.api.problems import problem_of
from hub.query.answer import build
from hub.query.completeness import Window, completeness
from hub.query.output import OUTPUTS, SETTINGS
from hub.query.select import Query, Question
from hub.query.sql import Params, compile_filter
from hub.store.reader import Reader

log = structlog.get_logger()


async def packets(hub: Hub, request: Request) -> Response:
    """Packet rows."""
    return await _answer(hub, "packets", params.read(request, params.PACKETS, hub.now_ns()))


async def flows(hub: Hub, request: Request) -> Response:
    """Flow records, or their sums."""
    return await _answer(hub, "flows", params.read(request, params.FLOWS, hub.now_ns()))


async def calls(hub: Hub, request: Request) -> Response:
    """Calls, or their sums."""
    return await _answer(hub, "calls", params.read(request, params.CALLS, hub.now_ns()))


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
        commit=hub.store.committed(),
    )


async def _answer(hub: Hub, table: str, values: Mapping[str, Any]) -> Response:
    question = _question(hub, table, values)
    query = build(question)
    headers = {"nodetap-since": _point(question.since), "nodetap-until": _point(question.until)}
    if values["explain"] == "yes":
        return JSONResponse(explained(question, query), headers=headers)
    if values["completeness"] == "only":
        return JSONResponse(await complete(hub, question), headers=headers)
    rows = hub.runner.stream(partial(_ask, query, question.output, hub.limits), hub.limits.timeout)
    first = await anext(rows, b"")  # an error before the first row has a status of its own
    body = _body(hub, question, query.head, first, rows)
    return StreamingResponse(body, headers=headers, media_type=OUTPUTS[question.output].media_type)


def explained(question: Question, query: Query) -> dict[str, Any]:
    """What is asked of the store: the condition of the filter, the whole query, and the values of their parameters."""
    params = Params()
    condition = compile_filter(question.filter, params, question.table) if question.filter else "1"
    return {
        "filter": {"sql": condition, "params": params.values},
        "query": {"sql": query.sql, "params": query.params},
    }


def _point(nanoseconds: int | None) -> str:
    return "" if nanoseconds is None else str(nanoseconds)


def _ask(query: Query, output: str, limits: Limits, reader: Reader) -> Iterator[bytes]:
    """The answer's bytes as the store makes them; closing it cancels the query."""
    chunks = reader.stream(
        query.sql,
        query.params,
        fmt=query.store_format,
        timeout=limits.timeout,
        max_memory=limits.max_memory,
        settings=SETTINGS,
    )
    with closing(chunks):
        yield from OUTPUTS[output].joined(chunks)


async def _body(
    hub: Hub, question: Question, head: bytes, first: bytes, rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """The answer's bytes. NDJSON ends with its completeness or with what broke it off; the rest breaks off."""
    async with aclosing(_formatted(question.output, head, first, rest)) as chunks:
        try:
            async for chunk in chunks:
                yield chunk
            if question.output == "ndjson":
                yield _line("nodetap.completeness", await complete(hub, question))
        except Exception as error:
            log.warning("an answer broke off", table=question.table, error=str(error)[:300])
            if question.output != "ndjson":
                raise
            yield _line("nodetap.error", problem_of(error).to_map())


async def _formatted(
    output: str, head: bytes, first: bytes, rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        if output == "json":
            head = b"[\n"
        if head:
            yield head
        if first:
            yield _elements(first) if output == "json" else first
        async for chunk in rest:
            yield b",\n" + _elements(chunk) if output == "json" else chunk
        if output == "json":
            yield b"\n]\n"


def _elements(lines: bytes) -> bytes:
    """Whole JSON lines as the elements of an array."""
    return lines[:-1].replace(b"\n", b",\n")


def _line(name: str, value: Mapping[str, Any]) -> bytes:
    return json.dumps({name: value}, separators=(",", ":")).encode() + b"\n"


async def complete(hub: Hub, question: Question) -> dict[str, Any]:
    """How complete the answer to a question is."""
    agents = hub.register.agents(hub.now_ns())
    books = hub.register.ledger()["agents"]

    def ask(reader: Reader) -> dict[str, Any]:
        rows = partial(reader.rows, timeout=hub.limits.page_timeout)
        return completeness(rows, question.table, Window(question.since, question.until), agents, books)

    return await hub.runner.call(ask)
