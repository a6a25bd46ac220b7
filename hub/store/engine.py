"""The embedded engine: handles, inserts, and their settings. The only module that knows chDB.

One process has one engine (one path) and any number of handles to it; a handle runs one query at a time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
from clickhouse_connect.driver.binding import bind_query
from clickhouse_connect.driver.exceptions import DatabaseError, ProgrammingError

from hub.store import ddl, native
from hub.store.errors import StoreError
from protocol.columns import Columns
from protocol.schema import Table

OPTIONS = {
    "max_server_memory_usage_to_ram_ratio": 0.5,
    "mark_cache_size": 64 << 20,
    "index_mark_cache_size": 16 << 20,
    "primary_index_cache_size": 64 << 20,
    "background_pool_size": 1,
    "background_merges_mutations_concurrency_ratio": 2,
}
"""What the engine may take of a machine it shares with the agent."""

INSERT = {
    # One Native block stays one block, one block becomes one part: nothing splits it, nothing waits for more.
    "max_insert_block_size": 1 << 20,
    "min_insert_block_size_rows": 1,
    "min_insert_block_size_bytes": 0,
    "max_partitions_per_insert_block": 1,
    "input_format_parallel_parsing": 0,
    "max_threads": 1,
    "max_insert_threads": 1,
    "optimize_on_insert": 0,  # plain MergeTree: there is nothing to collapse
    "insert_deduplicate": 0,
    "async_insert": 0,
}
MAX_INSERT_ROWS = 524_288
"""Rows of one insert: below max_insert_block_size, so that it is one part; more costs memory and gains nothing."""

BUFFER = 1 << 16
"""Bytes of a block that go into the pipe at once, as many as it holds: most of its pieces are a few."""

POISON = frozenset({6, 9, 19, 27, 32, 33, 38, 41, 44, 48, 53, 117, 128, 131, 190, 349, 469})
"""ClickHouse error numbers that speak of the data (cannot parse, wrong sizes, a constraint), not of the machine."""


class Engine:
    """The engine over one directory. Handles are made here and closed by who asked for them."""

    def __init__(self, path: Path) -> None:
        self._path = os.path.realpath(path)

    def client(self) -> Any:
        """A clickhouse-connect client with a handle of its own. Raises StoreError."""
        try:
            return clickhouse_connect.get_client(interface="chdb", path=self._path, chdb_options=OPTIONS)
        except ProgrammingError as error:
            if "already initialized" in str(error):
                raise StoreError("this process has another store open; close it first") from None
            raise StoreError(f"cannot open the engine in {self._path}: {one_line(error)}") from None
        except (DatabaseError, RuntimeError) as error:
            raise StoreError(f"cannot open the engine in {self._path}: {one_line(error)}") from None

    def streams(self) -> Any:
        """A bare handle for streamed answers: the client library streams but a few formats and no settings."""
        import chdb  # 200 MB that a hub with a server as store does not need

        return chdb.connect(f"{self._path}?{urlencode(OPTIONS)}")

    def insert(self, client: Any, table: Table, parts: Sequence[Columns], rows: int) -> None:
        """Store `rows` rows (at most MAX_INSERT_ROWS, one partition) as one part: on disk when this returns.

        Raises DatabaseError, OSError; whether the rows are stored is then not known.
        """
        columns = native.used(ddl.columns_of(table), parts)
        names = ", ".join(f"`{column.name}`" for column in columns)
        into = f"INSERT INTO {table.name} ({names})"
        with _Feed(native.block(columns, parts, rows)) as path:
            client.command(f"{into} FROM INFILE '{path}' SETTINGS {ddl.said(INSERT)} FORMAT Native")


class _Feed:
    """A block on its way into the engine, made while it is read: nowhere is all of it. A context manager; gives the
    path to read from. Raises at its end what making the block raised.
    """

    def __init__(self, buffers: Iterable[native.Buffer]) -> None:
        self._buffers = buffers
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="feed", daemon=True)

    def __enter__(self) -> str:
        self._read, self._end = os.pipe()
        try:
            self._thread.start()
        except RuntimeError as error:  # the machine gives no thread now
            os.close(self._read)
            os.close(self._end)
            raise OSError(str(error)) from None
        return f"/dev/fd/{self._read}"

    def __exit__(self, *_: object) -> None:
        os.close(self._read)  # where the engine did not read to the end, writing ends now
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        try:
            with open(self._end, "wb", buffering=BUFFER) as pipe:
                for buffer in self._buffers:
                    pipe.write(buffer)
        except BrokenPipeError:
            pass  # the engine says why
        except BaseException as error:
            self._error = error


def quoted(text: str) -> str:
    """A text as it stands between the quotes of a literal."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


def bound(sql: str, params: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """SQL and its server-side parameters as the engine takes them: bare names, values escaped."""
    text, values = bind_query(sql, params or None)
    return text, {name.removeprefix("param_"): value for name, value in values.items()}


def one_line(error: BaseException) -> str:
    """An engine's error as one line, without the trailing version."""
    return " ".join(str(error).split())[:400]
