"""A world for the link: agents, hubs, and lines between them that break, made of the real parts without their drivers.

Real: `Pipeline`, `Worker`'s steps, `Outbox`, `Uplink` with its table, `Connection`'s handlers; `Ingest`, `Session`,
`Register`, the steps of `Writer`, `Store.commit` and the books. In their place stand here: threads and timers (each
step is a call), sockets (`Line`), the engine (`Disk`: what was inserted stays, what was not is gone).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from clickhouse_connect.driver.exceptions import DatabaseError
from websockets.exceptions import ConnectionClosedError

from agent.capture import Block, Counters, Interface
from agent.decode.decoder import Decoder
from agent.flows import FlowTable
from agent.pipeline import Pipeline
from agent.seal import Sealer
from agent.uplink import link
from agent.uplink.connection import Connection
from agent.uplink.link import LinkConfig, Uplink
from agent.uplink.machine import FIRST, Event, State
from agent.uplink.outbox import Outbox
from agent.worker import Worker
from hub.ingest import writer
from hub.ingest.agents import Register
from hub.ingest.listener import Ingest
from hub.store.books import Books, Entry, Found, Line, Place, day_of, rebuild
from hub.store.engine import POISON
from hub.store.store import Store
from protocol.codec import decode, encode, unpack_body
from protocol.delivery import Item
from protocol.ledger import Report
from protocol.messages import Ack, Batch, Bye, Drain, Echo, EchoReply, Refuse, Reject, Tombstone, Welcome
from protocol.ranges import Ranges
from protocol.schema import Table

NAME = "node"
NOW = 1_700_000_000 * 10**9
"""The hubs' clock stands still: nothing here depends on it."""
WINDOW = (4, 1 << 20)
BOUND = 40_000
"""Bytes of an outbox: about twenty-five batches."""

LOOP = asyncio.new_event_loop()


def spin(*coroutines: Any) -> None:
    """Let the hubs' tasks run until they wait for something."""

    async def settle() -> None:
        await asyncio.gather(*coroutines, return_exceptions=True)
        for _ in range(8):
            await asyncio.sleep(0)

    LOOP.run_until_complete(settle())


class Quiet:
    """A log that keeps what must not happen."""

    def __init__(self) -> None:
        self.bugs: list[str] = []

    def bind(self, **_: Any) -> Quiet:
        return self

    def debug(self, *_: Any, **__: Any) -> None: ...

    info = warning = error = debug

    def exception(self, event: str, **details: Any) -> None:
        self.bugs.append(f"{event} {details}")


# -- the hub -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """kill -9 between two inserts."""


@dataclass
class Part:
    """Rows of one batch, as one insert brought them to the disk."""

    commit: int
    place: Place
    table: Table
    rows: list[int]  # packets: frame numbers; flows: source ports, which are frame numbers too
    packets: int
    flow_only: list[int]  # of flows: those whose packet has no row


@dataclass
class Disk:
    """What outlives the hub's process."""

    parts: list[Part] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


class MemoryStore(Store):
    """The store with a `Disk` for an engine: an insert is there whole or not at all, and may end in an error or a kill.

    `fuse` inserts from now on are done and then nothing more: the process is killed. `trouble` is a list of what the
    next inserts say: None, `before` or `after` (an error that comes before or after the rows are there).
    """

    def __init__(self, id: str, disk: Disk, poison: set[Place]) -> None:
        self.disk, self.poison = disk, poison
        self.fuse: int | None = None
        self.trouble: list[str] = []
        self._home: Any = SimpleNamespace(id=id, directory="/store")
        self._books = Books()
        self._doubt = False
        self._old = self._folded = 0
        self._recover({}, NOW)

    def _insert(self, write: Callable[[], None]) -> None:
        if self.fuse == 0:
            raise Killed
        trouble = self.trouble.pop() if self.trouble else ""
        if trouble == "before":
            raise DatabaseError("no space left")
        write()
        if self.fuse is not None:
            self.fuse -= 1
        if trouble == "after":
            raise DatabaseError("connection lost")

    def _insert_rows(self, table: Table, entries: list[Entry], number: int, now_ns: int) -> None:
        if not entries:
            return
        if any(entry.place in self.poison for entry in entries):
            error = DatabaseError("cannot parse")
            error.code = min(POISON)
            raise error
        self._insert(lambda: self.disk.parts.extend(_part(table, entry, number) for entry in entries))

    def _insert_lines(self, lines: list[Line]) -> None:
        self._insert(lambda: self.disk.lines.extend(lines))
        self._books.add(lines)

    def _recover(self, given: Mapping[Place, Line], now_ns: int) -> None:
        self._books = Books()
        self._books.add(self.disk.lines)
        found = [_found(part) for part in self.disk.parts if part.commit > self._books.commit]
        lines = rebuild(found, self._books, given, now_ns)
        for number in sorted({line.commit for line in lines}):
            self._insert_lines([line for line in lines if line.commit == number])
        self._doubt = False


