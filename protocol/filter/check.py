"""Values and tests of a filter, typed against the schema. Every function raises FilterError where it means nothing."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TypeAlias

from protocol.filter.errors import FilterError
from protocol.filter.names import FLAGS, GIVEN, fields_named, nearest, protocol, word_value
from protocol.filter.patterns import BadPattern, compiled
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
    Present,
    Slice,
    Value,
)
from protocol.filter.values import KINDS, BadValue, Literal, signed, unsigned
from protocol.schema import TABLES, Has


@dataclass(frozen=True, slots=True)
class Raw:
    """A word or quoted text whose kind is that of what it will be compared with. `column` counts from 1."""

    text: str
    quoted: bool
    column: int


Part: TypeAlias = "Value | Raw"


# -- names and literals --------------------------------------------------------------------------------------------


def operand(name: str, table: str) -> Operand | None:
    """What `name` stands for, None where it is no field of `table`."""
    fields = fields_named(name, table)
    return Operand(name, fields) if fields else None


def unknown(name: str, table: str, column: int) -> FilterError:
    """The error for a name that is no field, with the nearest one."""
    return FilterError("unknown_field", column, f"{table} have no field {name[:80]!r}", nearest(name, table))


def known(part: Part, table: str) -> Value:
    """The value on the left of a comparison: no literal."""
    if not isinstance(part, Raw):
        return part
    if not part.quoted and protocol(part.text, table):
        raise FilterError(
            "bad_operator", part.column, f"{part.text} is a protocol: it is there or not, its bytes are not stored"
        )
    if not part.quoted and part.text in GIVEN:
        raise FilterError(
            "bad_operator", part.column, f"{part.text} is 1 or it is not there: {GIVEN[part.text]} has values"
        )
    raise unknown(part.text, table, part.column)


def constant(target: Value, raw: Raw, table: str) -> Constant:
    """The literal that `raw` is beside that value."""
    try:
        return Constant(target.kind, _literal(target, raw, table))
    except BadValue as error:
        shown = target.name if isinstance(target, Operand) else str(target)
        raise FilterError("bad_value", raw.column, f"{shown[:80]} takes {error}, not {raw.text[:80]!r}") from None


def _literal(target: Value, raw: Raw, table: str) -> Literal:
    if target.kind == "bytes" and raw.quoted:
        return raw.text.encode("utf-8", "surrogatepass")
    if isinstance(target, Operand) and (word := word_value(target.name, raw.text)) is not None:
        return word
    text = str(ord(raw.text)) if target.kind in ("uint", "int") and raw.quoted and len(raw.text) == 1 else raw.text
    if isinstance(target, Operand) and target.kind == "uint" and not _is_flag(target):
        return unsigned(text, _limit(target, table))
    value = KINDS["bool" if _is_flag(target) else target.kind].read(text)
    if target.kind == "ip" and isinstance(target, Operand):
        _check_family(target, value)
    return value


def _is_flag(target: Value) -> bool:
    return isinstance(target, Operand) and target.name in FLAGS


def _limit(target: Operand, table: str) -> int:
    wire = TABLES[table].column(target.fields[0].column).wire
    return 1 << 8 * int(wire[-1])


def _check_family(target: Operand, value: Literal) -> None:
    need = target.fields[0].need
    family = 4 if need & (Has.IPV4 | Has.ARP_IPV4) else 6 if need & Has.IPV6 else None
    if family and value.version != family:  # type: ignore[union-attr]
        raise BadValue(f"IPv{family}")


# -- values --------------------------------------------------------------------------------------------------------


_FOLD = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "&": operator.and_,
    "/": operator.floordiv,
    "%": operator.mod,
}


def arithmetic(sign: str, left: Part, right: Part, table: str, column: int) -> Part:
    """Two values added, subtracted, multiplied, divided, taken modulo, or bit by bit."""
    if isinstance(left, Raw) and isinstance(right, Raw):
        return _folded(sign, left, right, column)
    if isinstance(left, Raw):
        assert not isinstance(right, Raw)
        return _arithmetic(sign, constant(right, left, table), right, column)
    return _arithmetic(sign, left, constant(left, right, table) if isinstance(right, Raw) else right, column)


def _folded(sign: str, left: Raw, right: Raw, column: int) -> Raw:
    """Two numbers as one."""
    try:
        first, second = (signed(raw.text) for raw in (left, right))
        folded = _FOLD[sign](first, second)
    except (BadValue, ZeroDivisionError):
        near = "&&" if sign == "&" else None
        raise FilterError(
            "bad_operator", column, f"{sign} needs a field with numbers on one of its sides", near
        ) from None
    if sign in "/%&" and min(first, second) < 0:
        raise FilterError("bad_operator", column, f"{sign} of numbers takes none below zero")
    return Raw(str(folded), False, left.column)


def _arithmetic(sign: str, left: Value, right: Value, column: int) -> Arithmetic:
    families = {KINDS[value.kind].family for value in (left, right)}
    if families == {"mac"} and sign == "&":
        left, right, families = _as_bytes(left), _as_bytes(right), {"bytes"}
    if families == {"bytes"} and sign == "&":
        return Arithmetic(sign, left, right, "bytes", 0)
    if families == {"time"} and sign in "+-":
        return Arithmetic(sign, left, right, "time", 62)
    if families != {"number"} or "bool" in (left.kind, right.kind):
        raise FilterError("bad_operator", column, f"{sign} takes numbers{', or bytes' if sign == '&' else ''}")
    return Arithmetic(sign, left, right, "int", max(_bits(left), _bits(right)))


def _as_bytes(value: Value) -> Value:
    """A MAC address as its bytes."""
    if isinstance(value, Constant):
        assert isinstance(value.value, int)
        return Constant("bytes", value.value.to_bytes(6, "big"))
    return Slice(value, ((0, None),))


def _bits(value: Value) -> int:
    if isinstance(value, Operand):
        wide = {column.name for table in TABLES.values() for column in table.columns if column.wire in ("u8", "i8")}
        return 62 if value.fields[0].column in wide - {"layers", "frame_number"} else 32
    return value.bits if isinstance(value, Arithmetic) else 32


def negative(part: Part, column: int) -> Part:
    """A number below zero."""
    if not isinstance(part, Raw) or part.quoted:
        raise FilterError("bad_operator", column, "- stands before a number, or between two values")
    return Raw(f"-{part.text}", False, column)


_PIECE = re.compile(r"\s*(?:(?P<a>-?\d{1,5})?\s*(?P<s>:)\s*(?P<n>\d{1,5})?|(?P<i>-?\d{1,5})(?:-(?P<j>-?\d{1,5}))?)\s*")


def slice_of(part: Part, text: str, table: str, column: int) -> Slice:
    """Bytes of a value: `[i]`, `[i:length]`, `[i-j]`, `[:length]`, `[i:]`, several with commas."""
    value = known(part, table)
    if KINDS[value.kind].family not in ("text", "bytes", "mac", "ip"):
        raise FilterError("bad_operator", column, f"{value} has no bytes to take: texts and addresses have")
    return Slice(value, tuple(_piece(piece, column) for piece in text[1:-1].split(",")))


def _piece(text: str, column: int) -> tuple[int, int | None]:
    match = _PIECE.fullmatch(text)
    if match is None:
        raise FilterError("syntax", column, "a slice is [i], [i:length], [i-j], [:length] or [i:]")
    if match["s"]:
        return int(match["a"] or 0), int(match["n"]) if match["n"] else None
    first, last = int(match["i"]), int(match["j"] or match["i"])
    if (first < 0) != (last < 0) or last < first:
        raise FilterError("syntax", column, "a slice [i-j] ends before it begins")
    return first, last - first + 1


_TAKES = {
    "len": (("text", "bytes", "mac", "ip"), "texts and addresses", "int"),
    "upper": (("text",), "texts", "text"),
    "lower": (("text",), "texts", "text"),
    "string": (("number", "ip", "mac"), "numbers and addresses", "text"),
    "max": (("number", "time"), "numbers and times", ""),
    "min": (("number", "time"), "numbers and times", ""),
}


def call(function: str, parts: list[Part], table: str, column: int) -> Call:
    """A function of values."""
    arguments = tuple(known(part, table) for part in parts)
    if function not in ("max", "min") and len(arguments) != 1:
        raise FilterError("bad_operator", column, f"{function} takes one field")
    if function == "count":
        if not isinstance(arguments[0], Operand):
            raise FilterError("bad_operator", column, "count takes a field")
        return Call(function, arguments, "int")
    families, words, kind = _TAKES[function]
    for value in arguments:
        if KINDS[value.kind].family not in families or (function == "string" and value.kind in ("bool", "time")):
            raise FilterError("bad_operator", column, f"{function} takes {words}")
    if len({KINDS[value.kind].family for value in arguments}) > 1:
        raise FilterError("bad_operator", column, f"{function} takes values of one kind")
    return Call(
        function, arguments, kind or ("int" if KINDS[arguments[0].kind].family == "number" else arguments[0].kind)
    )


# -- tests ---------------------------------------------------------------------------------------------------------


def bare(part: Part, table: str) -> Node:
    """A value on its own: whether it is there; of arithmetic whether it is not zero, of bytes whether there are any."""
    if isinstance(part, Raw):
        if part.quoted:
            raise FilterError("syntax", part.column, "a field is expected, not a text")
        if part.text in GIVEN and (shown := operand(GIVEN[part.text], table)):
            return Present(part.text, shown)
        if protocol(part.text, table) is None:
            raise unknown(part.text, table, part.column)
        return Present(part.text, None)
    if isinstance(part, Operand):
        return Present(str(part), part)
    if isinstance(part, Slice):
        return Compare(Call("len", (part,), "int"), ">", Constant("int", 0), "any")
    if isinstance(part, Arithmetic):
        return NonZero(part)
    raise FilterError("syntax", 1, f"{part} has to be compared with something")


def compare(left: Part, sign: str, right: Part, quantifier: str, table: str, column: int) -> Compare:
    """One comparison, checked: the operator fits the kind, the literal fits both. `column` is the operator's."""
    if isinstance(left, Raw) and left.text in GIVEN and (shown := operand(GIVEN[left.text], table)):
        return _given(left.text, shown, sign, right, column)
    value = known(left, table)
    if sign not in KINDS[value.kind].operators and not (sign == "contains" and value.kind in ("mac", "ip")):
        allowed = " ".join(KINDS[value.kind].operators)
        raise FilterError("bad_operator", column, f"{value} knows {allowed} and in, not {sign}")
    if sign == "matches":
        return Compare(value, sign, _pattern(value, right), quantifier)
    value, other = _beside(value, right, sign, table, column)
    return Compare(value, sign, other, quantifier)


