"""A filter's tree as a WHERE condition. Values never become SQL text: each is a typed parameter.

Every condition is 0 or 1, never NULL: a comparison asks first whether the field is present, so that `not` is the
complement over all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from hub.query.filter import PROTOCOLS, And, Compare, Member, Node, Not, Operand, Or, Present
from hub.query.values import KINDS, OPERATORS, Literal
from protocol.schema import Field


@dataclass(slots=True)
class Params:
    """The parameters of one query: name -> value."""

    values: dict[str, Any] = field(default_factory=dict)

    def add(self, clickhouse: str, value: Any) -> str:
        """Take a value and return its placeholder."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{clickhouse}}}"


SEVERAL = ("uints", "texts", "map")
"""Kinds of fields with any number of values; none is absent."""


def several(item: Field) -> str:
    """The values of a field that can have several, as an array; a map's are its values."""
    column = f"`{item.column}`"
    if item.kind == "map":
        return f"mapValues({column})"
    if item.only:
        column = f"arrayFilter(v -> bitAnd(v, {item.only}) = {item.only}, {column})"
    if item.bits:
        column = f"arrayMap(v -> bitAnd(bitShiftRight(v, {item.shift}), {(1 << item.bits) - 1}), {column})"
    return column


def present(item: Field) -> str:
    """The condition under which a field has a value."""
    column = f"`{item.column}`"
    conditions = []
    if item.need:
        conditions.append(f"bitAnd(layers, {item.need}) = {item.need}")
    if item.kind == "text":
        conditions.append(f"{column} != ''")
    if item.kind in SEVERAL:
        conditions.append(f"notEmpty({several(item)})")
    if item.kind == "seconds":
        conditions.append(f"{column} >= 0")
    return " AND ".join(conditions) or "1"


def compile_filter(node: Node, params: Params) -> str:
    """The condition of a tree; its literals are added to `params`."""
    if isinstance(node, And | Or):
        word = " AND " if isinstance(node, And) else " OR "
        return "(" + word.join(compile_filter(item, params) for item in node.items) + ")"
    if isinstance(node, Not):
        return f"(NOT {compile_filter(node.item, params)})"
    if isinstance(node, Present):
        return _present(node)
    if isinstance(node, Member):
        return _any(node.operand, lambda value: _one_of(node, value, params), "any")
    return _any(node.operand, lambda value: _compare(node, value, params), OPERATORS[node.operator].quantifier)


def _present(node: Present) -> str:
    if node.operand is None:
        bit = int(PROTOCOLS[node.name])
        return f"(bitAnd(layers, {bit}) = {bit})"
    return "(" + " OR ".join(f"({present(item)})" for item in node.operand.fields) + ")"


def _any(operand: Operand, test: Callable[[str], str], quantifier: str) -> str:
    """`test` of any or of all values of an operand; false where there is none.

    The fields of one operand are present together (`EITHER`), so the first one's presence is that of all.
    """
    word = " OR " if quantifier == "any" else " AND "
    tests = word.join(_test(item, test, quantifier) for item in operand.fields)
    return f"(({present(operand.fields[0])}) AND ({tests}))"


def _test(item: Field, test: Callable[[str], str], quantifier: str) -> str:
    if item.kind in SEVERAL:
        function = "arrayExists" if quantifier == "any" else "arrayAll"
        return f"{function}(v -> {test('v')}, {several(item)})"
    if item.kind == "bool":
        return test(f"bitTest(`{item.column}`, {item.shift})")
    return test(f"`{item.column}`")


def _one_of(node: Member, value: str, params: Params) -> str:
    return "(" + " OR ".join(_between(node.operand.kind, value, low, high, params) for low, high in node.items) + ")"


def _between(kind: str, value: str, low: Literal, high: Literal | None, params: Params) -> str:
    if high is None:
        return _equal(kind, value, low, params)
    return f"({value} BETWEEN {_bind(kind, low, params)} AND {_bind(kind, high, params)})"


def _equal(kind: str, value: str, literal: Literal, params: Params) -> str:
    if isinstance(literal, IPv4Network | IPv6Network):
        return _between(kind, value, literal.network_address, literal.broadcast_address, params)
    return f"({value} = {_bind(kind, literal, params)})"


def _compare(node: Compare, value: str, params: Params) -> str:
    operator = OPERATORS[node.operator].sql
    kind = node.operand.kind
    if operator == "contains":
        return f"(position({value}, {_bind(kind, node.value, params)}) > 0)"
    if operator == "matches":
        return f"match({value}, {_bind(kind, f'(?i){node.value}', params)})"
    if operator in ("=", "!="):
        equal = _equal(kind, value, node.value, params)
        return equal if operator == "=" else f"(NOT {equal})"
    return f"({value} {operator} {_bind(kind, node.value, params)})"


def _bind(kind: str, literal: Literal, params: Params) -> str:
    if isinstance(literal, IPv4Address):
        literal = f"::ffff:{literal}"
    elif isinstance(literal, IPv6Address):
        literal = str(literal)
    return params.add(KINDS[kind].clickhouse, literal)
