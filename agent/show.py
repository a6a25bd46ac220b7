"""Packet columns as lines of text: NDJSON as the hub prints it, and a table for people.

Works a field at a time: all values of a column become strings, and strings that come again are made once. A line is
then the strings of all fields joined.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.columns import Columns, ColumnValue, Dict, Lists, Maps, Text, Texts, items_of, take
from protocol.schema import PACKETS, WRAP_NS, Field, Has, fields_of

_STORED = {column.name for column in PACKETS.columns}
FIELDS: dict[str, Field] = {name: field for name, field in fields_of("packets").items() if field.column in _STORED}
"""Public fields that a packet has before it is stored, in order of display."""

_MEMO = 1 << 16
_SMALL = 2  # bytes of an integer whose strings are remembered
_MAPPED = bytes(10) + b"\xff\xff"


class Memo(dict[Any, str]):
    """Values to strings, each made once; forgets all when it has grown to `_MEMO`."""

    def __init__(self, make: Callable[[Any], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: Any) -> str:
        if len(self) >= _MEMO:
            self.clear()
        text = self[key] = self._make(key)
        return text

    def all(self, keys: Iterable[Any]) -> list[str]:
        """The strings of all keys."""
        return list(map(self.__getitem__, keys))


# -- values --------------------------------------------------------------------------------------------------------


def seconds(nanoseconds: int) -> str:
    """A time in nanoseconds as seconds with 9 decimals; one below zero as `WRAP_NS` says."""
    whole, rest = divmod(nanoseconds + WRAP_NS if nanoseconds < 0 else nanoseconds, 1_000_000_000)
    return f"{whole}.{rest:09d}"


def mac(number: int) -> str:
    """The 48 low bits as a MAC address: `00:11:22:aa:bb:cc`."""
    return number.to_bytes(8, "big")[2:].hex(":")


def ipv4(packed: bytes) -> str:
    """The last four of 16 bytes as an IPv4 address."""
    return socket.inet_ntop(socket.AF_INET, packed[12:])


def ipv6(packed: bytes) -> str:
    """16 bytes as an IPv6 address (RFC 5952)."""
    return socket.inet_ntop(socket.AF_INET6, packed)


def either(packed: bytes) -> str:
    """16 bytes as the address they hold: IPv4 where it is a mapped one."""
    return ipv4(packed) if packed.startswith(_MAPPED) else ipv6(packed)


def _address_maker(field: Field) -> Callable[[bytes], str]:
    if field.need & (Has.IPV4 | Has.ARP_IPV4):
        return ipv4
    return ipv6 if field.need & Has.IPV6 else either


def _texts(value: Text) -> list[str]:
    data, ends = value.data.tobytes(), np.cumsum(value.lengths, dtype=np.int64).tolist()
    starts = [0, *ends[:-1]]
    return [data[start:end].decode("utf-8", "replace") for start, end in zip(starts, ends, strict=True)]


def _rows(lengths: NDArray[Any], items: list[Any]) -> list[tuple[Any, ...]]:
    """Items one after the other as one tuple per row."""
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    return [tuple(items[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _pairs(value: Maps) -> list[tuple[str, str]]:
    names = [value.keys.values[code] for code in value.keys.codes.tolist()]
    return list(zip(names, _texts(value.values), strict=True))


def _parts(field: Field, numbers: NDArray[Any]) -> NDArray[Any]:
    """What a field shows of its column's integers."""
    return (numbers >> field.shift) & ((1 << field.bits) - 1) if field.bits else numbers


def _keys(field: Field, value: ColumnValue) -> list[Any]:
    """Python values of a column, one per row, that its strings are made from."""
    if isinstance(value, Dict):
        return [value.values[code] for code in value.codes.tolist()]
    if isinstance(value, Text):
        return _texts(value)
    if isinstance(value, Lists):
        return _rows(value.lengths, _parts(field, value.values).tolist())
    if isinstance(value, Texts):
        return _rows(value.counts, _texts(value.strings))
    if isinstance(value, Maps):
        return _rows(value.counts, _pairs(value))
    if field.kind == "ip":
        keys: list[Any] = np.ascontiguousarray(value).view("V16").ravel().tolist()
        return keys
    if field.kind == "bool":
        flags: list[Any] = ((value >> value.dtype.type(field.shift)) & value.dtype.type(1)).tolist()
        return flags
    plain: list[Any] = value.tolist()
    return plain


_MAKERS: dict[str, Callable[[Field], Callable[[Any], str]]] = {
    "uint": lambda field: str,
    "bool": lambda field: str,
    "time": lambda field: seconds,
    "mac": lambda field: mac,
    "ip": _address_maker,
    "text": lambda field: str,
    "uints": lambda field: lambda items: ",".join(map(str, items)),
    "texts": lambda field: ",".join,
    "map": lambda field: lambda pairs: " ".join(f"{name}={text}" for name, text in pairs),
}
"""Per kind of field how one value is printed; the kinds of packet fields only."""


