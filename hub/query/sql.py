"""A filter's tree as a WHERE condition. Values never become SQL text: each is a typed parameter.

Every condition is 0 or 1, never NULL: a comparison asks first whether the field is present, so that `not` is the
complement over all rows.

Values have one of two shapes: `Scalars`, expressions that are all there where one condition holds, or `Several`, an
array. The common filters (a column and a literal) stay as plain as if they had been written by hand, so that the store
can use its indexes; what combines arrays goes through lambdas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeAlias

from protocol.filter.names import ADDRESSES, FIRST, WHEN, key_of, protocol
from protocol.filter.tree import (
    SIGNED,
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
    limits,
    ranks_bytes,
)
from protocol.schema import Field, Has

SEVERAL = ("uints", "texts", "map")
"""Kinds of fields with any number of values; none is absent."""

_TYPES = {
    "uint": "UInt64", "int": "Int64", "bool": "UInt8", "time": "Int64", "seconds": "Int64", "ip": "IPv6",
    "mac": "UInt64", "epoch": "UInt64", "text": "String", "bytes": "String",
}  # fmt: skip
"""Kind of a literal -> its type in the store."""


@dataclass(slots=True)
class Params:
    """The parameters of one query: name -> value."""

    values: dict[str, Any] = field(default_factory=dict)

    def add(self, clickhouse: str, value: Any) -> str:
        """Take a value and return its placeholder."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{clickhouse}}}"


@dataclass(frozen=True, slots=True)
class Scalars:
    """Expressions that all have a value where `present` holds, and none elsewhere."""

    present: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Several:
    """An array of values, which may be empty where `present` holds."""

    present: str
    array: str


Values: TypeAlias = "Scalars | Several"


# -- fields --------------------------------------------------------------------------------------------------------


def several(item: Field) -> str:
    """The values of a field that can have several, as an array; a map's are its values."""
    column = f"`{item.column}`"
    if item.kind == "map":
        key = key_of(item)  # has no quotes
        return f"mapValues(mapFilter((k, v) -> k = '{key}', {column}))" if key else f"mapValues({column})"
    if item.only:
        column = f"arrayFilter(v -> bitAnd(v, {item.only}) = {item.only}, {column})"
    if item.bits:
        column = f"arrayMap(v -> bitAnd(bitShiftRight(v, {item.shift}), {(1 << item.bits) - 1}), {column})"
    if item.name in FIRST:
        column = f"arraySlice({column}, 1, 1)"
    return column


def present(item: Field) -> str:
    """The condition under which a field has a value."""
    column = f"`{item.column}`"
    conditions = []
    if item.need:
        conditions.append(f"bitAnd(layers, {item.need}) = {item.need}")
    if item.name in WHEN:
        conditions.append(_among(*WHEN[item.name]))
    if item.kind == "text":
        conditions.append(f"{column} != ''")
    if item.kind in SEVERAL:
        conditions.append(f"notEmpty({several(item)})")
    if item.kind == "seconds":
        conditions.append(f"{column} >= 0")
    return " AND ".join(conditions) or "1"


def _among(column: str, values: tuple[str | int, ...]) -> str:
    """Whether a column has one of some constants of ours, which no user wrote."""
    tests = (f"`{column}` = {value}" if isinstance(value, int) else f"`{column}` = '{value}'" for value in values)
    return f"({' OR '.join(tests)})"


def _operand(operand: Operand) -> Values:
    """The fields of one operand are present together (`EITHER`), so the first one's presence is that of all; but for
    texts."""
    item = operand.fields[0]
    if item.kind in SEVERAL:
        array = several(item)
        if item.name in ADDRESSES:
            array = f"arrayMap(v -> toIPv6OrDefault(v), {array})"
        return Several(present(item), array)
    if len(operand.fields) > 1 and item.kind == "text":  # of the names of two sides one may be there
        both = f"arrayFilter(v -> v != '', [{', '.join(map(_scalar, operand.fields))}])"
        return Several(f"notEmpty({both})", both)
    return Scalars(present(item), tuple(map(_scalar, operand.fields)))


def _scalar(item: Field) -> str:
    return f"bitTest(`{item.column}`, {item.shift})" if item.kind == "bool" else f"`{item.column}`"


# -- values --------------------------------------------------------------------------------------------------------


