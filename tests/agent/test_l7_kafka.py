"""Kafka: requests and responses, against tshark."""

from __future__ import annotations

import struct
from pathlib import Path

from l7_payloads import claims, summaries, tshark_columns, write_pcap

from agent.l7 import Conn, Summary, Turn
from agent.l7.kafka import NAMES, PARSER


def request(api: int, version: int, number: int, body: bytes = b"", client: bytes = b"rdkafka") -> bytes:
    head = struct.pack(">hhih", api, version, number, len(client)) + client
    return struct.pack(">I", len(head) + len(body)) + head + body


def response(number: int, body: bytes) -> bytes:
    return struct.pack(">Ii", 4 + len(body), number) + body


def conversation() -> list[tuple[bool, bytes]]:
    beat = b"\0\5group" + struct.pack(">i", 3) + b"\0\3one"
    return [
        (True, request(18, 0, 1)),
        (False, response(1, struct.pack(">hi", 0, 1) + struct.pack(">hhh", 0, 0, 9))),
        (True, request(17, 0, 2, b"\0\5PLAIN")),
        (False, response(2, struct.pack(">hi", 33, 0))),
        (True, request(12, 1, 3, beat) + request(12, 1, 4, beat)),
        (False, response(3, struct.pack(">ih", 0, 0)) + response(4, struct.pack(">ih", 0, 27))),
    ]


def told(segments: list[tuple[bool, bytes]]) -> list[Summary]:
    conn = Conn()
    feeds = [PARSER.feed(d, 0 if c else 1, *((4000, 9092) if c else (9092, 4000)), conn) for c, d in segments]
    return [said for said in feeds if said is not None]


def turns(segments: list[tuple[bool, bytes]]) -> list[Turn]:
    return [turn for said in told(segments) for turn in said.turns]


def test_calls():
    said = turns(conversation())
    asked = [("ApiVersions", 1), ("SaslHandshake", 2), ("Heartbeat", 3), ("Heartbeat", 4)]
    assert [(t.operation, t.key) for t in said if t.request] == asked
    answered = [("NONE", 1), ("UNSUPPORTED_SASL_MECHANISM", 2), ("NONE", 3), ("REBALANCE_IN_PROGRESS", 4)]
    assert [(t.status, t.key) for t in said if not t.request] == answered
    assert [t.error for t in said if not t.request] == [False, True, False, True]


def test_own_conversation_is_tsharks(tmp_path: Path, tshark: str):
    compare(tshark, write_pcap(tmp_path / "kafka.pcap", conversation(), 9092))


def test_corpus_is_tsharks(corpus: Path, tshark: str):
    compare(tshark, corpus / "vlan-kafka.pcap")


def compare(tshark: str, path: Path) -> None:
    ours = summaries(PARSER, path)
    rows = tshark_columns(tshark, path, ["kafka.api_key", "kafka.api_version", "kafka.correlation_id", "_ws.col.Info"])
    assert set(ours) == {i for i, row in enumerate(rows, 1) if row["kafka.correlation_id"]}
    for number, said in ours.items():
        row = rows[number - 1]
        if any(turn.request for turn in said.turns):
            assert said.rest["kafka.api_version"] == row["kafka.api_version"][0]
            assert said.rest["kafka.api_key"] == row["kafka.api_key"][0]
        assert said.rest["kafka.correlation_id"] == row["kafka.correlation_id"][0]
        assert said.info.split(", ")[0] in row["_ws.col.Info"][0]


def test_names_are_tsharks(tmp_path: Path, tshark: str):
    path = write_pcap(tmp_path / "names.pcap", [(True, request(api, 0, api)) for api in range(48)], 9092)
    rows = tshark_columns(tshark, path, ["kafka.api_key", "_ws.col.Info"])
    for row in rows[2:]:
        assert NAMES[int(row["kafka.api_key"][0])] in row["_ws.col.Info"][0]


def test_long_messages_are_passed_over():
    long = request(0, 3, 9, bytes(100_000))
    sent = [(True, long[:1400]), (True, long[1400:50_000]), (True, long[50_000:] + request(3, 1, 10))]
    assert turns(sent) == [Turn(True, "Produce", key=9), Turn(True, "Metadata", key=10)]


def test_requests_without_answers_are_bounded():
    conn = Conn()
    for i in range(3000):
        PARSER.feed(request(0, 3, i), 0, 4000, 9092, conn)
    assert len(conn.state.open) <= 1024


def test_probe():
    assert claims(PARSER, request(18, 3, 1))
    assert claims(PARSER, response(1, bytes(30)), 9092, 4000)
    assert not claims(PARSER, response(1, bytes(30)) + b"x", 9092, 4000)
    assert not claims(PARSER, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4000, 9092)
    assert not claims(PARSER, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 4000, 9092)
