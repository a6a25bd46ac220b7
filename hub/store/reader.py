"""Questions to the store: bounded in time, memory and number."""

from __future__ import annotations

import queue
import re
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from clickhouse_connect.driver.exceptions import Error as ClientError

from hub.store.engine import Engine, bound, one_line
from hub.store.errors import QueryError, QueryTimeout, StoreBusy

MAX_MEMORY = 1 << 30
"""Memory of one query, bytes; sorting and grouping go to disk beyond half of it."""
MAX_THREADS = 2
"""Threads of one query, whatever the number of cores: ingest goes on beside it."""
STREAM_FORMATS = frozenset({"Native", "TSV", "TSVRaw", "CSV", "RowBinary", "JSONEachRow", "LineAsString"})
"""Formats without a head or a foot: an answer's blocks can be sent one by one."""
BLOCK_FORMATS = frozenset({"ArrowStream"})
"""Formats with a head: every chunk is whole by itself, and there is at least one, for the head's sake."""

_TIMEOUTS = frozenset({159, 160})  # TIMEOUT_EXCEEDED, TOO_SLOW
_CODE = re.compile(r"Code: (\d+)")


class Reader:
    """One borrowed place at the store: one question at a time, from one thread; `cancel` from any."""

    def __init__(self, engine: Engine) -> None:
        self._client = engine.client()
        self._streams = engine.streams()
        self._engine = engine
        self._open: Any = None  # the answer being streamed
        self._tag = secrets.token_hex(8)  # log_comment of this reader's queries: how `cancel` finds them

    def stream(
        self,
        sql: str,
        params: dict[str, Any],
        *,
        fmt: str,
        timeout: float,
        max_memory: int = MAX_MEMORY,
        settings: Mapping[str, int | str] | None = None,
    ) -> Generator[bytes, None, None]:
        """The answer in chunks, as the engine makes them; memory is bounded whatever its length.

        `params` are bound by the engine ({name:Type} in `sql`, which has no SETTINGS and no FORMAT of its own);
        `settings` say how the format writes: constants of ours, never what a person sent.
        `timeout` is in seconds and includes the time the consumer takes. Closing the iterator cancels the query.
        Raises QueryError, QueryTimeout; ValueError for a format that cannot be streamed.
        """
        if fmt not in STREAM_FORMATS | BLOCK_FORMATS:
            raise ValueError(f"format {fmt} cannot be streamed")
        more = "".join(f", {name} = {value!r}" for name, value in (settings or {}).items())
        ending = f"\nSETTINGS {self._settings(timeout, max_memory)}{more}"
        text, values = bound(sql + ending, params)
        try:
            self.end()  # with one answer open the handle gives an empty second one, without an error
            result = self._open = self._streams.send_query(text, fmt, params=values)
        except Exception as error:  # the handle raises RuntimeError, ChdbError
            raise query_error(error) from None
        try:
            empty = fmt in BLOCK_FORMATS
            while (chunk := result.fetch()) is not None:
                empty = False
                yield chunk.bytes()
            if empty:
                self.end()
                text, values = bound(f"SELECT * FROM ({sql}) LIMIT 0{ending}", params)
                yield self._streams.query(text, fmt, params=values).bytes()
        except Exception as error:
            raise query_error(error) from None
        finally:
            if self._open is result:
                self.end()

    def rows(
        self, sql: str, params: dict[str, Any] | None = None, *, timeout: float, max_memory: int = MAX_MEMORY
    ) -> list[tuple[Any, ...]]:
        """The whole answer, for small ones. Raises QueryError, QueryTimeout."""
        try:
            result = self._client.query(f"{sql}\nSETTINGS {self._settings(timeout, max_memory)}", parameters=params)
        except ClientError as error:
            raise query_error(error) from None
        return [tuple(row) for row in result.result_rows]

    def end(self) -> None:
        """Cancel the answer that is being streamed, where there is one: its query ends and its memory is freed."""
        result, self._open = self._open, None
        if result is not None:
            result.close()

    def cancel(self) -> None:
        """End what this reader is running, from another thread: it raises QueryError there."""
        client = self._engine.client()
        try:
            client.command(f"KILL QUERY WHERE Settings['log_comment'] = '{self._tag}' ASYNC")
        finally:
            client.close()

    def _settings(self, timeout: float, max_memory: int) -> str:
        spill = max_memory // 2
        return (
            f"max_execution_time = {max(timeout, 0.001):.3f}, max_memory_usage = {max_memory}, "
            f"max_threads = {MAX_THREADS}, max_bytes_before_external_sort = {spill}, "
            f"max_bytes_before_external_group_by = {spill}, log_comment = '{self._tag}'"
        )

    def close(self) -> None:
        """Give the handles back."""
        self.end()
        self._streams.close()
        self._client.close()


def query_error(error: BaseException) -> QueryError:
    """What the engine said, as an error of ours with its number."""
    text = one_line(error)
    match = _CODE.search(text)
    code = int(match[1]) if match else 0
    detail = text[match.start() :] if match else text
    return QueryTimeout(code, detail) if code in _TIMEOUTS else QueryError(code, detail)


class Pool:
    """At most `size` readers, made when first needed."""

    def __init__(self, make: Callable[[], Reader], size: int, wait: float) -> None:
        self._make = make
        self._wait = wait
        self._size = size
        self._free: queue.LifoQueue[Reader | None] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(None)

    @contextmanager
    def borrow(self) -> Iterator[Reader]:
        """A reader for the block. Raises StoreBusy where none comes free in time."""
        try:
            reader = self._free.get(timeout=self._wait)
        except queue.Empty:
            raise StoreBusy(f"all {self._size} readers are taken; ask again later") from None
        try:
            reader = reader or self._make()
            yield reader
        finally:
            self._free.put(_ended(reader))

    def close(self) -> None:
        """Close the readers; those that are lent are waited for once, and then left to whoever has them."""
        for _ in range(self._size):
            try:
                reader = self._free.get(timeout=self._wait)
            except queue.Empty:
                return
            if reader is not None:
                reader.close()


def _ended(reader: Reader | None) -> Reader | None:
    """The reader with nothing running; None, so that a new one is made, where it cannot be ended."""
    if reader is not None:
        try:
            reader.end()
        except Exception:  # ChdbError; the handle is of no more use
            return None
    return reader
