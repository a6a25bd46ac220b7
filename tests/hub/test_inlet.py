"""An agent that the hub does not read for a while: it hears, and it is not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import serve

from hub.ingest.budget import Budget
from hub.ingest.inlet import Inlet

PATIENCE = 30.0


@asynccontextmanager
async def link() -> AsyncIterator[tuple[Inlet, ClientConnection]]:
    """Both ends of a connection to a listener like the hub's."""
    came: asyncio.Future[Inlet] = asyncio.get_running_loop().create_future()

    async def stay(socket: Any) -> None:
        came.set_result(socket)
        await socket.wait_closed()

    made = cast(Any, partial(Inlet, Budget()))
    async with (
        serve(
            stay, "127.0.0.1", 0, max_queue=4, compression=None, ping_interval=None, create_connection=made
        ) as server,
        connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", compression=None) as agent,
    ):
        yield await came, agent


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
