"""An attempt at a link that is given up."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from agent.uplink.backoff import Backoff
from agent.uplink.link import LinkConfig, Uplink
from agent.uplink.machine import State
from agent.uplink.outbox import Outbox
from protocol.logs import logger


async def give_up_before_it_begins() -> tuple[int, State]:
    """A link that is called stalled before the task of its connection ran: how often somebody connected."""
    callers: list[Any] = []
    async with await asyncio.start_server(lambda reader, writer: callers.append(writer), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        uplink = Uplink(
            LinkConfig((f"ws://127.0.0.1:{port}",), "node", "node", 1),
            Outbox(1 << 20), logger(), status=dict, stop_capture=lambda: None, free=lambda: None,
        )  # fmt: skip
        uplink.backoff = Backoff(base=60.0, cap=60.0, rng=Random(1), attempts=3)
        life = asyncio.create_task(uplink.run())
        await asyncio.sleep(0)  # the uplink ran, its connection did not
        uplink.stalled(uplink.view.connection, "ping", {})
        await asyncio.wait(uplink._tasks)
        state = uplink.view.state
        uplink.kill()
        await life
        return len(callers), state


def test_a_connection_given_up_before_it_began_never_connects() -> None:
    assert asyncio.run(give_up_before_it_begins()) == (0, State.BACKOFF)
