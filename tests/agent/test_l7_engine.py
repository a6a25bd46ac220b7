"""The engine: who is fed what, in which order, within which bounds; and what becomes of summaries."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decode_frames import block_of
from hypothesis import given, settings
from hypothesis import strategies as st
from l7_fuzz import mutated
from l7_payloads import _packet, _udp

from agent.assemble import engine_of
from agent.capture import Interface
from agent.capture.file import FileSource
from agent.decode.decoder import Decoder
from agent.decode.slow import Budget
from agent.l7 import TCP, TURNS, UDP, Batch, Conn, Heads, Mark, Summary, Turn, registry, track
from agent.l7.dns import PARSER as DNS
from agent.l7.engine import STEP, Engine
from agent.l7.http1 import PARSER as HTTP
from agent.l7.redis import PARSER as REDIS
from agent.show import FIELDS, Ndjson
from protocol.columns import Columns
from protocol.schema import Has

PORT = 4711


class Lines:
    """Lines that begin with `@`, cut over segments; says every whole line. Remembers what it was fed."""

    name = "lines"
    transports = frozenset((TCP, UDP))
    stateful = True

    def __init__(self) -> None:
        self.fed: list[tuple[bytes, int]] = []
        self.gaps: list[int] = []

    def probe(self, heads: Heads) -> Any:
        return heads.first[:, 0] == ord("@")

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        self.fed.append((payload, side))
        *whole, rest = conn.join(side, payload).split(b"\n")
        conn.keep(side, rest)
        if not whole:
            return None
        said = [line.decode("latin-1") for line in whole]
        return Summary(
            "Lines",
            said[0],
            {"dns_qry_name": said, "dns_id": [len(said)]},
            {"lines.first": said[0]},
            (Turn(True, said[0]),),
        )

    def lost(self, conn: Conn, side: int) -> None:
        self.gaps.append(side)


class Stream:
    """Segments of one TCP connection, and the engine's answer to each block of them."""

    def __init__(self, *parsers: Any, **options: Any) -> None:
        self.engine = Engine(parsers, **options)
        self.decoder = Decoder([Interface("test0", 101)])
        self.seq = [1000, 2000]
        self.number = 1

    def segment(self, data: bytes, client: bool = True, flags: int = 0x18, back: int = 0) -> bytes:
        self.seq[0 if client else 1] -= back
        return _packet(client, PORT, flags, self.seq, data)

    def block(self, *frames: bytes, times: list[int] | None = None) -> Columns:
        block = block_of(frames)
        if times:
            block = replace(block, time=np.array(times, dtype=np.int64))
        columns, payloads = self.decoder.with_payloads(block, self.number)
        self.number += len(frames)
        self.engine.add(columns, payloads)
        return columns

    def info(self, *frames: bytes) -> list[str]:
        return [row.get("nodetap.info", "") for row in rows(self.block(*frames))]


def rows(columns: Columns) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in Ndjson(list(FIELDS.values())).lines(columns).splitlines()]


def test_a_summary_becomes_columns() -> None:
    class Dns(Lines):
        def feed(self, *args: Any) -> Summary | None:
            said = super().feed(*args)
            if said is not None:
                said.l7 = "DNS"
            return said

    stream = Stream(Dns())
    nothing, one, two = rows(
        stream.block(stream.segment(b"nothing"), stream.segment(b"@a\n"), stream.segment(b"b\nc\n"))
    )
    assert not {"nodetap.l7", "dns.qry.name"} & set(nothing)
    assert (one["nodetap.l7"], one["nodetap.info"], one["dns.qry.name"], one["dns.id"]) == ("DNS", "@a", ["@a"], [1])
    assert (two["dns.qry.name"], two["dns.id"], two["nodetap.fields"]) == (["b", "c"], [2], {"lines.first": "b"})


def test_without_reassembly_each_segment_is_read_on_its_own() -> None:
    stream = Stream(Lines(), reassemble=False)
    one = stream.segment(b"@a\n")
    assert stream.info(one, one, stream.segment(b"b"), stream.segment(b"c\n")) == ["@a", "@a", "", "c"]
    assert stream.engine.bytes == 0


def test_a_message_over_segments_and_blocks_is_in_the_last() -> None:
    stream = Stream(Lines())
    assert stream.info(stream.segment(b"@one"), stream.segment(b" two"), stream.segment(b"!\n")) == [
        "",
        "",
        "@one two!",
    ]
    assert stream.info(stream.segment(b"thr")) == [""]
    assert stream.engine.bytes == 3
    assert stream.info(stream.segment(b"@me\n", client=False), stream.segment(b"ee\n")) == ["@me", "three"]
    assert stream.engine.bytes == 0


