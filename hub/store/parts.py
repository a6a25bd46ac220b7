"""Whether the parts on disk are whole: the engine does not say so by itself.

The engine (26.9) passes over a write() that fails while a part's files are closed (no space, input or output errors):
the part is published, and the insert or the merge that made it reports success. It finds out when it loads the table.
So every new part is looked at before anything in it is acknowledged; `docs/decisions/0003-store.md` has the evidence.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_PARTS = """
SELECT name, level, path, bytes_on_disk FROM system.parts
WHERE active AND database = currentDatabase() AND table = {table:String}"""

_BROKEN = """
SELECT name FROM system.detached_parts
WHERE database = currentDatabase() AND table = {table:String} AND level = 0 AND startsWith(reason, 'broken')"""

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


@dataclass(slots=True)
class Parts:
    """The parts that were looked at and are whole, per table. One thread at a time."""

    whole: dict[str, frozenset[str]] = field(default_factory=dict)

    def loaded(self, client: Any, tables: Iterable[str]) -> None:
        """Take what the engine has just loaded as whole: it compares the sizes of all files when it loads a part."""
        self.whole = {table: frozenset(row[0] for row in _rows(client, table)) for table in tables}

    def verify(self, client: Any, table: str) -> None:
        """Look at the parts of `table` that are new. Raises BrokenPart."""
        rows = _rows(client, table)
        known = self.whole.get(table, frozenset())
        for name, level, path, size in rows:
            if name not in known and not (_sizes_fit(path, size) and (level or _passes(client, table, name))):
                raise BrokenPart(f"part {name} of {table} is not whole on disk: no space, or a disk that fails")
        self.whole[table] = frozenset(row[0] for row in rows)

    def repair(self, client: Any, tables: Iterable[str]) -> None:
        """Have the engine load the tables anew where a part is broken, or where that was cut off.

        Loading sets broken parts aside and brings back what a broken merge was made from. New parts without merges
        hold nothing acknowledged and are removed. Nothing here needs space. Raises DatabaseError: call it again.
        """
        for table in tables:
            try:
                if client.command(f"EXISTS TABLE {table}"):
                    self.verify(client, table)
                    continue
            except BrokenPart:
                client.command(f"DETACH TABLE IF EXISTS {table}")
            client.command(f"ATTACH TABLE IF NOT EXISTS {table}")
            for (name,) in client.query(_BROKEN, parameters={"table": table}).result_rows:
                client.command(f"ALTER TABLE {table} DROP DETACHED PART '{name}' SETTINGS allow_drop_detached = 1")
            self.whole[table] = frozenset(row[0] for row in _rows(client, table))


def _rows(client: Any, table: str) -> list[tuple[str, int, str, int]]:
    return [tuple(row) for row in client.query(_PARTS, parameters={"table": table}).result_rows]


def _sizes_fit(path: str, size: int) -> bool:
    """Whether the files of a part are as large together as the engine thinks it wrote them; costs a stat for each."""
    try:
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(path)}
    except FileNotFoundError:
        return True  # merged since: the part that it went into is looked at next time
    unlisted = [sizes.pop(name, 0) for name in UNLISTED]
    return all(unlisted) and sum(sizes.values()) == size


def _passes(client: Any, table: str, name: str) -> bool:
    """The engine reads the part's own list, and every file against it."""
    rows = client.query(f"CHECK TABLE {table} PART '{name}' SETTINGS check_query_single_value_result = 0").result_rows
    return all(str(row[1]) == "1" for row in rows)
