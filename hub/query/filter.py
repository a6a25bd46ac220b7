"""The tree of a filter: small frozen nodes, each of which prints itself back as the filter that makes it.

Typed against the schema: an operand knows its fields, a literal fits their kind. `parse(str(node)) == node`.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

from hub.query.values import KINDS, OPERATORS, BadValue, Literal, check_pattern
from protocol.schema import EITHER, Field, Has, fields_of

Node: TypeAlias = "And | Or | Not | Present | Compare | Member"

PROTOCOLS: dict[str, Has] = {
    "eth": Has.ETH,
    "vlan": Has.VLAN,
    "mpls": Has.MPLS,
    "tunnel": Has.TUNNEL,
    "arp": Has.ARP,
    "ip": Has.IPV4,
    "ipv6": Has.IPV6,
    "tcp": Has.TCP,
    "udp": Has.UDP,
    "sctp": Has.SCTP,
    "icmp": Has.ICMP,
    "icmpv6": Has.ICMPV6,
    "dns": Has.DNS,
    "tls": Has.TLS,
    "dtls": Has.DTLS,
    "quic": Has.QUIC,
    "http": Has.HTTP,
    "http2": Has.HTTP2,
    "ssh": Has.SSH,
}
"""Bare protocol names: true where the decoder found that layer."""


class FilterError(ValueError):
    """A filter that cannot be taken. `code` is a word, `column` counts characters from 1, `suggestion` may be None."""

    def __init__(self, code: str, column: int, message: str, suggestion: str | None = None) -> None:
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        super().__init__(f"filter, column {column}: {message}{hint}")
        self.code = code
        self.column = column
        self.message = message
        self.suggestion = suggestion


@dataclass(frozen=True, slots=True)
class Operand:
    """A name that has values: one field, or the two of `EITHER`."""

    name: str
    fields: tuple[Field, ...]

    @property
    def kind(self) -> str:
        """The kind of its values, a key of `KINDS`."""
        return self.fields[0].kind

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class And:
    """All of them."""

    items: tuple[Node, ...]

    def __str__(self) -> str:
        return " and ".join(_inside(item, (Or, And)) for item in self.items)


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of them."""

    items: tuple[Node, ...]

    def __str__(self) -> str:
        return " or ".join(_inside(item, (Or,)) for item in self.items)


@dataclass(frozen=True, slots=True)
class Not:
    """True where the item is not, also where its field is absent."""

    item: Node

    def __str__(self) -> str:
        return f"not {_inside(self.item, (And, Or))}"


@dataclass(frozen=True, slots=True)
class Present:
    """A bare name: the field has a value, or the protocol was found."""

    name: str
    operand: Operand | None  # None: a protocol, `PROTOCOLS`

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Compare:
    """One comparison; false where the field is absent."""

    operand: Operand
    operator: str
    value: Literal

    def __str__(self) -> str:
        return f"{self.operand} {self.operator} {KINDS[self.operand.kind].show(self.value)}"


@dataclass(frozen=True, slots=True)
class Member:
    """Any value of the field is one of the items; an item is a literal or a range, both ends included."""

    operand: Operand
    items: tuple[tuple[Literal, Literal | None], ...]

    def __str__(self) -> str:
        show = KINDS[self.operand.kind].show
        inside = ", ".join(show(low) if high is None else f"{show(low)}..{show(high)}" for low, high in self.items)
        return f"{self.operand} in {{{inside}}}"


def _inside(node: Node, wrapped: tuple[type, ...]) -> str:
    return f"({node})" if isinstance(node, wrapped) else str(node)


def children(node: Node) -> tuple[Node, ...]:
    """The nodes right below."""
    if isinstance(node, And | Or):
        return node.items
    return (node.item,) if isinstance(node, Not) else ()


def depth(node: Node) -> int:
    """Levels of and, or, not; 0 for a test."""
    below = children(node)
    return 1 + max(map(depth, below)) if below else 0


def terms(node: Node) -> int:
    """Tests in it; each member of a set counts."""
    if isinstance(node, Member):
        return len(node.items)
    return sum(map(terms, children(node))) or 1


# -- typing against the schema -------------------------------------------------------------------------------------


def names_of(table: str) -> tuple[str, ...]:
    """Every name a filter over `table` may use."""
    fields = fields_of(table)
    return (*fields, *(name for name, pair in EITHER.items() if pair[0] in fields), *PROTOCOLS)


def operand(name: str, table: str) -> Operand | None:
    """What `name` stands for, None where it is no field of `table`."""
    fields = fields_of(table)
    if name in EITHER and EITHER[name][0] in fields:
        return Operand(name, tuple(fields[side] for side in EITHER[name]))
    return Operand(name, (fields[name],)) if name in fields else None


def unknown(name: str, table: str, column: int) -> FilterError:
    """The error for a name that is no field, with the nearest one."""
    near = get_close_matches(name.lower(), names_of(table), n=1, cutoff=0.6)
    return FilterError("unknown_field", column, f"{table} have no field {name[:80]!r}", near[0] if near else None)


def literal(target: Operand, text: str, column: int) -> Literal:
    """The value `text` names for that operand. Raises FilterError `bad_value`."""
    try:
        value = KINDS[target.kind].read(text)
        if target.kind == "ip":
            _check_family(target, value)
    except BadValue as error:
        raise FilterError("bad_value", column, f"{target.name} takes {error}, not {text[:80]!r}") from None
    return value


def _check_family(target: Operand, value: Literal) -> None:
    need = target.fields[0].need
    family = 4 if need & (Has.IPV4 | Has.ARP_IPV4) else 6 if need & Has.IPV6 else None
    if family and value.version != family:  # type: ignore[union-attr]
        raise BadValue(f"IPv{family}")


def compare(target: Operand, operator: str, text: str, columns: tuple[int, int]) -> Compare:
    """One comparison, checked: the operator fits the kind, the literal fits both.

    `columns` are those of operator and literal. Raises FilterError.
    """
    if operator not in KINDS[target.kind].operators:
        allowed = " ".join(KINDS[target.kind].operators)
        raise FilterError("bad_operator", columns[0], f"{target.name} knows {allowed} and in, not {operator}")
    value = literal(target, text, columns[1])
    if hasattr(value, "prefixlen") and OPERATORS[operator].sql not in ("=", "!="):
        raise FilterError("bad_operator", columns[0], f"a network can be compared with == and != only, not {operator}")
    if operator == "matches":
        _check_pattern(target, str(value), columns[1])
    return Compare(target, operator, value)


def _check_pattern(target: Operand, pattern: str, column: int) -> None:
    try:
        check_pattern(pattern)
    except BadValue as error:
        raise FilterError("bad_value", column, f"{target.name} matches {error}") from None


def check_range(target: Operand, low: Literal, high: Literal, column: int) -> None:
    """Refuse ranges that mean nothing. Raises FilterError `bad_value`."""
    if (
        target.kind in ("text", "texts", "map", "bool", "epoch")
        or hasattr(low, "prefixlen")
        or hasattr(high, "prefixlen")
    ):
        raise FilterError("bad_value", column, f"{target.name} has no ranges")
    if target.kind == "ip" and low.version != high.version:  # type: ignore[union-attr]
        raise FilterError("bad_value", column, "both ends of a range must be of one IP version")
    if low > high:  # type: ignore[operator]
        raise FilterError("bad_value", column, "the range ends before it begins")
