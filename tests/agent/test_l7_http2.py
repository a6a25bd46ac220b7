"""HTTP/2 and gRPC: against tshark, scapy and hpack's own decoder, and what is said after a loss."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st
from l7_payloads import claims, payloads, summaries, tshark_columns, write_pcap
from scapy.contrib.http2 import H2Frame

from agent.l7 import Conn, Summary
from agent.l7.hpack_fields import WANTED, Broken, Fields
from agent.l7.http2 import PARSER, PREFACE

COLUMNS = {
    "http2_streamid": "http2.streamid",
    "http2_type": "http2.type",
    "http_method": "http2.headers.method",
    "http_host": "http2.headers.authority",
    "http_uri": "http2.headers.path",
    "http_status": "http2.headers.status",
    "http_user_agent": "http2.headers.user_agent",
    "http_content_type": "http2.headers.content_type",
}
CAPTURES = [("null-http2-h2c-continuation.pcap", 8080), ("null-grpc-server-streaming.pcapng", 50051)]
REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/shop.Cart/Add?secret=1"), (":authority", "cart:50051")]
GRPC = [
    *REQUEST,
    ("content-type", "application/grpc+proto"),
    ("user-agent", "grpc-go/1.60"),
    ("authorization", "Bearer x"),
]


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(body) << 8 | kind, flags, stream) + body


def texts(said: Summary | None) -> dict[str, list[str]]:
    """The columns as tshark prints them."""
    fields = {} if said is None else said.fields
    return {name: [str(value) for value in fields.get(name, [])] for name in COLUMNS}  # type: ignore[union-attr]


def differences(tshark: str, path: Path, port: int) -> list[tuple[int, str, list[str], list[str]]]:
    ours = summaries(PARSER, path)
    theirs = tshark_columns(tshark, path, list(COLUMNS.values()), "-d", f"tcp.port=={port},http2")
    return [
        (number, name, texts(ours.get(number))[name], row.get(public, []))
        for number, row in enumerate(theirs, 1)
        for name, public in COLUMNS.items()
        if texts(ours.get(number))[name] != row.get(public, [])
    ]


def feed(conn: Conn, data: bytes, side: int = 0) -> Summary | None:
    return PARSER.feed(data, side, 40000, 50051, conn)


@pytest.mark.parametrize(("name", "port"), CAPTURES)
def test_every_column_is_tsharks(corpus: Path, tshark: str, name: str, port: int):
    assert differences(tshark, corpus / name, port) == []
    protocols = tshark_columns(tshark, corpus / name, ["frame.protocols"], "-d", f"tcp.port=={port},http2")
    theirs = {i for i, row in enumerate(protocols, 1) if "http2" in row["frame.protocols"][0].split(":")}
    assert set(summaries(PARSER, corpus / name)) == theirs


@pytest.mark.parametrize(("name", "port"), CAPTURES)
def test_frames_are_scapys(corpus: Path, name: str, port: int):
    ours = summaries(PARSER, corpus / name)
    for p in payloads(corpus / name):
        at, kinds, ids = 24 if p.data.startswith(b"PRI") else 0, [], []
        while p.frame in ours and at < len(p.data):
            one = H2Frame(p.data[at:] + bytes(64))  # scapy wants whole frames
            kinds.append(one.type)
            ids.append(one.stream_id)
            at += 9 + one.len
        assert (kinds, ids) == tuple(
            [ours[p.frame].fields.get(n, []) for n in ("http2_type", "http2_streamid")] if p.frame in ours else [[], []]
        )


def conversation() -> list[tuple[bool, bytes]]:
    """Padding, priority, a push, continuations, the dynamic table in use, gRPC with trailers, a reset."""
    ask, answer = Encoder(), Encoder()
    first, second = ask.encode(GRPC), ask.encode(GRPC)
    third = ask.encode([*REQUEST[:2], (":path", "/plain"), REQUEST[3], ("x-trace", "abcdef")])
    out = [(True, PREFACE + frame(4, 0, 0)), (False, frame(4, 0, 0) + frame(4, 1, 0))]
    out.append((True, frame(1, 0x2C, 1, b"\3" + b"\0\0\0\0\x10" + first + bytes(3)) + frame(0, 1, 1, b"\0\0\0\0\2hi")))
    out.append((True, frame(1, 0x05, 3, second)))
    half = len(third) // 2
    out.append((True, frame(1, 0x01, 5, third[:half]) + frame(9, 0x04, 5, third[half:])))
    pushed = answer.encode(
        [(":method", "GET"), (":scheme", "http"), (":path", "/style.css"), (":authority", "cart:50051")]
    )
    out.append((False, frame(5, 4, 5, struct.pack(">I", 2) + pushed)))
    head = answer.encode([(":status", "200"), ("content-type", "application/grpc+proto")])
    out.append((False, frame(1, 4, 1, head) + frame(0, 0, 1, b"\0\0\0\0\2ok")))
    out.append((False, frame(1, 5, 1, answer.encode([("grpc-status", "5"), ("grpc-message", "no cart")]))))
    out.append((False, frame(1, 5, 5, answer.encode([(":status", "404"), ("content-type", "text/html")]))))
    out.append((False, frame(3, 0, 3, struct.pack(">I", 7))))
    return out


def test_own_conversation_is_tsharks(tmp_path: Path, tshark: str):
    path = write_pcap(tmp_path / "h2.pcap", conversation(), 50052)
    found = differences(tshark, path, 50052)
    assert [(name, ours, theirs) for _, name, ours, theirs in found] == []


def told(segments: list[tuple[bool, bytes]], conn: Conn | None = None) -> list[Summary]:
    conn = conn or Conn()
    return [said for client, data in segments if (said := feed(conn, data, 0 if client else 1)) is not None]


def test_calls():
    turns = [turn for said in told(conversation()) for turn in said.turns]
    asked = [(t.key, t.operation) for t in turns if t.request]
    assert asked == [(1, "/shop.Cart/Add"), (3, "/shop.Cart/Add"), (5, "POST /plain")]
    answered = [(t.key, t.status, t.error) for t in turns if not t.request]
    assert answered == [(1, "NOT_FOUND", True), (5, "404", True), (3, "REFUSED_STREAM", True)]


def test_grpc_is_told_from_http():
    names = [said.l7 for said in told(conversation())]
    assert names == ["HTTP2", "HTTP2", "gRPC", "gRPC", "HTTP2", "HTTP2", "gRPC", "gRPC", "HTTP2", "gRPC"]
    assert told(conversation())[-3].fields["grpc_status"] == [5]


def test_no_query_and_no_credentials_in_what_people_read():
    for said in told(conversation()):
        assert "secret" not in said.info + "".join(t.operation for t in said.turns)
        assert "Bearer" not in repr(said)


@given(st.lists(st.integers(1, 60), max_size=40))
def test_any_segmentation_says_the_same(cuts: list[int]):
    """However the bytes are cut, every field and every turn comes once and in order."""

    def gather(segments: list[tuple[bool, bytes]]) -> dict[str, list[object]]:
        out: dict[str, list[object]] = {}
        for said in told(segments):
            assert "nodetap.l7.lost" not in said.rest
            for name, values in [*said.fields.items(), ("turns", list(said.turns))]:
                out.setdefault(name, []).extend(values)  # type: ignore[arg-type]
        return {name: values for name, values in out.items() if values}

    pieces: list[tuple[bool, bytes]] = []
    whole = conversation()
    for client, data in whole:
        at = 0
        for cut in [24 if data.startswith(b"PRI") else 9, *cuts]:
            pieces.append((client, data[at : at + cut]))
            at += cut
        pieces.append((client, data[at:]))
    assert gather([(c, d) for c, d in pieces if d]) == gather(whole)


paths = st.lists(st.sampled_from(["/a", "/b", "/longer/path", "/c?d=e"]), min_size=2, max_size=12)


@given(paths, st.integers(0, 11), st.booleans())
def test_a_lost_segment_never_makes_a_wrong_field(order: list[str], missing: int, told_of: bool):
    """After a loss a path is the right one or is left out; with the engine's word of it nothing is ever wrong."""
    encoder, conn = Encoder(), Conn()
    feed(conn, PREFACE + frame(4, 0, 0))
    for i, path in enumerate(order):
        headers = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", f"host{i % 3}")]
        block = frame(1, 5, 2 * i + 1, encoder.encode(headers))
        if i == missing:
            PARSER.lost(conn, 0)
            continue
        said = feed(conn, block)
        assert said is not None
        assert said.fields.get("http_uri", [path]) == [path]
        assert said.fields.get("http_host", [f"host{i % 3}"]) == [f"host{i % 3}"]
        if "http_uri" not in said.fields or "http_host" not in said.fields:
            assert said.rest["nodetap.hpack"] == "incomplete"


