"""What an embedded store keeps: it rolls up what is closed, and drops what is too old or too much.

Threads: any. Rolling up waits only for rolling up; retention for both.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from clickhouse_connect.driver.exceptions import DatabaseError

from hub.store import retention, rollups
from hub.store import rows as stored_rows
from hub.store.books import Key, StoredEpoch, day_of
from hub.store.engine import one_line
from hub.store.errors import StoreError
from hub.store.parts import BrokenPart, Parts
from hub.store.periods import Committed, Rolled, cut
from hub.store.roller import Roller
from protocol.schema import TABLES

MOST_COMMITS = 100_000
"""Commits that are looked at in one go."""

_COMMITS = f"""
SELECT commit, max(stored_at), toUInt16(any(ingest_day)), sumIf(rows, kind = 'flows'), sumIf(rows, kind = 'calls')
FROM batches WHERE commit > {{above:UInt64}} AND commit <= {{upto:UInt64}} AND rows > 0
AND (kind = 'flows' AND commit >= {{flows:UInt64}} OR kind = 'calls' AND commit >= {{calls:UInt64}})
GROUP BY commit ORDER BY commit LIMIT {MOST_COMMITS}"""

_OLDEST = """
SELECT name FROM system.parts WHERE active AND rows > 0 AND database = currentDatabase() AND table = {table:String}
ORDER BY partition, min_block_number LIMIT 1"""


_DROPPED = "SELECT max(commit) FROM batches WHERE kind = {table:String} AND rows > 0 AND commit < {first:UInt64}"


class Keeper:
    """Over two handles of its own to the engine: one for what is quick, one for rolling up."""

    def __init__(self, admin: Any, client: Any, keep: retention.Keep) -> None:
        self._admin, self._client, self._keep = admin, client, keep
        self._parts = Parts()
        self._roller = Roller(client, verify=lambda table: self._parts.verify(client, table))
        self._raw = dict.fromkeys(TABLES, 0)
        self._begins: dict[str, int] = {}  # the first commits that there are rows of
        self._lock = threading.Lock()  # of the admin's handle
        self._rolling = threading.Lock()
        self._doubt = False

    def open(self, commit: int, now_ns: int) -> None:
        """Make the tables of rollups and see what they have."""
        for statement in rollups.create():
            self._client.command(statement)
        self._parts.loaded(self._client, self._tables)
        self._roller.load()
        self._look(commit, now_ns)

    @property
    def _tables(self) -> Iterable[str]:
        return (*rollups.NAMES, rollups.PERIODS.name)

    def close(self) -> None:
        """Let what runs come to an end, begin nothing more, and give the handles back."""
        self._roller.end()
        with self._rolling, self._lock:
            self._client.close()
            self._admin.close()

    def rolled(self, table: str) -> Rolled:
        """From what questions of a table can be answered."""
        return self._roller.of(table)

    def behind(self, now_ns: int) -> int:
        """Since how long a closed hour waits to be rolled up, ns; 0 where none does."""
        return self._roller.behind(now_ns)

    def roll(self, commit: int, now_ns: int, everything: bool = False) -> int:
        """Roll up what is closed of all up to a commit; returns how many periods. Raises StoreError."""
        with self._rolling:
            try:
                with self._roller.trying(now_ns):
                    return self._roll(commit, now_ns, everything)
            except (DatabaseError, OSError) as error:
                self._doubt = isinstance(error, BrokenPart)
                raise StoreError(f"cannot roll up: {one_line(error)}") from None
            finally:
                self._look(commit, now_ns)

    def _roll(self, commit: int, now_ns: int, everything: bool) -> int:
        if self._doubt:
            self._parts.repair(self._client, self._tables)
            self._roller.load()
            self._doubt = False
        done, more = 0, True
        while more:
            values = {"above": self._roller.upto, "upto": commit, **{name: self._raw[name] for name in rollups.SOURCES}}
            found = self._client.query(_COMMITS, parameters=values).result_rows
            more = len(found) == MOST_COMMITS
            commits = [Committed(n, at, day, {"flows": flows, "calls": calls}) for n, at, day, flows, calls in found]
            rolled = self._roller.roll(cut(commits, now_ns, everything or more), now_ns)
            more, done = more and rolled > 0, done + rolled
        self._roller.join(day_of(now_ns), now_ns)
        return done

    def _look(self, commit: int, now_ns: int) -> None:
        """Where rows begin, and what follows from that. An empty table has all that will come."""
        minutes, hours = self._keep.days_of_rollups(day_of(now_ns))
        for table in TABLES:
            self._raw[table] = self._first(table, commit)
            self._roller.keep(table, self._raw[table], minutes, hours)

    def _first(self, table: str, commit: int) -> int:
        """The first commit of which no row of a table was dropped. Commits and parts have one order."""
        parts = self._client.query(_OLDEST, parameters={"table": table}).result_rows
        first = commit + 1
        if parts:
            sql = f"SELECT min(commit) FROM {table} WHERE _part = {{part:String}}"
            first = int(self._client.query(sql, parameters={"part": parts[0][0]}).result_rows[0][0])
        if first and first != self._begins.get(table):  # 0: merged meanwhile
            values = {"table": table, "first": first}
            self._raw[table] = int(self._client.query(_DROPPED, parameters=values).result_rows[0][0]) + 1
            self._begins[table] = first
        return self._raw[table]

    def dropped(self, old: int) -> dict[Key, int]:
        """Packet rows that are not there any more, of each run to which something was added since `old`."""
        values = {"first": self._raw["packets"], "old": old}
        with self._lock:
            rows = self._admin.query(retention.DROPPED, parameters=values).result_rows
        return {(agent, epoch): count for agent, epoch, count in rows}

    def recall(self, agent: str, epochs: Sequence[int]) -> list[StoredEpoch]:
        """These runs of an agent. Raises StoreError."""
        with self._lock:
            try:
                return stored_rows.load_runs(self._admin, agent, epochs)
            except DatabaseError as error:
                raise StoreError(f"cannot read the books: {one_line(error)}") from None

    def retain(self, commit: int, now_ns: int) -> list[str]:
        """Drop what is too old or too much, rows once they are rolled up. Returns one line each. Raises StoreError."""
        said: list[str] = []
        with self._lock:
            too_much = self._goes(now_ns)
        if too_much:
            try:
                self.roll(commit, now_ns, everything=True)
            except StoreError as error:  # no room, perhaps: what is dropped makes some
                said.append(str(error))
        with self._rolling, self._lock:
            try:
                for statement, line in self._goes(now_ns):
                    self._admin.command(statement)
                    said.append(line)
                self._look(commit, now_ns)
            except DatabaseError as error:
                raise StoreError(f"cannot drop old rows: {one_line(error)}") from None
        return said

    def _goes(self, now_ns: int) -> list[tuple[str, str]]:
        return retention.goes(retention.parts(self._admin), day_of(now_ns), self._keep)

    def statistics(self) -> dict[str, dict[str, int]]:
        """Per table: rows, bytes on disk, parts."""
        with self._lock:
            return retention.statistics(self._admin)
