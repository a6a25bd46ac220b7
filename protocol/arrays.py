"""Integers as bytes: arrays, and what makes them small before they are compressed.

An array on the wire is a list. These hold the values:

    ["raw", width, bytes]         `width` bytes each (1, 2, 4, 8; of an address 16), little-endian
    ["planes", width, bytes]      the lowest bytes of all values, then the second ones, ...: `width` of them
    ["const", bytes]              one value, in the column's own width, the same everywhere

and these say how to get them from the array in them:

    ["zigzag", array]             signed values: 0, -1, 1, -2, ... are sent as 0, 1, 2, 3, ...
    ["times", unit, array]        divided by `unit`
    ["delta", bytes, array]       the first value, 8 bytes, and the steps from each value to the next
    ["group", array]              one value for each group of rows
    ["sorted", array]             in the order of the groups
    ["from", plus, minus, array]  less the columns named in `plus`, and with those in `minus` added

All is counted modulo 2 to the bits of the column. `group` and `sorted` need the batch's groups (`protocol.groups`),
`from` integer columns that stand before this one in the table. Each holds only what stands above it: nothing is deeper
than seven lists. Values of which a row has several (items of lists, lengths of strings) are `raw` or `planes`, so that
none is without a byte.

Packing never changes a value; unpacking checks all it takes and raises `WrongBatch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from protocol.columns import Array, stretch
from protocol.errors import WrongBatch
from protocol.groups import Groups

MICROSECOND = 1_000
"""Nanoseconds: times of a clock that counts microseconds are multiples of it."""
MAX_BASES = 4
"""Columns that one `from` adds, and takes away, at most."""


class Way(NamedTuple):
    """How an array is sent where its values let it; what is not said is left out.

    `plus`, `minus`: the columns it is close to. `steps`: as differences from one to the next. `planes`: byte by byte.
    `time`: in nanoseconds. `sort`: in the order of the groups, or once a group.
    """

    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    steps: bool = False
    planes: bool = False
    time: bool = False
    sort: bool = True


# -- to the wire ---------------------------------------------------------------------------------------------------


def pack_array(values: Array, way: Way, groups: Groups | None, near: Mapping[str, Array]) -> list[Any]:
    """An array of one value a row: unsigned, or (rows, 16) bytes. `near` holds the columns that `way` names."""
    if _is_one(values):
        return ["const", values[0].tobytes()]
    if way.plus and all(name in near for name in (*way.plus, *way.minus)):
        left = values - _sum(way.plus, near, values.dtype) + _sum(way.minus, near, values.dtype)
        return ["from", [*way.plus], [*way.minus], _pack_rows(left, way, groups, signed=True)]
    return _pack_rows(values, way, groups, signed=False)


def pack_items(values: Array, planes: bool = False) -> list[Any]:
    """An array of several values a row, unsigned."""
    return _pack_plain(values, planes)


def _pack_rows(values: Array, way: Way, groups: Groups | None, signed: bool) -> list[Any]:
    if signed and _is_one(values):
        return ["const", values[0].tobytes()]
    if groups is None or not way.sort:
        return _pack_run(values, way, signed)
    values = take_rows(values, groups.order)
    if _is_shared(values, groups.inside):
        return ["group", _pack_run(take_rows(values, groups.starts), Way(), signed)]
    return ["sorted", _pack_run(values, way, signed)]


def _pack_run(values: Array, way: Way, signed: bool) -> list[Any]:
    if way.steps and len(values) > 1:
        first, values, signed = values[:1].astype("<u8"), values[1:] - values[:-1], True
        return ["delta", first.tobytes(), _pack_run(values, way._replace(steps=False), signed)]
    if signed and _is_one(values):
        return ["const", values[0].tobytes()]
    if way.time and (whole := _divided(values)) is not None:
        return ["times", MICROSECOND, _pack_signed(whole)]
    return _pack_signed(values) if signed else _pack_plain(values, way.planes)


def _pack_signed(values: Array) -> list[Any]:
    signed = values.view(values.dtype.str.replace("u", "i"))
    folded = (signed << 1) ^ (signed >> (8 * signed.itemsize - 1))
    return ["zigzag", _pack_plain(folded.view(values.dtype), planes=True)]


def _pack_plain(values: Array, planes: bool) -> list[Any]:
    if values.ndim == 2:
        return ["raw", 16, values.tobytes()]
    if values.itemsize == 1:
        return ["raw", 1, values.tobytes()]
    width = max(1, -(-int(values.max(initial=0)).bit_length() // 8))
    if planes and width > 1:
        return ["planes", width, b"".join([(values >> 8 * i).astype("u1").tobytes() for i in range(width)])]
    width = 1 << (width - 1).bit_length()
    return ["raw", width, values.astype(f"<u{width}").tobytes()]


def _is_one(values: Array) -> bool:
    """Whether there are values and all are the same; for most that are not, the last shows it."""
    if values.ndim == 2:
        words = values.view("<u8").reshape(-1)
        return len(words) > 0 and bool((words[2:] == words[:-2]).all())
    return len(values) > 0 and values[0] == values[-1] and bool((values == values[0]).all())


def _is_shared(values: Array, inside: Array) -> bool:
    """Whether in the order of the groups each value that is `inside` one is the one before."""
    if values.ndim == 2:
        words = values.view("<u8").reshape(-1)
        changes = (words[2:] != words[:-2]).view("<u2") != 0
    else:
        changes = values[1:] != values[:-1]
    return not (changes & inside).any()


def _divided(values: Array) -> Array | None:
    """Values in microseconds where all are whole ones."""
    signed = values.view("<i8")
    whole = signed // MICROSECOND
    return whole.view("<u8") if np.array_equal(whole * MICROSECOND, signed) else None


def take_rows(values: Array, index: Array) -> Array:
    """Rows `index` of an array; of addresses each as one number of 16 bytes, which is faster."""
    if values.ndim == 1:
        return values.take(index)
    return np.ascontiguousarray(values).view("<c16")[:, 0].take(index).view("u1").reshape(-1, 16)


def _sum(names: tuple[str, ...], near: Mapping[str, Array], dtype: Any) -> Array:
    total = np.zeros(1, dtype=dtype)
    for name in names:
        total = total + near[name].astype(dtype)
    return total


# -- from the wire -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """What an array has to be: `count` values of unsigned `dtype`, or with `dtype` u1 and `width` 16 addresses.

    `groups` are those of the batch, `near` the integer columns read so far; without `rows` there may be several values
    a row, and each has bytes of its own. `name` is for people.
    """

    name: str
    dtype: str
    count: int
    width: int = 0
    groups: Groups | None = None
    near: Mapping[str, Array] = field(default_factory=dict)
    rows: bool = True

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return self.width or np.dtype(self.dtype).itemsize

    def wrong(self, what: str) -> WrongBatch:
        """The error that says so."""
        return WrongBatch("bad_column", f"{self.name}: {what}")


def unpack_array(packed: object, shape: Shape, outside: str = "") -> Array:
    """The values of an array inside one of the encoding `outside`. Raises WrongBatch where it is not such an array."""
    if not isinstance(packed, list) or not packed or not isinstance(packed[0], str):
        raise shape.wrong("not an array")
    encoding = packed[0]
    arity, unpack = ENCODINGS.get(encoding, (-1, None))
    if unpack is None or len(packed) != arity + 1:
        raise shape.wrong(f"no encoding {encoding[:20]!r} of {len(packed) - 1} parts")
    if RANK[encoding] >= RANK[outside] or not (shape.rows or encoding in ("raw", "planes")):
        raise shape.wrong(f"an array {encoding!r} does not belong there")
    if shape.width and encoding not in ("raw", "const", "group", "sorted"):
        raise shape.wrong(f"addresses are never {encoding!r}")
    array: Array = unpack(packed[1:], shape)
    return array


def _bytes(value: object, size: int, shape: Shape) -> bytes:
    if not isinstance(value, bytes):
        raise shape.wrong(f"a {type(value).__name__} where bytes belong")
    if len(value) != size:
        raise shape.wrong(f"{len(value)} bytes where {size} belong")
    return value


def _width(value: object, widths: tuple[int, ...], shape: Shape) -> int:
    if type(value) is not int or value not in widths or value > shape.itemsize:  # True and 1.0 are equal to 1
        raise shape.wrong(f"a width is none of {widths}, or more than {shape.itemsize}")
    return value


def _unpack_raw(parts: list[Any], shape: Shape) -> Array:
    width = _width(parts[0], (16,) if shape.width else (1, 2, 4, 8), shape)
    payload = _bytes(parts[1], shape.count * width, shape)
    if shape.width:
        return np.frombuffer(payload, dtype="u1").reshape(-1, 16)
    return np.frombuffer(payload, dtype=f"<u{width}").astype(shape.dtype, copy=False)


def _unpack_planes(parts: list[Any], shape: Shape) -> Array:
    width = _width(parts[0], (1, 2, 3, 4, 5, 6, 7, 8), shape)
    planes = np.frombuffer(_bytes(parts[1], shape.count * width, shape), dtype="u1").reshape(width, shape.count)
    out: Array = planes[0].astype(shape.dtype)
    for i in range(1, width):
        if planes[i].any():
            out |= planes[i].astype(shape.dtype) << 8 * i
    return out


def _unpack_const(parts: list[Any], shape: Shape) -> Array:
    payload = np.frombuffer(_bytes(parts[0], shape.itemsize, shape), dtype=shape.dtype)
    return stretch(payload.reshape(1, 16) if shape.width else payload, shape.count)


def _unpack_zigzag(parts: list[Any], shape: Shape) -> Array:
    folded = unpack_array(parts[0], shape, "zigzag")
    values: Array = folded & 1
    np.negative(values, out=values)
    values ^= folded >> 1
    return values


def _unpack_times(parts: list[Any], shape: Shape) -> Array:
    unit = parts[0]
    if type(unit) is not int or not 0 < unit < 1 << 8 * shape.itemsize:
        raise shape.wrong("a unit that is no value of the column")
    values: Array = unpack_array(parts[1], shape, "times") * np.dtype(shape.dtype).type(unit)
    return values


def _unpack_delta(parts: list[Any], shape: Shape) -> Array:
    if shape.count < 1:
        raise shape.wrong("steps between no values")
    out = np.empty(shape.count, dtype=shape.dtype)
    out[0] = np.frombuffer(_bytes(parts[0], 8, shape), dtype="<u8").astype(shape.dtype)[0]
    out[1:] = unpack_array(parts[1], replace(shape, count=shape.count - 1), "delta")
    np.cumsum(out, out=out)
    return out


def _groups(shape: Shape) -> Groups:
    if shape.groups is None:
        raise shape.wrong("groups of a batch without groups")
    return shape.groups


def _unpack_group(parts: list[Any], shape: Shape) -> Array:
    groups = _groups(shape)
    return take_rows(unpack_array(parts[0], replace(shape, count=groups.count), "group"), groups.index)


def _unpack_sorted(parts: list[Any], shape: Shape) -> Array:
    places = _groups(shape).places
    return take_rows(unpack_array(parts[0], shape, "sorted"), places)


def _bases(names: object, shape: Shape) -> tuple[str, ...]:
    if not isinstance(names, list) or len(names) > MAX_BASES:
        raise shape.wrong(f"not a list of at most {MAX_BASES} columns")
    if not all(isinstance(name, str) and name in shape.near for name in names):
        raise shape.wrong("a column that is no integer and before this one")
    return tuple(names)


def _unpack_from(parts: list[Any], shape: Shape) -> Array:
    plus, minus = _bases(parts[0], shape), _bases(parts[1], shape)
    left = unpack_array(parts[2], shape, "from")
    return left + _sum(plus, shape.near, shape.dtype) - _sum(minus, shape.near, shape.dtype)


ENCODINGS: dict[str, tuple[int, Any]] = {
    "raw": (2, _unpack_raw),
    "planes": (2, _unpack_planes),
    "const": (1, _unpack_const),
    "zigzag": (1, _unpack_zigzag),
    "times": (2, _unpack_times),
    "delta": (2, _unpack_delta),
    "group": (1, _unpack_group),
    "sorted": (1, _unpack_sorted),
    "from": (3, _unpack_from),
}
"""Per encoding its parts, and who reads them."""
_LEVELS = (("raw", "planes", "const"), ("zigzag",), ("times",), ("delta",), ("group", "sorted"), ("from",), ("",))
RANK = {encoding: rank for rank, level in enumerate(_LEVELS) for encoding in level}
"""What may hold what: the outer one is higher. So what comes once a group, or one value fewer, is never one a row."""
