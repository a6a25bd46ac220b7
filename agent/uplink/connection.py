"""One attempt at a link: handshake, four tasks (receive, transmit, ping, report) and one for each question that is
being answered, and why it ended.

Nothing here waits for an orderly close of a link that may hang: `close()` waits in the same drain that does not move,
only `transport.abort()` returns at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from math import inf
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

import protocol
from agent import failpoints
from agent.uplink.backoff import REFUSED_FLOOR
from agent.uplink.machine import Event
from protocol.codec import decode, encode
from protocol.errors import Refused, RemoteError
from protocol.limits import MAX_MESSAGE, VERSIONS
from protocol.messages import (
    Ack,
    Ask,
    Bye,
    Configure,
    Drain,
    Echo,
    EchoReply,
    Fetch,
    Hello,
    Message,
    Refuse,
    Reject,
    Welcome,
)
from protocol.trouble import hint, plain

if TYPE_CHECKING:
    from agent.uplink.link import Uplink

HEARTBEAT = 3.0
"""Seconds between two reports, or half the time after which an idle link without a pong has stalled."""
PING = 5.0
"""Seconds between two pings, about: each goes with a report. No more than half that time, either."""
CLOSE_TIMEOUT = 1.0
DRAIN_PATIENCE = 60.0
"""Seconds after which we leave a hub that said it goes, and stays."""
DOUBT_PATIENCE = 60.0
"""Seconds to wait for the store that may hold a batch in doubt before it is given up to another one."""
UNREAD = frozenset({"bad_msgpack", "too_large", "bad_key", "unknown_type", "bad_column", "bad_utf8", "bad_zstd"})
"""Codes of refusals that speak of the bytes of a message."""
MOST_ASKED = 16
"""Questions that may wait for their answers to be sent; more are not heard."""


class Connection:
    """One attempt at a link, from the handshake to its end."""

    def __init__(self, uplink: Uplink, hub: str, id: str) -> None:
        self.uplink = uplink
        self.hub = hub
        self.id = id
        self._ws: ClientConnection | None = None
        self._task: asyncio.Task[Any] | None = None
        self._aborted = False
        self._group: asyncio.TaskGroup
        self._news = asyncio.Event()
        self._welcomed = asyncio.Event()
        self._tell = asyncio.Event()
        self._gone_by = inf  # when a hub that drains must be gone
        self._leaving = False
        self._echoes = 0
        self._pong: asyncio.Future[float] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._moved = 0.0  # when something was sent or came last
        self.unread = False  # whether it ended because the hub could not read what it was sent

    @property
    def peer(self) -> tuple[str, int]:
        """The hub's address and port."""
        return ("", 0) if self._ws is None else tuple(self._ws.remote_address[:2])

    def _certificate_ends(self) -> str:
        """When the hub's certificate ends, empty without TLS or where it is not checked."""
        socket = None if self._ws is None else self._ws.transport.get_extra_info("ssl_object")
        certificate = (socket.getpeercert() or {}) if socket else {}
        return str(certificate.get("notAfter", ""))

    # -- from the uplink -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Welcomed: the sender may start."""
        self._welcomed.set()
        self._news.set()

    def stir(self) -> None:
        """There may be something to send."""
        self._news.set()

    def report(self) -> None:
        """The hub should know at once how we are."""
        self._tell.set()

    def abort(self) -> None:
        """Be gone at once, whatever the peer does."""
        self._aborted = True
        self._cut()
        if self._task is not None:
            self._task.cancel()

    def _cut(self) -> None:
        if self._ws is not None:
            with suppress(AttributeError):  # CPython's transport, once it has lost its connection while it was closing
                self._ws.transport.abort()

    def close(self) -> None:
        """Say goodbye: everything is acknowledged."""
        self._leaving = True
        self._news.set()

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, speak until the end, report it. Never raises."""
        self._task = asyncio.current_task()
        try:
            event, reason, floor = await self._speak()
        except asyncio.CancelledError:
            event, reason, floor = Event.LOST, "given up", 0.0
        finally:
            self._cut()
            self.uplink.raw.left(self.id)
        self.uplink.ended(self, event, reason, floor)

    async def _speak(self) -> tuple[Event, str, float]:
        if self._aborted:  # before it began
            return Event.LOST, "given up", 0.0
        try:
            await self._open()
            await self._converse()
        except Exception as error:
            return self._outcome(_telling(error))
        return Event.LOST, "closed", 0.0

    def _outcome(self, error: BaseException) -> tuple[Event, str, float]:
        """What an exception means: the event, the reason for people, the seconds to wait at least."""
        for kind, explain in _OUTCOMES:
            if isinstance(error, kind):
                self.unread = _unread(error)
                event, reason, floor = explain(error, self.hub)
                return event, reason + self._silence(error), floor
        self.uplink.log.error("bug in the session", connection=self.id, exc_info=error)
        return Event.LOST, f"internal error: {error!r}", 1.0

    def _silence(self, error: BaseException) -> str:
        """For people, where the connection broke without a word: for how long nothing had moved on it."""
        quiet = monotonic() - self._moved
        if not isinstance(error, ConnectionClosed) or error.rcvd is not None or not self._moved:
            return ""
        if quiet < IDLE:
            return ": the hub or the line went"
        return f" after {quiet:.1f} s without traffic: the hub or the line went, or something closes what is idle"

    async def _open(self) -> None:
        config = self.uplink.config
        headers = {"Authorization": f"Bearer {config.token}"} if config.token else None
        timeout = max(config.stall_timeout, 3.0)
        self._ws = await connect(
            self.hub,
            additional_headers=headers,
            ssl=config.tls if self.hub.startswith("wss:") else None,
            max_size=MAX_MESSAGE,
            compression=None,
            ping_interval=None,  # the watchdog judges; keepalive hangs in the drain it should watch
            open_timeout=timeout,
            close_timeout=CLOSE_TIMEOUT,
            user_agent_header=f"nodetap-agent/{protocol.VERSION}",
            proxy=None,
        )
        asked = monotonic()
        await self._ws.send(encode(self._hello()))
        async with asyncio.timeout(timeout):
            message, _ = decode(await self._ws.recv(), "hub")
        if isinstance(message, Refuse):
            raise Refused(message.code, message.detail, message.retry_after)
        if not isinstance(message, Welcome):
            raise RemoteError("illegal_moment", f"{type(message).__name__} where a welcome belongs")
        now, clock = monotonic(), self.uplink.quality.clock
        clock.forget()
        clock.hear(message.wall, time_ns(), now, now - asked, now - asked)
        self.uplink.view.certificate_ends = self._certificate_ends()
        self.uplink.welcomed(self, message)

    def _hello(self) -> Hello:
        config, outbox = self.uplink.config, self.uplink.outbox
        return Hello(
            versions=list(VERSIONS),
            agent=config.agent,
            node=config.node,
            epoch=config.epoch,
            streams=list(dict.fromkeys([config.epoch, *outbox.streams])),
            software=protocol.VERSION,
            source=config.source,
            wall=time_ns(),
            stores=outbox.stores,
            connection=self.id,
            answers=[*self.uplink.desk.words, *self.uplink.raw.words, *self.uplink.settings.words],
        )

    async def _converse(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            tasks = [group.create_task(work()) for work in (self._receive, self._transmit, self._report)]
            await tasks[1]  # leaving in good order ends here; everything else ends by an exception
            for task in (*tasks, *self._answering):
                task.cancel()

    async def _transmit(self) -> None:
        ws = self._ws
        assert ws is not None
        await self._welcomed.wait()
        while not self._leaving:
            self._news.clear()
            while not self._held and (item := self.uplink.outbox.next()) is not None:
                self._moved = monotonic()
                await ws.send(item.data)
            await self._news.wait()
        await ws.send(encode(Bye("drained")))
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await ws.close(1000)

    @property
    def _held(self) -> bool:
        """Whether the hub asked us to send nothing more."""
        return self._gone_by < inf

    async def _receive(self) -> None:
        assert self._ws is not None
        handlers: dict[type, Callable[[Any], None]] = {
            Ack: self._on_ack,
            Reject: self._on_reject,
            EchoReply: self._on_echo,
            Ask: self._on_ask,
            Fetch: self._on_fetch,
            Configure: self._on_configure,
            Drain: self._on_drain,
            Refuse: self._on_refuse,
        }
        while True:  # not `async for`, which takes a close in good order for the end of its work
            message, _ = decode(await self._ws.recv(), "hub")
            self._moved = monotonic()
            handler = handlers.get(type(message))
            if handler is None:
                raise RemoteError("illegal_moment", f"{type(message).__name__} while streaming")
            handler(message)

    def _on_ack(self, ack: Ack) -> None:
        self.uplink.acknowledged_by(ack)
        self._news.set()

    def _on_reject(self, reject: Reject) -> None:
        item = self.uplink.outbox.reject(reject.epoch, reject.seq, bool(reject.final))
        self.uplink.log.error(
            "batch refused", connection=self.id, seq=reject.seq, code=reject.code, detail=reject.detail,
            packets=item.message.packets if item else 0,
        )  # fmt: skip
        self._news.set()

    def _on_echo(self, reply: EchoReply) -> None:
        if reply.id == self._echoes:
            quality, view = self.uplink.quality, self.uplink.view
            now = monotonic()
            delay, view.echo_sent = now - view.echo_sent, 0.0
            quality.echo.answer(delay)
            quality.clock.hear(reply.wall, time_ns(), now, delay, quality.ping.usual)
            self.uplink.answered()  # it came through the queue that writes: as good as a batch

    def _on_ask(self, ask: Ask) -> None:
        self._reply(self.uplink.desk.answer(ask))

    def _on_fetch(self, fetch: Fetch) -> None:
        self._reply(self.uplink.raw.answer(self.id, fetch))

    def _on_configure(self, configure: Configure) -> None:
        self._reply(self.uplink.settings.answer(configure))

    def _reply(self, answer: Coroutine[Any, Any, Message]) -> None:
        """Send what comes of this, unless too much waits to be sent already."""
        if len(self._answering) >= MOST_ASKED:
            answer.close()
            return
        task = self._group.create_task(self._send(answer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _send(self, answer: Coroutine[Any, Any, Message]) -> None:
        assert self._ws is not None
        await self._ws.send(encode(await answer))

    def _on_drain(self, drain: Drain) -> None:
        self._gone_by = min(self._gone_by, monotonic() + DRAIN_PATIENCE)
        self.uplink.log.info("hub drains", connection=self.id, retry_after=drain.retry_after)

    def _on_refuse(self, refuse: Refuse) -> None:
        raise Refused(refuse.code, refuse.detail, refuse.retry_after)

    async def _report(self) -> None:
        """A status every now and then, a ping with some, and an echo through the hub's queue; one of each at a time."""
        assert self._ws is not None
        config = self.uplink.config
        interval = min(HEARTBEAT, config.stall_timeout / 2, config.echo_interval)
        await self._welcomed.wait()
        watched, view = not failpoints.unwatched(), self.uplink.view
        next_ping, next_echo = 0.0, monotonic() + config.echo_interval
        while True:
            self._moved = monotonic()
            if self._moved > self._gone_by:
                raise Refused("draining", "the hub said that it goes, and stays")
            if watched and self._pong is None and self._moved >= next_ping:
                next_ping = self._moved + min(PING, config.stall_timeout / 2) - interval / 2
                await self._ping()
            await self._ws.send(encode(self.uplink.status()))
            if watched and monotonic() >= next_echo and not view.echo_sent:
                next_echo = monotonic() + config.echo_interval
                await self._echo()
            if self.uplink.outbox.bury_doubt(DOUBT_PATIENCE):
                self._news.set()
            self._tell.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._tell.wait()

    async def _ping(self) -> None:
        assert self._ws is not None
        self.uplink.quality.ping.asked += 1
        self._pong = asyncio.ensure_future(await self._ws.ping())
        self._pong.add_done_callback(self._on_pong)

    def _on_pong(self, pong: asyncio.Future[float]) -> None:
        if not pong.cancelled() and pong.exception() is None:
            self._pong = None
            self.uplink.quality.ping.answer(pong.result())
            self.uplink.view.pong = self._moved = monotonic()

    async def _echo(self) -> None:
        assert self._ws is not None
        self._echoes += 1
        self.uplink.quality.echo.asked += 1
        self.uplink.view.echo_sent = monotonic()
        await self._ws.send(encode(Echo(self._echoes)))


