"""The columns of each table: packets, flows, calls, and what is worked out of groups. Pure; times are local."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from hub.cli.info import info, protocol
from hub.cli.table import Column, Row, field_column, value
from protocol.schema import fields_of

_RIGHT = ("uint", "bool", "seconds", "time")
_PORTS = ("tcp", "udp", "sctp")


def clock(seconds: Any, pattern: str = "%H:%M:%S", digits: int = 6) -> str:
    """Seconds since the epoch (text with 9 decimals) as local time; empty where absent."""
    if seconds is None:
        return ""
    whole, _, fraction = str(seconds).partition(".")
    try:
        moment = datetime.fromtimestamp(int(whole))
    except (ValueError, OverflowError, OSError):
        return str(seconds)
    return f"{moment.strftime(pattern)}.{fraction[:digits]:0<{digits}}"


def _address(row: Row, side: str) -> str:
    for name in (f"ip.{side}", f"ipv6.{side}", f"arp.{side}.proto_ipv4", f"eth.{side}"):
        if name in row:
            return str(row[name])
    return ""


def _port(row: Row, side: str) -> str:
    return next((str(row[f"{p}.{side}port"]) for p in _PORTS if f"{p}.{side}port" in row), "")


def endpoint(row: Row, side: str) -> str:
    """One end (`src` or `dst`) with its port: `10.0.0.1:443`, `[2001:db8::1]:443`, else the MAC address."""
    address, port = _address(row, side), _port(row, side)
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _src(row: Row) -> str:
    return endpoint(row, "src")


def _dst(row: Row) -> str:
    return endpoint(row, "dst")


def _get(name: str) -> Any:
    return lambda row: value(row.get(name))


ENDS = (
    Column("src", _src, style="cyan"),
    Column("", lambda row: "→"),
    Column("dst", _dst, style="cyan"),
    Column("proto", protocol, drop=2, style="green"),
)

PACKETS = (
    Column("time", lambda row: clock(row.get("frame.time_epoch"), digits=3)),
    Column("agent", _get("nodetap.agent"), drop=1, style="magenta"),
    *ENDS,
    Column("len", _get("frame.len"), right=True, drop=3),
    Column("info", info, flexible=True, least=9),
)

PACKETS_WIDE = (
    Column("time", lambda row: clock(row.get("frame.time_epoch"), "%Y-%m-%d %H:%M:%S", 9)),
    Column("agent", _get("nodetap.agent"), style="magenta"),
    Column("iface", _get("nodetap.iface"), drop=7),
    Column("number", _get("frame.number"), right=True, drop=8),
    *ENDS,
    Column("len", _get("frame.len"), right=True, drop=2),
    Column("ttl", lambda row: value(row.get("ip.ttl", row.get("ipv6.hlim"))), right=True, drop=6),
    Column("vlan", _get("vlan.id"), drop=5),
    Column("tunnel", _get("tunnel.type"), drop=5),
    Column("info", info, flexible=True, least=20),
)


def _sum(row: Row, name: str) -> str:
    return str(row.get(name, 0) + row.get(name + "_rev", 0))


def _duration(row: Row) -> str:
    if "flow.start" not in row or "flow.end" not in row:
        return ""
    return f"{float(row['flow.end']) - float(row['flow.start']):.3f}"


def _milliseconds(name: str) -> Any:
    return lambda row: f"{row[name] * 1000:.3f}" if row.get(name) is not None else ""


def _status(row: Row) -> str:
    return str(row.get("call.status", "")) if "call.latency" in row else "no response"


FLOWS = (
    Column("start", lambda row: clock(row.get("flow.start"), digits=3), drop=3),
    Column("agent", _get("nodetap.agent"), drop=1, style="magenta"),
    *ENDS,
    Column("packets", lambda row: _sum(row, "flow.packets"), right=True),
    Column("bytes", lambda row: _sum(row, "flow.bytes"), right=True),
    Column("seconds", _duration, right=True, drop=5),
)

FLOWS_WIDE = (
    Column("start", lambda row: clock(row.get("flow.start"), "%Y-%m-%d %H:%M:%S")),
    Column("agent", _get("nodetap.agent"), style="magenta"),
    Column("iface", _get("nodetap.iface"), drop=9),
    *ENDS,
    Column("packets", _get("flow.packets"), right=True),
    Column("bytes", _get("flow.bytes"), right=True),
    Column("packets ←", _get("flow.packets_rev"), right=True),
    Column("bytes ←", _get("flow.bytes_rev"), right=True),
    Column("seconds", _duration, right=True, drop=5),
    Column("rtt ms", _milliseconds("flow.rtt"), right=True, drop=6),
    Column("sent again", _get("flow.retransmissions"), right=True, drop=10),
    Column("sent again ←", _get("flow.retransmissions_rev"), right=True, drop=10),
    Column("zero win", _get("flow.zero_windows"), right=True, drop=8),
    Column("flow only", _get("flow.flow_only"), right=True, drop=7),
)

_CALLED = (
    Column("l7", _get("nodetap.l7"), style="green"),
    Column("operation", _get("call.operation"), flexible=True, least=10),
    Column("status", _status, drop=4),
    Column("ms", _milliseconds("call.latency"), right=True),
)

CALLS = (
    Column("start", lambda row: clock(row.get("call.start"), digits=3), drop=3),
    Column("agent", _get("nodetap.agent"), drop=1, style="magenta"),
    *ENDS[:3],
    *_CALLED,
)

CALLS_WIDE = (
    Column("start", lambda row: clock(row.get("call.start"), "%Y-%m-%d %H:%M:%S", 9)),
    Column("agent", _get("nodetap.agent"), style="magenta"),
    Column("iface", _get("nodetap.iface"), drop=7),
    *ENDS,
    *_CALLED,
    Column("error", _get("call.error"), right=True, drop=5),
    Column("bytes", _get("call.request_bytes"), right=True, drop=6),
    Column("bytes ←", _get("call.response_bytes"), right=True, drop=6),
)


def _percent(name: str) -> Any:
    return lambda row: f"{row[name] * 100:.1f}" if name in row else ""


GROUPED = {
    "flows": (
        Column("flows", _get("flow.records"), right=True, drop=1),
        Column("packets", _get("flow.packets"), right=True),
        Column("packets ←", _get("flow.packets_rev"), right=True, drop=2),
        Column("bytes", _get("flow.bytes"), right=True),
        Column("bytes ←", _get("flow.bytes_rev"), right=True),
    ),
    "calls": (
        Column("calls", _get("call.count"), right=True),
        Column("errors", _get("call.errors"), right=True, drop=2),
        Column("error %", _percent("call.error_rate"), right=True),
        Column("no response", _get("call.unanswered"), right=True, drop=3),
        *(Column(f"p{percent} ms", _milliseconds(f"call.latency_p{percent}"), right=True) for percent in (50, 95, 99)),
        Column("bytes", _get("call.request_bytes"), right=True, drop=4),
        Column("bytes ←", _get("call.response_bytes"), right=True, drop=5),
    ),
}
"""What is worked out of groups; the arrow is the way back, from destination to source."""

DEFAULT = {
    ("packets", "table"): PACKETS,
    ("packets", "wide"): PACKETS_WIDE,
    ("flows", "table"): FLOWS,
    ("flows", "wide"): FLOWS_WIDE,
    ("calls", "table"): CALLS,
    ("calls", "wide"): CALLS_WIDE,
}

_WHERE = (
    "nodetap.agent", "nodetap.iface", "nodetap.proto", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst",
    *(f"{protocol}.{side}port" for protocol in _PORTS for side in ("src", "dst")),
)  # fmt: skip
_INFO = (
    "nodetap.info", "nodetap.malformed", "ip.frag_offset", "ip.flags.mf", "ipv6.fraghdr.offset", "ipv6.fraghdr.more",
    "tcp.flags", "tcp.seq_raw", "tcp.ack_raw", "tcp.window_size_value", "tcp.len", "udp.length", "icmp.type",
    "icmp.code", "icmpv6.type", "icmpv6.code", "arp.opcode",
)  # fmt: skip
_LAYER_2 = ("eth.src", "eth.dst", "nodetap.ethertype")
READ = {
    "packets": (
        "frame.time_epoch", "frame.number", "frame.len", "arp.src.proto_ipv4", "arp.dst.proto_ipv4", "nodetap.l7",
        "ip.ttl", "ipv6.hlim", "vlan.id", "tunnel.type", *_WHERE, *_LAYER_2, *_INFO,
    ),
    "flows": (
        "flow.start", "flow.end", "flow.packets", "flow.bytes", "flow.packets_rev", "flow.bytes_rev", "flow.rtt",
        "flow.retransmissions", "flow.retransmissions_rev", "flow.zero_windows", "flow.flow_only", *_WHERE, *_LAYER_2,
    ),
    "calls": (
        "call.start", "call.operation", "call.status", "call.latency", "call.error", "call.request_bytes",
        "call.response_bytes", "nodetap.l7", *_WHERE,
    ),
}  # fmt: skip
"""The fields that `DEFAULT` columns read: a row of them alone costs the hub half of what one of all fields does."""


def of_fields(names: Sequence[str], table: str) -> list[Column]:
    """A column per public field, numbers to the right; unknown names are the hub's to refuse."""
    known = fields_of(table)
    return [field_column(name, right=name in known and known[name].kind in _RIGHT) for name in names]


def of_groups(by: Sequence[str], table: str) -> list[Column]:
    """The columns of flows summed by fields, and of the figures of calls."""
    return [*of_fields(by, table), *GROUPED[table]]
