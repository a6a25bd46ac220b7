"""What the tests of flows share: packets as columns, records as rows, and the naive table that they are held to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from agent import flow_keys, flow_seq, kernel
from agent.flow_cuts import FIN_FIRST, FIN_SECOND, RESET
from agent.flow_items import KEEP_NS
from agent.flows import FlowTable
from protocol.built import VARIABLE
from protocol.columns import Columns, Dict, empty
from protocol.packing import pack_columns
from protocol.schema import FLOWS, PACKETS, Has

S = 1_000_000_000
SYN, ACK, FIN, RST = 2, 16, 1, 4
SEQUENCED = int(Has.TCP_FLAGS | Has.TCP_WINDOW | Has.TCP_SEQ | Has.TCP_ACK | Has.TCP_LEN)
TCP = int(Has.TIME | Has.ETH | Has.ETHERTYPE | Has.IP | Has.IPV4 | Has.TCP) | SEQUENCED
UDP = int(Has.TIME | Has.ETH | Has.ETHERTYPE | Has.IP | Has.IPV4 | Has.UDP)
FRAGMENT = int(Has.TIME | Has.ETH | Has.ETHERTYPE | Has.IP | Has.IPV4 | Has.FRAG)
V6 = int(Has.TIME | Has.IP | Has.IPV6 | Has.UDP)
L2 = int(Has.TIME | Has.ETH | Has.ETHERTYPE)
ARP = int(Has.TIME | Has.ETH | Has.ETHERTYPE | Has.ARP | Has.ARP_IPV4)


@pytest.fixture(params=["kernel", "numpy"], scope="module", autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Imported, it runs every test of a module twice: with the compiled kernel, and without."""
    if request.param == "kernel" and kernel.load() is None:
        pytest.skip("the kernel is not built or not wanted")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setenv(VARIABLE, "off")
        yield


@dataclass(frozen=True)
class Packet:
    time: int = 0
    layers: int = TCP
    src: int = 1
    dst: int = 2
    src_port: int = 1000
    dst_port: int = 80
    proto: int = 6
    flags: int = ACK
    window: int = 100
    size: int = 60
    iface: str = "eth0"
    ethertype: int = 0x0800
    seq: int = 0
    ack: int = 0
    length: int = 0

    @property
    def has_flags(self) -> bool:
        return bool(self.layers & Has.TCP_FLAGS)


def columns_of(packets: list[Packet]) -> Columns:
    rows = len(packets)
    columns = {column.name: empty(column, rows) for column in PACKETS.columns}
    plain = {
        "time": "time",
        "layers": "layers",
        "src_port": "src_port",
        "dst_port": "dst_port",
        "proto": "proto",
        "tcp_flags": "flags",
        "tcp_window": "window",
        "tcp_seq": "seq",
        "tcp_ack": "ack",
        "tcp_len": "length",
        "len": "size",
        "ethertype": "ethertype",
        "eth_src": "src",
        "eth_dst": "dst",
    }
    for name, attribute in plain.items():
        array = columns[name]
        array[:] = [getattr(p, attribute) for p in packets]
    for side in ("src", "dst"):
        columns[side][:, 15] = [getattr(p, side) for p in packets]
    names = tuple(dict.fromkeys(p.iface for p in packets)) or ("",)
    columns["iface"] = Dict(np.array([names.index(p.iface) for p in packets], dtype="<u4"), names)
    return columns


def rows_of(columns: Columns | None) -> list[dict[str, Any]]:
    if columns is None:
        return []
    pack_columns(FLOWS, columns)  # they fit the wire
    lists = {}
    for name, value in columns.items():
        if isinstance(value, Dict):
            lists[name] = [value.values[code] for code in value.codes]
        else:
            lists[name] = [v.tobytes()[-1] if v.ndim else int(v) for v in value]
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


# -- the naive table -----------------------------------------------------------------------------------------------


def ahead(a: int, b: int) -> int:
    """How far sequence number a is before b, modulo 2**32."""
    return (a - b + (1 << 31)) % (1 << 32) - (1 << 31)


@dataclass
class Way:
    """One direction of a session."""

    next: int
    reached: int
    ack: int = 0
    time: int = 0
    window: int = 0
    duplicates: int = 0
    syn: bool = False