def test_a_connection_from_its_middle():
    encoder, conn = Encoder(), Conn()
    blocks = [frame(1, 5, i, encoder.encode(GRPC)) for i in (1, 3)]
    assert claims(PARSER, blocks[1])
    said = feed(conn, blocks[1])
    assert said is not None
    assert "http_uri" not in said.fields
    assert said.fields["http_method"] == ["POST"]
    assert said.rest["nodetap.hpack"] == "incomplete"


def test_grpc_after_a_loss_is_answered_by_its_trailers():
    """Content type and status stand in the table that was lost: still no call is answered before its trailers."""
    ask, answer, conn = Encoder(), Encoder(), Conn()
    feed(conn, PREFACE + frame(4, 0, 0))
    answers = []
    for stream in (1, 3, 5):
        if stream > 1:
            PARSER.lost(conn, 0)
            PARSER.lost(conn, 1)
        head = answer.encode([(":status", "200"), ("content-type", "application/grpc+proto")])
        tail = answer.encode([("grpc-status", "14")])
        for side, data in (
            (0, frame(1, 4, stream, ask.encode(GRPC))),
            (1, frame(1, 4, stream, head)),
            (1, frame(1, 5, stream, tail)),
        ):
            said = feed(conn, data, side)
            assert said is not None
            assert said.l7 == "gRPC"
            answers += [(turn.key, turn.status) for turn in said.turns if not turn.request]
    assert answers == [(1, "UNAVAILABLE"), (3, ""), (5, "")]


