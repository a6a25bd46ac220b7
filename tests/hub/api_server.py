"""The API on a real socket, beside a real store and register, with a clock that the test turns."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from hub.api import listener as listening
from hub.api.app import create_app
from hub.api.context import Limits
from hub.ingest.agents import Register
from hub.store.books import Entry
from hub.store.store import Store
from hub.tokens import tokens_of

NOW = 1_700_000_000 * 10**9


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition with a deadline."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


@dataclass
class Served:
    """A running API."""

    store: Store
    register: Register
    url: str
    loop: asyncio.AbstractEventLoop
    app: Any
    ready: list[bool] = field(default_factory=lambda: [True])
    now: list[int] = field(default_factory=lambda: [NOW])

    def commit(self, *entries: Entry) -> int:
        """Store, and tell who follows."""
        commit = self.store.commit(entries, self.now[0])

        async def tell() -> None:
            self.register.committed(entries, commit, self.now[0])
            await self.register.announce()

        asyncio.run_coroutine_threadsafe(tell(), self.loop).result(10)
        return commit

    def get(self, path: str, **params: Any) -> httpx.Response:
        """One question."""
        return httpx.get(self.url + path, params=params, timeout=30)

    @property
    def busy(self) -> int:
        """Streams that hold the store."""
        hub = self.app.state.hub
        return int(hub.runner.running)


@contextlib.contextmanager
def serve(folder: Path, token: str | None = None, limits: Limits | None = None) -> Iterator[Served]:
    """The API over a new store in `folder`, until the block ends."""
    store = Store(f"chdb://{folder}/store")
    store.open(NOW)
    listener = listening.bind("127.0.0.1", 0)
    listener.listen()
    up = threading.Event()
    served: list[Served] = []
    server: list[uvicorn.Server] = []

    async def main() -> None:
        register = Register(store.epochs())
        one = Served(store, register, f"http://127.0.0.1:{listener.getsockname()[1]}", asyncio.get_running_loop(), None)
        one.app = create_app(
            store,
            register,
            tokens=tokens_of(token),
            ready=lambda: (one.ready[0], "ready" if one.ready[0] else "the writer does not get on"),
            metrics=lambda: b"nodetap_hub_up 1\n",
            version="0.0-test",
            now_ns=lambda: one.now[0],
            limits=limits or Limits(),
        )
        server.append(listening.server(one.app))
        served.append(one)
        up.set()
        await server[0].serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    try:
        assert up.wait(20)
        yield served[0]
    finally:
        server[0].should_exit = True
        thread.join(20)
        store.close()
