"""The rollups: sums of flows and calls by minute and by hour of packet time, which are kept longer than the rows.

    flows_minute, calls_minute   one row per roll, minute and group of KEYS, by days of ingest
    flows_hour, calls_hour       the same per hour, by months of ingest
    flows_day, calls_day         the same per day, one roll of all sums by hour of a day of ingest; by weeks
    periods                      which rows of them count: one line per table and period (`hub.store.periods`)

A row stands in the minute in which it starts. Percentiles of a sum of sketches are those of one sketch over all rows,
so an answer from rollups has the same figures as one from rows, latencies included (docs/decisions/0019-rollups.md).

Pure: text out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hub.store import ddl
from protocol.schema import CALLS, FLOWS, PARTS, Column, Table
from protocol.sketch import LOG_GAMMA

SECOND_NS = 10**9
STEPS = {"minute": 60 * SECOND_NS, "hour": 3600 * SECOND_NS, "day": 86_400 * SECOND_NS}
"""What a row of a rollup sums up, ns of packet time."""
SKETCH = "quantileDD(0.01, 0.5)"
"""Of latencies: within 1 % of the true value, and the same however the rows are divided up before."""
STATE = f"AggregateFunction({SKETCH}, Int64)"


@dataclass(frozen=True, slots=True)
class Figure:
    """One sum: its type, how it is worked out of rows, and how of sums of the same kind."""

    name: str
    clickhouse: str
    of_rows: str
    of_sums: str


def _sum(name: str) -> Figure:
    return Figure(name, "UInt64", f"sum(`{name}`)", f"sum(`{name}`)")


_RECORDS = Figure("records", "UInt64", "count()", "sum(`records`)")
_LATENCY = Figure(
    "latency",
    STATE,
    "quantileDDStateIf(0.01, 0.5)(`latency`, `latency` >= 0)",
    "quantileDDMergeState(0.01, 0.5)(`latency`)",
)


def buckets(state: str) -> str:
    """How many latencies are in each bucket of `protocol.sketch`, of rows; `State` for sums of them."""
    bucket = f"toInt32(ceil(log(greatest(`latency`, 1)) / {LOG_GAMMA!r}))"
    return f"sumMap{state}If([{bucket}], [toUInt64(1)], `latency` >= 0)"


_BUCKETS = Figure(
    "buckets",
    "AggregateFunction(sumMap, Array(Int32), Array(UInt64))",
    buckets("State"),
    "sumMapMergeState(`buckets`)",
)
_UNANSWERED = Figure("unanswered", "UInt64", "countIf(`latency` < 0)", "sum(`unanswered`)")
_ERRORS = Figure("errors", "UInt64", "countIf(`error` = 1)", "sum(`errors`)")

FIGURES: dict[str, tuple[Figure, ...]] = {
    "flows": (*map(_sum, ("packets", "bytes", "packets_rev", "bytes_rev")), _RECORDS),
    "calls": (_RECORDS, _ERRORS, _UNANSWERED, _LATENCY, _BUCKETS, _sum("request_bytes"), _sum("response_bytes")),
}
"""What is summed up."""

_ENDS = ("layers", "iface", "src", "dst", "proto", "dst_port", "k8s_src", "k8s_dst", "k8s_iface")
KEYS: dict[str, tuple[str, ...]] = {
    "flows": ("agent", *_ENDS, "ethertype", "eth_src", "eth_dst"),
    "calls": ("agent", *_ENDS, "l7", "operation", "status", "error"),
}
"""Columns that stay: what can be asked of rollups is grouped and filtered by these. Source ports do not, nor runs."""

SOURCES: dict[str, Table] = {table.name: table for table in (FLOWS, CALLS)}

PERIODS = Table(
    "periods",
    (
        Column("source", "dict", "LowCardinality(String)", "the table whose rows are summed up; flows_day, calls_day"),
        Column("first", "u8", "UInt64", "the period's first commit"),
        Column("last", "u8", "UInt64", "and its last"),
        Column("roll", "u8", "UInt64", "the rows of rollups that count for it; a larger one replaces a smaller"),
        Column("day", "u2", "Date", "day of ingest (UTC)"),
        Column("rows", "u8", "UInt64", "rows summed up"),
        Column("longest", "i8", "Int64", "the longest of them from start to end, ns"),
        Column("earliest", "i8", "Int64", "the smallest start, ns since 1970"),
        Column("latest", "i8", "Int64", "the largest start, ns since 1970"),
    ),
    (),
    "source, first",
    "first",
    "last",
)
"""What has been rolled up; written last, so that what a crash cut off does not count."""


def name_of(source: str, step: str) -> str:
    """The table of a rollup."""
    return f"{source}_{step}"


NAMES = tuple(name_of(source, step) for source in SOURCES for step in STEPS)


_BY_TIME = "time, agent, src, dst"


class _Layout(NamedTuple):
    """How the sums by a step are kept: `codec` where it is another than that of rows, `settings` of the embedded store
    beside those of rows."""

    partition: str
    order: str
    codec: str = ""
    settings: Mapping[str, int] = {}


_LAYOUTS = {
    "minute": _Layout("ingest_day", _BY_TIME),
    "hour": _Layout("toStartOfMonth(ingest_day)", _BY_TIME),
    # Few, and whole days of ingest are read, for months. So sums of a pair lie together, in half the bytes, grouped in
    # a third of the time; reading them counts, not what they take on disk; and two parts of a size are one at once.
    "day": _Layout("toMonday(ingest_day)", "src, dst, time, agent", "LZ4", {"merge_selector_base": 2}),
}


def body(source: str, step: str) -> str:
    """The columns of a rollup of a table, as they stand in `CREATE TABLE name (...)`."""
    codec = _LAYOUTS[step].codec or ddl.CODEC
    lines = [f"`time` Int64 CODEC(Delta, {codec})"]
    lines += [f"`{name}` {clickhouse} CODEC({codec})" for name, clickhouse in _stored(source)]
    lines += [f"`{part.name}` {part.clickhouse} ALIAS {part.shows}" for part in PARTS]
    return ", ".join((*lines, "INDEX by_roll roll TYPE minmax GRANULARITY 1"))


def _stored(source: str) -> Iterator[tuple[str, str]]:
    """Names and types of the columns, but for the time."""
    yield from (("roll", "UInt64"), ("ingest_day", "Date"))
    yield from ((name, SOURCES[source].column(name).clickhouse) for name in KEYS[source])
    yield from ((figure.name, figure.clickhouse) for figure in FIGURES[source])


def placed(step: str) -> str:
    """What a rollup's partitions are (the engine prints each as a date), and how it is sorted."""
    layout = _LAYOUTS[step]
    return f"PARTITION BY {layout.partition} ORDER BY ({layout.order})"


