"""Rows for the tests of questions, as plain dicts, and what people must see of them, worked out the slow way.

`values` and `holds` are a second, naive reading of the schema and of filters: one row at a time, in Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import numpy as np

from hub.query.filter import PROTOCOLS, And, Compare, Member, Node, Not, Or, Present
from hub.store.books import Entry
from protocol.columns import NUMPY, Columns, Dict, Lists, empty, maps_of, text_of, texts_of
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
        return list(raw.values())
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


def holds(node: Node, row: Mapping[str, Any]) -> bool:
    """Whether a filter is true of a row."""
    match node:
        case And():
            return all(holds(item, row) for item in node.items)
        case Or():
            return any(holds(item, row) for item in node.items)
        case Not():
            return not holds(node.item, row)
        case Present(name, None):
            return bool(row["layers"] & PROTOCOLS[name])
        case Present():
            return any(values(field, row) for field in node.operand.fields)
    found = [value for field in node.operand.fields for value in values(field, row)]
    if isinstance(node, Member):
        return any(_between(value, low, high) for value in found for low, high in node.items)
    return bool(found) and _compares(node, found)


def _between(value: Any, low: Any, high: Any) -> bool:
    if high is None:
        return _equal(value, low)
    return type(value) is type(low) and low <= value <= high


def _equal(value: Any, literal: Any) -> bool:
    return value in literal if isinstance(literal, IPv4Network | IPv6Network) else value == literal


def _compares(node: Compare, found: list[Any]) -> bool:
    literal = node.value
    tests = {
        "==": lambda: any(_equal(v, literal) for v in found),
        "!=": lambda: not any(_equal(v, literal) for v in found),
        "===": lambda: all(_equal(v, literal) for v in found),
        "!==": lambda: not all(_equal(v, literal) for v in found),
        ">": lambda: any(v > literal for v in _same(found, literal)),
        "<": lambda: any(v < literal for v in _same(found, literal)),
        ">=": lambda: any(v >= literal for v in _same(found, literal)),
        "<=": lambda: any(v <= literal for v in _same(found, literal)),
        "contains": lambda: any(str(literal) in v for v in found),
        "matches": lambda: any(re.search(str(literal), v, re.IGNORECASE | re.DOTALL) for v in found),
    }
    return tests[node.operator]()


def _same(found: list[Any], literal: Any) -> list[Any]:
    """Values of the literal's IP version; everything else is comparable as it is."""
    return [v for v in found if not isinstance(literal, IPv4Address | IPv6Address) or v.version == literal.version]