def test_sides_are_told_apart_by_who_came_first() -> None:
    parser = Lines()
    stream = Stream(parser)
    stream.block(stream.segment(b"@s\n", client=False), stream.segment(b"c\n"), stream.segment(b"s\n", client=False))
    assert parser.fed == [(b"@s\n", 0), (b"c\n", 1), (b"s\n", 0)]


def test_a_repetition_is_read_and_not_remembered() -> None:
    parser = Lines()
    stream = Stream(parser)
    assert stream.info(
        stream.segment(b"@a"), stream.segment(b"b"), stream.segment(b"b", back=1), stream.segment(b"c\n")
    ) == [
        "",
        "",
        "",
        "@abc",
    ]
    assert stream.info(stream.segment(b"c\nd\n", back=2)) == ["d"]  # partly seen before: only what is new
    assert parser.gaps == []


def test_a_gap_is_told() -> None:
    parser = Lines()
    stream = Stream(parser)
    stream.block(stream.segment(b"@a"))
    stream.segment(b"lost")
    assert stream.info(stream.segment(b"b\n")) == ["b"]
    assert parser.gaps == [0]


@pytest.mark.parametrize("flags", [0x04, 0x02, 0x14])
def test_a_connection_ends_with_a_reset_and_begins_with_syn(flags: int) -> None:
    stream = Stream(Lines())
    assert stream.info(stream.segment(b"@a\n"), stream.segment(b"", flags=flags), stream.segment(b"b\n")) == [
        "@a",
        "",
        "",
    ]
    assert stream.engine.connections == 0


def test_a_connection_ends_when_both_have_finished() -> None:
    stream = Stream(Lines())
    stream.block(stream.segment(b"@a\n"), stream.segment(b"", flags=0x11))
    assert stream.info(stream.segment(b"still\n", client=False)) == ["still"]
    stream.block(stream.segment(b"", client=False, flags=0x11))
    assert stream.engine.connections == 0


def test_udp_is_kept_apart_from_tcp() -> None:
    parser = Lines()
    stream = Stream(parser)
    assert stream.info(_udp(True, PORT, b"@u\n"), stream.segment(b"t\n"), _udp(False, PORT, b"v\n")) == ["@u", "", "v"]


def test_silence_ends_a_connection() -> None:
    stream = Stream(Lines())
    stream.block(stream.segment(b"@a"), times=[0])
    stream.block(stream.segment(b"other", client=False), times=[track.IDLE_NS])
    assert stream.engine.connections == 1
    stream.block(_udp(True, 9, b"x"), times=[2 * track.IDLE_NS])
    assert (stream.engine.connections, stream.engine.bytes) == (0, 0)


def test_free_gives_up_bytes_and_clear_connections() -> None:
    parser = Lines()
    stream = Stream(parser)
    stream.block(stream.segment(b"@a"))
    stream.engine.free()
    assert (stream.engine.bytes, stream.engine.connections) == (0, 1)
    assert stream.info(stream.segment(b"b\n")) == ["b"]
    stream.engine.clear()
    assert (stream.engine.connections, stream.info(stream.segment(b"c\n"))) == (0, [""])


def test_connections_and_bytes_are_bounded() -> None:
    tracks = track.Tracks(most=3, most_bytes=10)
    for key in range(5):
        one = tracks.open(key, track.Track(Lines(), False, key))
        one.conn.pending[0].extend(b"1234")
        tracks.used(key, one, key)
    assert [key for key in range(5) if tracks.get(key)] == [3, 4]
    assert tracks.bytes == 8
    keys = np.array([3, 4, 5, 0], dtype=np.uint64)
    assert tracks.perhaps(keys, keys[2:3]).tolist() == [True, True, True, False]
    tracks.expire(track.IDLE_NS + 3)
    assert len(tracks) == 1


class Broken(Lines):
    name = "broken"

    def feed(self, *args: Any) -> Summary | None:
        raise ValueError("a bug")


def test_a_parser_that_raises_costs_no_row() -> None:
    stream = Stream(Broken(), Lines())
    assert stream.info(stream.segment(b"@a\n")) == ["@a"]
    assert stream.engine.counts.failed == 1

    class Blind(Lines):
        def probe(self, heads: Heads) -> Any:
            raise ValueError("a bug")

    stream = Stream(Blind(), Lines())
    assert stream.info(stream.segment(b"@a\n")) == ["@a"]