def _present(field: Field, columns: Columns) -> NDArray[np.bool_] | None:
    """Rows that have the field; None for all."""
    mask: NDArray[np.bool_] | None = None
    value = columns[field.column]
    if isinstance(value, Text | Lists | Texts | Maps) and not items_of(value):
        return np.zeros(len(value), dtype=np.bool_)
    if field.need:
        need = np.uint64(int(field.need))
        mask = (np.asarray(columns["layers"]) & need) == need
    has = None
    if isinstance(value, Dict):
        has = np.array([string != "" for string in value.values] or [False], dtype=np.bool_)[value.codes]
    elif isinstance(value, Text | Lists):
        has = value.lengths > 0
    elif isinstance(value, Texts | Maps):
        has = value.counts > 0
    if has is not None:
        mask = has if mask is None else mask & has
    return None if mask is None or bool(mask.all()) else mask


def _only(field: Field, value: Lists) -> Lists:
    """The integers that have all bits of `only`."""
    chosen = (value.values & field.only) == field.only
    rows = np.repeat(np.arange(len(value)), value.lengths)[chosen]
    return Lists(np.bincount(rows, minlength=len(value)).astype("u1"), value.values[chosen])


class FieldStrings:
    """The strings of one field, block after block. `wrap` makes of a printed value what stands in the line; `make`
    prints a value, as people read it unless given."""

    def __init__(
        self, field: Field, wrap: Callable[[str], str] = str, make: Callable[[Any], str] | None = None
    ) -> None:
        self.field = field
        make = make or _MAKERS[field.kind](field)
        self._make: Callable[[Any], str] = make if wrap is str else lambda value: wrap(make(value))
        self._memo = Memo(self._make)

    def rows(self, columns: Columns) -> list[str] | None:
        """One string per row, empty where the field is absent; None where no row has it."""
        value = columns[self.field.column]
        if self.field.only and isinstance(value, Lists):
            value = _only(self.field, value)
        mask = _present(self.field, {**columns, self.field.column: value} if self.field.only else columns)
        if mask is None:
            return self._strings(value)
        index = np.flatnonzero(mask)
        if not len(index):
            return None
        out = np.full(len(mask), "", dtype=object)
        out[index] = self._strings(take(value, index))
        strings: list[str] = out.tolist()
        return strings

    def _strings(self, value: ColumnValue) -> list[str]:
        keys = _keys(self.field, value)
        often = self.field.kind in ("mac", "ip") or isinstance(value, Dict | Lists | Texts)
        if often or (isinstance(value, np.ndarray) and (value.itemsize <= _SMALL or self.field.kind == "bool")):
            return self._memo.all(keys)
        return list(map(self._make, keys))


# -- lines ---------------------------------------------------------------------------------------------------------


_JSON: dict[str, Callable[[Any], str]] = {
    "texts": lambda items: json.dumps(items, separators=(",", ":")),
    "map": lambda pairs: json.dumps(dict(pairs), separators=(",", ":")),
}
"""Kinds whose JSON is not made of the value as people read it."""


def _member(field: Field) -> Callable[[str], str]:
    """How a value becomes `,"name":value`."""
    name = "," + json.dumps(field.name) + ":"
    if field.kind in ("uint", "bool", *_JSON):
        return lambda text: name + text
    if field.kind == "uints":
        return lambda text: f"{name}[{text}]"
    if field.kind == "text":
        return lambda text: name + json.dumps(text)
    return lambda text: f'{name}"{text}"'


class Ndjson:
    """One JSON object a line: keys are public names, absent fields are absent."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = [FieldStrings(field, _member(field), _JSON.get(field.kind)) for field in fields]

    def lines(self, columns: Columns) -> str:
        """The lines of all rows."""
        rows = len(columns["layers"])
        present = [strings for field in self._fields if (strings := field.rows(columns)) is not None]
        parts: Iterable[Any] = zip(*present, strict=True) if present else [()] * rows
        return "".join([f"{{{''.join(part)[1:]}}}\n" for part in parts])


def clean(text: str) -> str:
    """`text` with what a terminal would obey written out: names and info lines come from the network."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Lines:
    """Cells of a column side by side, as wide as the widest of the first block; the header comes first."""

    def __init__(self, cells: Sequence[Cells]) -> None:
        self._cells = cells
        self._template = ""

    def lines(self, columns: Columns) -> str:
        """The lines of all rows."""
        made = [cells.rows(columns) for cells in self._cells]
        head = ""
        if not self._template:
            self._template = self._measure(made)
            head = self._template.format(*(cells.header for cells in self._cells)).rstrip() + "\n"
        line = self._template.format
        return head + "".join([f"{line(*row).rstrip()}\n" for row in zip(*made, strict=True)])

    def _measure(self, made: Sequence[Sequence[str]]) -> str:
        widths = [max(len(cells.header), *map(len, strings)) for cells, strings in zip(self._cells, made, strict=True)]
        return "  ".join(
            f"{{:{'>' if cells.right else '<'}{width}}}" for cells, width in zip(self._cells, widths, strict=True)
        )


