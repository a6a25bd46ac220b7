"""The flow table against a naive one, and what each rule means."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import flow_keys, flow_seq, flows
from agent.flow_cuts import FIN_FIRST, FIN_SECOND, RESET
from agent.flow_items import KEEP_NS
from agent.flows import FlowTable
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


# -- properties ----------------------------------------------------------------------------------------------------

packets = st.builds(
    Packet,
    time=st.one_of(st.integers(-3, 40), st.sampled_from([-500, 0, 3, 5, 8, 13, 1000])).map(lambda s: s * S),
    layers=st.sampled_from([TCP, TCP, TCP, UDP, FRAGMENT, V6, L2, ARP, TCP & ~int(Has.TIME), L2 & ~int(Has.ETH)]),
    src=st.integers(1, 2),
    dst=st.integers(1, 2),
    src_port=st.sampled_from([1, 2]),
    dst_port=st.sampled_from([1, 2]),
    proto=st.sampled_from([6, 6, 17]),
    flags=st.sampled_from([SYN, SYN | ACK, ACK, FIN | ACK, RST]),
    window=st.sampled_from([0, 9]),
    size=st.integers(1, 1500),
    iface=st.sampled_from(["eth0", "eth1"]),
    ethertype=st.sampled_from([0x0800, 0x0806]),
)
near = st.one_of(st.integers(0, 12), st.integers((1 << 32) - 3, (1 << 32) - 1))  # sequence numbers, wrapping
few = st.builds(  # one or two conversations, so that every rule about one of them is met
    Packet,
    time=st.integers(0, 30).map(lambda s: s * S),
    src=st.just(1),
    dst=st.just(1),
    src_port=st.sampled_from([1, 2]),
    dst_port=st.sampled_from([1, 2]),
    flags=st.sampled_from([SYN, SYN | ACK, ACK, FIN | ACK, RST]),
)
talk = st.builds(  # segments of one connection, close to each other
    Packet,
    time=st.integers(0, 400).map(lambda tenths: tenths * 100_000),
    src=st.just(1),
    dst=st.just(1),
    src_port=st.sampled_from([1, 2]),
    dst_port=st.sampled_from([1, 2]),
    flags=st.sampled_from([ACK, ACK, ACK, ACK, SYN, SYN | ACK, FIN | ACK]),
    seq=near,
    ack=st.integers(0, 5),
    length=st.sampled_from([0, 0, 1, 2, 5]),
    window=st.sampled_from([0, 9, 9]),
)
blocks = st.lists(
    st.tuples(
        st.one_of(st.lists(packets, max_size=30), st.lists(few, max_size=40), st.lists(talk, max_size=60)),
        st.booleans(),
    ),
    max_size=5,
)
in_order = blocks.map(
    lambda parts: [(sorted(part, key=lambda p: p.time), rows) for part, rows in parts]
)  # within a block


@given(st.one_of(blocks, in_order), st.sampled_from([(10, 5), (10, 50), (3, 10)]))
@settings(max_examples=400, deadline=None)
def test_equals_the_naive_table(parts: Any, seconds: tuple[int, int]) -> None:
    active, idle = (s * S for s in seconds)
    table, naive = FlowTable(active, idle), Naive(active, idle)
    for part, with_rows in parts:
        table.add(columns_of(part), with_rows)
        naive.block(part, with_rows)
        assert len(table) == len(naive.open)
    assert table.open_packets == sum(len(part) for part, _ in parts)
    assert table.open_flow_only == sum(len(part) for part, with_rows in parts if not with_rows)
    assert sorted_rows(rows_of(table.flush())) == sorted_rows(naive.flush())
    assert (table.open_packets, table.open_flow_only, len(table)) == (0, 0, 0)


@given(blocks, st.lists(st.integers(-(10 * S), 2000 * S), min_size=5, max_size=5), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_each_packet_comes_out_once_whenever_records_expire(parts: Any, clocks: list[int], max_flows: int) -> None:
    table = FlowTable(max_flows=max_flows)
    added = out = flow_only = flow_only_out = size = size_out = 0
    for (part, with_rows), now in zip(parts, clocks, strict=False):
        table.add(columns_of(part), with_rows)
        assert len(table) <= max_flows
        added += len(part)
        size += sum(p.size for p in part)
        flow_only += 0 if with_rows else len(part)
        for row in rows_of(table.expire(now)):
            out += row["packets"] + row["packets_rev"]
            size_out += row["bytes"] + row["bytes_rev"]
            flow_only_out += row["flow_only"]
        assert (table.open_packets, table.open_flow_only) == (added - out, flow_only - flow_only_out)
    for row in rows_of(table.flush()):
        out += row["packets"] + row["packets_rev"]
        size_out += row["bytes"] + row["bytes_rev"]
        flow_only_out += row["flow_only"]
    assert (out, size_out, flow_only_out) == (added, size, flow_only)


@given(blocks)
@settings(max_examples=100, deadline=None)
def test_colliding_hashes_never_mix_flows(parts: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows, "hash_keys", lambda keys, seeds: keys[:, 1] & np.uint64(1) << np.uint64(63))
        table, naive = FlowTable(), Naive(flows.ACTIVE_NS, flows.IDLE_NS)
        for part, with_rows in parts:
            table.add(columns_of(part), with_rows)
            naive.block(part, with_rows)
        assert sorted_rows(rows_of(table.flush())) == sorted_rows(naive.flush())


# -- each rule by itself -------------------------------------------------------------------------------------------


def records(*parts: list[Packet]) -> list[dict[str, Any]]:
    table = FlowTable()
    for part in parts:
        table.add(columns_of(part), True)
    return rows_of(table.flush())


def back(**values: Any) -> Packet:
    return Packet(src=2, dst=1, src_port=80, dst_port=1000, **values)


def test_a_conversation_is_one_record_whatever_the_blocks() -> None:
    talk = [
        Packet(time=1 * S, flags=SYN),
        back(time=1 * S + 70, flags=SYN | ACK, size=100),
        Packet(time=2 * S, flags=ACK, window=0),
    ]
    (row,) = records(talk)
    assert records(talk[:1], talk[1:2], talk[2:]) == [row]
    assert (row["src"], row["dst"], row["src_port"], row["dst_port"]) == (1, 2, 1000, 80)
    assert (row["packets"], row["bytes"], row["packets_rev"], row["bytes_rev"]) == (2, 120, 1, 100)
    assert (row["start"], row["end"], row["rtt"], row["zero_windows"]) == (S, 2 * S, 70, 1)
    assert (row["tcp_flags"], row["tcp_flags_rev"]) == (SYN | ACK, SYN | ACK)


def test_the_first_sender_is_the_source_unless_the_other_sends_the_syn() -> None:
    assert [r["src"] for r in records([back(), Packet()])] == [2]
    assert [r["src"] for r in records([back(), Packet(flags=SYN)])] == [1]
    assert [r["src"] for r in records([back(seq=1)], [Packet(flags=SYN)], [back(flags=SYN)])] == [1]


def test_a_record_ends_ten_seconds_after_its_first_packet() -> None:
    rows = records([Packet(time=s * S) for s in (0, 3, 6, 9, 10, 13, 16, 19, 20)])
    assert [(r["start"] // S, r["packets"]) for r in rows] == [(0, 4), (10, 4), (20, 1)]
    far = [Packet(time=4 * s * S) for s in range(3000)]
    assert [r["packets"] for r in records(far)] == [3] * 1000


MS = 1_000_000


def data(time: int, seq: int, length: int = 100, **values: Any) -> Packet:
    return Packet(time=time * MS, seq=seq % (1 << 32), length=length, **values)


def reply(time: int, ack: int, seq: int = 500, length: int = 0, window: int = 100) -> Packet:
    return back(time=time * MS, seq=seq, ack=ack, length=length, window=window)


def events(*parts: list[Packet]) -> tuple[int, int, int, int]:
    rows = records(*parts)
    names = ("retransmissions", "out_of_order", "retransmissions_rev", "out_of_order_rev")
    first, second, third, fourth = (sum(row[name] for row in rows) for name in names)
    return first, second, third, fourth


@pytest.mark.parametrize("begin", [1000, (1 << 32) - 150])  # the second wraps
def test_what_is_sent_again_and_what_comes_late(begin: int) -> None:
    sent = [data(0, begin), data(1, begin + 100), data(2, begin + 200)]
    assert events(sent) == (0, 0, 0, 0)
    assert events([*sent, data(300, begin + 100)]) == (1, 0, 0, 0)
    assert events([*sent, data(300, begin + 200)]) == (1, 0, 0, 0)
    assert events([sent[0], sent[2], data(3, begin + 100)]) == (0, 1, 0, 0)
    assert events([sent[0], sent[2], data(9, begin + 100)]) == (1, 0, 0, 0)  # not within 3 ms


def test_acknowledged_data_is_sent_again_whenever_it_comes() -> None:
    assert events([data(0, 1000), data(1, 1100), reply(2, 1200), data(3, 1000)]) == (1, 0, 0, 0)
    assert events([reply(0, 1200), data(1, 1000)]) == (0, 0, 1, 0)


def test_what_duplicate_acknowledgements_ask_for_is_sent_again() -> None:
    sent = [data(0, 1000), data(1, 1200), data(1, 1300)]
    once = [reply(1, 1100, length=1, seq=500), reply(1, 1100, seq=501), reply(1, 1100, seq=501)]
    assert events([*sent, *once[:2], data(2, 1100)]) == (0, 1, 0, 0)
    assert events([*sent, *once, data(2, 1100)]) == (1, 0, 0, 0)


def test_a_round_trip_is_how_long_segments_may_be_late() -> None:
    shake = [
        data(0, 999, 0, flags=SYN),
        back(time=40 * MS, flags=SYN | ACK, seq=499, ack=1000),
        data(50, 1000, 0, ack=500),
    ]
    sent = [data(60, 1000), data(61, 1200), data(100, 1100)]
    assert events(shake + sent) == (0, 1, 0, 0)
    assert events(sent) == (1, 0, 0, 0)


def test_keep_alives_and_probes_are_not_sent_again() -> None:
    assert events([data(0, 1000), data(9000, 1099, 0), data(9900, 1099, 1)]) == (0, 0, 0, 0)
    closed = [data(0, 1000), reply(1, 1100, window=0), data(500, 1100, 1), data(900, 1100, 1), data(1500, 1100)]
    assert events(closed) == (0, 0, 0, 0)


def test_handshakes_sent_again_count() -> None:
    syn = Packet(flags=SYN, seq=5)
    assert events([syn, Packet(time=S, flags=SYN, seq=5)]) == (1, 0, 0, 0)
    assert len(records([syn, Packet(time=S, flags=SYN, seq=5)])) == 1


def test_another_syn_is_another_connection() -> None:
    other = [data(0, 1000), Packet(time=S, flags=SYN, seq=5), data(1001, 6)]
    assert events(other) == (0, 0, 0, 0)
    assert [r["packets"] for r in records(other)] == [1, 2]
    assert [r["packets"] for r in records(other[:1], other[1:2], other[2:])] == [1, 2]


def test_sequence_numbers_are_known_beyond_a_record() -> None:
    table = FlowTable()
    rows = []
    for seconds, packet in enumerate([data(0, 1000), *[data(11_000 * i, 1000) for i in range(1, 5)]]):
        table.add(columns_of([packet]), False)
        rows += rows_of(table.expire(packet.time + 10 * S + seconds))
        assert (len(table), table.open_packets, table.open_flow_only) == (1, 0, 0)
    assert [row["retransmissions"] for row in rows] == [0, 1, 1, 1, 1]
    assert [row["packets"] for row in rows] == [1] * 5
    assert table.expire(200 * S) is None
    assert len(table) == 0


def test_who_opened_a_flow_and_its_round_trip_hold_for_all_its_records() -> None:
    table = FlowTable()
    table.add(columns_of([Packet(flags=SYN), back(time=7, flags=SYN | ACK)]), True)
    rows = rows_of(table.expire(10 * S))
    table.add(columns_of([back(time=11 * S)]), True)
    rows += rows_of(table.expire(21 * S))
    assert [(r["src"], r["packets"], r["packets_rev"], r["rtt"]) for r in rows] == [(1, 1, 1, 7), (1, 0, 1, 7)]


def test_resets_are_counted() -> None:
    (row,) = records([Packet(), back(flags=RST), Packet(flags=RST | ACK)])
    assert row["resets"] == 2


def test_a_new_syn_after_the_end_is_a_new_record() -> None:
    end = [Packet(flags=FIN | ACK), back(flags=FIN | ACK), Packet()]
    assert len(records([Packet(flags=SYN), *end, Packet(flags=SYN)])) == 2
    assert len(records([Packet(flags=SYN), *end], [Packet(flags=SYN)])) == 2
    assert len(records([Packet(flags=SYN), Packet(flags=FIN), Packet(flags=SYN)])) == 1
    assert len(records([Packet(flags=SYN), back(flags=RST), Packet(flags=SYN), back(flags=RST)])) == 2


def test_a_finished_record_leaves_before_an_idle_one() -> None:
    table = FlowTable()
    idle = Packet(src_port=7)
    table.add(columns_of([idle, Packet(flags=FIN), back(flags=FIN)]), True)
    assert table.expire(S - 1) is None
    assert [r["packets"] + r["packets_rev"] for r in rows_of(table.expire(S))] == [2]
    assert table.expire(5 * S - 1) is None
    assert [r["src_port"] for r in rows_of(table.expire(5 * S))] == [7]


def test_fragments_have_a_record_of_their_own_without_ports() -> None:
    rows = records([Packet(), Packet(layers=FRAGMENT, src_port=0, dst_port=0)])
    assert sorted((r["src_port"], bool(r["layers"] & Has.TCP)) for r in rows) == [(0, False), (1000, True)]


def test_mac_addresses_stand_only_where_there_is_no_ip() -> None:
    arp, tcp = sorted(
        records([Packet(layers=ARP, ethertype=0x806), Packet()]), key=lambda r: r["eth_dst"], reverse=True
    )
    assert arp["layers"] == int(Has.ETH | Has.ETHERTYPE | Has.ARP)
    assert (arp["eth_src"], arp["eth_dst"], arp["src"], arp["ethertype"]) == (1, 2, 0, 0x806)
    assert tcp["layers"] == int(Has.ETHERTYPE | Has.IP | Has.IPV4 | Has.TCP | Has.TCP_FLAGS)
    assert (tcp["eth_src"], tcp["eth_dst"], tcp["src"], tcp["ethertype"]) == (0, 0, 1, 0x800)


def test_a_full_table_lets_the_longest_unseen_go() -> None:
    table = FlowTable(max_flows=2)
    table.add(columns_of([Packet(time=s, src_port=s) for s in (1, 2, 3, 4)]), False)
    assert [r["src_port"] for r in rows_of(table.expire(4))] == [1, 2]
    assert (len(table), table.open_packets, table.open_flow_only) == (2, 2, 2)


def test_the_times_of_hostile_files_lose_nothing() -> None:
    times = [-(1 << 63), (1 << 63) - 1, 0, 1 << 62, -1]
    rows = records([Packet(time=t) for t in times], [Packet(time=t) for t in reversed(times)])
    assert sum(r["packets"] for r in rows) == 10


def test_times_before_1970_are_times() -> None:
    talk = [Packet(time=-505 * S, flags=SYN), back(time=-505 * S + 9, flags=SYN | ACK)]
    (row,) = records(talk)
    assert records(talk[:1], talk[1:]) == [row]
    assert (row["start"], row["rtt"]) == (-505 * S, 9)


def test_records_come_out_by_start() -> None:
    starts = [r["start"] for r in records([Packet(time=t, src_port=t) for t in (5, 1, 4, 2)])]
    assert all(a <= b for a, b in pairwise(starts))


def test_no_packets_are_no_records() -> None:
    table = FlowTable()
    table.add(columns_of([]), True)
    assert table.expire(0) is None
    assert table.flush() is None