def _telling(error: BaseException) -> BaseException:
    """Of several tasks' ends the one that says most: a refusal comes before the close that follows it."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    kinds = [kind for kind, _ in _OUTCOMES]
    rank = {id(e): next((n for n, kind in enumerate(kinds) if isinstance(e, kind)), -1) for e in _leaves(error)}
    return min(_leaves(error), key=lambda e: rank[id(e)])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _refused(error: Any, hub: str) -> tuple[Event, str, float]:
    floor = max(error.retry_after or 0.0, REFUSED_FLOOR.get(error.code, 0.0))
    return Event.SUPERSEDED if error.code == "superseded" else Event.REFUSED, str(error), floor


def _unread(error: BaseException) -> bool:
    """Whether the peer, or something on the way, could not read what it was sent (RFC 6455, section 7.4.1)."""
    if isinstance(error, ConnectionClosed):
        return error.rcvd is not None and error.rcvd.code in (1003, 1007, 1009)
    return isinstance(error, Refused) and error.code in UNREAD


def _wrong(error: Any, hub: str) -> tuple[Event, str, float]:
    return Event.LOST, f"the hub sent something wrong: {error}", 1.0


IDLE = 0.2
"""Seconds without a byte either way after which a connection that breaks may have been closed for being idle."""


def _closed(error: Any, hub: str) -> tuple[Event, str, float]:
    if error.rcvd is not None:
        if error.rcvd.reason == "superseded":
            return Event.SUPERSEDED, "superseded: a newer connection of the same name took over", 0.0
        return Event.LOST, f"the hub closed the connection: {error.rcvd.code} {error.rcvd.reason}".rstrip(), 0.0
    return Event.LOST, "the connection broke", 0.0


def _refused_handshake(error: Any, hub: str) -> tuple[Event, str, float]:
    response = error.response
    if response.status_code in (401, 403):
        return Event.REFUSED, "bad_token: the hub refused the token; see --token-file", REFUSED_FLOOR["bad_token"]
    retry = response.headers.get("Retry-After", "")
    return Event.REFUSED, f"the hub answered HTTP {response.status_code}", float(retry) if retry.isdigit() else 0.0


def _unreachable(error: Any, hub: str) -> tuple[Event, str, float]:
    said = str(error) or type(error).__name__
    todo = hint(said)
    return Event.LOST, f"cannot reach {hub}: {plain(said)}{todo and f'; {todo}'}", 0.0


_OUTCOMES: tuple[tuple[Any, Callable[[Any, str], tuple[Event, str, float]]], ...] = (
    (Refused, _refused),
    (RemoteError, _wrong),
    (ConnectionClosed, _closed),
    (InvalidStatus, _refused_handshake),
    ((OSError, InvalidHandshake, TimeoutError, EOFError), _unreachable),
)
