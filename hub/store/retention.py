"""What is on disk, and what has to go: the oldest first, by the day and the order it was stored in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from protocol.schema import TABLES

_PARTS = """
SELECT table, partition, name, rows, bytes_on_disk FROM system.parts
WHERE active AND database = currentDatabase() ORDER BY partition, min_block_number"""

_EPOCH = date(1970, 1, 1)


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


def expired(stored: list[Part], today: int, retain_days: int) -> list[tuple[str, str]]:
    """(table, day) of the partitions older than `retain_days` whole days before `today`."""
    oldest = (_EPOCH + timedelta(days=today - retain_days)).isoformat()
    return sorted({(p.table, p.day) for p in stored if p.table in TABLES and p.day < oldest})


def surplus(stored: list[Part], retain_bytes: int) -> Iterator[Part]:
    """The oldest parts that have to go until the others have at most `retain_bytes`; never a table's newest part."""
    mine = [part for part in stored if part.table in TABLES]
    newest = {part.table: part for part in mine}.values()
    over = sum(part.size for part in mine) - retain_bytes
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
    over, gone = sum(sizes.values()) - retain_bytes, []
    for day, table in sorted(sizes):
        if over > 0 and newest[table] != day:
            over -= sizes[day, table]
            gone.append((table, day))
    return gone


def retain(client: Any, today: int, retain_days: int, retain_bytes: int | None) -> list[str]:
    """Drop what is expired and what is too much. Returns one line per partition or part."""
    gone = []
    for table, day in expired(parts(client), today, retain_days):
        client.command(f"ALTER TABLE {table} DROP PARTITION '{day}'")
        gone.append(f"{table} {day}: older than {retain_days} days")
    if retain_bytes is not None:
        for part in surplus(parts(client), retain_bytes):
            client.command(f"ALTER TABLE {part.table} DROP PART '{part.name}'")
            gone.append(f"{part.table} {part.day}: {part.rows} rows over {retain_bytes} bytes")
    return gone
