"""A question and the SQL that answers it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from hub.query.output import OUTPUTS, columns, csv_header, names_of
from hub.query.sql import Params, compile_filter
from hub.store.periods import Rolled
from protocol.filter.tree import Node
from protocol.schema import TABLES, Field, Table, fields_of, second

ORDER = {
    "packets": ("time", "agent", "epoch", "frame_number"),
    "flows": ("start", "agent", "epoch", "seq", "end"),
    "calls": ("start", "agent", "epoch", "seq", "end"),
}
"""Order of display: time, agent, run, frame number."""


class WrongQuestion(ValueError):
    """A question that cannot be asked; the text is one line for people."""


class Contradiction(WrongQuestion):
    """Each of its parts can be asked, together they cannot."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one table. Times are nanoseconds since 1970, `until` exclusive; None is open.

    `limit` are the newest rows, 0 all. `by` groups flows or calls; `top` of the groups are shown, 0 all. `sort` are
    names, each with whether the largest comes first; empty: as each table has it.
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
    sort: tuple[tuple[str, bool], ...] = ()
    sketch: bool = False  # with groups of calls: what quantiles of several hubs are made of
    commit: int | None = None  # the newest commit that may be shown
    rolled: Rolled = field(default_factory=Rolled)  # what there is of rows and sums


@dataclass(frozen=True, slots=True)
class Query:
    """SQL with its parameters, the store's format, and the bytes that come before the first row.

    `tables` are read where sums are among them. `rounded` is the step that the window's ends were rounded to, as rows
    have expired: `minute` or `hour`.
    """

    sql: str
    params: dict[str, Any]
    store_format: str
    head: bytes = b""
    tables: tuple[str, ...] = ()
    rounded: str = ""


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
        conditions.append(starts(table, "<", params.add("Int64", until)))
    return conditions


def starts(table: Table, sign: str, moment: str) -> str:
    """The condition that rows start before (`<`) or from (`>=`) a moment: also by the second that the table is sorted
    by, as the engine does not see that one where the time itself is in the sorting key too."""
    key = second(table.time)
    return f"`{table.time}` {sign} {moment} AND {key} {sign.rstrip('=')}= {second(moment)}"


def where(table: Table, question: Question, params: Params) -> str:
    """The WHERE clause of a question, empty where it asks for everything."""
    conditions = window(table, question.since, question.until, params)
    if question.commit is not None:
        conditions.append(f"`commit` <= {params.add('UInt64', question.commit)}")
    if question.filter is not None:
        conditions.append(compile_filter(question.filter, params, table.name))
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def build(question: Question) -> Query:
    """The query for rows in their table's order. Raises WrongQuestion."""
    table, params = TABLES[question.table], Params()
    fields, conditions = chosen(question.table, question.fields), where(table, question, params)
    if question.limit:
        limit = params.add("UInt64", question.limit)
        return printed(question, fields, params, _newest(table, fields, question.output, conditions, limit))
    order = _order([second(table.time), *_keys(table)])  # that of the store: nothing is sorted
    return printed(question, fields, params, rows(table, columns(table, fields, question.output), conditions, order))


def rows(table: Table, shown: str, conditions: str, order: str, limit: str = "") -> str:
    """The SQL for rows in an order, the first of them where there is a limit.

    They are printed where they are found, and columns have no other name: the engine sorts by what stands in the order,
    then reads and works out the rest for the rows that are left. It would take longer to understand a hundred columns
    of a subquery than to find the rows.
    """
    return f"SELECT {shown} FROM {table.name}{conditions} {order}{f' LIMIT {limit}' if limit else ''}"


def printed(question: Question, fields: Sequence[Field], params: Params, sql: str) -> Query:
    """The query that such SQL of these fields is, in the format asked for."""
    head = csv_header(field.name for field in fields) if question.output == "csv" else b""
    return Query(sql, params.values, OUTPUTS[question.output].store_format, head)


def _keys(table: Table) -> list[str]:
    return [f"`{column}`" for column in ORDER[table.name]]


def _order(keys: Iterable[str], direction: str = "") -> str:
    return "ORDER BY " + ", ".join(f"{key}{direction}" for key in keys)


def _newest(table: Table, fields: Sequence[Field], output: str, conditions: str, limit: str) -> str:
    """The newest rows, oldest first.

    Their oldest time is found before: the sorting key is read backwards until there are enough, with no columns but
    those of the conditions. To read all columns so takes a block of each from every part of the store; that is why the
    rows are then sorted by what is not the order of the store, though it comes to the same.
    """
    time, keys = f"`{table.time}`", _keys(table)
    found = rows(table, time, conditions, _order([second(table.time), time], " DESC"), limit)
    newer = f"{time} >= (SELECT min({time}) FROM ({found}))"
    conditions = f"{conditions} AND {newer}" if conditions else f" WHERE {newer}"
    named = [f"_{number}" for number in range(len(keys))]
    hidden = ", ".join(f"{key} AS {name}" for key, name in zip(keys, named, strict=True))
    shown = f"{columns(table, fields, output)}, {hidden}"
    inner = rows(table, shown, conditions, _order(keys, " DESC"), limit)
    return f"SELECT {names_of(fields, output)} FROM ({inner}) {_order(named)}"
