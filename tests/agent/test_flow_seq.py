"""What sequence numbers say: sent again, out of order, round trips, and what is known beyond a record."""

from __future__ import annotations

from typing import Any

import pytest
from flow_naive import ACK, SYN, Packet, S, back, columns_of, records, rows_of, way  # noqa: F401

from agent.flows import FlowTable

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
