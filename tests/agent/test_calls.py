"""Requests and responses become calls: what answers what, what goes out unanswered, and how much is kept."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.assemble import engine_of, pipeline_of
from agent.calls import Calls
from agent.capture.file import FileSource
from agent.flow_items import EARLIEST, LATEST
from agent.l7 import Turn
from agent.l7.engine import Said
from protocol.codec import unpack_body
from protocol.columns import Columns, Dict, Text, empty
from protocol.messages import Batch
from protocol.packing import pack_columns
from protocol.schema import CALLS, PACKETS, Has

MS = 1_000_000
S = 1000 * MS
TCP = int(Has.TIME | Has.ETH | Has.IP | Has.IPV4 | Has.TCP | Has.TCP_LEN | Has.HTTP)
UDP = int(Has.TIME | Has.ETH | Has.IP | Has.IPV4 | Has.UDP | Has.UDP_LENGTH | Has.DNS)


def block(times: list[int], sides: list[int], layers: int = TCP, payload: int = 100) -> Columns:
    """Packets of one connection; side 0 is 10.0.0.1:1000, side 1 10.0.0.2:80."""
    rows = len(times)
    columns: Any = {column.name: empty(column, rows) for column in PACKETS.columns}
    ends = [(bytes(10) + b"\xff\xff\x0a\0\0" + bytes([side + 1]), (1000, 80)[side]) for side in (0, 1)]
    for row, side in enumerate(sides):
        for name, (address, port) in (("src", ends[side]), ("dst", ends[1 - side])):
            columns[name][row] = np.frombuffer(address, dtype=np.uint8)
            columns[f"{name}_port"][row] = port
    columns["time"][:], columns["layers"][:] = times, layers
    columns["tcp_seq"][:] = np.arange(rows) * 100 + (min(times) if times else 0) * 1000 % (1 << 31)
    columns["proto"][:] = 6 if layers & Has.TCP else 17
    columns["tcp_len"][:], columns["udp_length"][:] = payload, payload + 8
    columns["iface"] = Dict(np.zeros(rows, dtype="<u4"), ("eth0",))
    columns["l7"] = Dict(np.zeros(rows, dtype="<u4"), ("HTTP",))
    checked: Columns = columns
    return checked


def give(calls: Calls, *turns: tuple[int, int, Turn], connection: int = 7, layers: int = TCP) -> None:
    """Turns as (time, side, turn), each in a packet of its own."""
    columns = block([time for time, _, _ in turns], [side for _, side, _ in turns], layers)
    calls.add(columns, [Said(row, connection, side, turn) for row, (_, side, turn) in enumerate(turns)])


def rows_of(columns: Columns | None) -> list[dict[str, Any]]:
    if columns is None:
        return []
    pack_columns(CALLS, columns)  # they fit the wire
    lists: dict[str, list[Any]] = {}
    for name, value in columns.items():
        if isinstance(value, Dict):
            lists[name] = [value.values[code] for code in value.codes]
        elif isinstance(value, Text):
            ends = np.cumsum(value.lengths)
            data = value.data.tobytes()
            lists[name] = [data[e - n : e].decode() for e, n in zip(ends, value.lengths, strict=True)]
        else:
            assert isinstance(value, np.ndarray)
            lists[name] = [v.tobytes()[-1] if v.ndim else int(v) for v in value]
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def ask(operation: str = "GET /", key: int | None = None) -> Turn:
    return Turn(True, operation, key=key)


def reply(status: str = "200", error: bool = False, key: int | None = None) -> Turn:
    return Turn(False, status=status, error=error, key=key)


def test_a_call_is_a_row() -> None:
    calls = Calls()
    give(calls, (S, 0, ask()), (S + 5 * MS, 1, reply("404", True)))
    assert len(calls) == 0
    (row,) = rows_of(calls.take(2 * S))
    assert row == {
        "start": S,
        "end": S + 5 * MS,
        "latency": 5 * MS,
        "layers": int(Has.IP | Has.IPV4 | Has.TCP | Has.HTTP),
        "iface": "eth0",
        "src": 1,
        "dst": 2,
        "proto": 6,
        "src_port": 1000,
        "dst_port": 80,
        "l7": "HTTP",
        "operation": "GET /",
        "status": "404",
        "error": 1,
        "request_bytes": 100,
        "response_bytes": 100,
    }
    assert calls.take(2 * S) is None


def test_without_a_key_responses_answer_in_order_across_blocks() -> None:
    calls = Calls()
    give(calls, (0, 0, ask("a")), (1, 0, ask("b")))
    give(calls, (5, 1, reply("1")), (9, 1, reply("2")))
    found = [(row["operation"], row["status"], row["latency"]) for row in rows_of(calls.flush())]
    assert found == [("a", "1", 5), ("b", "2", 8)]


def test_keys_pair_whatever_the_order() -> None:
    calls = Calls()
    give(calls, (0, 0, ask("a", 1)), (1, 0, ask("b", 2)), (5, 1, reply("2", key=2)), (9, 1, reply("1", key=1)))
    assert [(row["operation"], row["status"]) for row in rows_of(calls.flush())] == [("a", "1"), ("b", "2")]


def test_connections_and_sides_are_apart() -> None:
    calls = Calls()
    give(calls, (0, 0, ask("a")), connection=1)
    give(calls, (1, 1, reply("x")), connection=2)
    give(calls, (1, 0, reply("x")), connection=1)
    assert (calls.unasked, len(calls)) == (2, 1)
    assert [row["latency"] for row in rows_of(calls.flush())] == [-1]


def test_what_is_not_answered_in_time_goes_out_unanswered() -> None:
    calls = Calls()
    give(calls, (0, 0, ask("a")), (10 * S, 0, ask("b")))
    assert calls.take(60 * S - 1) is None
    (row,) = rows_of(calls.take(60 * S))
    assert (row["operation"], row["latency"], row["start"], row["end"], row["status"]) == ("a", -1, 0, 0, "")
    give(calls, (61 * S, 1, reply("b's")))
    assert [row["status"] for row in rows_of(calls.take(61 * S))] == ["b's"]


def test_a_repeated_query_is_one_call() -> None:
    calls = Calls()
    give(calls, (0, 0, ask("A", 5)), (S, 0, ask("A", 5)), (S, 0, ask("AAAA", 5)), layers=UDP)
    give(calls, (2 * S, 1, reply("NOERROR", key=5)), layers=UDP)
    assert [(row["operation"], row["latency"]) for row in rows_of(calls.flush())] == [("A", 2 * S), ("AAAA", -1)]
    give(calls, (0, 0, ask("GET", 0)), (1, 0, ask("GET", 0)))  # over TCP nothing is repeated
    assert len(rows_of(calls.flush())) == 2


def test_a_segment_sent_again_is_no_call() -> None:
    calls = Calls()
    columns: Any = block([0, 1, 5, 6, 7], [0, 0, 1, 1, 0])
    columns["tcp_seq"][:] = [10, 10, 90, 90, 20]
    turns = [
        (0, 0, ask("a")),
        (0, 0, ask("b")),
        (1, 0, ask("a")),
        (2, 1, reply("1")),
        (3, 1, reply("1")),
        (4, 0, ask()),
    ]
    calls.add(columns, [Said(row, 7, side, turn) for row, side, turn in turns])
    calls.add(columns, [Said(4, 7, 0, ask())])
    found = [(row["operation"], row["latency"]) for row in rows_of(calls.flush())]
    assert found == [("a", 5), ("b", -1), ("GET /", -1)]


def test_a_packet_s_bytes_are_shared_among_its_requests() -> None:
    calls = Calls()
    columns = block([0, 1], [0, 1], payload=90)
    turns = [(0, 0, ask("a")), (0, 0, ask("b")), (0, 0, ask("c")), (1, 1, reply())]
    calls.add(columns, [Said(row, 7, side, turn) for row, side, turn in turns])
    found = rows_of(calls.flush())
    assert [row["request_bytes"] for row in found] == [30, 30, 30]
    assert sum(row["response_bytes"] for row in found) == 90


def test_what_is_kept_is_bounded() -> None:
    calls = Calls(max_open=3)
    give(calls, *((time, 0, ask(str(time), key=time)) for time in range(10)))
    assert len(calls) == 3
    assert [row["operation"] for row in rows_of(calls.take(10))] == [str(n) for n in range(7)]
    calls.clear()
    assert calls.flush() is None
    give(calls, (11, 1, reply(key=9)))
    assert calls.unasked == 1


def test_a_response_before_its_request_took_no_time() -> None:
    calls = Calls()
    give(calls, (9, 0, ask()), (5, 1, reply()))
    assert [(row["start"], row["end"], row["latency"]) for row in rows_of(calls.flush())] == [(9, 9, 0)]


def test_times_as_far_apart_as_a_file_can_say_them_are_held_within_bounds() -> None:
    calls = Calls()
    give(calls, (-(2**63), 0, ask()))
    give(calls, (2**63 - 1, 1, reply()))
    (row,) = rows_of(calls.flush())
    assert (row["start"], row["end"]) == (EARLIEST, LATEST)
    assert row["latency"] == LATEST - EARLIEST


turns = st.tuples(st.integers(0, 90), st.integers(1, 2), st.integers(0, 1), st.booleans(), st.sampled_from([None, 1]))


@given(st.lists(st.lists(turns, min_size=1, max_size=12), max_size=5), st.integers(1, 4))
@settings(deadline=None)
def test_every_request_is_one_row(parts: list[Any], max_open: int) -> None:
    calls = Calls(max_open=max_open)
    asked = answers = 0
    rows: list[dict[str, Any]] = []
    expected: dict[Any, int] = defaultdict(int)
    for part in parts:
        columns: Any = block([time * S for time, *_ in part], [side for _, _, side, *_ in part])
        columns["tcp_seq"][:] = np.arange(asked + answers, asked + answers + len(part))
        said = [Said(n, c, side, Turn(r, str(n), key=key)) for n, (_, c, side, r, key) in enumerate(part)]
        calls.add(columns, said)
        asked += sum(one.turn.request for one in said)
        answers += sum(not one.turn.request for one in said)
        for one in said:
            expected[one.connection, one.side, one.turn.key] += one.turn.request
        rows += rows_of(calls.take(max(time for time, *_ in part) * S))
        assert len(calls) <= max_open
    rows += rows_of(calls.flush())
    assert len(rows) == asked == sum(expected.values())
    assert sum(row["latency"] >= 0 for row in rows) == answers - calls.unasked


def run(path: Path) -> tuple[list[dict[str, Any]], list[Batch]]:
    """The calls of a capture, through the whole pipeline."""
    source = FileSource([path])
    source.open()
    pipeline = pipeline_of(source, "a", 1, None)
    batches: list[Any] = []
    while not source.done:
        found = source.next_block(0)
        if found is not None:
            batches += pipeline.feed(found)
    batches += pipeline.finish()
    source.close()
    assert pipeline.report.conserved
    assert (pipeline.report.open, pipeline.report.flow_open) == (0, 0)
    calls = [item for item in batches if isinstance(item, Batch) and item.kind == "calls"]
    return [row for batch in calls for row in rows_of(unpack_body(batch)[0])], calls


@pytest.mark.parametrize(
    ("file", "l7", "count", "unanswered"),
    [
        ("http-pipelined-one-segment.pcap", "HTTP", 2, None),
        ("dns-tcp-multi.pcap", "DNS", 20, 0),
        ("vlan-kafka.pcap", "Kafka", 1, 1),
        ("mysql-selects.pcap", "MySQL", None, 0),
        ("tcp-retransmissions-http.pcap", "HTTP", 4, 0),
    ],
)
def test_calls_of_captures(corpus: Path, file: str, l7: str, count: int | None, unanswered: int | None) -> None:
    rows, batches = run(corpus / file)
    assert {row["l7"] for row in rows} == {l7}
    assert count is None or len(rows) == count
    assert unanswered is None or sum(row["latency"] < 0 for row in rows) == unanswered
    assert [(batch.packets, batch.flow_only) for batch in batches] == [(0, 0)] * len(batches)


def test_without_l7_there_are_no_calls() -> None:
    assert engine_of("off", False, False) is None
