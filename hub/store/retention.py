"""What is on disk, and what has to go: the oldest first, by the day and the order it was stored in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from hub.store import rollups
from protocol.schema import TABLES

_PARTS = """
SELECT table, partition, name, rows, bytes_on_disk FROM system.parts
WHERE active AND database = currentDatabase() ORDER BY partition, min_block_number"""

DROPPED = """
SELECT agent, epoch, sumIf(rows, kind = 'packets' AND commit < {first:UInt64}) AS gone FROM batches
GROUP BY agent, epoch HAVING gone > 0 AND max(stored_at) >= {old:Int64}"""
"""Packet rows that were stored before the first that is there, of each run to which something was added since `old`."""

_EPOCH = date(1970, 1, 1)


MINUTE_DAYS = 30
"""Days that sums by minute are kept, unless rows are kept longer or hours not as long."""


@dataclass(frozen=True, slots=True)
class Keep:
    """How long rows and sums are kept: whole days of ingest; `most` are bytes on disk, None where there is no bound."""

    days: int = 7
    most: int | None = None
    rollup_days: int = 400

    def days_of_rollups(self, today: int) -> tuple[int, int]:
        """The oldest days of ingest whose sums by minute and by hour are kept; by day as long as by hour."""
        minutes = max(MINUTE_DAYS, self.days)
        return today - min(minutes, self.rollup_days), today - self.rollup_days


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a table. `day` is its partition, YYYY-MM-DD."""

    table: str
    day: str
    name: str
    rows: int
    size: int


def parts(client: Any) -> list[Part]:
    """Every active part, the oldest first."""
    return [Part(*row) for row in client.query(_PARTS).result_rows]


def statistics(client: Any) -> dict[str, dict[str, int]]:
    """Per table: rows, bytes on disk, parts."""
    return sums(parts(client))


def sums(stored: list[Part]) -> dict[str, dict[str, int]]:
    """Per table: rows, bytes on disk, parts."""
    out: dict[str, dict[str, int]] = {}
    for part in stored:
        table = out.setdefault(part.table, {"rows": 0, "bytes": 0, "parts": 0})
        table["rows"] += part.rows
        table["bytes"] += part.size
        table["parts"] += 1
    return out


def expired(stored: list[Part], today: int, keep: Keep) -> list[tuple[str, str, str]]:
    """(table, partition, why) of the partitions that are too old, all of their days."""
    minutes, hours = keep.days_of_rollups(today)
    oldest = dict.fromkeys(TABLES, today - keep.days)
    oldest |= {name: minutes if name.endswith("minute") else hours for name in rollups.NAMES}
    gone = {(p.table, p.day) for p in stored if p.table in oldest and _last(p) < _date(oldest[p.table])}
    return [(table, day, f"older than {today - oldest[table]} days") for table, day in sorted(gone)]


def number_of(day: str) -> int:
    """The number of a day, YYYY-MM-DD."""
    return (date.fromisoformat(day) - _EPOCH).days


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=day)


def _last(part: Part) -> date:
    """The last day that is in its partition."""
    first = date.fromisoformat(part.day)
    step = part.table.rpartition("_")[2] if part.table in rollups.NAMES else ""
    if step == "hour":
        return (first.replace(day=1) + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    return first + timedelta(days=6) if step == "day" else first


def surplus(stored: list[Part], retain_bytes: int) -> Iterator[Part]:
    """The oldest parts that have to go until the others have at most `retain_bytes`; never a table's newest part."""
    mine = [part for part in stored if part.table in TABLES]
    newest = {part.table: part for part in mine}.values()
    over = sum(part.size for part in stored) - retain_bytes
    for part in mine:
        if over <= 0:
            return
        if part not in newest:
            over -= part.size
            yield part


def surplus_days(stored: list[Part], retain_bytes: int) -> list[tuple[str, str]]:
    """(table, day) of the oldest days that have to go until the rest has at most `retain_bytes`; never a newest day."""
    sizes: dict[tuple[str, str], int] = {}
    for part in stored:
        if part.table in TABLES:
            sizes[part.day, part.table] = sizes.get((part.day, part.table), 0) + part.size
    newest = {table: day for day, table in sorted(sizes)}
    over, gone = sum(part.size for part in stored) - retain_bytes, []
    for day, table in sorted(sizes):
        if over > 0 and newest[table] != day:
            over -= sizes[day, table]
            gone.append((table, day))
    return gone


def goes(stored: list[Part], today: int, keep: Keep) -> list[tuple[str, str]]:
    """What has to go of the parts of an embedded store: a statement and a line about it each.

    Sums go by their days alone; rows by days, and the oldest parts while there are too many bytes.
    """
    days = expired(stored, today, keep)
    gone = [(f"ALTER TABLE {table} DROP PARTITION '{day}'", f"{table} {day}: {why}") for table, day, why in days]
    if keep.most is not None:
        kept = [part for part in stored if (part.table, part.day) not in {(table, day) for table, day, _ in days}]
        for part in surplus(kept, keep.most):
            statement = f"ALTER TABLE {part.table} DROP PART '{part.name}'"
            gone.append((statement, f"{part.table} {part.day}: {part.rows} rows over {keep.most} bytes"))
    return gone