def create() -> list[str]:
    """The statements that make the tables of the embedded store."""
    settings = ddl.said(ddl.SETTINGS)
    made = [
        f"CREATE TABLE IF NOT EXISTS {name_of(source, step)} ({body(source, step)}) ENGINE = MergeTree "
        f"{placed(step)} SETTINGS {ddl.said({**ddl.SETTINGS, **_LAYOUTS[step].settings})}"
        for source in SOURCES
        for step in STEPS
    ]
    columns = ", ".join(f"`{column.name}` {column.clickhouse}" for column in PERIODS.columns)
    made.append(
        f"CREATE TABLE IF NOT EXISTS {PERIODS.name} ({columns}) ENGINE = ReplacingMergeTree(roll) "
        f"ORDER BY ({PERIODS.order_by}) SETTINGS {settings}"
    )
    return made


_EARLIEST = -(1 << 63)


def floor(column: str, step: int) -> str:
    """The start of the minute or hour that a time is in; times may lie before 1970, down to the end of the type."""
    low = _EARLIEST + step
    return f"if(`{column}` < {low}, toInt64({_EARLIEST}), `{column}` - positiveModulo(`{column}`, {step}))"


_SETTINGS: Mapping[str, int] = {
    "max_threads": 1,
    "max_insert_threads": 1,
    "max_memory_usage": 768 << 20,
    "max_bytes_before_external_group_by": 192 << 20,
    "max_bytes_before_external_sort": 192 << 20,
    # A group of calls takes some 700 bytes until it is written: a million of them at once would be all the memory.
    "min_insert_block_size_rows": 1 << 16,
    "min_insert_block_size_bytes": 32 << 20,
    "distributed_foreground_insert": 1,
}
"""Of statements that roll up: beside the hub's other work."""


