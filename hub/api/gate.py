"""In front of every handler: who asks, whether they may, and whether it is too much.

An ASGI application of its own for each path, so that it sees the end of answers too. Problems are answered here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from time import monotonic

import structlog
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from hub.api import audit
from hub.api.audit import Who
from hub.api.context import Hub
from hub.api.problems import Problem, problem_of
from hub.api.routes import OPEN, RELAY, Row
from hub.fanout.peers import HOP
from hub.tokens import MAY

log = structlog.get_logger()

REFUSED = ("bad_token", "not_allowed")
"""Problems of who asks, which the log tells of."""


class Gate:
    """One path of the API: its routes by method."""

    def __init__(self, hub: Hub, rows: Mapping[str, Row]) -> None:
        self._hub, self._rows = hub, rows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        row = self._rows.get(request.method) or self._rows["GET"]  # of HEAD
        begun = False
        try:
            with self._let_in(request, row):
                response = await row.handler(self._hub, request)
                begun = True
                await response(scope, receive, send)
        except Exception as error:
            if begun:  # the answer breaks off
                raise
            await self._told(request, error).response()(scope, receive, send)

    @contextmanager
    def _let_in(self, request: Request, row: Row) -> Iterator[None]:
        """Around a request that may be made. Raises Problem for others."""
        if row.role == OPEN:
            yield
            return
        if getattr(request.state, "crowded", False):
            raise Problem("busy", "as many connections are open as this hub takes, of all or of you: ask again later")
        who, allowance = identify(self._hub, request), self._hub.allowance
        if row.kind != RELAY.kind and (wait := allowance.take(who.client, monotonic())):
            raise Problem("too_many", "you ask faster than this hub lets one: ask more slowly", retry=ceil(wait))
        request.state.who = who
        permit(self._hub, who, row.role)
        name = allowance.enter(who.client, row.kind, monotonic())
        if name is None:
            raise Problem("too_many", "you have as many such requests open as one may: end some, or ask again later")
        try:
            yield
        finally:
            allowance.leave(name, row.kind)

    def _told(self, request: Request, error: Exception) -> Problem:
        problem = problem_of(error)
        if problem.code == "internal":
            log.exception("a request failed", path=request.url.path)
        if problem.code in REFUSED:
            audit.refused(self._hub.refusals, audit.who(request), problem.code, request.url.path)
        return problem


def identify(hub: Hub, request: Request) -> Who:
    """Who asks; with a role only where the token they show is one of the hub's."""
    peer = audit.peer(request)
    token = hub.tokens.holder(request.headers.get("authorization", "")) if hub.tokens else None
    hop = request.headers.get(HOP, "")
    return Who(peer, hop=hop) if token is None else Who(peer, token.role, token.name, hop)


def permit(hub: Hub, who: Who, role: str) -> None:
    """Raise Problem unless who asks may do what takes this role."""
    if hub.tokens is None:
        return
    if not who.role:
        raise Problem("bad_token", "send a token of this hub as Authorization: Bearer TOKEN (--token-file)")
    if role not in MAY[who.role]:
        raise Problem(
            "not_allowed",
            f"this takes a token with the role {role}, and {who.token} has the role {who.role}",
            role=role,
        )
