"""Values of a filter in memory: vectors of one kind, and how rows have none, one or several of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, TypeAlias

import numpy as np

from protocol.columns import Array, ColumnValue, Dict, Lists, Maps, Text, Texts
from protocol.filter.names import ADDRESSES, FIRST, key_of, kind_of
from protocol.filter.strings import Strings
from protocol.filter.tree import SIGNED, Arithmetic, Constant, limits
from protocol.schema import Field, Has

ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MAPPED = 0xFFFF << 32  # the low half of ::ffff:0.0.0.0
_LOW = (1 << 64) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Integers of any type: numbers, flags, times, MAC addresses, runs."""

    array: Array
    kind: str

    def take(self, index: Array) -> Numbers:
        """Those at these places."""
        return Numbers(self.array[index], self.kind)

    def compare(self, sign: str, other: Any) -> Array:
        """Each with its counterpart, or with one number."""
        found: Array = ORDER[sign](self.array, other.array if isinstance(other, Numbers) else other)
        return found

    def strings(self) -> Strings:
        """Each printed, or the bytes of a MAC address."""
        distinct, codes = np.unique(self.array, return_inverse=True)
        return Strings(codes, [str(value).encode() for value in distinct.tolist()])

    def bytes(self) -> Strings:
        """The bytes of MAC addresses."""
        distinct, codes = np.unique(self.array, return_inverse=True)
        return Strings(codes, [value.to_bytes(8, "big")[2:] for value in distinct.tolist()])


@dataclass(frozen=True, slots=True, eq=False)
class Addresses:
    """IP addresses as two halves, of 64 bits each; those of IPv4 share one upper half. `four`: None is either."""

    high: Any
    low: Array
    four: bool | None

    def take(self, index: Array) -> Addresses:
        """Those at these places."""
        return Addresses(self.high if np.isscalar(self.high) else self.high[index], self.low[index], self.four)

    def compare(self, sign: str, other: Any) -> Array:
        """Each with its counterpart, or with one address as an integer."""
        high, low = (other.high, other.low) if isinstance(other, Addresses) else divmod(other, 1 << 64)
        if sign in ("==", "!="):
            equal: Array = _masked(self.high, high) & _masked(self.low, low)
            return equal if sign == "==" else ~equal
        same: Array = (self.high == high) & ORDER[sign](self.low, low)
        same |= ORDER[sign[0]](self.high, high)
        return same

    def within(self, first: int, mask: int) -> Array:
        """Which have those first bits."""
        (high, low), (ones, twos) = divmod(first, 1 << 64), divmod(mask, 1 << 64)
        found: Array = _masked(self.low, low, twos)
        return found & _masked(self.high, high, ones) if ones or not np.isscalar(self.high) else found

    def _distinct(self) -> tuple[list[int], Array]:
        both = np.empty((len(self.low), 2), dtype=">u8")
        both[:, 0], both[:, 1] = self.high, self.low
        distinct, codes = np.unique(both.view("V16").ravel(), return_inverse=True)
        return [int.from_bytes(value.tobytes(), "big") for value in distinct], codes

    def strings(self) -> Strings:
        """Each printed."""
        distinct, codes = self._distinct()
        return Strings(codes, [_printed(value, self.four).encode() for value in distinct])

    def bytes(self) -> Strings:
        """Their 4 or 16 bytes."""
        distinct, codes = self._distinct()
        return Strings(codes, [_packed(value, self.four) for value in distinct])


def _masked(half: Any, value: Any, mask: int = _LOW) -> Any:
    """Which halves have the bits of `value` where `mask` has ones; as they lie in memory, as swapping takes longest."""
    if isinstance(value, int) and isinstance(half, np.ndarray) and half.dtype.byteorder == ">":
        half = half.view("<u8")
        value, mask = (int.from_bytes(each.to_bytes(8, "big"), "little") for each in (value, mask))
    return half == value if mask == _LOW else (half & np.uint64(mask)) == value


