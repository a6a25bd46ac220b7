"""A call that hangs does not hold up the end of the loop; others give what they give."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from agent.uplink.threads import DaemonThreads


def test_a_call_that_hangs_does_not_hold_up_the_end() -> None:
    go = threading.Event()

    async def play() -> int:
        asyncio.get_running_loop().set_default_executor(DaemonThreads())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(go.wait, 20), 0.1)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)
        return await asyncio.to_thread(max, 1, 7)

    started = time.monotonic()
    assert asyncio.run(play()) == 7
    assert time.monotonic() - started < 5
    go.set()
