"""Questions to ClickHouse servers, bounded as those to the embedded store are."""

from __future__ import annotations

import io
import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from typing import Any

from clickhouse_connect.driver.exceptions import Error as ClientError

from hub.store.errors import QueryError
from hub.store.reader import BLOCK_FORMATS, MAX_MEMORY, STREAM_FORMATS, query_error
from hub.store.server import Server

CHUNK = 1 << 20
"""Bytes that are read of an answer at once."""
_BINARY = ("Native", "RowBinary")
_MARK = b"__exception__\r\n"
"""Where an answer that had begun goes over into an error (ClickHouse 25.11 and newer)."""


class ServerReader:
    """One borrowed place at the servers: one question at a time, from one thread; `cancel` from any.

    The same to its users as `hub.store.reader.Reader`.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._open: Any = None  # the answer being streamed
        self._tag = f"nodetap-question {secrets.token_hex(8)}"  # log_comment: how `cancel` finds them

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
        """As `Reader.stream`: chunks of whole blocks where the format has a head, of any bytes where it has none."""
        if fmt not in STREAM_FORMATS | BLOCK_FORMATS:
            raise ValueError(f"format {fmt} cannot be streamed")
        limits = {**self._settings(timeout, max_memory), **(settings or {})}
        self.end()
        try:
            answer = self._open = self._server.ask(lambda c: c.raw_stream(sql, dict(params), limits, fmt))
            yield from _blocks(answer) if fmt in BLOCK_FORMATS else _chunks(answer, fmt not in _BINARY)
        except (ClientError, OSError, ValueError) as error:
            raise query_error(error) from None
        finally:
            self.end()

    def rows(
        self, sql: str, params: dict[str, Any] | None = None, *, timeout: float, max_memory: int = MAX_MEMORY
    ) -> list[tuple[Any, ...]]:
        """The whole answer, for small ones. Raises QueryError, QueryTimeout."""
        try:
            result = self._server.query(sql, params, self._settings(timeout, max_memory))
        except ClientError as error:
            raise query_error(error) from None
        return [tuple(row) for row in result.result_rows]

    def end(self) -> None:
        """Cancel the answer that is being streamed, where there is one: the server ends it with the connection."""
        answer, self._open = self._open, None
        if answer is not None:
            with suppress(Exception):  # it may have ended by itself
                answer.close()

    def cancel(self) -> None:
        """End what this reader is running, from another thread: it raises QueryError there."""
        self._server.everywhere(f"KILL QUERY WHERE Settings['log_comment'] = '{self._tag}' ASYNC")

    def _settings(self, timeout: float, max_memory: int) -> dict[str, Any]:
        spill = max_memory // 2
        return {
            "max_execution_time": max(timeout, 0.001),
            "max_memory_usage": max_memory,
            "max_bytes_before_external_sort": spill,
            "max_bytes_before_external_group_by": spill,
            "cancel_http_readonly_queries_on_client_close": 1,
            "log_comment": self._tag,
        }

    def close(self) -> None:
        """Nothing is kept."""
        self.end()


def _chunks(answer: Any, lines: bool) -> Iterator[bytes]:
    """The bytes of an answer, cut between lines where it has some."""
    rest = b""
    while chunk := answer.read(CHUNK):
        chunk = rest + chunk
        if (at := chunk.find(_MARK)) >= 0:
            raise QueryError(0, " ".join(chunk[at + len(_MARK) :].decode(errors="replace").split())[:400])
        cut = chunk.rfind(b"\n") + 1 if lines else len(chunk)
        rest = chunk[cut:]
        if cut:
            yield chunk[:cut]
    if rest:
        yield rest


def _blocks(answer: Any) -> Iterator[bytes]:
    """Each record batch as a stream that is whole by itself; at least one, for the schema's sake."""
    from pyarrow import ipc, lib

    try:
        yield from _whole(ipc.open_stream(io.BufferedReader(answer, CHUNK)))
    except lib.ArrowInvalid as error:
        raise QueryError(0, f"the answer broke off: {error}") from None


def _whole(source: Any) -> Iterator[bytes]:
    empty = True
    for batch in source:
        empty = False
        yield _stream(source.schema, [batch])
    if empty:
        yield _stream(source.schema, [])


def _stream(schema: Any, batches: list[Any]) -> bytes:
    from pyarrow import ipc

    out = io.BytesIO()
    with ipc.new_stream(out, schema) as sink:
        for batch in batches:
            sink.write_batch(batch)
    return out.getvalue()
