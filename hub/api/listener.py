"""The people's listener: who is let in while many are, and connections whose other end has gone.

The kernel ends a connection whose other end takes nothing of what is sent for `SILENCE` seconds, or answers no probe
while nothing is sent; the answer under way ends with it. One that asks nothing for `ASKING` seconds is closed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST, SHARE = 256, 128
"""Connections that are answered, of all and of one address. As many again are told that the hub is full, so that they
know it; those beyond are not let in."""
SILENCE = 120.0
"""Seconds after which the other end has gone: far above what a terminal is held up for, or a line is down."""
PROBES = 4
"""Probes of an idle connection within that time."""
ASKING = 10.0
"""Seconds that a request may take to come, from the connection or its first byte on."""


class Crowd:
    """How many connections there are, and of whom."""

    def __init__(self, most: int = MOST, share: int = SHARE) -> None:
        self._most, self._share = most, share
        self._of: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        """All of them."""
        return self._of.total()

    def enter(self, host: str) -> float:
        """One more of this address; how full it is now: above 1 is too much, above 2 far too much."""
        self._of[host] += 1
        return max(self.connections / self._most, self._of[host] / self._share)

    def leave(self, host: str) -> None:
        """One less of it."""
        self._of -= Counter((host,))


class _Line(H11Protocol):
    """One connection."""

    def __init__(self, crowd: Crowd, **given: Any) -> None:
        super().__init__(**given)
        self._crowd = crowd
        self._host = ""
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._host = self.client[0] if self.client else ""
        full = self._crowd.enter(self._host)
        if full > 2:
            transport.abort()
        elif full > 1:
            self.app, self.app_state = _last(self.app), {**self.app_state, "crowded": True}
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._crowd.leave(self._host)
        if self._late is not None:
            self._late.cancel()

    def _expect(self) -> None:
        """A request is on its way, or has come."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._late is not None:
                self._late.cancel()
            self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(ASKING, self.transport.abort)


def _last(app: ASGIApp) -> ASGIApp:
    """The application, with connections that end after one answer."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], CLOSE_HEADER]
            await send(message)

        await app(scope, receive, closing)

    return answer


def bind(host: str, port: int) -> socket.socket:
    """The socket to listen on; connections take over its options. Raises OSError, with words for people."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in ((socket.TCP_KEEPIDLE, SILENCE / PROBES), (socket.TCP_KEEPINTVL, SILENCE / PROBES)):
        listener.setsockopt(socket.IPPROTO_TCP, option, int(seconds))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE * 1000))  # probes end with it too
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def server(app: ASGIApp, tls: ssl.SSLContext | None = None, crowd: Crowd | None = None) -> uvicorn.Server:
    """The HTTP server of the API, to be told `serve(sockets=[bind(...)])`; it ends when `should_exit` is set."""
    config = uvicorn.Config(
        app, http=cast(Any, partial(_Line, crowd or Crowd())), log_config=None, access_log=False, lifespan="off",
        server_header=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    config.load()
    config.ssl = tls  # the context that is renewed, shared with the agents' listener
    made = uvicorn.Server(config)
    made.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # the hub decides
    return made
