"""A question and the SQL that answers it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from hub.query.output import OUTPUTS, clickhouse_type, columns, csv_header, expression, json_row
from hub.query.sql import Params, compile_filter
from protocol.filter.tree import Node
from protocol.schema import TABLES, Field, Table, fields_of

ORDER = {
    "packets": ("time", "agent", "epoch", "frame_number"),
    "flows": ("start", "agent", "epoch", "seq", "end"),
    "calls": ("start", "agent", "epoch", "seq", "end"),
}
"""Order of display: time, agent, run, frame number."""
_SECONDS = "Nullable(Float64)"
SUMS = {
    "flows": (
        *((f"flow.{name}", f"sum(`{name}`)", "UInt64") for name in ("packets", "bytes", "packets_rev", "bytes_rev")),
        ("flow.records", "count()", "UInt64"),
    ),
    "calls": (
        ("call.count", "count()", "UInt64"),
        ("call.errors", "countIf(error = 1)", "UInt64"),
        ("call.error_rate", "countIf(error = 1) / count()", "Float64"),
        ("call.unanswered", "countIf(latency < 0)", "UInt64"),
        *(
            (
                f"call.latency_p{percent}",
                f"quantileTDigestOrNullIf({percent / 100})(latency, latency >= 0) / 1e9",
                _SECONDS,
            )
            for percent in (50, 95, 99)
        ),
    ),
}
"""What is worked out of each group: public name, expression, type."""
_FIRST = {"flows": "sum(bytes + bytes_rev)", "calls": "count()"}
"""The groups with the most of this come first."""


class WrongQuestion(ValueError):
    """A question that cannot be asked; the text is one line for people."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one table. Times are nanoseconds since 1970, `until` exclusive; None is open.

    `limit` are the newest rows, 0 all. `by` groups flows; `top` of the groups are shown, 0 all.
    """

    table: str
    filter: Node | None = None
    since: int | None = None
    until: int | None = None
    limit: int = 100
    fields: tuple[str, ...] = ()
    output: str = "ndjson"
    by: tuple[str, ...] = ()
    top: int = 10
    commit: int | None = None  # the newest commit that may be shown


@dataclass(frozen=True, slots=True)
class Query:
    """SQL with its parameters, the store's format, and the bytes that come before the first row."""

    sql: str
    params: dict[str, Any]
    store_format: str
    head: bytes = b""


def chosen(table: str, names: Iterable[str]) -> tuple[Field, ...]:
    """The fields named, all of the table where none is. Raises WrongQuestion."""
    known = fields_of(table)
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise WrongQuestion(f"{table} have no field {name[:80]!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return tuple(known[name] for name in names) or TABLES[table].fields


def window(table: Table, since: int | None, until: int | None, params: Params) -> list[str]:
    """The conditions of a time window: instants inside it, spans that touch it."""
    conditions = []
    if since is not None:
        conditions.append(f"`{table.until}` >= {params.add('Int64', since)}")
    if until is not None:
        conditions.append(f"`{table.time}` < {params.add('Int64', until)}")
    return conditions


def where(table: Table, question: Question, params: Params) -> str:
    """The WHERE clause of a question, empty where it asks for everything."""
    conditions = window(table, question.since, question.until, params)
    if question.commit is not None:
        conditions.append(f"`commit` <= {params.add('UInt64', question.commit)}")
    if question.filter is not None:
        conditions.append(compile_filter(question.filter, params, table.name))
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def build(question: Question) -> Query:
    """The query of a question. Raises WrongQuestion."""
    if question.by:
        return _groups(question)
    table = TABLES[question.table]
    fields = chosen(question.table, question.fields)
    params = Params()
    source = f"FROM {table.name}{where(table, question, params)}"
    shown = columns(table, fields, question.output)
    sql = f"SELECT {shown} {source} {_order(table.name)}"
    if question.limit:
        sql = _newest(table.name, shown, source, params.add("UInt64", question.limit))
    head = csv_header(field.name for field in fields) if question.output == "csv" else b""
    return Query(f"{sql}", params.values, OUTPUTS[question.output].store_format, head)


def _order(table: str, direction: str = "") -> str:
    return "ORDER BY " + ", ".join(f"`{column}`{direction}" for column in ORDER[table])


def _newest(table: str, shown: str, source: str, limit: str) -> str:
    """The newest rows, oldest first: the sorting key is read backwards, only the rows that are left are printed."""
    inner = f"SELECT * {source} {_order(table, ' DESC')} LIMIT {limit}"
    return f"SELECT {shown} FROM ({inner}) {_order(table)}"


def _groups(question: Question) -> Query:
    """Sums per group: of flows, most bytes first; of calls, most calls first."""
    if question.table not in SUMS:
        raise WrongQuestion("only flows and calls can be grouped with by")
    if question.fields:
        raise WrongQuestion("with by the fields are those of the groups: leave fields out")
    table = TABLES[question.table]
    keys = chosen(question.table, question.by)
    params = Params()
    groups = ", ".join(f"{expression(table, key)} AS g{index}" for index, key in enumerate(keys))
    results = SUMS[table.name]
    sums = ", ".join(f"{value} AS s{index}" for index, (_, value, _) in enumerate(results))
    limit = f" LIMIT {params.add('UInt64', question.top)}" if question.top else ""
    names = ", ".join(f"g{index}" for index in range(len(keys)))
    inner = (
        f"SELECT {groups}, {sums}, {_FIRST[table.name]} AS most FROM {table.name}{where(table, question, params)} "
        f"GROUP BY {names} ORDER BY most DESC, {names}{limit}"
    )
    members = [
        *((key.name, f"g{index}", f"Nullable({clickhouse_type(table, key)})") for index, key in enumerate(keys)),
        *((name, f"s{index}", kind) for index, (name, _, kind) in enumerate(results)),
    ]
    json = question.output in ("ndjson", "json")
    shown = json_row(members) if json else ", ".join(f"{value} AS `{name}`" for name, value, _ in members)
    sql = f"SELECT {shown} FROM ({inner}) ORDER BY most DESC, {names}"
    head = csv_header(name for name, _, _ in members) if question.output == "csv" else b""
    return Query(sql, params.values, OUTPUTS[question.output].store_format, head)