@dataclass
class Session:
    source: tuple[int, int]
    opened: bool = False
    state: int = 0
    syn: tuple[int, tuple[int, int]] | None = None
    rtt: int = -1
    round_trip: int = -1
    ways: dict[tuple[int, int], Way] = field(default_factory=dict)

    def finished(self) -> bool:
        return bool(self.state & RESET) or self.state & 3 == FIN_FIRST | FIN_SECOND

    def judge(self, p: Packet, time: int, sender: Any, receiver: Any) -> str:
        """Wireshark's rules, one segment at a time."""
        way, other = self.ways.get(sender), self.ways.get(receiver) if sender != receiver else None
        control = bool(p.flags & (SYN | FIN))
        plain = not p.flags & (SYN | FIN | RST)
        end = (p.seq + p.length + control) % (1 << 32)
        behind = ahead(p.seq, way.next) if way else 0
        word = self.kind(p, time, way, other, end, behind)
        if way is None:
            way = self.ways[sender] = Way(p.seq, time, ack=-1)
            behind = -1  # no duplicate
            first = True
        else:
            first = False
        repeats = plain and not p.length and not behind and p.window and p.window == way.window and p.ack == way.ack
        way.duplicates = 0 if p.ack != way.ack else way.duplicates + bool(repeats)
        if way.syn and p.flags & (SYN | RST | ACK) == ACK and self.round_trip < 0:
            self.round_trip = time - way.time
        probe = p.length == 1 and other is not None and other.window == 0
        if probe:
            end = p.seq
        if first or ahead(end, way.next) > 0:
            way.next, way.reached = end, time
        way.ack, way.time, way.window = p.ack, time, p.window
        way.syn = p.flags & (SYN | ACK) == SYN
        return word

    def kind(self, p: Packet, time: int, way: Way | None, other: Way | None, end: int, behind: int) -> str:
        control = bool(p.flags & (SYN | FIN))
        if not p.length and not control:
            return ""
        if behind == -1 and p.length <= 1 and not p.flags & (SYN | FIN | RST):
            return ""
        if p.length and other and other.ack and ahead(p.seq + p.length, other.ack) <= 0:
            return "again"
        if way is None or behind >= 0 or (behind == -1 and p.length > 1):
            return ""
        if other and other.duplicates >= 2 and other.ack == p.seq and time - other.time < flow_seq.FAST_NS:
            return "again"
        allowed = self.round_trip if self.round_trip > 0 else flow_seq.ROUND_TRIP_NS
        sent = (p.seq + p.length + control) % (1 << 32)
        return "late" if time - way.reached < allowed and way.next != sent else "again"


@dataclass
class Record:
    key: tuple[Any, ...]
    session: Session
    layers: int
    ethertype: int
    base: int
    seen: int
    start: int
    end: int
    source: tuple[int, int] = (0, 0)
    rtt: int = -1
    flow_only: int = 0
    zero_windows: int = 0
    resets: int = 0
    sums: dict[tuple[int, int], list[int]] = field(default_factory=dict)


