"""An agent that the hub does not read for a while: it hears, and it is not read."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import serve

from hub.ingest.budget import Budget
from hub.ingest.inlet import Inlet
from hub.ingest.session import Session

PATIENCE = 30.0


@asynccontextmanager
async def link() -> AsyncIterator[tuple[Inlet, ClientConnection]]:
    """Both ends of a connection to a listener like the hub's."""
    came = asyncio.Queue[Inlet]()

    async def stay(socket: Any) -> None:
        came.put_nowait(socket)
        await socket.wait_closed()

    made = cast(Any, partial(Inlet, Budget()))
    async with (
        serve(
            stay, "127.0.0.1", 0, max_queue=4, compression=None, ping_interval=None, create_connection=made
        ) as server,
        connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", compression=None) as agent,
    ):
        yield await came.get(), agent


@pytest.mark.timeout(60)
def test_who_is_not_read_still_hears_everything() -> None:
    async def play() -> list[Any]:
        async with link() as (inlet, agent), asyncio.timeout(PATIENCE):
            inlet.pause()
            for number in range(3):
                await inlet.send(bytes([number]))
            inlet.resume()
            await inlet.send(b"\x03")
            return [await agent.recv() for _ in range(4)]

    assert asyncio.run(play()) == [b"\x00", b"\x01", b"\x02", b"\x03"]


@pytest.mark.timeout(60)
def test_what_the_session_takes_does_not_have_one_read_that_the_budget_stopped() -> None:
    async def play() -> None:
        async with link() as (inlet, agent), asyncio.timeout(PATIENCE):
            for _ in range(8):
                await agent.send(b"x")
            while len(inlet.recv_messages.frames) < 8:
                await asyncio.sleep(0.01)
            inlet.pause()
            inlet.resume()
            assert not inlet.transport.is_reading()  # the session is behind
            inlet.pause()
            for _ in range(8):
                await inlet.recv()
            assert not inlet.transport.is_reading()  # the budget is used up
            inlet.resume()
            assert inlet.transport.is_reading()

    asyncio.run(play())


@contextmanager
def no_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.timeout(60)
def test_what_was_read_of_a_connection_goes_with_it() -> None:
    async def play() -> None:
        async with link() as (inlet, agent), asyncio.timeout(PATIENCE):
            buffer = inlet.protocol.reader.buffer
            agent.transport.write(b"\x82\xfe\xff\xff" + bytes(5_000))  # the beginning of a frame of 64 KB
            while len(buffer) < 5_000:
                await asyncio.sleep(0.01)
            agent.transport.abort()
            await inlet.wait_closed()
            left = weakref.ref(inlet)
            del inlet
            while left() is not None:
                await asyncio.sleep(0.01)
            assert not buffer

    with no_collector():
        asyncio.run(play())


def test_a_session_that_is_over_goes_at_once() -> None:
    with no_collector():
        session = weakref.ref(Session(cast(Any, SimpleNamespace(log=None)), cast(Any, None)))
        assert session() is None
