"""Figures of groups: sums of flows, and how many calls there were, how long they took and how many failed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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


@dataclass(slots=True)
class _Rows:
    """Figures straight from rows."""

    table: Table
    least: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, str]:
        """The expressions in the place of `rollups.FIGURES`."""
        found = {figure.name: figure.of_rows for figure in rollups.FIGURES[self.table.name]}
        sketch = {f"p{p}": f"quantileDDIf(0.01, {p / 100})(`latency`, `latency` >= 0)" for p in _PERCENTS}
        return found | sketch | {"buckets": rollups.buckets("")}

    def min(self, value: str) -> str:
        """The least of an expression over columns."""
        return f"min({value})"


class _Sums(_Rows):
    """Figures from sums over several tables; `least` are the expressions that these have to hold the least of."""

    def figures(self) -> dict[str, str]:
        """Likewise, over the sums that `_merged` selects."""
        found = {figure.name: f"sum(a_{figure.name})" for figure in rollups.FIGURES[self.table.name]}
        sketch = {f"p{p}": f"quantileDDMerge(0.01, {p / 100})(a_latency)" for p in _PERCENTS}
        return found | sketch | {"buckets": "sumMapMerge(a_buckets)"}

    def min(self, value: str) -> str:
        """Likewise."""
        self.least.append(value)
        return f"min(m{len(self.least) - 1})"


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
    over = _Rows(table) if found is None else _Sums(table)
    figures = over.figures()
    names = [f"g{index}" for index in range(len(keys))]
    order_keys = _sorted(question, keys, over, figures)
    grouped = [expression(table, key) for key in keys]
    selected = [
        *(f"{value} AS {name}" for name, value in zip(names, grouped if found is None else names, strict=True)),
        *(f"{value.format(**figures)} AS s{index}" for index, (_, value, _) in enumerate(shown)),
        *(f"{key.expression} AS k{index}" for index, key in enumerate(order_keys)),
    ]
    source = f"{table.name}{where(table, question, params)}"
    if found is not None:
        source = f"({_merged(question, table, grouped, over.least, found, params)})"
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
    looked_at = [expression(table, key) for key in keys]
    looked_at += [key.expression for field in keys if field.kind != "map" for key in by_field(field, False)]
    if question.filter is not None:
        looked_at.append(compile_filter(question.filter, Params(), table.name))
    words = set(re.findall(r"\w+", " ".join(looked_at)))
    stored = {column.name for column in shown_columns(table)}
    return words & stored <= {*rollups.KEYS[table.name], *(part.name for part in PARTS)}


def _merged(
    question: Question,
    table: Table,
    grouped: Sequence[str],
    least: Sequence[str],
    found: pieces.Pieces,
    params: Params,
) -> str:
    """Each piece grouped by itself, one after the other."""
    narrowed = [] if question.filter is None else [compile_filter(question.filter, params, table.name)]
    names = [f"g{index}" for index in range(len(grouped))]
    shown = [f"{value} AS {name}" for name, value in zip(names, grouped, strict=True)]
    shown += [f"min({value}) AS m{index}" for index, value in enumerate(least)]

    def piece(one: pieces.Piece) -> str:
        figures = (f"{f.of_sums if one.sums else f.of_rows} AS a_{f.name}" for f in rollups.FIGURES[table.name])
        conditions = " AND ".join((*one.conditions, *narrowed))
        return f"SELECT {', '.join((*shown, *figures))} FROM {one.table} WHERE {conditions} GROUP BY {', '.join(names)}"

    return " UNION ALL ".join(map(piece, found.pieces))


def _sorted(question: Question, keys: Sequence[Field], over: _Rows, expressions: Mapping[str, str]) -> list[Key]:
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
            found += (Key(over.min(key.expression), key.descending) for key in by_field(fields[name], descending))
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
