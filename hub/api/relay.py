"""`/v1/relay/AGENT`: one part of raw frames for another hub over the same store, which merges them. Not for people.

The agent tells questions apart by their numbers, and each hub counts its own: those of others get one of ours.
"""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hub.api import audit
from hub.api.context import Hub
from hub.api.problems import Problem
from hub.pcap.fetcher import LineLost
from protocol.codec import decode, encode
from protocol.errors import RemoteError, WrongMessage
from protocol.messages import Fetch

MOST_BYTES = 64 << 10
"""Size of a message."""
KEPT = 300.0
"""Seconds for which the number of a question that is not heard of is kept."""
MOST = 1_000


async def relay(hub: Hub, request: Request) -> Response:
    """Pass one message on to an agent that is connected here; its answer."""
    name, given = request.path_params["name"], request.query_params
    line = hub.register.live(name)
    if line is None or line.connection != given.get("connection"):
        raise Problem("no_such_agent", f"{name[:80]!r} has no such connection to this hub")
    fetch = await _message(request)
    key = (audit.who(request).client, name, given.get("question", ""))
    own = _number(hub, key, bool(fetch.part))
    if not fetch.part:
        hub.fetcher.end(line, own, fetch.live)
        return Response(status_code=204)
    if fetch.part == 1:
        audit.did(audit.who(request), "raw frames are relayed", agent=name, filter=fetch.filter, live=bool(fetch.live))
    try:
        fetched = await hub.fetcher.fetch(line, replace(fetch, id=own), fetch.within)
    except TimeoutError:
        raise Problem("query_timeout", f"{name} did not answer within {fetch.within:g} s") from None
    except LineLost:
        raise Problem("no_such_agent", f"the connection of {name} ended while it was asked") from None
    return Response(encode(replace(fetched, id=fetch.id)), media_type="application/msgpack")


async def _message(request: Request) -> Fetch:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Problem("bad_parameter", "the message is too large")
    try:
        message, _ = decode(body, "hub")
    except (WrongMessage, RemoteError, ValueError) as error:
        raise Problem("bad_parameter", f"the message is wrong: {error}") from None
    if not isinstance(message, Fetch):
        raise Problem("bad_parameter", "only raw frames are relayed")
    return message


def _number(hub: Hub, key: tuple[Any, ...], goes_on: bool) -> int:
    """Our number for another hub's question."""
    now = monotonic()
    own, _ = hub.relayed.pop(key, (None, 0.0))
    own = own or hub.fetcher.number()
    if goes_on:
        hub.relayed[key] = own, now
    if len(hub.relayed) > MOST:
        for old in [each for each, (_, used) in hub.relayed.items() if now - used > KEPT]:
            del hub.relayed[old]
    return own