def _part(table: Table, entry: Entry, commit: int) -> Part:
    columns: Any = entry.columns
    if table.name == "packets":
        return Part(commit, entry.place, table, columns["frame_number"].tolist(), entry.rows, [])
    ports = columns["src_port"]
    sums = int(np.sum(columns["packets"]) + np.sum(columns["packets_rev"]))
    return Part(commit, entry.place, table, ports.tolist(), sums, ports[columns["flow_only"] > 0].tolist())


def _found(part: Part) -> Found:
    frame = max(part.rows) if part.table.name == "packets" else 0
    only, day = len(part.flow_only), day_of(NOW)
    return Found(part.commit, *part.place, part.table.name, len(part.rows), part.packets, only, frame, 0, 1, day)


class Hub:
    """One hub process and its disk."""

    def __init__(self, name: str) -> None:
        self.name, self.disk, self.log = name, Disk(), Quiet()
        self.poison: set[Place] = set()
        self.up = False
        self.outcomes: list[Any] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.start()

    def start(self) -> None:
        self.store = MemoryStore(self.name, self.disk, self.poison)
        self.ingest: Any = Ingest(self.store, Register(self.store.epochs()), self.log)
        self.ingest._loop = LOOP
        self.ingest.window = lambda: WINDOW
        self.up = True

    def crash(self) -> None:
        """What is on disk stays, what was sent may still arrive, everything else is gone."""
        self.up = False
        self.outcomes = []
        for task in self._tasks:
            task.cancel()
        spin(*self._tasks)
        self._tasks = []

    def accept(self, socket: Socket) -> None:
        self._tasks.append(LOOP.create_task(self.ingest._serve(socket)))
        spin()

    def write(self, fuse: int | None = None) -> None:
        """One turn of the writer, killed after `fuse` inserts."""
        queue = self.ingest.writer._queue
        works = queue.take(self.ingest.writer._pace.limit, writer.MAX_WORKS, math.inf) if len(queue) else []
        if not works:
            return
        self.store.fuse = fuse
        try:
            with mock.patch.object(writer, "RETRY", 0.0):
                self.outcomes.append(self.ingest.writer._commit(works))
        except Killed:
            self.crash()
        self.store.fuse = None

    def tell(self) -> None:
        """The loop hears of the oldest commit."""
        if self.outcomes:
            LOOP.call_soon(self.ingest._settle, self.outcomes.pop(0))
            spin()

    def drain(self) -> None:
        """End in good order."""
        self.ingest.draining = True
        sessions = list(self.ingest._sessions)
        spin(*(session.drain(1.0) for session in sessions))
        self.write()
        while self.outcomes:
            self.tell()
        spin(*(session.close() for session in sessions))
        self.crash()


class Socket:
    """The hub's end of a line, as `Session` uses it."""

    remote_address = ("192.0.2.1", 1)
    paused = False

    def __init__(self, line: Wire) -> None:
        self.outstanding = 0
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.transport = SimpleNamespace(abort=self._gone)
        self._line = line

    async def recv(self) -> bytes:
        data = await self.incoming.get()
        if data is None:
            raise ConnectionClosedError(None, None)
        return data

    def taken(self, size: int) -> None: ...

    async def send(self, data: bytes) -> None:
        if self._line.hub_gone:
            raise ConnectionClosedError(None, None)
        self._line.to_agent.append(data)

    async def close(self, code: int, reason: str = "") -> None: ...

    def _gone(self) -> None:
        self._line.hub_gone = True
        self.incoming.put_nowait(None)


class Wire:
    """One connection: a pipe each way, in order. What was sent before an end is gone may still arrive, or a part."""

    def __init__(self, hub: Hub, connection: Connection) -> None:
        self.hub, self.connection = hub, connection
        self.to_hub: deque[bytes] = deque()
        self.to_agent: deque[bytes] = deque()
        self.agent_gone = self.hub_gone = False
        self.socket = Socket(self)

    def carry_in(self, messages: int) -> None:
        """Up to so many messages to the hub, then, where there are no more to come, its end."""
        for _ in range(messages):
            if self.hub_gone or not self.hub.up:
                self.to_hub.clear()
                self.hub_gone = True
                return
            if self.to_hub:
                self.socket.incoming.put_nowait(self.to_hub.popleft())
            elif self.agent_gone:
                self.socket.incoming.put_nowait(None)
                spin()
                return
            spin()

    def agent_leaves(self) -> None:
        self.agent_gone = True


