"""A TCP proxy that is a bad line: it delays, jitters, freezes, and closes what was idle for too long.

What a proxy cannot be is half-open: its own TCP goes on answering. For that the tests use network namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

CHUNK = 65536
WAITING = 64 << 20
"""Bytes that may be on their way, each direction: more than any window, so the line is long and not narrow."""


@dataclass(slots=True)
class Bad:
    """How bad the line is. Seconds; `delay` is one way."""

    delay: float = 0.0
    jitter: float = 0.0
    idle: float = 0.0  # closes a connection on which nothing moved for so long; 0: never
    freeze: float = 0.0  # nothing moves for so long ...
    every: float = 0.0  # ... each time this has passed
    opened: int = 0
    closed_idle: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def due(self, now: float, last: float) -> float:
        """When what came at `now` is let go, never before what came earlier."""
        at = max(now + self.delay + self.rng.uniform(0, self.jitter), last)
        if self.every and at % self.every < self.freeze:
            at += self.freeze - at % self.every
        return at


class _Pair:
    """One connection through the proxy."""

    def __init__(self, bad: Bad, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.bad, self.writers = bad, writers
        self.moved = monotonic()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until it ends."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING // CHUNK)
        letting_go = asyncio.ensure_future(self._let_go(line, writer))
        last = 0.0
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                self.moved = monotonic()
                last = self.bad.due(self.moved, last)
                await line.put((last, data))
        await line.put((last, b""))
        await letting_go

    async def _let_go(self, line: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            at, data = await line.get()
            await asyncio.sleep(max(0.0, at - monotonic()))
            if not data:
                writer.close()
                return
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()

    async def watch(self) -> None:
        """Close what is idle."""
        while self.bad.idle:
            await asyncio.sleep(0.05)
            if monotonic() - self.moved > self.bad.idle:
                self.bad.closed_idle += 1
                for writer in self.writers:
                    writer.transport.abort()
                return


@contextlib.contextmanager
def proxy(port: int, bad: Bad) -> Iterator[int]:
    """The port of a bad line to a local port, until the block ends."""
    ready, places = threading.Event(), [0]
    loop = asyncio.new_event_loop()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, onward = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        bad.opened += 1
        both = _Pair(bad, (writer, onward))
        watch = asyncio.ensure_future(both.watch())
        await asyncio.gather(both.carry(reader, onward), both.carry(back, writer), return_exceptions=True)
        watch.cancel()

    async def start() -> None:
        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        places[0] = server.sockets[0].getsockname()[1]
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(5)
    try:
        yield places[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
