"""The small resources: agents, ledger, fields, status, health, metrics, the API's own description."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from hub.api import audit
from hub.api.context import Hub
from hub.api.problems import Problem
from hub.query.window import format_ns
from protocol.filter.names import described, names_of
from protocol.schema import TABLES, fields_of


async def agents(hub: Hub, request: Request) -> Response:
    """Every agent: state, verdict, evidence."""
    found = hub.register.agents(hub.now_ns())
    return JSONResponse({"agents": [{**agent, **hub.configurer.of(agent["agent"])} for agent in found]})


async def forget(hub: Hub, request: Request) -> Response:
    """Take an agent off the list."""
    name = request.path_params["name"]
    if hub.register.forget(name):
        audit.did(audit.who(request), "an agent was forgotten", agent=name)
        return Response(status_code=204)
    if any(agent["agent"] == name for agent in hub.register.agents(hub.now_ns())):
        raise Problem("agent_connected", f"{name[:80]} is connected: stop it first, then forget it")
    raise Problem("no_such_agent", f"no agent {name[:80]!r}; see nodetap agents")


async def ledger(hub: Hub, request: Request) -> Response:
    """The books, and why nothing more gets into them where that is so."""
    ready, reason = hub.ready()
    return JSONResponse({**hub.register.ledger(), **({} if ready else {"not_storing": reason})})


async def fields(hub: Hub, request: Request) -> Response:
    """What can be shown and filtered by."""
    return JSONResponse({"fields": field_list()})


def field_list() -> list[dict[str, Any]]:
    """Every name a filter may use, in order of display; `shown` ones can be asked for in an answer."""
    found: dict[str, dict[str, Any]] = {}
    for table in TABLES:
        for name in names_of(table):
            entry = found.setdefault(name, {"name": name, "tables": [], **_described(name, table)})
            entry["tables"].append(table)
    return sorted(found.values(), key=lambda entry: not entry["shown"])


def _described(name: str, table: str) -> dict[str, Any]:
    kind, doc, multiple = described(name, table)
    return {"kind": kind, "doc": doc, "multiple": multiple, "shown": name in fields_of(table)}


async def status(hub: Hub, request: Request) -> Response:
    """Version, store, readiness."""
    ready, reason = hub.ready()
    answer = {
        "version": hub.version,
        "store": hub.store.id,
        "commit": hub.store.committed(),
        "ready": ready,
        "reason": "" if ready else reason,
        "time": format_ns(hub.now_ns()),
        "statistics": await hub.runner.thread(hub.store.statistics),
    }
    return JSONResponse(answer)


async def healthz(hub: Hub, request: Request) -> Response:
    """The loop runs."""
    return PlainTextResponse("ok\n")


async def readyz(hub: Hub, request: Request) -> Response:
    """The hub takes work."""
    ready, reason = hub.ready()
    return PlainTextResponse(f"{reason}\n", 200 if ready else 503)


async def metrics(hub: Hub, request: Request) -> Response:
    """Prometheus metrics."""
    return Response(hub.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def openapi(hub: Hub, request: Request) -> Response:
    """This API, described."""
    return Response(hub.openapi[hub.tokens is not None], media_type="application/json")