# -- the agent ---------------------------------------------------------------------------------------------------------


@dataclass
class Content:
    """What one sealed batch stands for: the frames of its rows, or of its flows and those of them without a row."""

    kind: str
    rows: frozenset[int]
    flow_only: frozenset[int]
    poison: bool = False


class WatchedOutbox(Outbox):
    """An outbox that notes what goes in and what is acknowledged."""

    def __init__(self, node: Node) -> None:
        super().__init__(BOUND, node.news)
        self.content: dict[int, Content] = {}
        self.done: set[int] = set()
        self.spoil = ""
        self._node = node

    def put(self, message: Batch | Tombstone, wait: bool) -> bool:
        content = _content(message)
        if self.spoil and isinstance(message, Batch):
            content.poison = True
            if self.spoil == "body":
                message = replace(message, body=b"\xc1", raw_size=1, zstd=0)
            else:
                for hub in self._node.hubs.values():
                    hub.poison.add((message.agent, message.epoch, message.seq))
            self.spoil = ""
        self.content[message.seq] = content
        return super().put(message, wait)

    def welcome(self, store: str, positions: dict[int, Ranges], window: tuple[int, int]) -> list[Item]:
        return self._note(super().welcome(store, positions, window))

    def ack(self, epoch: int, held: Ranges, window: tuple[int, int]) -> list[Item]:
        return self._note(super().ack(epoch, held, window))

    def _note(self, items: list[Item]) -> list[Item]:
        self.done |= {item.key[1] for item in items}
        return items


def _content(message: Batch | Tombstone) -> Content:
    if not isinstance(message, Batch):
        return Content(message.kind, frozenset(), frozenset())
    columns: Any = unpack_body(message)[0]
    if message.kind == "packets":
        return Content("packets", frozenset(columns["frame_number"].tolist()), frozenset())
    ports = columns["src_port"]
    return Content("flows", frozenset(ports.tolist()), frozenset(ports[columns["flow_only"] > 0].tolist()))


class IdleConnection(Connection):
    """A connection whose tasks are the test's steps."""

    async def run(self) -> None: ...


class DrivenUplink(Uplink):
    """The uplink with its connections' tasks and its timers left to the test."""

    timers: list[Callable[[], None]]
    opening: Connection | None

    def begin(self) -> None:
        self.timers, self.opening = [], None
        self.loop = SimpleNamespace(call_soon_threadsafe=lambda work, *args: work(*args))  # type: ignore[assignment]
        self.view.state, commands = FIRST
        for command in commands:
            self._perform[command]()

    def _connect(self) -> None:
        asyncio.set_event_loop(LOOP)  # where the task of the connection that does nothing is made
        with mock.patch.object(link, "Connection", IdleConnection):
            super()._connect()
        self.opening = self._connection

    def _later(self, delay: float, call: Callable[[], None]) -> Any:
        self.timers.append(call)
        return SimpleNamespace(cancel=lambda: self.timers.remove(call) if call in self.timers else None)

    def fire(self, call: Callable[[], None]) -> None:
        if call in self.timers:
            self.timers.remove(call)
            if not self._over.is_set():
                call()