_HOLDS = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def _given(name: str, shown: Operand, sign: str, right: Part, column: int) -> Compare:
    """A name of `GIVEN` is 1 wherever it is there."""
    if sign not in _HOLDS or not isinstance(right, Raw):
        raise FilterError("bad_operator", column, f"{name} is 1 or it is not there")
    try:
        holds = _HOLDS[sign](1, KINDS["bool"].read(right.text))
    except BadValue as error:
        raise FilterError("bad_value", right.column, f"{name} takes {error}, not {right.text[:80]!r}") from None
    return Compare(Call("count", (shown,), "int"), ">" if holds else "<", Constant("int", 0), "any")


def _pattern(value: Value, right: Part) -> Constant:
    if not isinstance(right, Raw):
        raise FilterError("bad_value", 1, f"{value} matches a quoted text")
    try:
        compiled(right.text)
    except BadPattern as error:
        raise FilterError("bad_value", right.column, f"{value} matches {error}") from None
    return Constant("text", right.text)


def _beside(value: Value, right: Part, sign: str, table: str, column: int) -> tuple[Value, Value]:
    """Both sides of a comparison, of one family."""
    if sign == "contains" and value.kind in ("mac", "ip"):
        value = Slice(value, ((0, None),))
    if isinstance(right, Raw):
        return value, constant(value, right, table)
    families = [KINDS[side.kind].family for side in (value, right)]
    if families[0] != families[1]:
        raise FilterError("bad_operator", column, f"{value} and {right} cannot be compared")
    return value, right