def _packed(value: int, four: bool | None) -> bytes:
    packed = value.to_bytes(16, "big")
    return packed[12:] if four or (four is None and value >> 32 == 0xFFFF) else packed


def _printed(value: int, four: bool | None) -> str:
    packed = _packed(value, four)
    address = ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return f"::ffff:{mapped}" if mapped else str(address)


Vector: TypeAlias = "Numbers | Addresses | Strings"


def compare(vector: Vector, sign: str, other: Any) -> Array:
    """Each value compared with its counterpart in a vector, or with one literal (`literal`)."""
    if isinstance(vector, Strings):
        return _compare_strings(vector, sign, other)
    return vector.compare(sign, other)


def _compare_strings(strings: Strings, sign: str, other: Strings | bytes) -> Array:
    if isinstance(other, Strings):
        test = (lambda a, b: b != b"" and b in a) if sign == "contains" else ORDER[sign]
        return np.fromiter(map(test, strings.list(), other.list()), dtype=bool, count=len(strings))
    if sign == "contains":
        return strings.contains(other)
    if sign in ("==", "!="):
        return strings.equals(other) if sign == "==" else ~strings.equals(other)
    return strings.each(lambda value: bool(ORDER[sign](value, other)))


def literal(constant: Constant) -> Any:
    """A literal as `compare` takes it: an integer, or bytes."""
    value = constant.value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes | int):
        return value
    assert not isinstance(value, IPv4Network | IPv6Network)
    return _address(value)


def _address(value: Any) -> int:
    return int(value) | _MAPPED if value.version == 4 else int(value)


def in_network(vector: Vector, sign: str, network: IPv4Network | IPv6Network) -> Array:
    """As the addresses' first bits compare with the network's."""
    first, last = _address(network.network_address), _address(network.broadcast_address)
    if sign in ("==", "!="):
        assert isinstance(vector, Addresses)
        inside = vector.within(first, ~(first ^ last) & (1 << 128) - 1)
        return inside if sign == "==" else ~inside
    return compare(vector, sign, first if sign in ("<", ">=") else last)


def constant(value: Constant, count: int) -> Vector:
    """A literal in every row."""
    found = literal(value)
    if isinstance(found, bytes):
        return Strings(np.zeros(count, dtype=np.uint32), [found])
    if value.kind == "ip":
        high, low = divmod(found, 1 << 64)
        return Addresses(np.uint64(high), np.full(count, low, dtype=np.uint64), None)
    return Numbers(np.full(count, found, dtype=np.int64 if found < 1 << 63 else np.uint64), value.kind)


# -- columns -------------------------------------------------------------------------------------------------------


def scalar(item: Field, column: ColumnValue) -> Vector:
    """The values of a field that has one a row; what it has where it is absent means nothing."""
    if isinstance(column, Dict | Text):
        return Strings.of(column)
    array: Any = column
    if item.kind == "ip":
        halves = np.ascontiguousarray(array).view(">u8")
        low = halves[:, 1]
        if item.need & (Has.IPV4 | Has.ARP_IPV4):
            return Addresses(np.uint64(0), low, True)
        return Addresses(halves[:, 0], low, False if item.need & Has.IPV6 else None)
    if item.kind == "bool":
        array = (array >> array.dtype.type(item.shift)) & array.dtype.type(1)
    return Numbers(array, kind_of(item))


def ragged(item: Field, column: ColumnValue, present: Array) -> Values:
    """The values of a field that has several a row; it is absent where it has none."""
    if isinstance(column, Lists):
        lengths, vector = _integers(item, column)
    else:
        assert isinstance(column, Texts | Maps)
        lengths = column.counts
        vector = Strings.of(column.strings if isinstance(column, Texts) else column.values)
        if isinstance(column, Maps) and (key := key_of(item)):
            known = np.array([each == key for each in column.keys.values], dtype=bool)
            keep = np.flatnonzero(known[column.keys.codes])
            lengths, vector = np.bincount(_rows(lengths)[keep], minlength=len(lengths)), vector.take(keep)
        if item.name in ADDRESSES:
            vector = _parsed(vector)
    lengths = lengths.astype(np.int64)
    return Values(present & (lengths > 0), (vector,), lengths)


