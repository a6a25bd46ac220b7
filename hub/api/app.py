"""The people's API as a Starlette application, wired from what the hub hands in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from time import time_ns
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hub.api.context import Hub, Limits, Register, Store
from hub.api.gate import Gate
from hub.api.openapi import document
from hub.api.problems import Problem, problem_of
from hub.api.routes import RELAY, ROUTES, Row
from hub.api.runner import Runner
from hub.configure import Configurer
from hub.fanout.asker import Asker
from hub.fanout.peers import Peers
from hub.pcap.fetcher import Fetcher
from hub.tokens import Tokens

_HTTP = {404: "not_found", 405: "method_not_allowed"}


def create_app(
    store: Store,
    register: Register,
    *,
    tokens: Tokens | None,
    ready: Callable[[], tuple[bool, str]],
    metrics: Callable[[], bytes],
    version: str,
    now_ns: Callable[[], int] = time_ns,
    limits: Limits = Limits(),  # noqa: B008  frozen
    asker: Asker | None = None,
    facts: Callable[[], dict[str, Any]] = dict,
    fetcher: Fetcher | None = None,
    configurer: Configurer | None = None,
    peers: Peers | None = None,
) -> Starlette:
    """The application. Nothing is started; `now_ns` is the clock (nanoseconds since 1970).

    `asker` asks the agents, `fetcher` fetches frames from them, `configurer` changes their settings, `peers`
    are the other hubs; `facts` are the
    hub's own for `/v1/doctor`, made on a thread.
    """
    runner = Runner(store.reader, limits.queries, limits.wait)
    asker = asker or Asker(register, now_ns)
    hub = Hub(
        store, register, runner, tokens, ready, metrics, version, now_ns, limits, asker, facts, fetcher or Fetcher(),
        configurer or Configurer(), peers or Peers(),
    )  # fmt: skip
    hub.openapi = {guarded: json.dumps(document(ROUTES, version, guarded)).encode() for guarded in (False, True)}
    app = Starlette(
        routes=[Route(path, Gate(hub, rows), methods=list(rows)) for path, rows in _by_path((*ROUTES, RELAY)).items()],
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
    )
    app.state.hub = hub
    return app


def _by_path(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Path -> method -> route: one refusal names all methods of a path."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.path, {})[row.method] = row
    return found


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP.get(error.status_code, "internal")
    response = Problem(code, f"{request.method} {request.url.path[:200]}: see /openapi.json").response()
    response.headers.update(error.headers or {})
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    return problem_of(error).response()