class Cells:
    """One column of the table. `rows` gives a cell per row."""

    def __init__(self, header: str, rows: Callable[[Columns], list[str]], right: bool = False) -> None:
        self.header, self.rows, self.right = header, rows, right


def field_cells(field: Field, header: str = "") -> Cells:
    """A column that shows one field, under its public name unless told otherwise."""
    strings = FieldStrings(field, clean if field.kind in ("text", "texts", "map") else str)
    return Cells(header or field.name, lambda columns: _or_empty(strings, columns), field.kind in ("uint", "time"))


def _or_empty(strings: FieldStrings, columns: Columns) -> list[str]:
    return strings.rows(columns) or [""] * len(columns["layers"])


def _first_of(*names: str, wrap: Callable[[str], str] = str) -> Callable[[Columns], list[str]]:
    """Per row the first of the fields that it has."""
    fields = [FieldStrings(FIELDS[name], wrap) for name in names]

    def rows(columns: Columns) -> list[str]:
        made = [strings for field in fields if (strings := field.rows(columns)) is not None]
        if not made:
            return [""] * len(columns["layers"])
        out = made[0]
        for more in made[1:]:
            out = [a or b for a, b in zip(out, more, strict=True)]
        return out

    return rows


def _endpoint(side: str) -> Callable[[Columns], list[str]]:
    """`10.0.0.1:443`, `[2001:db8::1]:443`, else the ARP or the MAC address."""
    address = _first_of(f"ip.{side}", f"ipv6.{side}", f"arp.{side}.proto_ipv4", f"eth.{side}")
    port = _first_of(f"tcp.{side}port", f"udp.{side}port", f"sctp.{side}port")

    def join(host: str, number: str) -> str:
        if not number:
            return host
        return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"

    return lambda columns: list(map(join, address(columns), port(columns)))


PROTOCOLS = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP", 51: "AH", 58: "ICMPv6", 89: "OSPF"}
PROTOCOLS |= {103: "PIM", 112: "VRRP", 132: "SCTP"}
"""IANA's protocol numbers that are worth a name in the table."""


def _protocol() -> Callable[[Columns], list[str]]:
    application = _first_of("nodetap.l7", wrap=lambda text: clean(text).upper())
    upper = _first_of("nodetap.proto", wrap=lambda text: PROTOCOLS.get(int(text), f"IP {text}"))
    lower = _first_of("nodetap.ethertype", wrap=lambda text: "ARP" if text == "2054" else f"0x{int(text):04x}")

    def rows(columns: Columns) -> list[str]:
        made = zip(application(columns), upper(columns), lower(columns), strict=True)
        return [a or b or c or "?" for a, b, c in made]

    return rows


def _info() -> Callable[[Columns], list[str]]:
    said = _first_of("nodetap.info", wrap=clean)
    names = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE")
    flags = _first_of(
        "tcp.flags", wrap=lambda text: "[" + ", ".join(n for i, n in enumerate(names) if int(text) >> i & 1) + "]"
    )
    kind = _first_of("icmp.type", "icmpv6.type", wrap=lambda text: f"type {text}")
    vlan = _first_of("vlan.id", wrap=lambda text: f"vlan {text}")
    tunnel = _first_of("tunnel.type", wrap=lambda text: f"in {clean(text)}")
    broken = _first_of("nodetap.malformed", wrap=lambda text: "malformed")

    def rows(columns: Columns) -> list[str]:
        made = zip(*(part(columns) for part in (said, flags, kind, vlan, tunnel, broken)), strict=True)
        return [" ".join(filter(None, (a or b or c, *rest))) for a, b, c, *rest in made]

    return rows


def _clock() -> Callable[[Columns], list[str]]:
    """Local time of day with microseconds, as tcpdump shows it."""
    of_second = Memo(lambda second: time.strftime("%H:%M:%S", time.localtime(second)))
    field = FIELDS["frame.time_epoch"]

    def rows(columns: Columns) -> list[str]:
        whole, rest = np.divmod(np.asarray(columns["time"], dtype=np.int64), 1_000_000_000)
        made = [f"{of_second[s]}.{n // 1000:06d}" for s, n in zip(whole.tolist(), rest.tolist(), strict=True)]
        mask = _present(field, columns)
        return made if mask is None else [m if p else "" for m, p in zip(made, mask.tolist(), strict=True)]

    return rows


def table(fields: Sequence[Field] | None) -> Lines:
    """A table of the fields named, or of what people look at first."""
    if fields is not None:
        return Lines([field_cells(field) for field in fields])
    return Lines(
        [
            field_cells(FIELDS["frame.number"], "frame"),
            Cells("time", _clock()),
            Cells("src", _endpoint("src")),
            Cells("dst", _endpoint("dst")),
            Cells("proto", _protocol()),
            field_cells(FIELDS["frame.len"], "len"),
            Cells("info", _info()),
        ]
    )