def test_values_that_a_column_cannot_hold_are_left_out() -> None:
    class Odd(Lines):
        def feed(self, *args: Any) -> Summary | None:
            fields: Any = {"dns_id": [1, -1, 70000, "x"], "dns_qry_name": ["a", 5], "no_such": [1], "http_status": 200}
            return Summary("Odd", "x" * 10_000, fields, {"k": 5})  # type: ignore[dict-item]

    (row,) = rows((stream := Stream(Odd())).block(stream.segment(b"@")))
    assert len(row["nodetap.info"]) == 512
    assert row["nodetap.fields"] == {"k": "5"}
    columns = stream.block(stream.segment(b"@"))
    assert (columns["dns_id"].values.tolist(), columns["http_status"].values.tolist()) == ([1], [200])  # type: ignore[union-attr]


_HTTP = [b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nHOST: i\r\n\r\n", b"HTTP/1.1 200 OK\nContent-type: a/b\n\nbody", b"PUT"]
_DNS = [
    b"\0\7\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1",
    b"\0\7\x81\x80\0\1\0\2\0\0\0\0\1a\0\0\1\0\1" + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\1\2\3\4" * 2,
    b"\0\7\x81\x80\0\0\0\1\0\0\0\0\xc0\0\0\2\0\1\0\0\0\1\0\3\1b\0",
]


@pytest.mark.parametrize(("parser", "samples"), [(HTTP, _HTTP), (DNS, _DNS)])
@given(data=st.data())
@settings(deadline=None)
def test_payloads_read_together_say_what_each_says_alone(
    parser: Any, samples: list[bytes], data: st.DataObject
) -> None:
    texts = data.draw(st.lists(st.sampled_from(samples) | mutated(samples), min_size=1, max_size=6))
    sport, dport = (
        np.array(data.draw(st.lists(st.sampled_from([53, 80, 1900, 5353, 4711]), min_size=n, max_size=n)), dtype="u2")
        for n in (len(texts), len(texts))
    )
    found = parser.feed_all(Batch(texts, sport, dport, True))
    alone = [parser.feed(text, 0, int(sport[i]), int(dport[i]), Conn()) for i, text in enumerate(texts)]
    assert found.at == [i for i, said in enumerate(alone) if said is not None]
    assert (found.l7, found.info) == ([s.l7 for s in alone if s], [s.info for s in alone if s])
    for i, said in enumerate(alone):
        cells = {
            name: [value for at, value in zip(numbers, values, strict=True) if at == i]
            for name, (numbers, values) in found.cells.items()
        }
        assert {name: values for name, values in cells.items() if values} == (said.fields if said else {})
        assert tuple(turn for at, turn in found.turns if at == i) == (said.turns if said else ())
        assert dict(found.rest).get(i, {}) == (said.rest if said else {})


def test_rows_read_together_and_one_by_one_stand_in_their_order() -> None:
    stream = Stream(HTTP, Lines(), with_turns=True)
    frames = [stream.segment(b"@1\n"), _packet(True, 99, 0x18, [1, 1], _HTTP[0]), stream.segment(b"2\n3\n")]
    frames += [
        _packet(False, 99, 0x18, [1, 1], _HTTP[1]),
        stream.segment(b"4\n"),
        _packet(True, 99, 0x18, [1 + len(_HTTP[0]), 1], _HTTP[0]),
    ]
    columns = stream.block(*frames)
    assert [row["nodetap.info"].split()[0] for row in rows(columns)] == ["@1", "GET", "2", "HTTP/1.1", "4", "GET"]
    assert [row.get("http.request.uri") for row in rows(columns)] == [None, ["/a"], None, None, None, ["/a"]]
    assert [t.row for t in stream.engine.turns] == [0, 1, 2, 3, 4, 5]


def test_query_strings_are_stripped_unless_kept() -> None:
    request = b"GET /a?token=secret HTTP/1.1\r\nHost: h\r\n\r\n"
    (row,) = rows((stream := Stream(HTTP)).block(stream.segment(request)))
    assert (row["http.request.uri"], row["nodetap.info"]) == (["/a"], "GET /a HTTP/1.1")
    assert "secret" not in repr(row)
    (row,) = rows((stream := Stream(HTTP, keep_query=True)).block(stream.segment(request)))
    assert row["http.request.uri"] == ["/a?token=secret"]


def test_what_the_budget_does_not_reach_is_counted_and_marked() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1e-3
        return now[0]

    lines = Lines()
    stream = Stream(lines, budget=Budget(0.001, clock), with_turns=True)
    columns = stream.block(*(stream.segment(b"@a\n") for _ in range(3 * STEP)))
    counts = stream.engine.counts
    assert 0 < counts.said < 3 * STEP
    assert counts.said + counts.skipped == 3 * STEP
    marked = (np.asarray(columns["layers"]) & np.uint64(int(Has.SKIPPED))) != 0
    assert int(marked.sum()) == counts.skipped
    assert stream.engine.turns[-1][::3] == (counts.said, Mark.MISSED)  # the row and what happened
    assert len(stream.engine.turns) == counts.said + 1
    assert lines.gaps == [0]


def test_turns_are_handed_on_where_they_are_asked_for() -> None:
    stream = Stream(Lines(), with_turns=True)
    stream.block(stream.segment(b"@a\n"), stream.segment(b"b\n", client=False))
    (asked, more) = stream.engine.turns
    assert [(t.row, t.turn.operation) for t in (asked, more)] == [(0, "@a"), (1, "b")]
    assert {asked.side, more.side} == {0, 1}
    assert len({t.connection for t in stream.engine.turns}) == 1
    assert Stream(Lines()).engine.turns == []


@pytest.mark.parametrize("parser", [HTTP, REDIS])
def test_where_more_requests_may_have_been_cut_off_it_is_said(parser: Any) -> None:
    def marks(data: bytes, cut: int) -> list[Any]:
        stream = Stream(parser, with_turns=True)
        frame = stream.segment(data)
        stream.engine.add(*stream.decoder.with_payloads(block_of([frame[: len(frame) - cut]], [len(frame)]), 1))
        return [said.turn if isinstance(said.turn, Mark) else said.turn.request for said in stream.engine.turns]

    one = b"GET / HTTP/1.1\r\n\r\n" if parser is HTTP else b"*1\r\n$4\r\nPING\r\n"
    assert marks(one * 2, 0) == [True] * 2
    assert marks(one * 3, len(one)) == [True, True, Mark.MISSED]
    assert marks(one + bytes(100), 100) == [True]
    assert marks(one * (TURNS + 1), 0) == [True] * TURNS + [Mark.MISSED]


@pytest.mark.parametrize("name", ["mixed-web-4600.pcap", "null-http2-h2c-continuation.pcap", "tunnel-gre.pcap"])
def test_blocks_of_any_size_say_the_same(corpus: Path, name: str) -> None:
    def said(frames: int) -> list[dict[str, Any]]:
        source = FileSource([corpus / name], block_frames=frames)
        source.open()
        decoder, engine, found = Decoder(source.interfaces), engine_of("fast", False, live=False), []
        while not source.done:
            if (block := source.next_block(1)) is not None:
                columns, payloads = decoder.with_payloads(block, len(found) + 1)
                engine.add(columns, payloads)
                found += rows(columns)
        source.close()
        return found

    whole = said(10_000)
    assert any("nodetap.l7" in row for row in whole)
    assert said(1) == said(7) == whole


def test_off_is_no_engine() -> None:
    assert engine_of("off", False, live=True) is None


def test_all_asks_scapy_for_the_rest() -> None:
    stream = Stream()
    stream.engine = engine_of("all", False, live=False)
    snmp = bytes.fromhex("302602010104067075626c6963a019020400000001020100020100300b300906052b060102010500")
    (row,) = rows(stream.block(_udp(True, 161, snmp)))
    assert row["nodetap.l7"] == "SNMP"
    assert "public" not in repr(row)
    (row,) = rows(stream.block(_udp(True, 49_999, b"unknown")))
    assert "nodetap.l7" not in row


def test_every_parser_there_is_keeps_the_contract() -> None:
    problems: list[Any] = []
    found = registry.parsers(lambda name, error: problems.append((name, error)))
    assert problems == []
    assert {type(parser).__module__.split(".")[-1] for parser in found} >= set(registry.BUILT_IN)


def test_the_worked_example_of_the_guide_works() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-protocol.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, "add-a-protocol.md", "exec"), names)
    stream = Stream(names["PARSER"])
    frames = [_udp(True, 4711, b"TH\2\0\7"), _udp(True, 4711, b"TH\3\0\7"), _udp(True, 4712, b"TH\2\0\7")]
    said, *others = rows(stream.block(*frames))
    assert (said["nodetap.l7"], said["nodetap.info"]) == ("Thermostat", "answer room 7")
    assert said["nodetap.fields"] == {"thermostat.kind": "answer"}
    assert not any("nodetap.l7" in row for row in others)


class UserParser(Lines):
    name = "mine"


def test_users_parsers_come_first_and_a_bad_one_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mine", f"{__name__}:UserParser", registry.GROUP),
        EntryPoint("gone", "no_such_module:PARSER", registry.GROUP),
        EntryPoint("wrong", "json:dumps", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    problems: list[str] = []
    found = registry.parsers(lambda name, error: problems.append(name))
    assert found[0].name == "mine"
    assert len(found) == 1 + len(registry.BUILT_IN)
    assert problems == ["gone", "wrong"]
