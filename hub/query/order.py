"""Answers in an order that people choose: `frame.len:desc,ip.src`. What has no value comes last, either way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from hub.query.output import columns
from hub.query.select import ORDER, Query, Question, WrongQuestion, chosen, printed, rows, where
from hub.query.sql import SEVERAL, Params, present, several
from protocol.schema import TABLES, Field, fields_of


@dataclass(frozen=True, slots=True)
class Key:
    """One expression to sort by."""

    expression: str
    descending: bool = False


def read_sort(names: Iterable[str]) -> tuple[tuple[str, bool], ...]:
    """`NAME`, `NAME:asc` or `NAME:desc` as names and directions. Raises ValueError with what is taken."""
    found = []
    for text in names:
        name, colon, direction = text.partition(":")
        if colon and direction not in ("asc", "desc"):
            raise ValueError(f"a field, or FIELD:desc, not {text[:80]!r}")
        found.append((name, direction == "desc"))
    return tuple(found)


def sorted_rows(question: Question) -> Query:
    """The query for rows in the order of `question.sort`; `limit` are the first of them. Raises WrongQuestion."""
    table, params = TABLES[question.table], Params()
    known = fields_of(question.table)
    keys: list[Key] = []
    for name, descending in question.sort:
        if name not in known:
            raise no_such(question.table, name, known)
        keys += by_field(known[name], descending)
    fields = chosen(table.name, question.fields)
    shown = columns(table, fields, question.output)
    conditions, order = where(table, question, params), ordering(keys, ORDER[table.name])
    limit = params.add("UInt64", question.limit) if question.limit else ""
    return printed(question, fields, params, rows(table, shown, conditions, order, limit))


def by_field(field: Field, descending: bool) -> tuple[Key, ...]:
    """The keys of a field: addresses as numbers, absent values last. Raises WrongQuestion for a map."""
    if field.kind == "map":
        raise WrongQuestion(f"rows cannot be sorted by {field.name}: it is a map")
    value = several(field) if field.kind in SEVERAL else f"`{field.column}`"
    if field.kind == "bool":
        value = f"bitTest({value}, {field.shift})"
    condition = present(field)
    if condition == "1":
        return (Key(value, descending),)
    return Key(f"NOT ({condition})"), Key(f"if({condition}, {value}, defaultValueOfArgumentType({value}))", descending)


def by_figure(value: str, descending: bool) -> tuple[Key, ...]:
    """The keys of a figure, which may be NULL."""
    return Key(f"isNull({value})"), Key(value, descending)


def ordering(keys: Sequence[Key], rest: Iterable[str]) -> str:
    """The ORDER BY clause; columns of `rest` decide between equals."""
    first = (f"{key.expression}{' DESC' if key.descending else ''}" for key in keys)
    return "ORDER BY " + ", ".join((*first, *(f"`{column}`" for column in rest)))


def no_such(what: str, name: str, known: Iterable[str]) -> WrongQuestion:
    """The error for a name that cannot be sorted by."""
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return WrongQuestion(f"{what} cannot be sorted by {name[:80]!r}" + hint)
