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
    """The query for rows in their table's order. Raises WrongQuestion."""
    table = TABLES[question.table]
    fields = chosen(question.table, question.fields)
    params = Params()
    source = f"FROM {table.name}{where(table, question, params)}"
    if question.limit:
        sql = _newest(table.name, fields, question.output, source, params.add("UInt64", question.limit))
    else:
        sql = f"SELECT {columns(table, fields, question.output)} {source} {_order(table.name)}"
    head = csv_header(field.name for field in fields) if question.output == "csv" else b""
    return Query(f"{sql}", params.values, OUTPUTS[question.output].store_format, head)


def _keys(table: str) -> tuple[str, ...]:
    """The second changes nothing: it begins the sorting key, and so rows are read in order until there are enough."""
    return second(TABLES[table].time), *(f"`{column}`" for column in ORDER[table])


def _order(table: str) -> str:
    return "ORDER BY " + ", ".join(_keys(table))


def _newest(table: str, fields: Sequence[Field], output: str, source: str, limit: str) -> str:
    """The newest rows, oldest first: the sorting key is read backwards, only the rows that are left are printed.

    They are printed inside, where columns have no other name yet: the engine takes longer to understand a hundred
    columns of a subquery than to find the rows.
    """
    keys = _keys(table)
    shown = columns(TABLES[table], fields, output)
    named = ", ".join(f"{key} AS _{number}" for number, key in enumerate(keys))
    inner = f"SELECT {shown}, {named} {source} ORDER BY {', '.join(f'{key} DESC' for key in keys)} LIMIT {limit}"
    return f"SELECT {names_of(fields, output)} FROM ({inner}) ORDER BY {', '.join(f'_{n}' for n in range(len(keys)))}"