def _array(values: Values) -> str:
    return values.array if isinstance(values, Several) else f"[{', '.join(values.items)}]"


def _mapped(values: Values, each: Callable[[str], str]) -> Values:
    if isinstance(values, Scalars):
        return Scalars(values.present, tuple(map(each, values.items)))
    return Several(values.present, f"arrayMap(v -> {each('v')}, {values.array})")


def _both(*values: Values) -> str:
    return " AND ".join(f"({each.present})" for each in values if each.present != "1") or "1"


class _Compiler:
    """One filter over one table; `params` takes its literals."""

    def __init__(self, params: Params, table: str) -> None:
        self.params = params
        self.table = table
        self.names = 0

    def _name(self) -> str:
        self.names += 1
        return f"v{self.names}"

    # tests

    def test(self, node: Node) -> str:
        if isinstance(node, And | Or):
            word = " AND " if isinstance(node, And) else " OR "
            return "(" + word.join(map(self.test, node.items)) + ")"
        if isinstance(node, Not):
            return f"(NOT {self.test(node.item)})"
        if isinstance(node, Present):
            return self._present(node)
        if isinstance(node, NonZero):
            return self._any(
                self.values(node.value), _NON_ZERO["bytes" if node.value.kind == "bytes" else "int"], "any"
            )
        if isinstance(node, Compare):
            return self._compare(node)
        if isinstance(node, Member):
            return self._member(node)
        return "((" + " + ".join(map(self.test, node.items)) + ") % 2 = 1)"

    def _present(self, node: Present) -> str:
        if node.value is not None:
            return f"({_operand(node.value).present})"
        found = protocol(node.name, self.table)
        assert found is not None
        conditions = [f"bitAnd(layers, {found.need}) = {found.need}"] if found.need else []
        if found.column:
            among = _among(found.column, found.values)
            conditions.append(f"NOT {among}" if found.others else among)
        return f"({' AND '.join(conditions) or '1'})"

    def _compare(self, node: Compare) -> str:
        left = self.values(node.left)
        if isinstance(node.right, Constant):
            right = node.right
            if node.operator == "matches" and node.left.kind == "bytes":  # each byte is a character
                left = _mapped(left, lambda v: f"convertCharset({v}, 'ISO-8859-1', 'UTF-8')")
            return self._any(left, lambda v: self._literal(node.operator, v, right), node.quantifier)
        return self._pairs(left, self.values(node.right), _pair(node), node.quantifier)

    def _member(self, node: Member) -> str:
        def test(value: str) -> str:
            return "(" + " OR ".join(self._item(value, low, high) for low, high in node.items) + ")"

        return self._any(self.values(node.left), test, node.quantifier)

    def _item(self, value: str, low: Constant, high: Constant | None) -> str:
        if high is None:
            return self._literal("==", value, low)
        if low.kind == "bytes":
            return f"({self._literal('>=', value, low)} AND {self._literal('<=', value, high)})"
        return f"({value} BETWEEN {self._bind(low.kind, low.value)} AND {self._bind(high.kind, high.value)})"

    def _any(self, values: Values, test: Callable[[str], str], quantifier: str) -> str:
        """`test` of any or of all values; false where the field is absent."""
        if isinstance(values, Scalars):
            found = (" OR " if quantifier == "any" else " AND ").join(map(test, values.items))
        else:
            name = self._name()
            function = "arrayExists" if quantifier == "any" else "arrayAll"
            found = f"{function}({name} -> {test(name)}, {values.array})"
        return f"(({values.present}) AND ({found}))"

    def _pairs(self, left: Values, right: Values, test: Callable[[str, str], str], quantifier: str) -> str:
        """`test` of any or of all pairs; false where a side is absent."""
        if quantifier == "any":
            return self._any(left, lambda a: self._any(right, lambda b: test(a, b), "any"), "any")
        every = self._any(left, lambda a: self._any(right, lambda b: test(a, b), "all"), "all")
        return f"(({_both(left, right)}) AND {every})"

    # values

    def values(self, value: Value) -> Values:
        if isinstance(value, Operand):
            return _operand(value)
        if isinstance(value, Constant):
            return Scalars("1", (self._bind(value.kind, value.value),))
        if isinstance(value, Slice):
            return self._slice(value)
        if isinstance(value, Call):
            return self._call(value)
        return self._arithmetic(value)

    def _slice(self, value: Slice) -> Values:
        kind = _bytes_of(value.of)
        return _mapped(self.values(value.of), lambda v: _cut(kind(v), value.pieces))

    def _call(self, value: Call) -> Values:
        arguments = [self.values(argument) for argument in value.arguments]
        if value.function in ("max", "min"):
            return _extreme(value, arguments)
        (one,) = arguments
        if value.function == "count":
            counted = str(len(one.items)) if isinstance(one, Scalars) else f"toInt64(length({one.array}))"
            return Scalars(one.present, (f"toInt64({counted})",))
        return _mapped(one, _FUNCTIONS[value.function](value.arguments[0]))

    def _arithmetic(self, value: Arithmetic) -> Values:
        left, right = self.values(value.left), self.values(value.right)
        where = _both(left, right)
        if value.operator == "&" and isinstance(left, Scalars) and isinstance(right, Scalars) and value.kind == "int":
            return Scalars(where, tuple(f"bitAnd({a}, {b})" for a in left.items for b in right.items))
        a, b, r = self._name(), self._name(), self._name()
        each = _RESULTS[value.operator](a, b, value)
        nested = f"arrayFlatten(arrayMap({a} -> arrayMap({b} -> {each}, {_array(right)}), {_array(left)}))"
        if value.kind == "bytes":
            return Several(where, f"arrayFilter({r} -> {r} != '', {nested})")
        least, most = limits(value.bits)
        fits = f"arrayFilter({r} -> {r} BETWEEN {least} AND {most}, {nested})"
        return Several(where, f"arrayMap({r} -> toInt64({r}), {fits})")

    # literals

    def _literal(self, operator: str, value: str, constant: Constant) -> str:
        literal, kind = constant.value, constant.kind
        if isinstance(literal, IPv4Network | IPv6Network):
            return self._network(operator, value, literal)
        if operator == "contains":
            return f"(position({value}, {self._bind(kind, literal)}) > 0)" if literal else "0"
        if operator == "matches":
            return f"match({value}, {self._bind(kind, '(?i-s)' + str(literal))})"
        return _plain(operator, value, self._bind(kind, literal), kind)

    def _network(self, operator: str, value: str, network: IPv4Network | IPv6Network) -> str:
        """As the addresses' first bits compare with the network's."""
        first, last = network.network_address, network.broadcast_address
        if operator in ("==", "!="):
            inside = f"({value} BETWEEN {self._bind('ip', first)} AND {self._bind('ip', last)})"
            return inside if operator == "==" else f"(NOT {inside})"
        return _plain(operator, value, self._bind("ip", first if operator in ("<", ">=") else last))

    def _bind(self, kind: str, literal: Any) -> str:
        if isinstance(literal, IPv4Address):
            literal = f"::ffff:{literal}"
        elif isinstance(literal, IPv6Address):
            literal = str(literal)
        if isinstance(literal, bytes):
            return f"unhex({self.params.add('String', literal.hex())})"
        return self.params.add(_TYPES[kind], literal)


