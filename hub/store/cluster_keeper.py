"""What a store on ClickHouse servers keeps: as `hub.store.keeper`, of hours that commits have in their numbers.

A period is an hour of commit numbers, the same for every hub, so any of them may roll it up; one does at a time, and
where two do, one of the rolls counts. Rows that land in an hour late, from a hub that was frozen, are seen by the
lines that speak of them, and the hour is rolled up again.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from hub.store import cluster_ddl as layout
from hub.store import ddl, retention, rollups
from hub.store.address import Servers
from hub.store.books import DAY_NS, Key, day_of
from hub.store.hubs import number_at
from hub.store.periods import HOUR_NS, Rolled, Span
from hub.store.roller import Roller
from hub.store.server import Server
from protocol.schema import TABLES

TIMEOUT = 600.0
"""Seconds that rolling up one hour may take."""
AGAIN_NS = 24 * HOUR_NS
"""How far back hours are compared with their lines."""
_LINES = """
SELECT intDiv(commit, {step:UInt64}) AS number, sumIf(rows, kind = 'flows'), sumIf(rows, kind = 'calls') FROM batches
WHERE commit >= {low:UInt64} AND commit < {high:UInt64} AND rows > 0 AND kind IN ('flows', 'calls')
GROUP BY number ORDER BY number"""


class ClusterKeeper:
    """Over connections of its own, as rolling up takes longer than other questions may."""

    period_ns = HOUR_NS
    grace_ns = 5 * 60 * 10**9
    """How long a period must be over and whole."""

    def __init__(self, servers: Servers, keep: retention.Keep) -> None:
        self._servers, self._keep = servers, keep
        self._server = Server(replace(servers, timeout=TIMEOUT))
        self._roller = Roller(self._server)
        self._raw = dict.fromkeys(TABLES, 0)
        self._looked = 0  # up to this commit number all hours are compared
        self._lock = threading.Lock()

    def open(self, now_ns: int) -> None:
        """See what is rolled up. Raises ClientError."""
        self._roller.load()
        self._look(now_ns)

    def close(self) -> None:
        """Begin nothing more, and close every connection."""
        self._roller.end()
        with self._lock:
            self._server.close()

    def rolled(self, table: str) -> Rolled:
        """From what questions of a table can be answered."""
        return self._roller.of(table)

    def behind(self, now_ns: int) -> int:
        """Since how long a closed hour waits for this hub to roll it up, ns; 0 where none does."""
        return self._roller.behind(now_ns)

    def roll(self, shown: int, now_ns: int, rolls: bool) -> int:
        """Roll up the hours that are closed, where this hub `rolls`; see what the others did where not.

        `shown` is the commit up to which everything is whole. Returns how many hours. Raises StoreError, ClientError.
        """
        with self._lock, self._roller.trying(now_ns):
            self._roller.load()
            done = self._roll(min(shown, number_at(now_ns - self.grace_ns, 0)), now_ns) if rolls else 0
            self._look(now_ns)
            return done

    def _roll(self, whole: int, now_ns: int) -> int:
        step = number_at(self.period_ns, 0)
        high = whole // step * step
        if high == self._looked:
            return 0
        first = max(0, self._roller.upto - number_at(AGAIN_NS, 0), *(self._raw[source] for source in rollups.SOURCES))
        done = self._roller.roll(self._differing(-(-first // step) * step, high, step), now_ns)
        self._roller.join(high // number_at(DAY_NS, 0), now_ns)
        self._looked = high
        return done

    def _differing(self, low: int, high: int, step: int) -> list[Span]:
        """The periods whose lines speak of other rows than were rolled up."""
        found = self._server.query(_LINES, {"step": step, "low": low, "high": high}).result_rows
        spans = [
            Span(
                n * step,
                (n + 1) * step - 1,
                n * self.period_ns // DAY_NS,
                (n + 1) * self.period_ns,
                {"flows": flows, "calls": calls},
            )
            for n, flows, calls in found
        ]
        return [s for s in spans if any(self._roller.rows(name, s.first) != s.rows[name] for name in rollups.SOURCES)]

    def _look(self, now_ns: int) -> None:
        """Where rows begin: those of a day of commit numbers are stored on that day or later."""
        days: dict[str, str] = {}
        for part in self.parts():
            days.setdefault(part.table, part.day)
        minutes, hours = self._keep.days_of_rollups(day_of(now_ns))
        for table in TABLES:
            day = retention.number_of(days[table]) if table in days else day_of(now_ns)
            self._raw[table] = max(self._raw[table], number_at(day * DAY_NS, 0))
            self._roller.keep(table, self._raw[table], minutes, hours)

    def retain(self, now_ns: int) -> list[str]:
        """Drop whole days that are too old or too much. Raises ClientError."""
        stored, keep = self.parts(), self._keep
        gone = retention.expired(stored, day_of(now_ns), keep)
        if keep.most is not None:
            why = f"over {keep.most} bytes"
            gone += [(*pair, why) for pair in retention.surplus_days(stored, keep.most)]
        for table, day, _ in gone:
            self._server.command(layout.drop_partition(table, day, self._servers.cluster))
        with self._lock:
            self._look(now_ns)
        return [f"{table} {day}: {why}" for table, day, why in gone]

    def dropped(self) -> dict[Key, int]:
        """Packet rows of each run that are not there any more. Raises ClientError."""
        rows = self._server.query(retention.DROPPED, {"first": self._raw["packets"], "old": 0}).result_rows
        return {(agent, epoch): count for agent, epoch, count in rows}

    def parts(self) -> list[retention.Part]:
        """Every active part of one replica of each shard, the oldest first."""
        cluster = self._servers.cluster
        source = f"cluster('{cluster}', system.parts)" if cluster else "system.parts"
        sql = (
            f"SELECT table, partition, name, rows, bytes_on_disk FROM {source} "
            f"WHERE active AND database = '{self._servers.database}' ORDER BY partition, min_block_number"
        )
        names = {layout.kept(name, cluster): name for name in (*ddl.STORED, *rollups.NAMES)}
        return [
            retention.Part(names[table], *others)
            for table, *others in self._server.query(sql).result_rows
            if table in names
        ]
