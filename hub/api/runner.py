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

from hub.store.errors import QueryTimeout, StoreBusy
from hub.store.reader import Reader

T = TypeVar("T")
Borrow: TypeAlias = "Callable[[], AbstractContextManager[Reader]]"
Ask: TypeAlias = "Callable[[Reader], Iterator[bytes]]"

QUEUE_CHUNKS = 4
"""Chunks (8,192 rows each, about 5 MB where every field is shown) that wait between the store and a slow client."""
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
    """The threads. `borrow` gives a reader of the store; at most `queries` streams run at once."""

    def __init__(self, borrow: Borrow, queries: int) -> None:
        self._borrow = borrow
        self._slots = threading.Semaphore(queries)
        self._queries = queries
        self._threads = ThreadPoolExecutor(queries + 2, thread_name_prefix="query")

    async def call(self, work: Callable[[Reader], T]) -> T:
        """`work` with a reader, on a thread. Raises StoreBusy where none comes free in time."""

        def run() -> T:
            with self._borrow() as reader:
                return work(reader)

        return await self.thread(run)

    async def thread(self, work: Callable[[], T]) -> T:
        """`work` on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def stream(self, ask: Ask, timeout: float) -> AsyncGenerator[bytes, None]:
        """The chunks of one question, within `timeout` seconds over all; closing it cancels the query.

        Raises StoreBusy at once where too many run. A stream counts until its thread is done with the store.
        """
        if not self._slots.acquire(blocking=False):
            raise StoreBusy(f"{self._queries} questions are being answered")
        answer = Answer(monotonic() + timeout)
        thread = self._threads.submit(answer.fill, self._borrow, ask)
        thread.add_done_callback(lambda _: self._slots.release())
        try:
            while (chunk := await answer.next()) is not None:
                yield chunk
        finally:
            if not thread.done():  # the threads may all be taken: the one that frees them is no part of the pool
                threading.Thread(target=answer.cancel, name="cancel", daemon=True).start()
