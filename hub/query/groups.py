"""Figures of groups: sums of flows, and how many calls there were, how long they took and how many failed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hub.query import pieces
from hub.query.order import Key, by_field, by_figure, no_such, ordering
from hub.query.output import OUTPUTS, clickhouse_type, csv_header, expression, json_row
from hub.query.select import Contradiction, Query, Question, WrongQuestion, chosen, where
from hub.query.sql import Params, compile_filter
from hub.store import rollups
from hub.store.ddl import shown_columns
from protocol.schema import PARTS, TABLES, Field, Table, fields_of
from protocol.sketch import SKETCH

_SECONDS = "Nullable(Float64)"
FIGURES = {
    "flows": (
        *((f"flow.{name}", f"{{{name}}}", "UInt64") for name in ("packets", "bytes", "packets_rev", "bytes_rev")),
        ("flow.records", "{records}", "UInt64"),
    ),
    "calls": (
        ("call.count", "{records}", "UInt64"),
        ("call.errors", "{errors}", "UInt64"),
        ("call.error_rate", "{errors} / {records}", "Float64"),
        ("call.unanswered", "{unanswered}", "UInt64"),
        *(
            (f"call.latency_p{percent}", f"if({{records}} > {{unanswered}}, {{p{percent}}} / 1e9, NULL)", _SECONDS)
            for percent in (50, 95, 99)
        ),
        ("call.request_bytes", "{request_bytes}", "UInt64"),
        ("call.response_bytes", "{response_bytes}", "UInt64"),
    ),
}
"""What is worked out of each group: public name, expression over `hub.store.rollups.FIGURES`, type."""
_SKETCHED = (SKETCH, "toJSONString({buckets})", "String")
FIRST = {"flows": "{bytes} + {bytes_rev}", "calls": "{records}"}
"""Without `sort` the groups with the most of this come first."""
_PERCENTS = (50, 95, 99)


def _of_rows(table: str) -> dict[str, str]:
    """What stands in the place of `rollups.FIGURES`, straight from rows."""
    found = {figure.name: figure.of_rows for figure in rollups.FIGURES[table]}
    sketch = {f"p{p}": f"quantileDDIf(0.01, {p / 100})(`latency`, `latency` >= 0)" for p in _PERCENTS}
    return found | sketch | {"buckets": rollups.buckets("")}


def _of_sums(table: str) -> dict[str, str]:
    """Likewise, over the sums that `_merged` selects."""
    found = {figure.name: f"sum(a_{figure.name})" for figure in rollups.FIGURES[table]}
    sketch = {f"p{p}": f"quantileDDMerge(0.01, {p / 100})(a_latency)" for p in _PERCENTS}
    return found | sketch | {"buckets": "sumMapMerge(a_buckets)"}


def groups(question: Question) -> Query:
    """The query for one row per group of `question.by`: the `top` first in order. Raises WrongQuestion."""
    if question.table not in FIGURES:
        raise WrongQuestion("only flows and calls can be grouped with by")
    if question.fields:
        raise Contradiction("with by the fields are those of the groups: leave fields out")
    table, keys, params = TABLES[question.table], chosen(question.table, question.by), Params()
    shown = (*FIGURES[table.name], *([_SKETCHED] if question.sketch and table.name == "calls" else []))
    if twice := {key.name for key in keys} & {name for name, _, _ in shown}:
        raise WrongQuestion(f"{', '.join(sorted(twice))} is worked out of each group: it cannot be grouped by")
    found = _divided(question, table, keys, params)
    figures = _of_rows(table.name) if found is None else _of_sums(table.name)
    names = [f"g{index}" for index in range(len(keys))]
    order_keys = _sorted(question, keys, figures)
    selected = [
        *(f"{expression(table, key)} AS {name}" for name, key in zip(names, keys, strict=True)),
        *(f"{value.format(**figures)} AS s{index}" for index, (_, value, _) in enumerate(shown)),
        *(f"{key.expression} AS k{index}" for index, key in enumerate(order_keys)),
    ]
    if found is None:
        source = f"{table.name}{where(table, question, params)}"
    else:
        source = f"({_merged(question, table, keys, found, params)})"
    order = ordering([Key(f"k{index}", key.descending) for index, key in enumerate(order_keys)], names)
    limit = f" LIMIT {params.add('UInt64', question.top)}" if question.top else ""
    inner = f"SELECT {', '.join(selected)} FROM {source} GROUP BY {', '.join(names)} {order}{limit}"
    members = [
        *((key.name, name, f"Nullable({clickhouse_type(table, key)})") for name, key in zip(names, keys, strict=True)),
        *((name, f"s{index}", kind) for index, (name, _, kind) in enumerate(shown)),
    ]
    return _shown(question, members, f"FROM ({inner}) {order}", params, found)


# -- rows and sums -------------------------------------------------------------------------------------------------


def _divided(question: Question, table: Table, keys: Sequence[Field], params: Params) -> pieces.Pieces | None:
    """The rows and sums that answer the question; None where rows alone do."""
    rolled = question.rolled
    if not rolled.periods or not pieces.worth_it(question.since, question.until, rolled):
        return None
    if not _carried(question, table, keys):
        return None
    return pieces.divided(table.name, question.since, question.until, question.commit, rolled, params)


def _carried(question: Question, table: Table, keys: Sequence[Field]) -> bool:
    """Whether sums have every column that the groups, their order and the filter look at."""
    columns = _looked_at(table, keys)
    if question.filter is not None:
        columns |= _named(table, compile_filter(question.filter, Params(), table.name))
    return columns <= {*rollups.KEYS[table.name], *(part.name for part in PARTS)}


def _looked_at(table: Table, keys: Sequence[Field]) -> set[str]:
    """The columns that the groups and their order look at."""
    values = [expression(table, key) for key in keys]
    values += [key.expression for field in keys if field.kind != "map" for key in by_field(field, False)]
    return _named(table, " ".join(values))


def _named(table: Table, sql: str) -> set[str]:
    """The columns of a table that an expression names."""
    return set(re.findall(r"\w+", sql)) & {column.name for column in shown_columns(table)}


def _merged(question: Question, table: Table, keys: Sequence[Field], found: pieces.Pieces, params: Params) -> str:
    """Each piece grouped by itself, one after the other: by columns as they are stored, which are grouped again by what
    people see of them, so that few are printed."""
    narrowed = [] if question.filter is None else [compile_filter(question.filter, params, table.name)]
    columns = ", ".join(f"`{name}`" for name in sorted(_looked_at(table, keys)))

    def piece(one: pieces.Piece) -> str:
        figures = [f"{f.of_sums if one.sums else f.of_rows} AS a_{f.name}" for f in rollups.FIGURES[table.name]]
        conditions = " AND ".join((*one.conditions, *narrowed))
        return f"SELECT {columns}, {', '.join(figures)} FROM {one.table} WHERE {conditions} GROUP BY {columns}"

    return " UNION ALL ".join(map(piece, found.pieces))


def _sorted(question: Question, keys: Sequence[Field], expressions: Mapping[str, str]) -> list[Key]:
    """The keys of order, as aggregates."""
    if not question.sort:
        return [Key(FIRST[question.table].format(**expressions), True)]
    figures = {name: value.format(**expressions) for name, value, _ in FIGURES[question.table]}
    fields = {key.name: key for key in keys}
    found: list[Key] = []
    for name, descending in question.sort:
        if name in figures:
            found += by_figure(figures[name], descending)
        elif name in fields:
            found += (Key(f"min({key.expression})", key.descending) for key in by_field(fields[name], descending))
        else:
            error = no_such(f"these groups of {question.table}", name, [*fields, *figures])
            raise Contradiction(str(error)) if name in fields_of(question.table) else error
    return found


def _shown(
    question: Question,
    members: Sequence[tuple[str, str, str]],
    source: str,
    params: Params,
    found: pieces.Pieces | None,
) -> Query:
    json = question.output in ("ndjson", "json")
    shown = json_row(members) if json else ", ".join(f"{value} AS `{name}`" for name, value, _ in members)
    head = csv_header(name for name, _, _ in members) if question.output == "csv" else b""
    query = Query(f"SELECT {shown} {source}", params.values, OUTPUTS[question.output].store_format, head)
    if found is None:
        return query
    return replace(query, tables=tuple(pieces.tables(found)), rounded=found.rounded)
