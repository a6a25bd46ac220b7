"""The store: rows in, each batch once and whole, on disk before anyone is told; questions out.

A commit is up to three inserts in this order: packet rows, flow rows, and one line per batch, tombstone and report
into `batches`. Each insert is one part and atomic, and is looked at on disk before anything else happens (`parts`). A
crash between them leaves rows without lines: the rows carry their commit's number, and those above the newest number
in `batches` are such; `open` writes their lines. So the lines are exactly what is stored, and what was not stored has
no trace.

Threads: one calls `open`, `commit`, `close`; any may call `reader`, `committed`, `rolled`, `retain`, `statistics` and
`roll`, of which the last three wait for each other where they must.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.exceptions import DatabaseError

from hub import failpoints
from hub.store import ddl
from hub.store import rows as stored_rows
from hub.store.books import (
    DAY_NS,
    Books,
    Entry,
    Key,
    Line,
    News,
    Past,
    Place,
    StoredEpoch,
    columns_of_lines,
    day_of,
    line_of,
    rebuild,
)
from hub.store.engine import MAX_INSERT_ROWS, POISON, Engine, one_line
from hub.store.entries import check, with_origin
from hub.store.errors import BadBatch, QueryError, QueryTimeout, StoreBusy, StoreError
from hub.store.home import Home, directory_of
from hub.store.keeper import Keeper
from hub.store.parts import Parts
from hub.store.periods import Rolled
from hub.store.reader import Pool, Reader
from hub.store.retention import Keep
from protocol.schema import TABLES, Table

__all__ = [
    "BadBatch",
    "Entry",
    "QueryError",
    "QueryTimeout",
    "Reader",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoredEpoch",
]

READERS = 4
READER_WAIT = 5.0
_FAILURES = (DatabaseError, OSError, MemoryError)


class Store:
    """One embedded store. `id` is random and stays with the directory: it names the store to agents."""

    def __init__(self, url: str, keep: Keep | None = None) -> None:
        self._home = Home(directory_of(url))
        self._engine = Engine(self._home.engine)
        self._keep = keep or Keep()
        self._books = Books()
        self._parts = Parts()
        self._old = 0  # runs to which nothing was added since then are folded, by the thread that commits
        self._folded = 0
        self._doubt = False  # an insert failed: rows may be there without lines
        self._writer: Any = None
        self._keeper: Keeper | None = None
        self._pool: Pool | None = None

    def __str__(self) -> str:
        return f"chdb://{self.directory}"

    @property
    def id(self) -> str:
        """The store's random name, known once it is open."""
        return self._home.id

    @property
    def directory(self) -> Path | None:
        """Where it is."""
        return self._home.directory

    # -- open and close --------------------------------------------------------------------------------------------

    def open(self, now_ns: int) -> None:
        """Lock, make or extend the tables, settle what a crash left, load the books. Raises StoreError."""
        self._home.open()
        try:
            self._writer = self._engine.client()
            self._pool = Pool(lambda: Reader(self._engine), READERS, READER_WAIT)
            self._make_tables()
            self._parts.loaded(self._writer, ddl.STORED)
            self._old = self.old(now_ns)
            self._recover({}, now_ns)
            self._keeper = Keeper(self._engine.client(), self._engine.client(), self._keep)
            self._keeper.open(self.committed(), now_ns)
        except DatabaseError as error:
            self.close()
            raise StoreError(f"cannot open the store {self._home.directory}: {one_line(error)}") from None
        except BaseException:
            self.close()
            raise

    def _make_tables(self) -> None:
        for table in ddl.STORED.values():
            self._writer.command(ddl.create(table))
            stored = stored_rows.stored_columns(self._writer, table.name)
            if unknown := ddl.unknown(table, stored):
                raise StoreError(
                    f"the store {self._home.directory} was made by a newer nodetap ({table.name} has {unknown[0]}); "
                    "upgrade the hub or choose another --store"
                )
            for statement in ddl.missing(table, stored, stored_rows.stored_indexes(self._writer, table.name)):
                self._writer.command(statement)

    def close(self) -> None:
        """Close every handle and give the directory back. Queries that run are waited for."""
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._home.close()

    # -- what is held ----------------------------------------------------------------------------------------------

    def epochs(self) -> list[StoredEpoch]:
        """Every run the store knows; copies, the caller's to go on with."""
        return copy.deepcopy(list(self._books.runs.values()))

    def past(self) -> Past:
        """The runs that are not among the epochs, as their rows have expired; a copy."""
        return copy.deepcopy(self._books.past)

    def old(self, now_ns: int) -> int:
        """Runs to which nothing was added since then have no rows any more."""
        return (day_of(now_ns) - self._keep.days - 1) * DAY_NS

    def recall(self, agent: str, epochs: Sequence[int]) -> list[StoredEpoch]:
        """These runs of an agent, read again. Raises StoreError."""
        return self._kept.recall(agent, epochs)

    def committed(self) -> int:
        """The newest commit that is whole; rows above it may be there and may not be shown yet."""
        return self._books.commit

    # -- commit ----------------------------------------------------------------------------------------------------

    def commit(self, entries: Sequence[Entry], now_ns: int) -> int:
        """Store what is not held yet; on disk when this returns. Returns the newest commit number.

        Entries that are held, or come twice, are passed over: a commit can be repeated after any error. More rows of a
        table than one insert takes make several commits. Raises BadBatch where the store refuses one entry (leave it
        out and repeat), StoreError where the store cannot go on now (repeat later).
        """
        for entry in entries:
            check(entry)
        try:
            if self._doubt:
                self._recover({}, now_ns)
            self._fold(entries)
            for group in _groups(self._books.fresh(entries)):
                self._commit(group, now_ns)
        except _FAILURES as error:
            reason = one_line(error) or "out of memory"
            raise StoreError(f"the store cannot write to {self._home.directory}: {reason}") from None
        return self._books.commit

    def _fold(self, entries: Sequence[Entry]) -> None:
        """Have the runs of these entries in memory, and not the old ones."""
        if self._old != self._folded:
            self._books.fold(self._old)
            self._folded = self._old
        for agent, epoch in {entry.place[:2] for entry in entries}:
            if self._books.past.has((agent, epoch)):
                for run in stored_rows.load_runs(self._writer, agent, [epoch]):
                    self._books.unfold(run)

    def _commit(self, group: list[Entry], now_ns: int) -> None:
        number = self._books.commit + 1
        lines = [line_of(entry, number, now_ns) for entry in group]
        try:
            for table in TABLES.values():
                self._insert_rows(table, [e for e in group if e.rows and e.message.kind == table.name], number, now_ns)
            self._insert_lines(lines)
        except _FAILURES as error:
            self._doubt = True
            self._recover({entry.place: line for entry, line in zip(group, lines, strict=True)}, now_ns)
            if not isinstance(error, DatabaseError) or error.code not in POISON:
                raise
            self._find_poison(group, error, now_ns)

    def _find_poison(self, group: list[Entry], error: DatabaseError, now_ns: int) -> None:
        """The engine refused the data of a group: commit its halves, down to the entry that is at fault."""
        left = self._books.fresh(group)
        if len(left) == 1:
            raise BadBatch(left[0], one_line(error)) from None
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            if half:
                self._commit(half, now_ns)

    def _insert_rows(self, table: Table, entries: list[Entry], number: int, now_ns: int) -> None:
        if entries:
            parts = with_origin(entries, number, day_of(now_ns))
            rows = sum(entry.rows for entry in entries)
            self._engine.insert(self._writer, table, parts, rows)
            self._parts.verify(self._writer, table.name)
            failpoints.slow(rows)

    def _insert_lines(self, lines: list[Line]) -> None:
        self._engine.insert(self._writer, ddl.BATCHES, [columns_of_lines(lines)], len(lines))
        self._parts.verify(self._writer, ddl.BATCHES.name)
        self._books.add(lines)

    def _recover(self, given: Mapping[Place, Line], now_ns: int) -> None:
        """Have broken parts set aside, take the books from the tables, write the lines of rows that have none.

        Each commit's lines go in one insert, the oldest first, so it can be cut off and repeated like a commit.
        `given` are lines that are known although they may not be stored. `_doubt` stays where this fails.
        """
        self._parts.repair(self._writer, ddl.STORED)
        self._books = stored_rows.load_books(self._writer)
        lines = rebuild(stored_rows.without_lines(self._writer, self._books.commit), self._books, given, now_ns)
        for number in sorted({line.commit for line in lines}):
            self._insert_lines([line for line in lines if line.commit == number])
        self._books.fold(self._old)
        self._doubt = False

    # -- other hubs: there are none --------------------------------------------------------------------------------

    def takeover(self, agent: str, now_ns: int) -> list[Line]:
        """What other hubs stored of an agent that comes here now: nothing."""
        return []

    def listen(self, listener: Callable[[News], object]) -> None:
        """Be told of other hubs: never."""

    def tell(self, agents: list[dict[str, Any]]) -> None:
        """Who is connected here, for other hubs: nobody asks."""

    # -- questions -------------------------------------------------------------------------------------------------

    def reader(self) -> AbstractContextManager[Reader]:
        """A reader for a `with` block. Raises StoreBusy where none comes free in time, StoreError when closed."""
        if self._pool is None:
            raise StoreError("the store is closed; open it first")
        return self._pool.borrow()

    # -- what is kept ----------------------------------------------------------------------------------------------

    def rolled(self, table: str) -> Rolled:
        """From what questions of a table can be answered."""
        return self._kept.rolled(table)

    def roll(self, now_ns: int, everything: bool = False) -> int:
        """Roll up the periods of ingest that are closed; with `everything` the present one too. Raises StoreError.

        Returns how many it were.
        """
        return self._kept.roll(self.committed(), now_ns, everything)

    def behind(self, now_ns: int) -> int:
        """Since how long a closed hour of ingest waits to be rolled up, ns; 0 where none does."""
        return 0 if self._keeper is None else self._keeper.behind(now_ns)

    def retain(self, now_ns: int) -> list[str]:
        """Drop what is older than is kept, and the oldest rows while there are more bytes.

        Returns what was dropped, one line each. The lines in `batches` stay. Raises StoreError.
        """
        self._old = self.old(now_ns)
        return self._kept.retain(self.committed(), now_ns)

    def dropped(self) -> dict[Key, int]:
        """Packet rows of each run that retention dropped. Raises StoreError."""
        return self._kept.dropped(self._old)

    def statistics(self) -> dict[str, dict[str, int]]:
        """Per table: rows, bytes on disk, parts."""
        return self._kept.statistics()

    @property
    def _kept(self) -> Keeper:
        if self._keeper is None:
            raise StoreError("the store is closed; open it first")
        return self._keeper


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries in order, cut before a table would get more rows than one insert takes."""
    group: list[Entry] = []
    rows = dict.fromkeys(TABLES, 0)
    for entry in entries:
        kind = entry.message.kind
        if entry.rows and rows[kind] + entry.rows > MAX_INSERT_ROWS:
            yield group
            group, rows = [], dict.fromkeys(TABLES, 0)
        group.append(entry)
        if entry.rows:
            rows[kind] += entry.rows
    if group:
        yield group