def compile_filter(node: Node, params: Params, table: str) -> str:
    """The condition of a tree over a table; its literals are added to `params`."""
    return _Compiler(params, table).test(node)


def _extreme(value: Call, arguments: list[Values]) -> Values:
    cast = "toUInt64" if all(argument.kind == "uint" for argument in value.arguments) else "toInt64"
    items = ", ".join(f"arrayMap(v -> {cast}(v), {_array(each)})" for each in arguments)
    return Scalars(_both(*arguments), (f"array{value.function.capitalize()}(arrayConcat({items}))",))


# -- expressions ---------------------------------------------------------------------------------------------------


def _pair(node: Compare) -> Callable[[str, str], str]:
    """The comparison of a value on the left with one on the right."""
    if node.operator == "contains":
        return lambda a, b: f"({b} != '' AND position({a}, {b}) > 0)"
    return lambda a, b: _plain(node.operator, a, b, node.left.kind)


def _plain(operator: str, left: str, right: str, kind: str = "") -> str:
    if ranks_bytes(kind, operator):
        left, right = (f"tuple(length({side}), {side})" for side in (left, right))
    return f"({left} {'=' if operator == '==' else operator} {right})"


_NON_ZERO: dict[str, Callable[[str], str]] = {
    "int": lambda v: f"{v} != 0",
    "bytes": lambda v: f"{v} != repeat(unhex('00'), length({v}))",
}


