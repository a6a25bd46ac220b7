"""The tree of a filter: small frozen nodes, each of which prints itself back as the filter that makes it.

Typed against the schema: a value knows its kind (a key of `KINDS`), a literal has the kind of what it is compared with.
`parse(str(node)) == node`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from protocol.filter.names import kind_of
from protocol.filter.values import DEFAULT, KINDS, Literal
from protocol.schema import Field

Test: TypeAlias = "Present | NonZero | Compare | Member"
Node: TypeAlias = "And | Or | Xor | Not | Test"
Value: TypeAlias = "Operand | Constant | Slice | Call | Arithmetic"


# -- values --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operand:
    """A name that has values: one field, or the two of `EITHER`."""

    name: str
    fields: tuple[Field, ...]

    @property
    def kind(self) -> str:
        """The kind of its values."""
        return kind_of(self.fields[0])

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    kind: str
    value: Literal

    def __str__(self) -> str:
        return KINDS[self.kind].show(self.value)


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes of each value: the pieces (first, how many) one after the other; a first below 0 counts from the end.

    A piece without a length goes to the end. The first piece that the value does not hold ends it.
    """

    of: Value
    pieces: tuple[tuple[int, int | None], ...]
    kind: str = "bytes"

    def __str__(self) -> str:
        inside = ",".join(f"{first}:" if length is None else f"{first}:{length}" for first, length in self.pieces)
        return f"{self.of}[{inside}]"


@dataclass(frozen=True, slots=True)
class Call:
    """A function of values. All its arguments must be present."""

    function: str
    arguments: tuple[Value, ...]
    kind: str

    def __str__(self) -> str:
        return f"{self.function}({', '.join(map(str, self.arguments))})"


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Every value on the left with every one on the right; what does not fit `bits` (`limits`) is no result."""

    operator: str
    left: Value
    right: Value
    kind: str
    bits: int

    def __str__(self) -> str:
        return f"{_braced(self.left)} {self.operator} {_braced(self.right)}"


SIGNED = (1 << 31) - 1
"""What the right side of a difference may be where that is below zero, with 32 bits: tshark's signed integers."""


def limits(bits: int) -> tuple[int, int]:
    """The least and the greatest result: of 32 bits either signed or unsigned, as tshark has it."""
    return (-(1 << 31), (1 << 32) - 1) if bits == 32 else (-(1 << 62), (1 << 62) - 1)


def _braced(value: Value) -> str:
    return f"{{{value}}}" if isinstance(value, Arithmetic) else str(value)


# -- tests ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class And:
    """All of them."""

    items: tuple[Node, ...]

    def __str__(self) -> str:
        return " and ".join(_inside(item, (Or, Xor, And)) for item in self.items)


@dataclass(frozen=True, slots=True)
class Xor:
    """An odd number of them."""

    items: tuple[Node, ...]

    def __str__(self) -> str:
        return " xor ".join(_inside(item, (Or, Xor)) for item in self.items)


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
        return f"not {_inside(self.item, (And, Or, Xor))}"


@dataclass(frozen=True, slots=True)
class Present:
    """A bare name: the field has a value, or the protocol was found."""

    name: str
    value: Operand | None  # None: a protocol, `PROTOCOLS`

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class NonZero:
    """Any result of arithmetic is not zero."""

    value: Arithmetic

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Compare:
    """One comparison of any or of all pairs of values (`quantifier`); false where a field of either side is absent."""

    left: Value
    operator: str
    right: Value
    quantifier: str

    def __str__(self) -> str:
        word = "" if self.quantifier == DEFAULT[self.operator] else f"{self.quantifier} "
        return f"{word}{self.left} {self.operator} {self.right}"


def ranks_bytes(kind: str, operator: str) -> bool:
    """Whether a comparison orders byte strings: the shorter comes first, then the first byte that differs decides."""
    return kind == "bytes" and operator in ("<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class Member:
    """Any or all values are one of the items; an item is a literal, or a range with both ends."""

    left: Value
    items: tuple[tuple[Constant, Constant | None], ...]
    quantifier: str = "any"

    def __str__(self) -> str:
        word = "all " if self.quantifier == "all" else ""
        inside = ", ".join(str(low) if high is None else f"{low}..{high}" for low, high in self.items)
        return f"{word}{self.left} in {{{inside}}}"


def _inside(node: Node, wrapped: tuple[type, ...]) -> str:
    return f"({node})" if isinstance(node, wrapped) else str(node)


# -- size ----------------------------------------------------------------------------------------------------------


def children(node: Node | Value) -> tuple[Node | Value, ...]:
    """The nodes and values right below."""
    if isinstance(node, And | Or | Xor):
        return node.items
    if isinstance(node, Not):
        return (node.item,)
    if isinstance(node, Slice):
        return (node.of,)
    if isinstance(node, Call):
        return node.arguments
    return (node.left, node.right) if isinstance(node, Arithmetic) else ()


def depth(node: Node | Value) -> int:
    """Levels of and, or, not, or of arithmetic; 0 for a test and for a field."""
    below = children(node)
    return 1 + max(map(depth, below)) if below else 0


def tests(node: Node) -> Iterator[Test]:
    """What and, or and not are made of."""
    if isinstance(node, And | Or | Xor):
        for item in node.items:
            yield from tests(item)
    elif isinstance(node, Not):
        yield from tests(node.item)
    else:
        yield node


def terms(node: Node) -> int:
    """Tests in it; each member of a set counts."""
    return sum(len(test.items) if isinstance(test, Member) else 1 for test in tests(node))


def patterns(node: Node) -> Iterator[str]:
    """The regular expressions in it."""
    for test in tests(node):
        if isinstance(test, Compare) and test.operator == "matches":
            assert isinstance(test.right, Constant)
            yield str(test.right.value)
