"""The same tables on ClickHouse servers: one server, or a cluster of shards and replicas.

    one server   packets, flows, calls   MergeTree      batch_lines, hubs, presence, wishes  ReplacingMergeTree
    a cluster    packets_local, ...      Replicated...  packets, ...                 Distributed, by agent
    both         batches                 a view of batch_lines
    both         flows_minute, ..., periods             the rollups, likewise

A server takes inserts of several hubs, and one batch may reach it through two of them: its rows carry one token, so
that they are stored once; its line may come twice, so the table of lines keeps one a place, that of the batch with rows
where there is any, and `batches` shows just that (FINAL). Lines have no partitions, as only rows of one partition are
ever merged into one.

Pure: text out. Columns come from `protocol.schema` by way of `hub.store.ddl`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hub.store import rollups
from hub.store.ddl import BATCHES, STORED, body, lacking, said, unindexed
from hub.store.rollups import PERIODS
from protocol.schema import Column, Table

LINES = "batch_lines"
"""Where the lines of `batches` go."""
WINDOW = 100_000
"""Tokens that a shard remembers, for a week: far more than all batches that all hubs may have outstanding."""

HUBS = Table(
    "hubs",
    (
        Column("hub", "u2", "UInt16", "number of the hub: the low bits of its commits"),
        Column("floor", "u8", "UInt64", "its commits below this one are whole"),
        Column("at", "i8", "Int64", "when it said so, ns since 1970"),
        Column("left", "u1", "UInt8", "1 once it has ended, or was given up and cleared up after"),
        Column("api", "text", "String", "where people ask it"),
    ),
    (),
    "hub",
    "at",
    "at",
)
"""What every hub says each second: up to where its commits are whole."""

PRESENCE = Table(
    "presence",
    (
        Column("hub", "u2", "UInt16", "number of the hub"),
        Column("agent", "text", "String", "name of an agent that is connected to it; empty in a line for none"),
        Column("at", "i8", "Int64", "when it said so, ns since 1970: what it said last is what holds"),
        Column("told", "text", "String", "the agent as the hub describes it, JSON"),
    ),
    (),
    "hub, agent",
    "at",
    "at",
)
"""Who is connected to which hub."""

WISHES = Table(
    "wishes",
    (
        Column("name", "text", "String", "an agent, a node, or * for all"),
        Column("settings", "text", "String", "what is wanted of them, JSON; null where nothing is any more"),
        Column("at", "i8", "Int64", "when somebody said so, ns since 1970: what was said last is what holds"),
    ),
    (),
    "name",
    "at",
    "at",
)
"""What people want of running agents (`hub.configure`)."""

OWN = {HUBS.name: HUBS, PRESENCE.name: PRESENCE, WISHES.name: WISHES}
"""The tables that hubs have for each other."""

_PLAIN = {**OWN, PERIODS.name: PERIODS}
_SHARDS = {HUBS.name: "hub", PRESENCE.name: "hub", WISHES.name: "name", PERIODS.name: "first"}
"""What decides on which shard a row is, where it is not the agent."""
_VERSIONS = {BATCHES.name: "rows", HUBS.name: "floor", PRESENCE.name: "at", WISHES.name: "at", PERIODS.name: "roll"}
"""Of lines in the same place the one with the largest of these stays; that of a batch stands against its tombstone."""

_COMMON = {"fsync_after_insert": 1, "fsync_part_directory": 1}
_ALONE = {"non_replicated_deduplication_window": WINDOW}
_REPLICATED = {"replicated_deduplication_window": WINDOW, "replicated_deduplication_window_seconds": 7 * 86_400}


def target(table: str) -> str:
    """Where rows of a table are inserted."""
    return LINES if table == BATCHES.name else table


def kept(table: str, cluster: str) -> str:
    """Where one shard keeps rows of a table."""
    return f"{target(table)}_local" if cluster else target(table)


def _on(cluster: str) -> str:
    """What makes a statement one to every host of a cluster."""
    return f" ON CLUSTER `{cluster}`" if cluster else ""


def engine(table: Table) -> str:
    """The engine of one shard's table, without Replicated."""
    version = _VERSIONS.get(table.name)
    return f"ReplacingMergeTree({version})" if version else "MergeTree"


