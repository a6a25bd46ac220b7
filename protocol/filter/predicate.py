"""A filter's tree as a numpy predicate over the columns of a batch: a bool per row.

The second back end beside `hub.query.sql`, and the same answer (`tests/hub/test_filter.py`). A test reads only its own
columns, whole: integers and addresses cost some milliseconds per million rows; strings are looked at once each where
they are of few values, and else only in rows that have any.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import numpy as np

from protocol.columns import Array, ColumnValue, Dict
from protocol.filter import vectors
from protocol.filter.names import WHEN, protocol
from protocol.filter.strings import Strings, pattern, ranked
from protocol.filter.tree import (
    And,
    Arithmetic,
    Call,
    Compare,
    Constant,
    Member,
    Node,
    NonZero,
    Not,
    Operand,
    Or,
    Present,
    Slice,
    Value,
    ranks_bytes,
)
from protocol.filter.vectors import Values, Vector
from protocol.schema import Field

Test = Callable[[Vector], Array]


class Predicate:
    """One filter over one table, to be asked of many batches."""

    def __init__(self, node: Node, table: str) -> None:
        self.node = node
        self.table = table

    def matches(self, columns: Mapping[str, ColumnValue], origin: Mapping[str, str | int] | None = None) -> Array:
        """Which rows pass: bool, shape (rows,). `origin` are the columns that the hub adds, the same in every row."""
        return _Rows(columns, origin or {}, self.table).test(self.node)


class _Rows:
    """The rows of one batch."""

    def __init__(self, columns: Mapping[str, ColumnValue], origin: Mapping[str, str | int], table: str) -> None:
        self.columns = columns
        self.origin = origin
        self.table = table
        self.layers: Any = columns["layers"]
        self.count = len(self.layers)
        self.needs: dict[int, Array] = {}

    # tests

    def test(self, node: Node) -> Array:
        if isinstance(node, And):
            return reduce(operator.and_, map(self.test, node.items))
        if isinstance(node, Or):
            return reduce(operator.or_, map(self.test, node.items))
        if isinstance(node, Not):
            return ~self.test(node.item)
        if isinstance(node, Present):
            return self._present(node)
        if isinstance(node, NonZero):
            return self._any(self.values(node.value), vectors.non_zero, "any")
        if isinstance(node, Compare):
            return self._compare(node)
        if isinstance(node, Member):
            return self._member(node)
        return reduce(operator.xor, map(self.test, node.items))

    def _present(self, node: Present) -> Array:
        if node.value is not None:
            return self.values(node.value).there(self.count)
        found = protocol(node.name, self.table)
        assert found is not None
        mask = self._has(found.need)
        if found.column:
            among = self._among(found.column, found.values)
            mask = mask & (~among if found.others else among)
        return mask

    def _compare(self, node: Compare) -> Array:
        left = self.values(node.left)
        if isinstance(node.right, Constant):
            return self._any(left, _literal(node.operator, node.right, node.left.kind), node.quantifier)
        right = self.values(node.right)
        if ranks_bytes(node.left.kind, node.operator):
            left, right = left.mapped(_ranked), right.mapped(_ranked)
        both = vectors.pairs(left, right, self.count)
        return both.compared(node.operator, node.quantifier, self.count)

    def _member(self, node: Member) -> Array:
        tests = [_item(low, high) for low, high in node.items]
        return self._any(
            self.values(node.left),
            lambda vector: reduce(operator.or_, (test(vector) for test in tests)),
            node.quantifier,
        )

    def _any(self, values: Values, test: Test, quantifier: str) -> Array:
        return values.reduce([test(vector) for vector in values.vectors], quantifier, self.count)

    # values

    def values(self, value: Value) -> Values:
        if isinstance(value, Operand):
            return self._operand(value)
        if isinstance(value, Constant):
            return Values(None, (vectors.constant(value, self.count),))
        if isinstance(value, Slice):
            return self.values(value.of).mapped(lambda vector: vectors.cut(vector, value.pieces))
        if isinstance(value, Call):
            return self._call(value)
        assert isinstance(value, Arithmetic)
        both = vectors.pairs(self.values(value.left), self.values(value.right), self.count)
        return both.combined(value, self.count)

    def _call(self, value: Call) -> Values:
        arguments = [self.values(argument) for argument in value.arguments]
        if value.function in ("max", "min"):
            unsigned = all(argument.kind == "uint" for argument in value.arguments)
            return vectors.extreme(value.function, arguments, self.count, np.uint64 if unsigned else np.int64)
        if value.function == "count":
            return arguments[0].counted(self.count)
        return arguments[0].mapped(vectors.FUNCTIONS[value.function])

    def _operand(self, value: Operand) -> Values:
        """The fields of one operand are present together (`EITHER`), so the first one's presence is that of all."""
        present, item = self._where(value.fields[0]), value.fields[0]
        column = self._column(item.column)
        if item.kind in ("uints", "texts", "map"):
            return vectors.ragged(item, column, present)
        made = tuple(vectors.scalar(each, self._column(each.column)) for each in value.fields)
        if item.kind == "text":
            present = present & (_strings(made[0]).lengths() > 0)
        if item.kind == "seconds":
            present = present & (column >= 0)  # type: ignore[operator]
        return Values(present, made)

    def _where(self, item: Field) -> Array:
        mask = self._has(item.need)
        return mask & self._among(*WHEN[item.name]) if item.name in WHEN else mask

    def _has(self, need: int) -> Array:
        if need not in self.needs:
            bits = np.uint64(need)
            self.needs[need] = (self.layers & bits) == bits if need else np.ones(self.count, dtype=bool)
        return self.needs[need]

    def _among(self, name: str, values: tuple[str | int, ...]) -> Array:
        return reduce(operator.or_, (self._equal(name, value) for value in values))

    def _equal(self, name: str, value: str | int) -> Array:
        column: Any = self._column(name)
        if isinstance(column, Dict):
            assert isinstance(value, str)
            known = np.array([each == value for each in column.values], dtype=bool)
            return known[column.codes] if len(known) else np.zeros(self.count, dtype=bool)
        found: Array = column == value
        return found

    def _column(self, name: str) -> ColumnValue:
        if name in self.columns:
            return self.columns[name]
        value = self.origin[name]
        if isinstance(value, str):
            return Dict(np.zeros(self.count, dtype="<u4"), (value,))
        return np.full(self.count, value, dtype=np.uint64)


def _literal(sign: str, constant: Constant, kind: str = "") -> Test:
    """The comparison of values (of `kind`, which patterns ask for) with a literal."""
    value = constant.value
    if sign == "matches":
        search = pattern(str(value), kind)
        return lambda vector: _strings(vector).each(search)
    if isinstance(value, IPv4Network | IPv6Network):
        network = value
        return lambda vector: vectors.in_network(vector, sign, network)
    literal = vectors.literal(constant)
    if ranks_bytes(constant.kind, sign):
        rank = ranked(literal)
        return lambda vector: vectors.compare(_ranked(vector), sign, rank)
    return lambda vector: vectors.compare(vector, sign, literal)


def _strings(vector: Vector) -> Strings:
    assert isinstance(vector, Strings)
    return vector


def _ranked(vector: Vector) -> Vector:
    return _strings(vector).mapped(ranked)


def _item(low: Constant, high: Constant | None) -> Test:
    if high is None:
        return _literal("==", low)
    above, below = _literal(">=", low), _literal("<=", high)
    return lambda vector: above(vector) & below(vector)