def _integers(item: Field, column: Lists) -> tuple[Array, Vector]:
    lengths, values = column.lengths.astype(np.int64), column.values
    keep = np.ones(len(values), dtype=bool)
    if item.only:
        keep = (values & values.dtype.type(item.only)) == item.only
    if item.name in FIRST:
        keep = np.zeros(len(values), dtype=bool)
        keep[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    if not keep.all():
        lengths, values = np.bincount(_rows(lengths)[keep], minlength=len(lengths)), values[keep]
    if item.bits:
        values = (values >> values.dtype.type(item.shift)) & values.dtype.type((1 << item.bits) - 1)
    return lengths, Numbers(values, "uint")


def _parsed(strings: Strings) -> Addresses:
    found = [_address_of(value) for value in strings.list()]
    return Addresses(
        np.array([value >> 64 for value in found], dtype=np.uint64),
        np.array([value & _LOW for value in found], dtype=np.uint64),
        None,
    )


def _address_of(text: bytes) -> int:
    try:
        return _address(ip_address(text.decode("ascii", "replace")))
    except ValueError:
        return 0


def _rows(lengths: Array) -> Array:
    return np.repeat(np.arange(len(lengths)), lengths)


# -- rows of values ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """The values of rows.

    Without `lengths` every vector has one value of each row, which counts where `present` (None: everywhere). With
    `lengths` (rows,) there is one vector, with that many values of each row.
    """

    present: Array | None
    vectors: tuple[Vector, ...]
    lengths: Array | None = None

    def there(self, count: int) -> Array:
        """Where the field is present: bool, shape (rows,)."""
        return np.ones(count, dtype=bool) if self.present is None else self.present

    def reduce(self, results: Sequence[Array], quantifier: str, count: int) -> Array:
        """Where any or all of the results (one per vector) hold; false where the field is absent."""
        if self.lengths is None:
            found = reduce(operator.or_ if quantifier == "any" else operator.and_, results)
            return found if self.present is None else found & self.present
        hits = np.bincount(_rows(self.lengths)[results[0]], minlength=count)
        return self.there(count) & (hits > 0 if quantifier == "any" else hits == self.lengths)

    def mapped(self, change: Callable[[Vector], Vector]) -> Values:
        """Each value changed."""
        return Values(self.present, tuple(map(change, self.vectors)), self.lengths)

    def counted(self, count: int) -> Values:
        """How many values a row has."""
        sizes = np.full(count, len(self.vectors)) if self.lengths is None else self.lengths
        return Values(self.present, (Numbers(sizes.astype(np.int64), "int"),))

    def at(self, rows: Array, nth: Array) -> list[Vector]:
        """The `nth` values of `rows`, of values with lengths."""
        assert self.lengths is not None
        starts = np.cumsum(self.lengths) - self.lengths
        return [self.vectors[0].take(starts[rows] + nth)]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Every value of one side beside every value of the other, row by row, and the rows they belong to."""

    frame: Values
    sides: tuple[tuple[Vector, Vector], ...]

    def compared(self, sign: str, quantifier: str, count: int) -> Array:
        """Where any or all pairs compare so."""
        return self.frame.reduce([compare(left, sign, right) for left, right in self.sides], quantifier, count)

    def combined(self, value: Arithmetic, count: int) -> Values:
        """The results of arithmetic; what does not fit is left out."""
        results = [_result(value, left, right) for left, right in self.sides]
        if self.frame.lengths is not None:
            ((vector, fits),) = results
            lengths = np.bincount(_rows(self.frame.lengths)[fits], minlength=count)
            return Values(self.frame.present, (vector.take(np.flatnonzero(fits)),), lengths)
        if all(fits.all() for _, fits in results):
            return Values(self.frame.present, tuple(vector for vector, _ in results))
        there = self.frame.there(count)
        kept = np.stack([fits & there for _, fits in results], axis=1)
        flat = _interleaved([vector for vector, _ in results], kept)
        return Values(self.frame.present, (flat,), kept.sum(axis=1))


def _interleaved(parts: Sequence[Vector], kept: Array) -> Vector:
    """One vector of the values that are kept, row by row; `kept` has shape (rows, parts)."""
    if all(isinstance(part, Numbers) for part in parts):
        arrays = [part.array.astype(np.int64) for part in parts if isinstance(part, Numbers)]
        return Numbers(np.stack(arrays, axis=1)[kept], parts[0].kind)  # type: ignore[union-attr]
    lists = [part.list() for part in parts if isinstance(part, Strings)]
    values = [lists[column][row] for row, column in np.argwhere(kept).tolist()]
    return Strings(np.arange(len(values)), values)


def pairs(left: Values, right: Values, count: int) -> Pairs:
    """Both sides; present where both are."""
    there = left.there(count) & right.there(count)
    if left.lengths is None and right.lengths is None:
        return Pairs(Values(there, ()), tuple((a, b) for a in left.vectors for b in right.vectors))
    first, second = _spread(left, count), _spread(right, count)
    assert first.lengths is not None
    assert second.lengths is not None
    lengths = np.where(there, first.lengths * second.lengths, 0)
    rows = _rows(lengths)
    nth = np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]
    each = second.lengths[rows]
    a, b = first.at(rows, nth // np.maximum(each, 1)), second.at(rows, nth % np.maximum(each, 1))
    return Pairs(Values(there, (), lengths), ((a[0], b[0]),))


def _spread(values: Values, count: int) -> Values:
    """The same with lengths."""
    if values.lengths is not None:
        return values
    order = np.arange(count * len(values.vectors)).reshape(len(values.vectors), count).T.ravel()
    lengths = np.full(count, len(values.vectors))
    return Values(values.present, (_joined(values.vectors).take(order),), lengths)


def _joined(parts: Sequence[Vector]) -> Vector:
    if isinstance(parts[0], Numbers):
        return Numbers(np.concatenate([part.array for part in parts if isinstance(part, Numbers)]), parts[0].kind)
    if isinstance(parts[0], Addresses):
        addresses = [part for part in parts if isinstance(part, Addresses)]
        highs = [np.broadcast_to(part.high, part.low.shape) for part in addresses]
        return Addresses(np.concatenate(highs), np.concatenate([part.low for part in addresses]), parts[0].four)
    values = [value for part in parts if isinstance(part, Strings) for value in part.list()]
    return Strings(np.arange(len(values)), values)


# -- functions and arithmetic --------------------------------------------------------------------------------------


def _as_strings(vector: Vector) -> Strings:
    return vector if isinstance(vector, Strings) else vector.bytes()


def cut(vector: Vector, pieces: tuple[tuple[int, int | None], ...]) -> Vector:
    """The pieces of a slice; the first that a value does not hold ends it."""
    return _as_strings(vector).mapped(lambda value: _pieces(value, pieces))


def _pieces(value: bytes, pieces: tuple[tuple[int, int | None], ...]) -> bytes:
    result = b""
    for first, length in pieces:
        start = first if first >= 0 else len(value) + first
        size = len(value) - start if length is None else length
        if start < 0 or size <= 0 or start + size > len(value):
            break
        result += value[start : start + size]
    return result


def _printed_strings(vector: Vector) -> Vector:
    if isinstance(vector, Numbers) and vector.kind == "mac":
        return vector.bytes().mapped(lambda value: value.hex(":").encode())
    assert not isinstance(vector, Strings)
    return vector.strings()


def _changed(change: Callable[[bytes], bytes]) -> Callable[[Vector], Vector]:
    return lambda vector: _as_strings(vector).mapped(change)


FUNCTIONS: dict[str, Callable[[Vector], Vector]] = {
    "len": lambda vector: Numbers(_as_strings(vector).lengths(), "int"),
    "upper": _changed(bytes.upper),
    "lower": _changed(bytes.lower),
    "string": _printed_strings,
}


def extreme(function: str, arguments: Sequence[Values], count: int, kind: type[np.integer[Any]]) -> Values:
    """The greatest or least of all values of a row."""
    there = reduce(operator.and_, (each.there(count) for each in arguments))
    worse = np.iinfo(kind).min if function == "max" else np.iinfo(kind).max
    best = np.full(count, worse, dtype=kind)
    better = np.maximum if function == "max" else np.minimum
    for each in arguments:
        for vector in each.vectors:
            assert isinstance(vector, Numbers)
            if each.lengths is None:
                best = better(best, vector.array.astype(kind))
            else:
                better.at(best, _rows(each.lengths), vector.array.astype(kind))
    return Values(there, (Numbers(best, "int"),))


def non_zero(vector: Vector) -> Array:
    """Which numbers are not 0, which bytes not all 0."""
    if isinstance(vector, Strings):
        return vector.each(lambda value: any(value))
    assert isinstance(vector, Numbers)
    found: Array = vector.array != 0
    return found


def _result(value: Arithmetic, left: Vector, right: Vector) -> tuple[Vector, Array]:
    """The results, and which of them count."""
    if isinstance(left, Strings):
        assert isinstance(right, Strings)
        anded = list(map(_and_bytes, left.list(), right.list()))
        return Strings(np.arange(len(anded)), anded), np.array([bool(each) for each in anded], dtype=bool)
    assert isinstance(left, Numbers)
    assert isinstance(right, Numbers)
    if value.operator == "&":
        return Numbers(left.array.astype(np.uint64) & right.array.astype(np.uint64), "int"), np.ones(
            len(left.array), bool
        )
    if value.bits > 32:
        return _exactly(value, left.array, right.array)
    return _within(value, left.array.astype(np.int64), right.array.astype(np.int64))


def _and_bytes(left: bytes, right: bytes) -> bytes:
    return bytes(map(operator.and_, left, right)) if len(left) == len(right) <= 8 else b""


def _within(value: Arithmetic, left: Array, right: Array) -> tuple[Vector, Array]:
    """Operands of 33 bits and a sign: only products need care."""
    least, most = limits(value.bits)
    if value.operator in "/%":
        fits = right != 0
        found = np.fmod(left, np.where(fits, right, 1))
        if value.operator == "/":
            found = (left - found) // np.where(fits, right, 1)
        return Numbers(found, value.kind), fits & (found >= least) & (found <= most)
    if value.operator == "*":
        fits = np.abs(left) <= np.where(right == 0, most, most // np.maximum(np.abs(right), 1))
        found = np.where(fits, left, 0) * right
        return Numbers(found, value.kind), fits & (found >= least) & (found <= most)
    found = left + right if value.operator == "+" else left - right
    fits = (found >= least) & (found <= most)
    return Numbers(found, value.kind), fits if value.operator == "+" else fits & ((found >= 0) | (right <= SIGNED))


_EXACT: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def _exactly(value: Arithmetic, left: Array, right: Array) -> tuple[Vector, Array]:
    """In Python's integers, which have no end."""
    least, most = limits(value.bits)
    found = [_exact(value.operator, a, b) for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    fits = np.array([each is not None and least <= each <= most for each in found], dtype=bool)
    kept = [each if fit else 0 for each, fit in zip(found, fits.tolist(), strict=True)]
    return Numbers(np.array(kept, dtype=np.int64), value.kind), fits


def _exact(sign: str, left: int, right: int) -> int | None:
    if sign in _EXACT:
        return _EXACT[sign](left, right)
    if right == 0:
        return None
    whole = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    return whole if sign == "/" else left - whole * right
