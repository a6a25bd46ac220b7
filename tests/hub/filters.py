"""Any filter: trees for the tests of the filter language, of literals that rows may hold."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from hypothesis import strategies as st

from protocol.filter.check import operand
from protocol.filter.names import names_of
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
    Xor,
)
from protocol.filter.values import KINDS
from protocol.schema import TABLES

NOW = 1_700_000_000 * 10**9
TEXTS = (
    "",
    "eth0",
    "web-1",
    "O'Neil",
    'say "hi"',
    "back\\slash",
    "tab\there",
    "line\nend",
    "ünïcode",
    "a.b",
    "{p0:String}",
)
ADDRESSES = ("0.0.0.0", "10.0.0.1", "10.0.0.2", "192.168.1.255", "255.255.255.255")
ADDRESSES6 = ("::", "::1", "2001:db8::1", "fe80::1:2", "::ffff:10.0.0.1", "ffff::")
NUMBERS = (0, 1, 2, 53, 80, 255)
PATTERNS = ("a", "e.h", "^web", "[0-9]$", "O'N", "^.{2,5}$")


def literals(value: Value, table: str) -> st.SearchStrategy[Any]:
    """Literals that a value takes, most of them near what the rows hold."""
    kind = value.kind
    v4 = st.sampled_from(ADDRESSES).map(IPv4Address)
    v6 = st.sampled_from(ADDRESSES6).map(IPv6Address)
    if kind == "ip":
        name = value.name if isinstance(value, Operand) else ""
        return v6 | st.ip_addresses(v=6) if name.startswith("ipv6") else v4 | st.ip_addresses(v=4)
    if kind == "uint":
        assert isinstance(value, Operand)
        limit = 1 << 8 * int(TABLES[table].column(value.fields[0].column).wire[-1])
        return st.sampled_from([n for n in NUMBERS if n < limit]) | st.integers(0, limit - 1)
    return {
        "text": st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
        "bytes": st.sampled_from((b"\0", b"\0\0", b"\n", b"web", b"et")) | st.binary(min_size=1, max_size=4),
        "int": st.sampled_from(NUMBERS) | st.integers(-5, 300),
        "bool": st.integers(0, 1),
        "time": st.integers(NOW - 5, NOW + 5) | st.integers(-(1 << 63), (1 << 63) - 1),
        "seconds": st.integers(-3, 3),
        "mac": st.sampled_from(NUMBERS) | st.integers(0, (1 << 48) - 1),
        "epoch": st.sampled_from((7, 8)) | st.integers(0, (1 << 64) - 1),
    }[kind]


def _names(table: str) -> tuple[str, ...]:
    """Every name, and of a map some of its keys."""
    names = names_of(table)
    return (*names, *(f"nodetap.fields.{key}" for key in ("eth0", "web-1") if "nodetap.fields" in names))


@st.composite
def values(draw: st.DrawFn, table: str) -> Value:
    """A field, or what is made of one."""
    fields = [found for name in _names(table) if (found := operand(name, table))]
    value: Value = draw(st.sampled_from(fields))
    family = KINDS[value.kind].family
    match draw(st.integers(0, 12)):
        case 0 if family in ("text", "mac", "ip"):
            return Slice(value, ((draw(st.integers(-3, 3)), draw(st.none() | st.integers(1, 4))),))
        case 1 if family in ("text", "mac", "ip"):
            return Call("len", (value,), "int")
        case 2:
            return Call("count", (value,), "int")
        case 3 if family == "text":
            return Call(draw(st.sampled_from(("upper", "lower"))), (value,), "text")
        case 4 if family in ("mac", "ip") or value.kind == "uint":
            return Call("string", (value,), "text")
        case 5 if value.kind == "uint":
            other = draw(st.sampled_from([each for each in fields if each.kind == "uint"]))
            return Call(draw(st.sampled_from(("max", "min"))), (value, other), "int")
        case 6 | 7 if value.kind == "uint":
            return draw(sums(table, value))
    return value


@st.composite
def sums(draw: st.DrawFn, table: str, value: Value) -> Arithmetic:
    """A field and a number, read back as the grammar types them."""
    from protocol.filter.grammar import parse

    number = draw(st.sampled_from((1, 2, 53, 255)))
    node = parse(f"{value} {draw(st.sampled_from('+-*/%&'))} {number}", table)
    assert isinstance(node, NonZero)
    return node.value


@st.composite
def comparisons(draw: st.DrawFn, table: str) -> Node:
    """One test."""
    name = draw(st.sampled_from(_names(table)))
    if operand(name, table) is None or draw(st.integers(0, 9)) == 0:
        from protocol.filter.grammar import parse

        node = parse(name, table)
        assert isinstance(node, Present)
        return node
    value = draw(values(table))
    one = literals(value, table).map(lambda literal: Constant(value.kind, literal))
    quantifier = draw(st.sampled_from(("any", "all")))
    if draw(st.booleans()):
        operators = [sign for sign in KINDS[value.kind].operators if (sign, value.kind) != ("matches", "bytes")]
        sign = draw(st.sampled_from(operators))
        literal = draw(one)
        if sign == "matches":
            literal = Constant("text", draw(st.sampled_from(PATTERNS)))
        elif value.kind == "ip" and draw(st.booleans()):
            network = IPv4Network if literal.value.version == 4 else IPv6Network
            literal = Constant("ip", network((literal.value, draw(st.integers(0, 32))), strict=False))
        return Compare(value, sign, literal, quantifier)
    both = st.tuples(one, one if KINDS[value.kind].ranges else st.none())
    items = draw(st.lists(both | st.tuples(one, st.none()), min_size=1, max_size=4))
    return Member(value, tuple((a, b) if b is None or _rank(a) <= _rank(b) else (b, a) for a, b in items), quantifier)


def _rank(end: Constant) -> Any:
    """What an end of a range is ordered by: of byte strings the shorter comes first."""
    return (len(end.value), end.value) if isinstance(end.value, bytes) else end.value


def trees(table: str) -> st.SearchStrategy[Node]:
    """Any filter over a table."""
    several = lambda below: st.lists(below, min_size=2, max_size=4).map(tuple)  # noqa: E731
    return st.recursive(
        comparisons(table),
        lambda below: several(below).map(And) | several(below).map(Or) | several(below).map(Xor) | below.map(Not),
        max_leaves=8,
    )
