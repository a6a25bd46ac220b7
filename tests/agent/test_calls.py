"""Requests and responses become calls: what answers what, what goes out unanswered, and how much is kept."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from decode_frames import block_of
from hypothesis import given, settings
from hypothesis import strategies as st
from l7_payloads import _packet

from agent.assemble import engine_of, pipeline_of
from agent.calls import ALONE, Calls
from agent.capture import Interface, pick
from agent.capture.file import FileSource
from agent.decode.decoder import Decoder
from agent.flow_items import EARLIEST, LATEST
from agent.l7 import Mark, Turn
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
    columns["proto"][:] = 6 if layers & Has.TCP else 17
    columns["tcp_len"][:], columns["udp_length"][:] = payload, payload + 8
    columns["iface"] = Dict(np.zeros(rows, dtype="<u4"), ("eth0",))
    columns["l7"] = Dict(np.zeros(rows, dtype="<u4"), ("HTTP",))
    checked: Columns = columns
    return checked


def give(calls: Calls, *turns: tuple[int, int, Turn | Mark], connection: int = 7, layers: int = TCP) -> None:
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
    give(calls, (0, 0, ask("a", 1)), (10 * S, 0, ask("b", 2)))
    assert calls.take(60 * S - 1) is None
    (row,) = rows_of(calls.take(60 * S))
    assert (row["operation"], row["latency"], row["start"], row["end"], row["status"]) == ("a", -1, 0, 0, "")
    give(calls, (61 * S, 1, reply("b's", key=2)))
    assert [row["status"] for row in rows_of(calls.take(61 * S))] == ["b's"]


def test_what_is_asked_behind_a_request_without_an_answer_has_none_either() -> None:
    calls = Calls()
    give(calls, (0, 0, ask("a")), (10 * S, 0, ask("b")))
    assert [row["operation"] for row in rows_of(calls.take(60 * S))] == ["a", "b"]
    give(calls, (61 * S, 0, ask("c")), (62 * S, 1, reply("a's")), (121 * S, 0, ask("d")), (122 * S, 1, reply("4")))
    assert said_of(calls) == [("c", ""), ("d", "4")]


def test_a_repeated_query_is_one_call() -> None:
    calls = Calls()
    give(calls, (0, 0, ask("A", 5)), (S, 0, ask("A", 5)), (S, 0, ask("AAAA", 5)), layers=UDP)
    give(calls, (2 * S, 1, reply("NOERROR", key=5)), layers=UDP)
    assert [(row["operation"], row["latency"]) for row in rows_of(calls.flush())] == [("A", 2 * S), ("AAAA", -1)]
    give(calls, (0, 0, ask("GET", 0)), (1, 0, ask("GET", 0)))  # over TCP nothing is repeated
    assert len(rows_of(calls.flush())) == 2


def said_of(calls: Calls) -> list[tuple[str, str]]:
    """Operations and statuses of all calls."""
    return [(row["operation"], row["status"]) for row in rows_of(calls.flush())]


def test_after_a_gap_in_requests_nothing_is_paired_until_it_is_quiet() -> None:
    calls = Calls()
    give(calls, (0, 0, ask("a")), (1, 0, Mark.MISSED), (1, 0, ask("c")), (2, 1, reply("1")), (3, 1, reply("2")))
    give(calls, (59 * S, 0, ask("d")), (118 * S, 0, ask("e")), (119 * S, 1, reply("5")))
    give(calls, (178 * S, 0, ask("f")), (179 * S, 1, reply("6")))
    assert said_of(calls) == [("a", ""), ("c", ""), ("d", ""), ("e", ""), ("f", "6")]
    assert calls.unasked == 3


def test_after_a_gap_in_responses_only_what_is_sure_is_paired() -> None:
    calls = Calls()
    give(calls, (0, 0, ask("a")), (1, 0, ask("b")), (2, 1, Mark.MISSED), (2, 1, reply("1 or 2")), (3, 0, ask("c")))
    give(calls, (4, 1, reply("2 or 3")))
    assert said_of(calls) == [("a", ""), ("b", ""), ("c", "")]
    give(calls, (9, 1, Mark.MISSED), (10, 0, ask("f")), (11, 1, reply("6")))
    assert said_of(calls) == [("f", "6")]


def test_a_response_behind_a_gap_answers_the_request_that_it_acknowledges() -> None:
    for ack, status in ((100, "1"), (101, "")):
        calls = Calls()
        columns: Any = block([0, 1, 2, 3], [0, 1, 0, 1])
        columns["tcp_seq"][:], columns["tcp_ack"][:] = [0, 700, 100, 800], [700, ack, 800, 200]
        columns["tcp_flags"][:] = 0x18
        turns = [(0, 0, ask("a")), (1, 1, Mark.MISSED), (1, 1, reply("1")), (2, 0, ask("b")), (3, 1, reply("2"))]
        calls.add(columns, [Said(row, 7, side, turn) for row, side, turn in turns])
        assert said_of(calls) == [("a", status), ("b", "2")]


def test_who_asked_one_by_one_is_in_step_again_at_the_next_request() -> None:
    calls = Calls()
    for n in range(ALONE):
        give(calls, (n, 0, ask(f"{n}")), (n, 1, reply(f"{n}")))
    give(calls, (100, 0, ask("lost answer")), (101, 0, ask("a")), (102, 1, Mark.MISSED), (102, 1, reply("a's")))
    give(calls, (103, 0, Mark.MISSED), (103, 1, reply("?")), (104, 0, ask("b")), (105, 1, reply("b's")))
    assert said_of(calls)[ALONE:] == [("lost answer", ""), ("a", "a's"), ("b", "b's")]
    give(calls, (106, 0, ask("c")), (107, 0, ask("d")), (108, 1, reply("c's")), (109, 1, reply("d's")))
    give(calls, (110, 0, Mark.MISSED), (111, 0, ask("e")), (112, 1, reply("?")))
    assert said_of(calls) == [("c", "c's"), ("d", "d's"), ("e", "")]


def test_whoever_asks_one_by_one_comes_into_step() -> None:
    calls = Calls()
    give(calls, (0, 0, Mark.MISSED))
    for n in range(1, ALONE + 2):
        give(calls, (n, 0, ask(f"{n}")), (n, 1, reply(f"{n}")))
    assert said_of(calls) == [(f"{n}", "" if n <= ALONE else f"{n}") for n in range(1, ALONE + 2)]


def test_a_response_answers_no_request_that_it_does_not_acknowledge() -> None:
    calls = Calls()
    columns: Any = block([0, 1, 2, 3], [0, 1, 0, 1])
    columns["tcp_seq"][:], columns["tcp_ack"][:] = [1000, 700, 1100, 800], [700, 1000, 700, 1100]
    columns["tcp_flags"][:] = 0x18
    turns = [(0, 0, ask("a")), (1, 1, reply("of one before")), (2, 0, ask("b")), (3, 1, reply("1"))]
    calls.add(columns, [Said(row, 7, side, turn) for row, side, turn in turns])
    assert said_of(calls) == [("a", "1"), ("b", "")]


def test_a_request_that_was_answered_before_it_was_seen_was_missed() -> None:
    calls = Calls()
    columns: Any = block([0, 1, 2, 3], [1, 0, 0, 1])
    columns["tcp_seq"][:], columns["tcp_ack"][:] = [700, 0, 100, 800], [100, 700, 800, 200]
    columns["tcp_flags"][:] = 0x18
    turns = [(0, 1, reply("1")), (1, 0, ask("a")), (2, 0, ask("b")), (3, 1, reply("2"))]
    calls.add(columns, [Said(row, 7, side, turn) for row, side, turn in turns])
    assert said_of(calls) == [("a", ""), ("b", "")]


def test_keys_need_no_order() -> None:
    calls = Calls()
    give(calls, (0, 0, ask("a", 1)), (1, 0, Mark.MISSED), (2, 1, Mark.MISSED), (3, 1, reply("1", key=1)))
    assert said_of(calls) == [("a", "1")]


def test_another_connection_answers_nothing_of_the_last() -> None:
    calls = Calls()
    give(calls, (0, 0, Mark.MISSED), (0, 0, ask("a")), (1, 0, Mark.BEGAN), (2, 0, ask("b")), (3, 0, Mark.BEGAN))
    give(calls, (4, 0, ask("c")), (5, 1, reply("3")))
    assert said_of(calls) == [("a", ""), ("b", ""), ("c", "3")]


def test_a_request_given_up_for_want_of_room_leaves_its_response() -> None:
    calls = Calls(max_open=1)
    give(calls, (0, 0, ask("a")), (1, 0, ask("b")), (2, 1, reply("1")), (3, 1, reply("2")))
    assert said_of(calls) == [("a", ""), ("b", "")]


class Exchange(NamedTuple):
    """Frames of a connection of pipelined HTTP requests, `/n` answered with the status 200 + n; the first `fixed` of
    them, its handshake, are always seen."""

    frames: list[bytes]
    fixed: int = 2


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    seq, frames = [1000, 5000], []

    def send(client: bool, data: bytes, flags: int = 0x18) -> None:
        frames.append(_packet(client, 8000, flags, seq, data))

    send(True, b"", 0x02)
    send(False, b"", 0x12)
    asked = answered = 0
    for step in draw(st.lists(st.sampled_from("aaabrrrs"), max_size=24)):
        if step in "ab":
            count = 1 + (step == "b")
            send(True, b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(asked, asked + count)))
            asked += count
        elif answered < asked:
            send(False, b"HTTP/1.1 %d OK\r\nContent-Length: 4\r\n\r\n" % (200 + answered))
            send(False, b"body")
            answered += 1
        if step == "s" and len(frames) > 2:
            frames.append(draw(st.sampled_from(frames)))  # sent again
    return Exchange(frames)


@given(exchanges(), st.data())
@settings(deadline=None)
def test_no_response_is_given_to_another_request_whatever_is_missed(exchange: Exchange, data: st.DataObject) -> None:
    frames, fixed = exchange
    seen = frames[:fixed] + [frame for frame in frames[fixed:] if data.draw(st.integers(0, 3))]
    engine, calls, rows = engine_of("fast", False, False, with_turns=True), Calls(), []
    decoder, size = Decoder([Interface("test0", 101)]), data.draw(st.integers(1, len(seen)))
    for first in range(0, len(seen), size):
        columns, payloads = decoder.with_payloads(block_of(seen[first : first + size]), first + 1)
        engine.add(columns, payloads)
        calls.add(columns, engine.turns)
    rows = rows_of(calls.flush())
    for row in rows:
        assert row["latency"] < 0 or row["status"] == str(200 + int(row["operation"].removeprefix("GET /")))
    if len(seen) == len(frames):
        assert len(rows) == sum(frame.count(b"GET /") for frame in dict.fromkeys(frames))


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
        columns = block([time * S for time, *_ in part], [side for _, _, side, *_ in part])
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


def pairs(path: Path, missed: float) -> tuple[set[tuple[int, int]], int]:
    """When the requests and responses that make the answered calls of a capture were seen, without that share of the
    segments that carry data; and how many of these there are."""
    source, engine, calls = FileSource([path]), engine_of("fast", False, False, with_turns=True), Calls()
    source.open()
    decoder, random, gone = Decoder(source.interfaces), np.random.default_rng(7), 0
    while not source.done:
        if (found := source.next_block(0)) is not None:
            left = (random.random(len(found)) >= missed) | (decoder.block(found, 1)["tcp_len"] == 0)
            gone += int((~left).sum())
            columns, payloads = decoder.with_payloads(pick(found, left), 1)
            engine.add(columns, payloads)
            calls.add(columns, engine.turns)
    source.close()
    return {(row["start"], row["end"]) for row in rows_of(calls.flush()) if row["latency"] >= 0}, gone


@pytest.mark.parametrize("file", ["http-pipelined-one-segment.pcap", "mixed-web-4600.pcap", "sll-redis-inline.pcap"])
@pytest.mark.parametrize("missed", [0.02, 0.3])
def test_what_is_missed_of_a_capture_makes_no_new_pair(corpus: Path, file: str, missed: float) -> None:
    whole, none = pairs(corpus / file, 0)
    some, gone = pairs(corpus / file, missed)
    assert whole
    assert none == 0
    assert some <= whole
    assert gone == 0 or len(some) <= len(whole)


def test_without_l7_there_are_no_calls() -> None:
    assert engine_of("off", False, False) is None
