"""One agent's connection: hello, then messages by a table, until either side ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import time_ns
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed

import protocol
from hub.ingest.budget import OVERHEAD
from hub.ingest.inlet import Inlet
from hub.ingest.writer import Work
from protocol.codec import choose_version, decode, encode
from protocol.errors import IllegalMoment, RemoteError
from protocol.messages import (
    Ack,
    Answer,
    Batch,
    Bye,
    Configured,
    Drain,
    Echo,
    EchoReply,
    Fetched,
    Hello,
    Message,
    Refuse,
    Reject,
    Status,
    Tombstone,
    Welcome,
)

if TYPE_CHECKING:
    from hub.ingest.listener import Ingest

HELLO_TIMEOUT = 10.0
SILENCE_TIMEOUT = 30.0
"""Seconds without any message after which a connection is a ghost; agents report every three."""
MAX_ECHOES = 16
"""Echoes of one agent that may be unanswered; agents ask one at a time."""
MAX_REJECTED = 1024
"""Batches of one connection that were refused once and not sent again; agents send them again at once."""
SEND_TIMEOUT = 10.0
"""Seconds for which a message to an agent may wait for its socket."""


def peer_of(address: Any) -> str:
    """`HOST:PORT` of the other end of a socket, empty where it is gone."""
    return f"{address[0]}:{address[1]}" if address else ""


def host_of(address: Any) -> str:
    """The host of the other end of a socket, empty where it is gone."""
    return str(address[0]) if address else ""


def ending_of(error: Exception) -> str:
    """For people: how a connection ended."""
    if not isinstance(error, ConnectionClosed) or (error.rcvd is None and error.sent is None):
        return "it broke: the agent was killed or gave it up, or the line was cut"
    ours = error.rcvd is None or not error.rcvd_then_sent
    who, close = ("hub", error.sent) if ours else ("agent", error.rcvd)
    return f"closed by the {who}: {(close.reason or close.code) if close else ''}"


class Session:
    """One connection of one agent, on the hub's loop."""

    def __init__(self, ingest: Ingest, socket: Inlet) -> None:
        self.ingest = ingest
        self.number = 0
        self.connection = ""
        self.agent = ""
        self.node = ""
        self.source = "live"
        self.answers: list[str] = []  # what the agent may be asked about
        self.outstanding_bytes = 0
        self.outstanding = 0
        self.sent = 0.0
        """When the last batch came, by the loop's clock."""
        self.log = ingest.log
        self.leaving = False
        self._socket = socket
        self._heard = 0.0  # by the loop's clock, as `sent`
        self._silent = False
        self._rejected: set[tuple[int, int]] = set()
        self._echoes = 0
        self._granted = (0, 0)
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue(maxsize=256)

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it ends. Whatever the agent does wrong is answered by a coded refusal."""
        try:
            await self._greet()
            await self._serve()
        except RemoteError as error:
            self.log.warning("agent refused", code=error.code, detail=error.detail, peer=self._peer())
            self.ingest.turned_away(self.agent or host_of(self._socket.remote_address), error.code, error.detail)
            await self.refuse(error.code, error.detail)
        except (ConnectionClosed, TimeoutError) as error:
            self._silent = self._silent or isinstance(error, TimeoutError)
            self.log.info("connection ended", reason="no message came in time" if self._silent else ending_of(error))
        finally:
            self.abort()
            self.ingest.configurer.left(self)
            if self.agent:
                self.ingest.register.leave(self.agent, self, time_ns(), heard=not self._silent)

    def _peer(self) -> str:
        return peer_of(self._socket.remote_address)

    async def _greet(self) -> None:
        async with asyncio.timeout(HELLO_TIMEOUT):
            data = await self._recv()
        hello, _ = decode(data, "agent")
        if not isinstance(hello, Hello):
            raise IllegalMoment(f"{type(hello).__name__} where a hello belongs")
        version = choose_version(hello.versions)
        if self.ingest.draining:
            raise RemoteError("draining", "the hub is shutting down")
        await self.ingest.take_over(hello.agent, [hello.epoch, *hello.streams])
        older = self.ingest.register.join(hello, self, time_ns())
        self.agent, self.node, self.source, self.answers = hello.agent, hello.node, hello.source, hello.answers
        self.connection = hello.connection
        self.log = self.ingest.log.bind(
            agent=self.agent, epoch=f"{hello.epoch:016x}", connection=self.connection, session=self.number
        )
        if isinstance(older, Session):
            self.ingest.spawn(older.supersede(self._peer()))
        window = self._grant()
        await self._send(
            Welcome(
                version=version,
                session=self.number,
                store=self.ingest.store_id,
                positions=self.ingest.register.positions(self.agent, [hello.epoch, *hello.streams]),
                window_batches=window[0],
                window_bytes=window[1],
                software=protocol.VERSION,
                wall=time_ns(),
                api_port=self.ingest.api_port,
            )
        )
        self.ingest.configurer.came(self)
        self.log.info("agent connected", node=self.node, peer=self._peer(), software=hello.software)

    async def _serve(self) -> None:
        sender = asyncio.ensure_future(self._drain_outgoing())
        try:
            while not self.leaving:
                data = await self._recv()
                message, unknown = decode(data, "agent")
                if unknown:
                    self.ingest.metrics.unknown_keys.inc(unknown)
                handler = HANDLERS.get(type(message))
                if handler is None:
                    raise IllegalMoment(f"{type(message).__name__} while streaming")
                self.ingest.register.seen(self.agent, time_ns())
                handler(self, message, len(data))
        finally:
            sender.cancel()

    async def _recv(self) -> bytes | str:
        data = await self._socket.recv()
        self._heard = self.ingest.now()
        self._socket.taken(len(data))  # of text, which no agent sends, too little by what is no ASCII
        return data

    def look(self, now: float) -> None:
        """End the connection where no message came for SILENCE_TIMEOUT, although it was read."""
        if self._socket.waits:
            self._heard = now
        elif self.agent and now - self._heard > SILENCE_TIMEOUT:
            self._silent = True
            self.abort()

    async def _drain_outgoing(self) -> None:
        """Send what is queued, until the connection ends."""
        try:
            while True:
                await self._send(await self._outgoing.get())
        except ConnectionClosed:
            self.abort()
        except TimeoutError:
            self._cut_off()

    async def _send(self, message: Message) -> None:
        async with asyncio.timeout(SEND_TIMEOUT):
            await self._socket.send(encode(message))

    @property
    def unsent(self) -> int:
        """Messages to the agent that wait for its socket."""
        return self._outgoing.qsize()

    def abort(self) -> None:
        """Be gone at once, whatever the agent does; what was read of it is not looked at any more."""
        self.leaving = True
        with suppress(AttributeError):  # CPython's transport, once it has lost its connection while it was closing
            self._socket.transport.abort()

    def post(self, message: Message) -> None:
        """Queue a message to the agent. One that does not read its acknowledgements is cut off."""
        try:
            self._outgoing.put_nowait(message)
        except asyncio.QueueFull:
            self._cut_off()

    def _cut_off(self) -> None:
        if not self.leaving:
            self.log.warning("agent does not read", queued=self.unsent)
        self.abort()

    async def refuse(self, code: str, detail: str, retry_after: float = 0.0) -> None:
        """Say why, and end the connection."""
        with suppress(ConnectionClosed, TimeoutError):
            await self._send(Refuse(code, detail, retry_after))
            async with asyncio.timeout(1.0):
                await self._socket.close(1008, code)
        self.abort()

    async def supersede(self, by: str) -> None:
        """A newer connection of this name, from address `by`, took over."""
        self.log.warning("superseded by a newer connection of the same name", peer=self._peer(), by=by)
        await self.refuse("superseded", "a newer connection of the same name took over")

    async def drain(self, retry_after: float) -> None:
        """The hub is going: ask the agent to hold."""
        with suppress(ConnectionClosed, TimeoutError):
            await self._send(Drain(retry_after))

    async def close(self) -> None:
        """End in good order, quickly or not at all."""
        with suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._socket.close(1001, "draining")
        self.abort()

    # -- messages --------------------------------------------------------------------------------------------------

    def _on_batch(self, batch: Batch, size: int) -> None:
        self._take(batch, size)

    def _on_tombstone(self, tombstone: Tombstone, size: int) -> None:
        self._take(tombstone, size)

    def _take(self, message: Batch | Tombstone, size: int) -> None:
        if message.agent != self.agent:
            raise RemoteError("wrong_agent", f"a batch of {message.agent[:60]!r} from {self.agent!r}")
        batches, window = self._granted
        if self.outstanding > 2 * batches or self.outstanding_bytes > 2 * window + size:
            raise RemoteError("out_of_window", f"{self.outstanding} batches outstanding, {batches} are allowed")
        fate = self.ingest.register.receiver(self.agent, message.epoch).offer(message.seq)
        if fate != "take":
            self.ingest.metrics.duplicates.labels(fate).inc()
            if fate == "held":
                kept = isinstance(message, Tombstone) and message.kind != "report"
                self.acknowledge(message.epoch, [message.seq] if kept else [])
            return
        self.outstanding += 1
        self.outstanding_bytes += size
        self._socket.outstanding += size + OVERHEAD
        self.sent = self.ingest.now()
        self.ingest.metrics.received_bytes.inc(size)
        self.ingest.put(Work(message, self.node, self.source, self.number, size, agent=self.agent))

    def _on_status(self, status: Status, size: int) -> None:
        self.ingest.register.status(self.agent, status, time_ns())

    def _on_echo(self, echo: Echo, size: int) -> None:
        self._echoes += 1
        if self._echoes > MAX_ECHOES:
            raise RemoteError("out_of_window", f"{self._echoes} echoes unanswered")

        def answer() -> None:
            self._echoes -= 1
            self.post(EchoReply(echo.id, time_ns()))

        self.ingest.put(Work(None, echo=answer, agent=self.agent))

    def _on_answer(self, answer: Answer, size: int) -> None:
        self.ingest.asker.answered(self, answer, size)

    def _on_fetched(self, fetched: Fetched, size: int) -> None:
        self.ingest.fetcher.arrived(self, fetched)

    def _on_configured(self, configured: Configured, size: int) -> None:
        self.ingest.configurer.answered(self, configured)

    def _on_bye(self, bye: Bye, size: int) -> None:
        self.leaving = True
        self.log.info("agent left", reason=bye.reason)

    # -- from the writer -------------------------------------------------------------------------------------------

    def done(self, work: Work) -> None:
        """One of this connection's works is out of the queue."""
        self.outstanding -= 1
        self.outstanding_bytes -= work.size
        self._socket.outstanding -= work.size + OVERHEAD

    def _grant(self) -> tuple[int, int]:
        """The window as it is now. The largest one granted is what the agent is held to: it learns of others late."""
        window = self.ingest.window()
        self._granted = max(self._granted[0], window[0]), max(self._granted[1], window[1])
        return window

    def acknowledge(self, epoch: int, kept: list[int] | None = None) -> None:
        """Tell the agent what is durable of an epoch."""
        watermark, held = self.ingest.register.receiver(self.agent, epoch).position()
        batches, size = self._grant()
        self.post(Ack(epoch, watermark, held, batches, size, kept or []))

    def reject(self, message: Batch | Tombstone, code: str, detail: str) -> None:
        """Tell the agent that one batch cannot be taken; the second time it is final."""
        key = (message.epoch, message.seq)
        final = key in self._rejected
        self._rejected ^= {key}  # what is final need not be remembered
        if len(self._rejected) > MAX_REJECTED:
            self.log.warning("agent sends too much that cannot be taken", batches=len(self._rejected))
            self.abort()
        self.log.error("batch refused", seq=message.seq, code=code, detail=detail, final=final)
        self.post(Reject(message.epoch, message.seq, code, detail[:500], int(final)))


HANDLERS: dict[type, Callable[[Session, Any, int], None]] = {
    Batch: Session._on_batch,
    Tombstone: Session._on_tombstone,
    Status: Session._on_status,
    Echo: Session._on_echo,
    Answer: Session._on_answer,
    Fetched: Session._on_fetched,
    Configured: Session._on_configured,
    Bye: Session._on_bye,
}
"""What is done with a message while an agent streams, with its bytes. Of the class: a session that is over, and what it
read, is given back at once, not when the collector comes."""
