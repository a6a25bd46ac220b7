"""The store's tables as SQL, derived from `protocol.schema`, and what a store made by another version lacks.

Pure: text in, text out. The settings are chosen by experiment (docs/decisions/0003-store.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocol.schema import NAMES, ORIGIN, PARTS, TABLES, Column, Table

SCHEMA_VERSION = 1
"""Raised when the meaning of what is stored changes; a new column alone is added at open and does not raise it."""

BATCHES = Table(
    "batches",
    (
        Column("agent", "dict", "LowCardinality(String)", "name of the agent"),
        Column("node", "dict", "LowCardinality(String)", "node the agent ran on"),
        Column("source", "dict", "LowCardinality(String)", "live or replay"),
        Column("epoch", "u8", "UInt64", "the agent's run"),
        Column("seq", "u8", "UInt64", "the batch within the run, from 1"),
        Column("kind", "dict", "LowCardinality(String)", "packets, flows, calls or report"),
        Column("rows", "u8", "UInt64", "rows stored; 0 for tombstones and reports"),
        Column("packets", "u8", "UInt64", "packets the batch or tombstone stands for"),
        Column("flow_only", "u8", "UInt64", "of them without a row of their own"),
        Column("first", "i8", "Int64", "time of its first packet, ns since 1970"),
        Column("last", "i8", "Int64", "time of its last packet, ns since 1970"),
        Column("reason", "dict", "LowCardinality(String)", "why the batch will never come; empty where it came"),
        Column("final", "u1", "UInt8", "1 in the last report of an orderly run"),
        Column("ledger", "text", "String", "the agent's report when it was sealed, JSON"),
        Column("session", "u8", "UInt64", "the hub's connection it came on"),
        Column("commit", "u8", "UInt64", "the hub's commit that stored it"),
        Column("stored_at", "i8", "Int64", "when it was stored, ns since 1970"),
        Column("ingest_day", "u2", "Date", "day of that (UTC)"),
        Column("recovered", "u1", "UInt8", "1 where it was rebuilt from the rows after a crash"),
    ),
    (),
    "agent, epoch, seq",
    "first",
    "last",
)
"""One row per batch, tombstone and report. Written after the rows they speak of, and kept when those expire."""

STORED = {**TABLES, BATCHES.name: BATCHES}

CODEC = "ZSTD(3)"
_RISING = ("time", "start", "end", "frame_number")
SETTINGS: dict[str, int | str] = {
    "fsync_after_insert": 1,
    "fsync_part_directory": 1,
    "min_level_for_wide_part": 1,  # an insert writes and syncs 1 file of columns; a merge makes 200
    "merge_selector_base": 16,  # of 5: each row is merged less often, and there are up to three times the parts
    "index_granularity_bytes": 2 << 20,  # of 10 MiB: merges hold a granule of each part, and rows may have long texts
    "merge_max_block_size_bytes": 1 << 20,  # of 10 MiB, for each part that is merged: rows may have long texts
    "auto_statistics_types": "''",  # of all columns, on each insert and merge: no question here needs them
    "non_replicated_deduplication_window": 0,  # a token would be logged before the part is published
    "max_bytes_to_merge_at_max_space_in_pool": 1 << 30,  # what retention by size drops at a time
    "concurrent_part_removal_threshold": 1 << 30,  # of 100: above it 128 threads start, and stay
}


def columns_of(table: Table) -> tuple[Column, ...]:
    """Every stored column of a table in order: the hub's own first, then the agent's."""
    return table.columns if table is BATCHES else (*ORIGIN, *table.columns, *NAMES)


def shown_columns(table: Table) -> tuple[Column, ...]:
    """The same, and those that are worked out when they are asked for."""
    return table.columns if table is BATCHES else (*columns_of(table), *PARTS)


def _column(column: Column) -> str:
    if column.shows:
        return f"`{column.name}` {column.clickhouse} ALIAS {column.shows}"
    codec = f"Delta, {CODEC}" if column.name in _RISING else CODEC
    return f"`{column.name}` {column.clickhouse} CODEC({codec})"


def body(table: Table) -> str:
    """The columns of a table and its indexes, as they stand in `CREATE TABLE name (...)`."""
    columns = [_column(column) for column in shown_columns(table)]
    return ", ".join((*columns, *(f"INDEX {name} {what}" for name, what in _indexes(table).items())))


def _indexes(table: Table) -> dict[str, str]:
    """The indexes of a table's granules by name: what says of one that nothing in it is asked for.

    An hour has hundreds of granules, and most addresses are in few of them. Rows are sorted by their start: that what
    began long ago is over before a window begins, an index of their ends has to say.
    """
    found = {"by_commit": "commit TYPE minmax GRANULARITY 1"}
    if table is not BATCHES:
        found["by_address"] = "(src, dst) TYPE bloom_filter(0.01) GRANULARITY 1"
        if table.until != table.time:
            found["by_end"] = f"`{table.until}` TYPE minmax GRANULARITY 1"
    return found


def said(settings: Mapping[str, int | str]) -> str:
    """Settings as they stand behind `SETTINGS`."""
    return ", ".join(f"{name} = {value}" for name, value in settings.items())


def create(table: Table) -> str:
    """`CREATE TABLE IF NOT EXISTS` of a table."""
    return (
        f"CREATE TABLE IF NOT EXISTS {table.name} ({body(table)}) ENGINE = MergeTree "
        f"PARTITION BY ingest_day ORDER BY ({table.order_by}) SETTINGS {said(SETTINGS)}"
    )


def missing(table: Table, stored: Mapping[str, str], indexes: Iterable[str]) -> list[str]:
    """The statements that add the columns and indexes a stored table lacks; `stored` maps its columns to their types.
    Parts that are there are read without the indexes until they are merged."""
    columns = [f"ADD COLUMN {column}" for column in lacking(table, stored)]
    lacks = [f"ADD INDEX {index}" for index in unindexed(table, indexes)]
    return [f"ALTER TABLE {table.name} {added}" for added in (*columns, *lacks)]


def lacking(table: Table, stored: Mapping[str, str]) -> list[str]:
    """The columns that a stored table lacks, as they stand in a statement."""
    return [_column(column) for column in shown_columns(table) if column.name not in stored]


def unindexed(table: Table, indexes: Iterable[str]) -> list[str]:
    """The indexes that it lacks, as they stand in a statement; `indexes` names those it has."""
    return [f"{name} {what}" for name, what in _indexes(table).items() if name not in indexes]


def unknown(table: Table, stored: Iterable[str]) -> list[str]:
    """Columns that a stored table has and this version does not know: a newer version made it."""
    known = {column.name for column in shown_columns(table)}
    return [name for name in stored if name not in known]
