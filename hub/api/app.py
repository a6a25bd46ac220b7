"""The people's API as a Starlette application, wired from what the hub hands in."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from time import time_ns
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hub.api.context import Hub, Limits, Register, Store
from hub.api.openapi import document
from hub.api.problems import Problem, problem_of
from hub.api.routes import OPEN, ROUTES, Row
from hub.api.runner import Runner
from hub.fanout.asker import Asker
from hub.pcap.fetcher import Fetcher

log = structlog.get_logger()
_HTTP = {404: "not_found", 405: "method_not_allowed"}


def create_app(
    store: Store,
    register: Register,
    *,
    token: str | None,
    ready: Callable[[], tuple[bool, str]],
    metrics: Callable[[], bytes],
    version: str,
    now_ns: Callable[[], int] = time_ns,
    limits: Limits = Limits(),  # noqa: B008  frozen
    asker: Asker | None = None,
    facts: Callable[[], dict[str, Any]] = dict,
    fetcher: Fetcher | None = None,
) -> Starlette:
    """The application. Nothing is started; `now_ns` is the clock (nanoseconds since 1970).

    `asker` asks the agents, `fetcher` fetches frames from them; `facts` are the hub's own for `/v1/doctor`, made on a
    thread.
    """
    runner = Runner(store.reader, limits.queries)
    asker = asker or Asker(register, now_ns)
    hub = Hub(
        store, register, runner, token, ready, metrics, version, now_ns, limits, asker, facts, fetcher or Fetcher()
    )
    hub.openapi = json.dumps(document(ROUTES, version)).encode()
    app = Starlette(
        routes=[Route(row.path, _endpoint(hub, row), methods=[row.method]) for row in ROUTES],
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
    )
    app.state.hub = hub
    return app


def _endpoint(hub: Hub, row: Row) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            if row.who != OPEN:
                _authorize(hub, request)
            return await row.handler(hub, request)
        except Exception as error:
            problem = problem_of(error)
            if problem.code == "internal":
                log.exception("a request failed", path=request.url.path)
            return problem.response()

    return endpoint


def _authorize(hub: Hub, request: Request) -> None:
    """Raise Problem `bad_token` unless the request has the token; the time it takes says nothing of it."""
    if hub.token is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), hub.token.encode()):
        raise Problem("bad_token", "send the hub's token as Authorization: Bearer TOKEN (--token-file)")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP.get(error.status_code, "internal")
    response = Problem(code, f"{request.method} {request.url.path[:200]}: see /openapi.json").response()
    response.headers.update(error.headers or {})
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    return problem_of(error).response()