def member(left: Part, items: list[tuple[Part, Part | None]], table: str) -> Member:
    """Membership in a set."""
    value = known(left, table)
    column = next((low.column for low, _ in items if isinstance(low, Raw)), 1)
    return Member(value, tuple(_item(value, low, high, table, column) for low, high in items))


def _item(value: Value, low: Part, high: Part | None, table: str, column: int) -> tuple[Constant, Constant | None]:
    first = _element(value, low, table, column)
    if high is None:
        return first, None
    last = _element(value, high, table, column)
    _check_range(value, first, last, low.column if isinstance(low, Raw) else column)
    return first, last


def _element(value: Value, part: Part, table: str, column: int) -> Constant:
    if not isinstance(part, Raw):
        raise FilterError("bad_value", column, f"a set holds values: compare {value} with {part} by ==")
    return constant(value, part, table)


def _check_range(value: Value, low: Constant, high: Constant, column: int) -> None:
    ends = (low.value, high.value)
    if not KINDS[value.kind].ranges or any(hasattr(end, "prefixlen") for end in ends):
        raise FilterError(
            "bad_value",
            column,
            f"{value} has no ranges"
            if not KINDS[value.kind].ranges
            else "a range has addresses at its ends, no networks",
        )
    if value.kind == "ip" and low.value.version != high.value.version:  # type: ignore[union-attr]
        raise FilterError("bad_value", column, "both ends of a range must be of one IP version")
    first, last = ((len(end), end) if isinstance(end, bytes) else end for end in ends)
    if first > last:  # type: ignore[operator]
        raise FilterError("bad_value", column, "the range ends before it begins")


def quantified(node: Node, word: str) -> Node:
    """The same comparison, of any or of all values."""
    if isinstance(node, And):
        return And(tuple(quantified(item, word) for item in node.items))
    if isinstance(node, Not):  # not in: no value is a member, whatever stands in front (Wireshark 4.0)
        return node
    if isinstance(node, Member):
        return Member(node.left, node.items, word)
    assert isinstance(node, Compare)
    return Compare(node.left, node.operator, node.right, word)
