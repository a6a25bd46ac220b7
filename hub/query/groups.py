"""Figures of groups: sums of flows, and how many calls there were, how long they took and how many failed."""

from __future__ import annotations

from collections.abc import Sequence

from hub.query.order import Key, by_field, by_figure, no_such, ordering
from hub.query.output import OUTPUTS, clickhouse_type, csv_header, expression, json_row
from hub.query.select import Contradiction, Query, Question, WrongQuestion, chosen, where
from hub.query.sql import Params
from protocol.schema import TABLES, Field, fields_of
from protocol.sketch import LOG_GAMMA, SKETCH

_SECONDS = "Nullable(Float64)"
FIGURES = {
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
        ("call.request_bytes", "sum(request_bytes)", "UInt64"),
        ("call.response_bytes", "sum(response_bytes)", "UInt64"),
    ),
}
"""What is worked out of each group: public name, expression, type."""
_SKETCHED = (
    SKETCH,
    f"toJSONString(sumMapIf([toInt32(ceil(log(greatest(latency, 1)) / {LOG_GAMMA!r}))], [toUInt64(1)], latency >= 0))",
    "String",
)
FIRST = {"flows": "sum(bytes + bytes_rev)", "calls": "count()"}
"""Without `sort` the groups with the most of this come first."""


def groups(question: Question) -> Query:
    """The query for one row per group of `question.by`: the `top` first in order. Raises WrongQuestion."""
    if question.table not in FIGURES:
        raise WrongQuestion("only flows and calls can be grouped with by")
    if question.fields:
        raise Contradiction("with by the fields are those of the groups: leave fields out")
    table, keys, params = TABLES[question.table], chosen(question.table, question.by), Params()
    figures = (*FIGURES[table.name], *([_SKETCHED] if question.sketch and table.name == "calls" else []))
    if twice := {key.name for key in keys} & {name for name, _, _ in figures}:
        raise WrongQuestion(f"{', '.join(sorted(twice))} is worked out of each group: it cannot be grouped by")
    names = [f"g{index}" for index in range(len(keys))]
    selected = [
        *(f"{expression(table, key)} AS {name}" for name, key in zip(names, keys, strict=True)),
        *(f"{value} AS s{index}" for index, (_, value, _) in enumerate(figures)),
    ]
    found = _sorted(question, keys)
    selected += [f"{key.expression} AS k{index}" for index, key in enumerate(found)]
    order = ordering([Key(f"k{index}", key.descending) for index, key in enumerate(found)], names)
    limit = f" LIMIT {params.add('UInt64', question.top)}" if question.top else ""
    inner = (
        f"SELECT {', '.join(selected)} FROM {table.name}{where(table, question, params)} "
        f"GROUP BY {', '.join(names)} {order}{limit}"
    )
    members = [
        *((key.name, name, f"Nullable({clickhouse_type(table, key)})") for name, key in zip(names, keys, strict=True)),
        *((name, f"s{index}", kind) for index, (name, _, kind) in enumerate(figures)),
    ]
    return _shown(question, members, f"FROM ({inner}) {order}", params)


def _sorted(question: Question, keys: Sequence[Field]) -> list[Key]:
    """The keys of order, as aggregates."""
    if not question.sort:
        return [Key(FIRST[question.table], True)]
    figures = {name: value for name, value, _ in FIGURES[question.table]}
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


def _shown(question: Question, members: Sequence[tuple[str, str, str]], source: str, params: Params) -> Query:
    json = question.output in ("ndjson", "json")
    shown = json_row(members) if json else ", ".join(f"{value} AS `{name}`" for name, value, _ in members)
    head = csv_header(name for name, _, _ in members) if question.output == "csv" else b""
    return Query(f"SELECT {shown} {source}", params.values, OUTPUTS[question.output].store_format, head)