class Naive:
    def __init__(self, active: int, idle: int) -> None:
        self.active, self.idle = active, idle
        self.open: dict[tuple[Any, ...], Record] = {}
        self.isn: dict[Any, int] = {}
        self.out: list[Record] = []
        self.last: int | None = None

    def block(self, packets: list[Packet], with_rows: bool) -> None:
        timed = [p.time for p in packets if p.layers & Has.TIME]
        for packet in packets:
            if packet.layers & Has.TIME:
                self.last = packet.time
            elif self.last is None:
                self.last = timed[0] if timed else 0
            self.add(packet, self.last, with_rows)

    def begins(self, p: Packet, key: Any, sender: Any) -> bool:
        """Whether the packet begins a connection."""
        if p.layers & SEQUENCED != SEQUENCED:
            return False
        before, syn = self.isn.get((key, sender)), p.flags & (SYN | ACK) == SYN
        if before is None or syn:
            self.isn[key, sender] = p.seq if p.flags & SYN else (p.seq - 1) % (1 << 32)
        return syn and before is not None and before != p.seq

    def add(self, p: Packet, time: int, with_rows: bool) -> None:
        ip = bool(p.layers & Has.IP)
        sender, receiver = ((p.src, p.src_port), (p.dst, p.dst_port))
        if not ip:
            bits = p.layers & flow_keys.L2_LAYERS
            if not p.layers & Has.ETH:
                sender, receiver = (0, p.src_port), (0, p.dst_port)
        else:
            bits = p.layers & flow_keys.IP_LAYERS
        lower = min(sender, receiver)
        key = (p.iface, bits, p.proto, 0 if ip else p.ethertype, lower, max(sender, receiver))
        flags = p.flags if p.has_flags else 0
        syn = flags & (SYN | ACK) == SYN
        record = self.open.get(key)
        anew = self.begins(p, key, sender)
        session = None if record is None else record.session
        if record is not None and session is not None:
            silent = abs(time - record.seen)
            keep = max(KEEP_NS, self.idle) if bits & Has.TCP else self.idle
            if anew or silent >= keep or (syn and session.finished()):
                session = None
            if session is None or silent >= self.idle or time - record.base >= self.active:
                self.out.append(self.open.pop(key))
                record = None
        session = session or Session(sender)
        if record is None:
            shown = bits | p.layers & int(Has.ETHERTYPE)
            record = Record(key, session, shown, p.ethertype, time, time, time, time)
            record.sums = {receiver: [0] * 5, sender: [0] * 5}
            self.open[key] = record
        self.count(record, p, time, (sender, receiver), lower, flags, 0 if with_rows else 1)

    def count(self, r: Record, p: Packet, time: int, way: Any, lower: Any, flags: int, flow_only: int) -> None:
        sender, session = way[0], r.session
        if flags & (SYN | ACK) == SYN:
            session.state = 0
            if not session.opened:
                session.source, session.opened = sender, True
            session.syn = (time, sender)
        syn = session.syn
        if flags & (SYN | ACK) == SYN | ACK and session.rtt < 0 and syn and syn[1] != sender and time >= syn[0]:
            session.rtt = time - syn[0]
        session.state |= (RESET if flags & RST else 0) | (
            0 if not flags & FIN else FIN_FIRST if sender == lower else FIN_SECOND
        )
        r.source, r.rtt = session.source, session.rtt
        r.layers |= p.layers & int(Has.TCP_FLAGS)
        r.seen, r.start, r.end = time, min(r.start, time), max(r.end, time)
        r.flow_only += flow_only
        r.zero_windows += bool(p.layers & Has.TCP_WINDOW and p.window == 0 and not flags & RST)
        r.resets += bool(flags & RST)
        word = session.judge(p, time, *way) if p.layers & SEQUENCED == SEQUENCED else ""
        sums = r.sums[sender]
        sums[0], sums[1], sums[2] = sums[0] + 1, sums[1] + p.size, sums[2] | flags
        sums[3], sums[4] = sums[3] + (word == "again"), sums[4] + (word == "late")

    def flush(self) -> list[dict[str, Any]]:
        records = [*self.out, *self.open.values()]
        self.out, self.open = [], {}
        return [self.row(r) for r in records]

    def row(self, r: Record) -> dict[str, Any]:
        iface, bits, proto, _, lower, upper = r.key
        source = r.source
        target = upper if source == lower else lower
        there = r.sums[source]
        back = [0] * 5 if source == target else r.sums[target]
        ip = bool(bits & Has.IP)
        return {
            "start": r.start,
            "end": r.end,
            "layers": r.layers,
            "iface": iface,
            "ethertype": r.ethertype,
            "eth_src": 0 if ip else source[0],
            "eth_dst": 0 if ip else target[0],
            "src": source[0] if ip else 0,
            "dst": target[0] if ip else 0,
            "proto": proto,
            "src_port": source[1],
            "dst_port": target[1],
            "packets": there[0],
            "bytes": there[1],
            "packets_rev": back[0],
            "bytes_rev": back[1],
            "flow_only": r.flow_only,
            "tcp_flags": there[2],
            "tcp_flags_rev": back[2],
            "zero_windows": r.zero_windows,
            "resets": r.resets,
            "retransmissions": there[3],
            "retransmissions_rev": back[3],
            "out_of_order": there[4],
            "out_of_order_rev": back[4],
            "rtt": r.rtt,
        }


def sorted_rows(rows: list[dict[str, Any]]) -> list[Any]:
    return sorted(sorted(row.items()) for row in rows)


def records(*parts: list[Packet]) -> list[dict[str, Any]]:
    table = FlowTable()
    for part in parts:
        table.add(columns_of(part), True)
    return rows_of(table.flush())


def back(**values: Any) -> Packet:
    return Packet(src=2, dst=1, src_port=80, dst_port=1000, **values)
