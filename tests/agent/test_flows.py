"""The flow table against a naive one, and what each of its rules means."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from flow_naive import (
    ACK,
    ARP,
    FIN,
    FRAGMENT,
    L2,
    RST,
    SYN,
    TCP,
    UDP,
    V6,
    Naive,
    Packet,
    S,
    back,
    columns_of,
    records,
    rows_of,
    sorted_rows,
    way,  # noqa: F401
)
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import flows
from agent.flow_keys import WORDS
from agent.flows import FlowTable
from protocol.schema import Has

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
        patch.setattr(flows, "random_seeds", lambda: np.zeros(WORDS, dtype=np.uint64))  # all hashes are 0
        table, naive = FlowTable(), Naive(flows.ACTIVE_NS, flows.IDLE_NS)
        for part, with_rows in parts:
            table.add(columns_of(part), with_rows)
            naive.block(part, with_rows)
        assert sorted_rows(rows_of(table.flush())) == sorted_rows(naive.flush())


# -- each rule by itself -------------------------------------------------------------------------------------------


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