class Node:
    """One run of an agent, from its start to its end or crash."""

    def __init__(self, hubs: dict[str, Hub], epoch: int) -> None:
        self.hubs, self.epoch, self.log = hubs, epoch, Quiet()
        self.levels: dict[int, str] = {}  # frame number -> the level it was captured at
        self.alive, self.finished, self.wire = True, False, None
        self.outbox = WatchedOutbox(self)
        report = Report()
        decoder = Decoder([Interface("eth0", 1)])
        self.pipeline = Pipeline(decoder, FlowTable(), Sealer(NAME, epoch, report, max_rows=2), report)
        source: Any = SimpleNamespace(live=True, done=False, counters=Counters, stop=_nothing, close=_nothing)
        self.worker = Worker(source, self.pipeline, self.outbox, self.log)
        config = LinkConfig(tuple(hubs), NAME, NAME, epoch)
        self.uplink = DrivenUplink(
            config, self.outbox, self.log, status=dict, stop_capture=self.worker.stop, free=_nothing,
            on_transition=self._transition,
        )  # fmt: skip
        self.uplink.begin()

    wire: Wire | None

    @property
    def state(self) -> State:
        return self.uplink.view.state

    @property
    def halted(self) -> bool:
        return self.worker._halt

    def _transition(self, old: State, event: Event, new: State) -> None:
        self.worker.eager = new in (State.BACKOFF, State.CONNECTING)
        if new in (State.BACKOFF, State.STOPPED):
            self.wire = None

    def news(self) -> None:
        self.uplink.notify()
        if self.outbox.finished:
            self.uplink.call(self.uplink.stop)

    # -- the capture thread --------------------------------------------------------------------------------------------

    def capture(self, packets: int) -> None:
        first = self.pipeline.frames + 1
        numbers = range(first, first + packets)
        self.levels |= dict.fromkeys(numbers, self.pipeline.level)
        self.worker._put(self.pipeline.feed(_block(numbers)))

    def pace(self) -> None:
        self.worker._pace()

    def finish(self) -> None:
        if not self.finished:
            self.finished = True
            self.worker._finish()

    # -- the loop ------------------------------------------------------------------------------------------------------

    def open(self, which: str) -> None:
        """The connection attempt comes to something, or not. Which hub it goes to is the test's choice."""
        connection, self.uplink.opening = self.uplink.opening, None
        if connection is None or self.uplink._connection is not connection:
            return
        hub = self.hubs[which]
        if not hub.up:
            self._end(connection, ConnectionRefusedError("refused"))
            return
        self.wire = wire = Wire(hub, connection)
        abort = SimpleNamespace(abort=wire.agent_leaves)
        connection._ws = SimpleNamespace(transport=abort, remote_address=("192.0.2.2", 2))  # type: ignore[assignment]
        hub.accept(wire.socket)
        wire.to_hub.append(encode(connection._hello()))

    def transmit(self, batches: int) -> None:
        wire = self.wire
        if wire is None or not wire.connection._welcomed.is_set() or wire.agent_gone:
            return
        for _ in range(batches):
            item = None if wire.connection._held else self.outbox.next()
            if item is None:
                break
            wire.to_hub.append(item.data)
        if wire.connection._leaving:
            wire.to_hub.append(encode(Bye("drained")))
            wire.agent_gone = True

    def echo(self) -> None:
        if self.wire is not None and self.wire.connection._welcomed.is_set():
            self.wire.connection._echoes += 1
            self.wire.to_hub.append(encode(Echo(self.wire.connection._echoes)))

    def hear(self, messages: int) -> None:
        """Up to so many messages from the hub, then, where there are no more to come, its end."""
        for _ in range(messages):
            wire = self.wire
            if wire is None or wire.agent_gone:
                return
            if wire.to_agent:
                self._hear(wire.connection, wire.to_agent.popleft())
            elif wire.hub_gone or not wire.hub.up:
                self._end(wire.connection, ConnectionClosedError(None, None))

    def _hear(self, connection: Connection, data: bytes) -> None:
        message, _ = decode(data, "hub")
        handlers: dict[type, Callable[[Any], None]] = {
            Welcome: lambda welcome: self.uplink.welcomed(connection, welcome),
            Ack: connection._on_ack,
            Reject: connection._on_reject,
            EchoReply: connection._on_echo,
            Drain: connection._on_drain,
            Refuse: connection._on_refuse,
        }
        try:
            handlers[type(message)](message)
        except Exception as error:
            self._end(connection, error)

    def _end(self, connection: Connection, error: Exception) -> None:
        event, reason, floor = connection._outcome(error)
        connection._cut()
        assert "internal error" not in reason, reason
        self.uplink.ended(connection, event, reason, floor)

    def cut(self, keep: int) -> None:
        """The connection breaks; of what was sent and has not arrived, a part still does."""
        wire = self.wire
        if wire is not None:
            while len(wire.to_hub) > keep:
                wire.to_hub.pop()
            self._end(wire.connection, ConnectionClosedError(None, None))

    def stall(self, detector: str) -> None:
        self.uplink.stalled(self.uplink.view.connection, detector, {})

    def crash(self) -> None:
        self.alive = False
        if self.wire is not None:
            self.wire.agent_gone = True
        self.wire = None


def _nothing() -> None: ...


def _block(numbers: Sequence[int]) -> Block:
    """UDP frames, each a flow of its own: the source port is the frame's number."""
    head = b"\2" * 6 + b"\4" * 6 + b"\x08\x00" + b"\x45\0\0\x1c\0\1\0\0\x40\x11\0\0" + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    data = b"".join(head + number.to_bytes(2, "big") + b"\x00\x35\x00\x08\0\0" for number in numbers)
    lengths = np.full(len(numbers), len(head) + 8, dtype=np.uint32)
    return Block(
        data=np.frombuffer(data, dtype=np.uint8),
        offset=np.cumsum(lengths, dtype=np.int64) - lengths,
        cap_len=lengths,
        wire_len=lengths,
        time=np.array(numbers, dtype=np.int64) * 1000,
        iface=np.zeros(len(numbers), dtype=np.uint16),
    )