def settings() -> str:
    """As they end a statement."""
    return f"SETTINGS {ddl.said(_SETTINGS)}"


def _statement(source: str, table: str, step: str, roll: int, day: int, where: str) -> str:
    """Sums of a table's rows, or sums of its sums, into the rollup of a step."""
    column, of = (SOURCES[source].time, "of_rows") if table == source else ("time", "of_sums")
    # Else each part has some sums of every pair, until it is merged; sketches of calls are too large to be sorted.
    order = " ORDER BY src, dst, at, agent" if step == "day" and source == "flows" else ""
    keys = ", ".join(f"`{name}`" for name in KEYS[source])
    names = ", ".join(f"`{figure.name}`" for figure in FIGURES[source])
    sums = ", ".join(getattr(figure, of) for figure in FIGURES[source])
    return (
        f"INSERT INTO {name_of(source, step)} (`time`, `roll`, `ingest_day`, {keys}, {names}) "
        f"SELECT {floor(column, STEPS[step])} AS at, {roll}, toDate({day}), {keys}, {sums} "
        f"FROM {table} WHERE {where} GROUP BY at, {keys}{order} {settings()}"
    )


def roll_up(source: str, first: int, last: int, roll: int, day: int) -> dict[str, str]:
    """The statements that sum up the rows of commits `first` to `last`: by minutes, and these by hours; in order."""
    return {
        "minute": _statement(source, source, "minute", roll, day, f"`commit` BETWEEN {first} AND {last}"),
        "hour": _statement(source, name_of(source, "minute"), "hour", roll, day, f"`roll` = {roll}"),
    }


def joinable(source: str, first: int, last: int) -> str:
    """How many rows those sums by hour that `join` reads sum up."""
    return f"SELECT sum(records) FROM {name_of(source, 'hour')} WHERE {of_periods(source, [(first, last + 1)])}"


def join(source: str, first: int, last: int, roll: int, day: int) -> str:
    """The statement that sums up what stands by hour of the periods from commit `first` to `last`, by days."""
    return _statement(source, name_of(source, "hour"), "day", roll, day, of_periods(source, [(first, last + 1)]))


def of_periods(source: str, ranges: Iterable[tuple[int, int]], upto: int | None = None) -> str:
    """The condition on sums that these rolls count: of periods that begin in ranges of commits, first and beyond.

    With `upto` those alone that end there or before, which is what the caller knows of.
    """
    begins = " OR ".join(f"first BETWEEN {first} AND {beyond - 1}" for first, beyond in ranges)
    known = "" if upto is None else f" AND last <= {upto}"
    return f"`roll` GLOBAL IN (SELECT roll FROM {PERIODS.name} FINAL WHERE source = '{source}' AND ({begins}){known})"


def rows_of(source: str, first: int, last: int) -> str:
    """What is there of the rows of commits: how many, the longest, the smallest and the largest start."""
    table = SOURCES[source]
    return (
        f"SELECT count(), max(`{table.until}` - `{table.time}`), min(`{table.time}`), max(`{table.time}`) "
        f"FROM {source} WHERE `commit` BETWEEN {first} AND {last}"
    )


def rolled(source: str, step: str, roll: int) -> str:
    """How many rows a roll sums up, read back."""
    return f"SELECT sum(records) FROM {name_of(source, step)} WHERE `roll` = {roll}"