def create(table: Table, database: str, cluster: str = "") -> list[str]:
    """The statements that make one table and what stands before it."""
    name = target(table.name)
    on = _on(cluster)
    local = kept(table.name, cluster)
    statements = [_local(table, local, on)]
    if cluster:
        statements.append(_before(name, local, _SHARDS.get(table.name, "agent"), database, cluster))
    if table is BATCHES:
        statements.append(view(on))
    return statements


def _before(name: str, local: str, key: str, database: str, cluster: str) -> str:
    """The statement that makes the table before those of all shards."""
    distributed = f"Distributed(`{cluster}`, `{database}`, {local}, cityHash64({key}))"
    return f"CREATE TABLE IF NOT EXISTS {name} ON CLUSTER `{cluster}` AS {local} ENGINE = {distributed}"


def _local(table: Table, name: str, on: str) -> str:
    columns = ", ".join(f"`{c.name}` {c.clickhouse}" for c in table.columns) if table.name in _PLAIN else body(table)
    partition = "" if table.name in _VERSIONS else "PARTITION BY ingest_day "
    ttl = " TTL toDateTime(intDiv(at, 1000000000)) + INTERVAL 1 DAY" if table in (HUBS, PRESENCE) else ""
    return _create(name, on, columns, engine(table), f"{partition}ORDER BY ({table.order_by}){ttl}")


def _create(name: str, on: str, columns: str, of: str, order: str) -> str:
    settings = said(_COMMON | (_REPLICATED if on else _ALONE))
    replicated = "Replicated" if on else ""
    return f"CREATE TABLE IF NOT EXISTS {name}{on} ({columns}) ENGINE = {replicated}{of} {order} SETTINGS {settings}"


def create_rollup(source: str, step: str, database: str, cluster: str = "") -> list[str]:
    """The statements that make one table of sums, and what stands before it."""
    name = rollups.name_of(source, step)
    on = _on(cluster)
    local = kept(name, cluster)
    made = [_create(local, on, rollups.body(source, step), "MergeTree", rollups.placed(step))]
    return [*made, _before(name, local, "agent", database, cluster)] if cluster else made


def view(on: str, replace: bool = False) -> str:
    """`batches`: each place once."""
    words = "CREATE OR REPLACE VIEW" if replace else "CREATE VIEW IF NOT EXISTS"
    return f"{words} {BATCHES.name}{on} AS SELECT * FROM {LINES} FINAL"


def extend(table: Table, stored: Mapping[str, str], indexes: Iterable[str], cluster: str = "") -> list[str]:
    """The statements that add the columns and indexes a table on servers lacks; several hubs may say them at once.

    `stored` maps the columns it has to their types, `indexes` names those that `kept` has. Parts that are there are
    read without the indexes until they are merged.
    """
    columns = lacking(table, stored)
    on, local = _on(cluster), kept(table.name, cluster)
    names = dict.fromkeys((local, target(table.name)))
    adding = [f"ALTER TABLE {name}{on} ADD COLUMN IF NOT EXISTS {column}" for name in names for column in columns]
    shown = [view(on, replace=True)] if adding and table is BATCHES else []
    lacks = unindexed(table, indexes)
    return [*adding, *shown, *(f"ALTER TABLE {local}{on} ADD INDEX IF NOT EXISTS {index}" for index in lacks)]


def everything(database: str, cluster: str = "") -> list[str]:
    """All statements that make a store."""
    first = f"CREATE DATABASE IF NOT EXISTS `{database}`{_on(cluster)}"
    tables = (*STORED.values(), *_PLAIN.values())
    made = [statement for table in tables for statement in create(table, database, cluster)]
    sums = [(source, step) for source in rollups.SOURCES for step in rollups.STEPS]
    return [first, *made, *(said for pair in sums for said in create_rollup(*pair, database, cluster))]


def drop_partition(table: str, day: str, cluster: str = "") -> str:
    """The statement that drops a day of a table."""
    return f"ALTER TABLE {kept(table, cluster)}{_on(cluster)} DROP PARTITION '{day}'"