def test_bytes_that_make_no_sense_are_marked_and_survived():
    conn = Conn()
    feed(conn, PREFACE + frame(4, 0, 0))
    said = feed(conn, b"\xff" * 40)
    assert said is not None
    assert said.rest == {"nodetap.l7.lost": "1"}
    again = feed(conn, frame(1, 5, 9, Encoder().encode(REQUEST)))
    assert again is not None
    assert again.fields["http_host"] == ["cart:50051"]


def test_probe():
    assert claims(PARSER, PREFACE)
    assert claims(PARSER, frame(4, 0, 0, bytes(12)))
    assert claims(PARSER, frame(6, 1, 0, bytes(8)))
    assert claims(PARSER, frame(0, 1, 7, b"x" * 30))
    for junk in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        bytes(64),
        b"\0",
    ):
        assert not claims(PARSER, junk, 40000, 8080)
    assert feed(Conn(), frame(1, 4, 1, b"\x82") + b"what follows is no frame") is None


names = st.sampled_from([*sorted(WANTED), "x-one", "cookie", "grpc-message"])
fields = st.lists(st.tuples(names, st.text("abc/?=:-0189 é", max_size=40)), max_size=8)


@given(st.lists(st.tuples(fields, st.sampled_from([None, None, 0, 64, 200, 4096, 9000]), st.booleans()), max_size=8))
def test_fields_are_those_of_hpacks_decoder(blocks):
    encoder, decoder, ours = Encoder(), Decoder(), Fields(True)
    decoder.max_allowed_table_size = 65_536
    for headers, size, huffman in blocks:
        if size is not None:
            encoder.header_table_size = size
        data = encoder.encode(headers, huffman=huffman)
        expected = [(str(n), str(v)) for n, v in decoder.decode(data) if n in WANTED]
        assert ours.read(data) == (expected, len(data))
        assert ours.size == decoder.header_table._current_size


@given(st.lists(st.binary(max_size=80), max_size=6), st.booleans())
def test_fields_of_anything(blocks: list[bytes], complete: bool):
    ours = Fields(complete)
    for block in blocks:
        try:
            found, used = ours.read(block)
        except Broken:
            ours.forget()
            continue
        assert used <= len(block)
        assert all(name in WANTED for name, _ in found)
        assert ours.size <= ours.maximum <= 65_536


def test_state_is_bounded():
    conn, encoder = Conn(), Encoder()
    feed(conn, PREFACE + frame(4, 0, 0))
    for i in range(3000):
        feed(conn, frame(1, 5, 2 * i + 1, encoder.encode([*REQUEST, ("x-id", str(i) * 9)])))
    assert len(conn.state.streams) <= 1024
    assert conn.state.fields[0].size <= 4096
