"""Blocking questions on a bounded number of threads, with their answers handed to the loop a few chunks at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from time import monotonic
from typing import TypeAlias, TypeVar

from hub.api.problems import Problem
from hub.api.turns import Turns
from hub.store.errors import QueryTimeout, StoreBusy
from hub.store.reader import Reader

T = TypeVar("T")
Borrow: TypeAlias = "Callable[[], AbstractContextManager[Reader]]"
Ask: TypeAlias = "Callable[[Reader], Iterator[bytes]]"

QUEUE_CHUNKS = 4
"""Chunks (8,192 rows each, about 5 MB where every field is shown) that wait between the store and a slow client."""
MOST_WAITING = 256
"""Questions that may wait for their turn."""
POLL = 0.25
"""Seconds after which a thread that waits for a slow client looks whether it is still wanted."""


class Answer:
    """One streamed answer: a thread fills, the loop empties. Closing it from the loop cancels the query."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(QUEUE_CHUNKS)
        self._unwanted = threading.Event()
        self._lock = threading.Lock()
        self._reader: Reader | None = None

    # -- the thread ------------------------------------------------------------------------------------------------

    def fill(self, borrow: Borrow, ask: Ask) -> None:
        """Ask and hand over every chunk; the last thing handed over is None or the error."""
        end: BaseException | None = None
        try:
            with borrow() as reader:
                self._use(reader)
                try:
                    self._copy(ask(reader))
                finally:
                    self._use(None)
        except BaseException as error:  # whatever it is, the client is to be told
            end = error
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
            self._loop.call_soon_threadsafe(self._queue.put_nowait, end)

    def _use(self, reader: Reader | None) -> None:
        with self._lock:
            self._reader = reader

    def _copy(self, chunks: Iterator[bytes]) -> None:
        try:
            for chunk in chunks:
                while not self._room.acquire(timeout=POLL) and not self._unwanted.is_set():
                    if monotonic() > self._deadline:
                        raise QueryTimeout(0, "the client took too long")
                if self._unwanted.is_set():
                    return
                self._loop.call_soon_threadsafe(self._queue.put_nowait, chunk)
        finally:
            if isinstance(chunks, Generator):
                chunks.close()  # cancels the query

    # -- the loop --------------------------------------------------------------------------------------------------

    async def next(self) -> bytes | None:
        """The next chunk, None at the end. Raises what the thread raised, QueryTimeout past the deadline."""
        try:
            async with asyncio.timeout_at(self._loop.time() + max(self._deadline - monotonic(), 0.0)):
                item = await self._queue.get()
        except TimeoutError:
            raise QueryTimeout(0, "the time is over") from None
        if isinstance(item, BaseException):
            raise item
        self._room.release()
        return item

    def cancel(self) -> None:
        """The answer is not wanted any more: called from a thread, because the store is asked to stop."""
        self._unwanted.set()
        with self._lock:
            if self._reader is not None:
                with contextlib.suppress(Exception):  # it may have ended by itself
                    self._reader.cancel()


class Runner:
    """The threads. `borrow` gives a reader of the store; at most `queries` streams run at once, others wait for up to
    `wait` seconds."""

    def __init__(self, borrow: Borrow, queries: int, wait: float = 0.0) -> None:
        self._borrow = borrow
        self._turns: Turns[asyncio.Future[None]] = Turns(queries)
        self._wait = wait
        self._threads = ThreadPoolExecutor(queries + 2, thread_name_prefix="query")

    @property
    def running(self) -> int:
        """Streams that hold the store."""
        return self._turns.running

    async def call(self, work: Callable[[Reader], T]) -> T:
        """`work` with a reader, on a thread. Raises StoreBusy where none comes free in time."""

        def run() -> T:
            with self._borrow() as reader:
                return work(reader)

        return await self.thread(run)

    async def thread(self, work: Callable[[], T]) -> T:
        """`work` on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def stream(self, ask: Ask, timeout: float, client: str = "") -> AsyncGenerator[bytes, None]:
        """The chunks of one question of a client, within `timeout` seconds over all; closing it cancels the query.

        Raises StoreBusy where it does not come to its turn, Problem `too_many` where that is for the client's other
        questions. A stream counts until its thread is done with the store.
        """
        await self._turn(client)
        loop = asyncio.get_running_loop()
        answer = Answer(monotonic() + timeout)
        thread = self._threads.submit(answer.fill, self._borrow, ask)

        def ended(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
                loop.call_soon_threadsafe(self._end, client)

        thread.add_done_callback(ended)
        try:
            while (chunk := await answer.next()) is not None:
                yield chunk
        finally:
            if not thread.done():  # the threads may all be taken: the one that frees them is no part of the pool
                threading.Thread(target=answer.cancel, name="cancel", daemon=True).start()

    async def _turn(self, client: str) -> None:
        """Wait for a place."""
        if self._turns.waiting >= MOST_WAITING:
            raise StoreBusy(f"{MOST_WAITING} questions wait for their turn")
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._turns.ask(client, ticket):
            return
        try:
            async with asyncio.timeout(self._wait):
                await ticket
        except BaseException as error:
            if ticket.done() and not ticket.cancelled():
                self._end(client)  # the place came with the end of the wait
            self._turns.give_up(ticket)
            if not isinstance(error, TimeoutError):
                raise
            if self._turns.has_share(client):
                raise Problem(
                    "too_many", f"{self._turns.share} of your answers are on their way: ask again when one has ended"
                ) from None
            raise StoreBusy(f"{self._turns.places} questions are being answered") from None

    def _end(self, client: str) -> None:
        """Give a place back, to who is next."""
        for owner, ticket in self._turns.done(client):
            if ticket.done():  # it was given up a moment ago
                self._end(owner)
            else:
                ticket.set_result(None)