def _is_four(value: Value) -> bool | None:
    """Whether addresses are IPv4; None where they may be either."""
    need = value.fields[0].need if isinstance(value, Operand) else 0
    if need & (Has.IPV4 | Has.ARP_IPV4):
        return True
    return False if need & Has.IPV6 else None


def _bytes_of(value: Value) -> Callable[[str], str]:
    """The bytes of a value in network order."""
    if value.kind == "mac":
        return lambda v: f"unhex(leftPad(hex({v}), 12, '0'))"
    if value.kind != "ip":
        return lambda v: v
    four = _is_four(value)
    if four is None:
        return lambda v: f"if({_mapped_four(v)}, substring(unhex(hex({v})), 13), unhex(hex({v})))"
    return (lambda v: f"substring(unhex(hex({v})), 13)") if four else (lambda v: f"unhex(hex({v}))")


def _mapped_four(v: str) -> str:
    return f"startsWith(toString({v}), '::ffff:')"


def _cut(text: str, pieces: tuple[tuple[int, int | None], ...]) -> str:
    """The pieces of a slice; the first that the text does not hold ends it."""
    result = ""
    for first, length in reversed(pieces):
        start = str(first) if first >= 0 else f"(toInt64(length({text})) - {-first})"
        size = f"(toInt64(length({text})) - {start})" if length is None else str(length)
        holds = f"{start} >= 0 AND {size} > 0 AND {start} + {size} <= length({text})"
        piece = f"substring({text}, {start} + 1, {size})"
        result = f"if({holds}, {f'concat({piece}, {result})' if result else piece}, '')"
    return result


def _printed(value: Value) -> Callable[[str], str]:
    if value.kind == "mac":
        return lambda v: f"lower(MACNumToString({v}))"
    if value.kind != "ip":
        return lambda v: f"toString({v})"
    four = _is_four(value)
    if four is None:
        return lambda v: f"if({_mapped_four(v)}, substring(toString({v}), 8), toString({v}))"
    return (lambda v: f"substring(toString({v}), 8)") if four else (lambda v: f"toString({v})")


_FUNCTIONS: dict[str, Callable[[Value], Callable[[str], str]]] = {
    "len": lambda of: lambda v: f"toInt64(length({_bytes_of(of)(v)}))",
    "upper": lambda of: lambda v: f"upper({v})",
    "lower": lambda of: lambda v: f"lower({v})",
    "string": _printed,
}

_OUT = "toInt128(-9223372036854775808)"  # fits no `limits`


def _whole(value: str) -> str:
    return f"toInt128({value})"


def _below(value: Arithmetic, a: str, b: str) -> str:
    """Where a difference is below zero and tshark's signed integers cannot hold its operands."""
    return f"{a} < {b} AND {b} > {SIGNED if value.bits == 32 else limits(value.bits)[1]}"


def _divided(function: str) -> Callable[[str, str, Arithmetic], str]:
    return lambda a, b, _: f"if({b} = 0, {_OUT}, {function}({_whole(a)}, if({b} = 0, toInt128(1), {_whole(b)})))"


_RESULTS: dict[str, Callable[[str, str, Arithmetic], str]] = {
    "+": lambda a, b, _: f"{_whole(a)} + {_whole(b)}",
    "-": lambda a, b, of: f"if({_below(of, a, b)}, {_OUT}, {_whole(a)} - {_whole(b)})",
    "*": lambda a, b, _: f"{_whole(a)} * {_whole(b)}",
    "/": _divided("intDiv"),
    "%": _divided("modulo"),
    "&": lambda a, b, of: _anded(a, b) if of.kind == "bytes" else f"toInt128(bitAnd({a}, {b}))",
}


def _anded(a: str, b: str) -> str:
    """Two byte strings of one length, 8 bytes at most, bit by bit; else an empty one."""
    fits = f"length({a}) = length({b}) AND length({a}) <= 8"
    both = ", ".join(f"reinterpretAsUInt64(reverse({side}))" for side in (a, b))
    return f"if({fits}, unhex(leftPad(hex(bitAnd({both})), 2 * length({a}), '0')), '')"
