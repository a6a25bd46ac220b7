"""Whether the parts on disk are whole: the engine does not say so by itself.

The engine (26.9) passes over a write() that fails while a part's files are closed (no space, input or output errors):
the part is published, and the insert or the merge that made it reports success. It finds out when it loads the table.
So every new part is looked at before anything in it is acknowledged; `docs/decisions/0003-store.md` has the evidence.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PARTS = """
SELECT name, level, active, path, bytes_on_disk, partition_id, min_block_number, max_block_number FROM system.parts
WHERE database = currentDatabase() AND table = {table:String}"""

_DETACHED = """
SELECT name FROM system.detached_parts
WHERE database = currentDatabase() AND table = {table:String} AND startsWith(reason, 'broken')"""

UNLISTED = (
    "checksums.txt",
    "columns.txt",
    "columns_substreams.txt",
    "default_compression_codec.txt",
    "metadata_version.txt",
)
"""Files of a part that are not in its list of checksums, and so not in its `bytes_on_disk`."""


class BrokenPart(OSError):
    """A part that the engine published is not whole on disk: `Parts.repair` has to be called."""


@dataclass(frozen=True, slots=True)
class Part:
    """A line of system.parts. Without `active` it was merged, and is kept for some minutes."""

    name: str
    level: int
    active: bool
    path: str
    size: int
    partition: str
    first: int
    last: int

    def covers(self, other: Part) -> bool:
        """Whether this one was merged from the other."""
        return (self.partition, self.level > other.level) == (other.partition, True) and (
            self.first <= other.first and other.last <= self.last
        )


@dataclass(slots=True)
class Parts:
    """The parts that were looked at and are whole, per table. One thread at a time."""

    whole: dict[str, frozenset[str]] = field(default_factory=dict)

    def loaded(self, client: Any, tables: Iterable[str]) -> None:
        """Take what the engine has just loaded as whole: it compares the sizes of all files when it loads a part."""
        self.whole = {table: frozenset(part.name for part in _parts(client, table)) for table in tables}

    def verify(self, client: Any, table: str) -> None:
        """Look at the parts of `table` that are new. Raises BrokenPart."""
        parts = _parts(client, table)
        if broken := self._broken(client, table, parts):
            raise BrokenPart(f"part {broken[0].name} of {table} is not whole on disk: no space, or a disk that fails")
        self.whole[table] = frozenset(part.name for part in parts)

    def repair(self, client: Any, tables: Iterable[str]) -> None:
        """Have the engine load the tables anew where a part is broken, or where that was cut off.

        Loading sets broken parts aside and brings back what a broken merge was made from. New parts without merges
        hold nothing acknowledged and are removed. Nothing here needs space. Raises DatabaseError, OSError: call it
        again.
        """
        for table in tables:
            parts = _parts(client, table)
            broken = self._broken(client, table, parts)
            if int(client.command(f"EXISTS TABLE {table}")) and not broken:
                continue
            client.command(f"DETACH TABLE IF EXISTS {table}")
            for part in parts:
                if any(part.covers(other) for other in broken):
                    shutil.rmtree(part.path)  # made from a broken part; its other sources are still there
            client.command(f"ATTACH TABLE IF NOT EXISTS {table}")
            _remove_detached(client, table, tuple(f"_{part.name}" for part in broken if not part.level))
            self.whole[table] = frozenset(part.name for part in _parts(client, table))

    def _broken(self, client: Any, table: str, parts: Iterable[Part]) -> list[Part]:
        known = self.whole.get(table, frozenset())
        return [part for part in parts if part.name not in known and not _is_whole(client, table, part)]


def _remove_detached(client: Any, table: str, endings: tuple[str, ...]) -> None:
    for (name,) in client.query(_DETACHED, parameters={"table": table}).result_rows:
        if name.endswith(endings):
            client.command(f"ALTER TABLE {table} DROP DETACHED PART '{name}' SETTINGS allow_drop_detached = 1")


def _parts(client: Any, table: str) -> list[Part]:
    return [Part(*row) for row in client.query(_PARTS, parameters={"table": table}).result_rows]


def _is_whole(client: Any, table: str, part: Part) -> bool:
    """By the sizes of the files; a part that an insert made by its checksums too, as long as it is active."""
    if not _sizes_fit(part.path, part.size):
        return False
    return not part.active or part.level > 0 or _passes(client, table, part.name)


def _sizes_fit(path: str, size: int) -> bool:
    """Whether the files of a part are as large together as the engine thinks it wrote them; costs a stat for each."""
    try:
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(path)}
    except FileNotFoundError:
        return True  # gone: merged long ago, or dropped
    unlisted = [sizes.pop(name, 0) for name in UNLISTED]
    return all(unlisted) and sum(sizes.values()) == size and _substreams_fit(Path(path) / "columns_substreams.txt")


def _substreams_fit(path: Path) -> bool:
    """Whether the list of substreams has all it speaks of: it is in no checksums, and a table is not loaded with less.

    "columns substreams version: 1", "N columns:", then for each "K substreams for column `x`:" and K lines.
    """
    try:
        head, count, *lines = path.read_text().split("\n")
    except (FileNotFoundError, ValueError):
        return False
    columns = [line for line in lines if not line.startswith("\t") and line]
    if not head.startswith("columns substreams version: ") or count != f"{len(columns)} columns:":
        return False
    streams = sum(line.startswith("\t") for line in lines)
    return lines[-1:] == [""] and sum(int(line.split()[0]) for line in columns if line[0].isdigit()) == streams


def _passes(client: Any, table: str, name: str) -> bool:
    """The engine reads the part's own list, and every file against it."""
    rows = client.query(f"CHECK TABLE {table} PART '{name}' SETTINGS check_query_single_value_result = 0").result_rows
    return all(str(row[1]) == "1" for row in rows)
