"""Rows for the tests of questions, as plain dicts, and what people must see of them, worked out the slow way.

`values` and `holds` are a second, naive reading of the schema and of filters: one row at a time, in Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import numpy as np

from hub.store.books import Entry
from protocol.columns import NUMPY, Columns, Dict, Lists, empty, maps_of, text_of, texts_of
from protocol.filter.names import ADDRESSES, FIRST, WHEN, protocol
from protocol.filter.tree import (
    SIGNED,
    And,
    Arithmetic,
    Call,
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
    limits,
)
from protocol.messages import Batch
from protocol.schema import TABLES, Field, Has, fields_of

Row = dict[str, Any]


def address(text: str) -> bytes:
    """The 16 bytes of an address, IPv4 mapped."""
    return IPv6Address(f"::ffff:{text}" if "." in text and ":" not in text else text).packed


def columns_of(table: str, rows: Sequence[Row]) -> Columns:
    """The columns of rows; a column that no row names is empty."""
    columns: Columns = {}
    for column in TABLES[table].columns:
        zero = {
            "addr": bytes(16),
            "dict": "",
            "text": "",
            "list_u2": [],
            "list_u4": [],
            "list_text": [],
            "map": {},
        }.get(column.wire, 0)
        values = [row.get(column.name, zero) for row in rows]
        if column.wire == "addr":
            columns[column.name] = np.frombuffer(b"".join(values), np.uint8).reshape(len(rows), 16)
        elif column.wire == "dict":
            known = tuple(dict.fromkeys(values))
            columns[column.name] = Dict(np.array([known.index(v) for v in values], "<u4"), known)
        elif column.wire == "text":
            columns[column.name] = text_of(values)
        elif column.wire == "list_text":
            columns[column.name] = texts_of(values)
        elif column.wire == "map":
            columns[column.name] = maps_of(values)
        elif column.wire.startswith("list"):
            item = "<u2" if column.wire == "list_u2" else "<u4"
            flat = [v for value in values for v in value]
            columns[column.name] = Lists(np.array([len(v) for v in values], "u1"), np.array(flat, item))
        else:
            columns[column.name] = np.array(values, NUMPY[column.wire])
    assert all(len(columns[c.name]) == len(empty(c, len(rows))) for c in TABLES[table].columns)
    return columns


def entry(table: str, rows: Sequence[Row], seq: int = 1, agent: str = "web-1", epoch: int = 7, **more: Any) -> Entry:
    """One batch of these rows."""
    shape = TABLES[table]
    first = min(int(row.get(shape.time, 0)) for row in rows)
    last = max(int(row.get(shape.until, 0)) for row in rows)
    packets = len(rows) if table == "packets" else sum(r.get("packets", 0) + r.get("packets_rev", 0) for r in rows)
    flow_only = sum(row.get("flow_only", 0) for row in rows) if table == "flows" else 0
    given = {"ledger": {}, "source": "live"} | more
    batch = Batch(agent, epoch, seq, table, len(rows), packets, flow_only, first, last, 0, 0, b"", given["ledger"])
    return Entry(batch, columns_of(table, rows), "node-1", given["source"], 3)


# -- what people see -----------------------------------------------------------------------------------------------


def values(field: Field, row: Mapping[str, Any]) -> list[Any]:
    """The values of a field in a row as integers, texts and addresses; none where it is absent."""
    raw = row[field.column]
    if row["layers"] & field.need != field.need:
        return []
    if field.kind == "text":
        return [raw] if raw else []
    if field.kind == "uints":
        chosen = [v for v in raw if v & field.only == field.only]
        return [v >> field.shift & (1 << field.bits) - 1 for v in chosen] if field.bits else chosen
    if field.kind == "texts":
        return list(raw)
    if field.kind == "map":
        key = field.name.removeprefix("nodetap.fields").removeprefix(".")
        return [value for name, value in raw.items() if key in ("", name)]
    if field.kind == "bool":
        return [raw >> field.shift & 1]
    if field.kind == "seconds":
        return [raw] if raw >= 0 else []
    if field.kind == "ip":
        found = IPv6Address(raw)
        four = field.need & (Has.IPV4 | Has.ARP_IPV4) or (field.need & Has.TUNNEL_IP and found.ipv4_mapped)
        return [found.ipv4_mapped if four else found]
    return [raw]


def shown(field: Field, row: Mapping[str, Any]) -> Any:
    """A field as it stands in a JSON row, None where it is absent."""
    found = values(field, row)
    if not found:
        return None
    value = found[0]
    match field.kind:
        case "uints" | "texts":
            return found
        case "map":
            return row[field.column]
        case "time":
            printed = value + (1 << 64) * 1000 if value < 0 else value  # as the file had it: unsigned microseconds
            return f"{Decimal(printed).scaleb(-9):.9f}"
        case "seconds":
            return value / 1e9
        case "mac":
            return ":".join(f"{value >> shift & 255:02x}" for shift in range(40, -1, -8))
        case "epoch":
            return f"{value:016x}"
        case "ip":
            return str(value) if isinstance(value, IPv4Address) else libc(value)
    return value


def libc(value: IPv6Address) -> str:
    """An IPv6 address as inet_ntop prints it (which is what tshark prints)."""
    import socket

    return socket.inet_ntop(socket.AF_INET6, value.packed)


def as_json(table: str, row: Mapping[str, Any], names: Iterable[str] = ()) -> dict[str, Any]:
    """The JSON row."""
    fields = fields_of(table)
    found = {name: shown(fields[name], row) for name in (names or fields)}
    return {name: value for name, value in found.items() if value is not None}


# -- filters -------------------------------------------------------------------------------------------------------


def holds(node: Node, row: Mapping[str, Any], table: str = "packets") -> bool:
    """Whether a filter is true of a row."""
    match node:
        case And():
            return all(holds(item, row, table) for item in node.items)
        case Or():
            return any(holds(item, row, table) for item in node.items)
        case Xor():
            return sum(holds(item, row, table) for item in node.items) % 2 == 1
        case Not():
            return not holds(node.item, row, table)
        case Present(name, None):
            return found(name, row, table)
        case Present():
            return results(node.value, row) is not None
        case NonZero():
            return any(any(v) if isinstance(v, bytes) else v for v in results(node.value, row) or ())
    quantifier = any if node.quantifier == "any" else all
    left = results(node.left, row)
    if isinstance(node, Member):
        return left is not None and quantifier(any(_between(v, *item) for item in node.items) for v in left)
    right = results(node.right, row)
    if left is None or right is None:
        return False
    return quantifier(_compares(node.operator, v, w) for v in left for w in right)


def found(name: str, row: Mapping[str, Any], table: str) -> bool:
    """Whether a row has a protocol."""
    wanted = protocol(name, table)
    assert wanted is not None
    if row["layers"] & wanted.need != wanted.need:
        return False
    return not wanted.column or (row[wanted.column] in wanted.values) != wanted.others


def results(value: Value, row: Mapping[str, Any]) -> list[Any] | None:
    """The values of a part of a filter, None where a field of it is absent."""
    match value:
        case Constant():
            return [value.value]
        case Operand():
            several = [v for item in value.fields for v in _filtered(item, row)]
            return several or None
        case Slice():
            inside = results(value.of, row)
            return None if inside is None else [_cut(_raw(v, value.of), value.pieces) for v in inside]
        case Call():
            arguments = [results(argument, row) for argument in value.arguments]
            if any(argument is None for argument in arguments):
                return None
            return _called(value, [argument or [] for argument in arguments])
    left, right = results(value.left, row), results(value.right, row)
    if left is None or right is None:
        return None
    least, most = limits(value.bits)
    made = [_computed(value.operator, v, w) for v in left for w in right if not _beyond(value, v, w)]
    return [v for v in made if v is not None and (isinstance(v, bytes) or least <= v <= most)]


def _beyond(value: Arithmetic, left: Any, right: Any) -> bool:
    return value.operator == "-" and value.bits == 32 and left < right and right > SIGNED


def _filtered(item: Field, row: Mapping[str, Any]) -> list[Any]:
    """As `values`, with what the fields that are no fields of the schema ask for."""
    if item.name in WHEN and row[WHEN[item.name][0]] not in WHEN[item.name][1]:
        return []
    several = values(item, row)
    if item.name in ADDRESSES:
        return [_parsed(v) for v in several]
    return several[:1] if item.name in FIRST else several


def _parsed(text: str) -> Any:
    try:
        return ip_address(text)
    except ValueError:
        return IPv6Address(0)


def _raw(value: Any, of: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return value.packed if of.kind == "ip" else int(value).to_bytes(6, "big")


def _cut(value: bytes, pieces: Iterable[tuple[int, int | None]]) -> bytes:
    taken = b""
    for first, length in pieces:
        start = first if first >= 0 else len(value) + first
        stop = len(value) if length is None else start + length
        if not 0 <= start < stop <= len(value):
            break
        taken += value[start:stop]
    return taken


def _called(call: Call, arguments: list[list[Any]]) -> list[Any]:
    first = arguments[0]
    match call.function:
        case "count":
            return [len(first)]
        case "len":
            return [len(_raw(v, call.arguments[0])) for v in first]
        case "upper":
            return [v.encode().upper().decode() for v in first]
        case "lower":
            return [v.encode().lower().decode() for v in first]
        case "string":
            return [_printed(v, call.arguments[0].kind) for v in first]
    return [(max if call.function == "max" else min)(v for argument in arguments for v in argument)]


def _printed(value: Any, kind: str) -> str:
    if kind == "mac":
        return int(value).to_bytes(6, "big").hex(":")
    return libc(value) if isinstance(value, IPv6Address) else str(value)


def _computed(sign: str, left: Any, right: Any) -> Any:
    if isinstance(left, bytes):
        return bytes(a & b for a, b in zip(left, right, strict=True)) if 0 < len(left) == len(right) <= 8 else None
    match sign:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "&":
            return left & right
    if right == 0:
        return None
    whole = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    return whole if sign == "/" else left - whole * right


def _between(value: Any, low: Constant, high: Constant | None) -> bool:
    if high is None:
        return _compares("==", value, low.value)
    return type(value) is type(low.value) and _compares(">=", value, low.value) and _compares("<=", value, high.value)


def _compares(sign: str, value: Any, literal: Any) -> bool:
    if isinstance(literal, IPv4Network | IPv6Network):
        return _in_network(sign, value, literal)
    if sign in ("==", "!="):
        return bool(value == literal) == (sign == "==")
    if sign == "contains":
        return bool(literal) and literal in value
    if sign == "matches":
        return re.search(literal, value, re.IGNORECASE) is not None
    if isinstance(value, bytes):  # the shorter first
        value, literal = (len(value), value), (len(literal), literal)
    if isinstance(value, str):
        value, literal = value.encode(), literal.encode()
    if isinstance(value, IPv4Address | IPv6Address):
        value, literal = _mapped(value), _mapped(literal)
    return {">": value > literal, "<": value < literal, ">=": value >= literal, "<=": value <= literal}[sign]


def _in_network(sign: str, value: Any, network: Any) -> bool:
    first, last, here = map(_mapped, (network.network_address, network.broadcast_address, value))
    inside = first <= here <= last
    return {
        "==": inside, "!=": not inside, "<": here < first, ">": here > last, "<=": here <= last, ">=": here >= first,
    }[sign]  # fmt: skip


def _mapped(value: Any) -> int:
    return int(value) | 0xFFFF << 32 if value.version == 4 else int(value)
