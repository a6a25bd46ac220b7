"""AMQP 0-9-1: methods, routing and calls, against tshark."""

from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from l7_payloads import claims, summaries, tshark_columns, write_pcap

from agent.l7 import Conn, Summary
from agent.l7.amqp import PARSER


def frame(kind: int, channel: int, body: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(body)) + body + b"\xce"


def method(family: int, number: int, body: bytes = b"", channel: int = 1) -> bytes:
    return frame(1, channel, struct.pack(">HH", family, number) + body)


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def conversation() -> list[tuple[bool, bytes]]:
    declare = b"\0\0" + short(b"jobs") + b"\2" + bytes(4)
    publish = method(60, 40, b"\0\0" + short(b"orders") + short(b"eu.new") + b"\0")
    header = frame(2, 1, struct.pack(">HHQH", 60, 0, 6, 0x8000) + short(b"text/plain"))
    body = frame(3, 1, b"secret")
    deliver = method(60, 60, short(b"tag") + bytes(9) + short(b"orders") + short(b"eu.new"))
    return [
        (True, b"AMQP\0\0\x09\1"),
        (True, method(20, 10, b"\0")),
        (False, method(20, 11, bytes(4))),
        (True, method(50, 10, declare)),
        (False, method(50, 11, short(b"jobs") + bytes(8))),
        (True, publish + header + body),
        (False, deliver + header + body),
        (True, method(60, 70, b"\0\0" + short(b"none") + b"\1")),
        (False, method(60, 72, b"\0")),
        (True, method(50, 40, b"\0\0" + short(b"gone") + b"\0")),
        (False, method(20, 40, struct.pack(">H", 404) + short(b"NOT_FOUND secret") + struct.pack(">HH", 50, 40))),
        (True, method(20, 41)),
        (True, frame(8, 0, b"")),
    ]


def told(segments: list[tuple[bool, bytes]]) -> list[Summary]:
    conn = Conn()
    feeds = [PARSER.feed(d, 0 if c else 1, *((4000, 5672) if c else (5672, 4000)), conn) for c, d in segments]
    return [said for said in feeds if said is not None]


def calls(segments: list[tuple[bool, bytes]]) -> list[tuple[str, str, bool]]:
    turns = [turn for said in told(segments) for turn in said.turns]
    answers = {t.key: t for t in turns if not t.request}
    return [(t.operation, answers[t.key].status, answers[t.key].error) for t in turns if t.request]


EXPECTED = [
    ("Channel.Open", "Open-Ok", False),
    ("Queue.Declare", "Declare-Ok", False),
    ("Basic.Get", "Get-Empty", False),
    ("Queue.Delete", "404", True),
]


def test_calls():
    assert calls(conversation()) == EXPECTED


def test_nothing_of_bodies_comes_out():
    assert "secret" not in repr(told(conversation()))


@given(st.lists(st.integers(1, 30), max_size=20))
def test_any_segmentation_says_the_same(cuts: list[int]):
    pieces: list[tuple[bool, bytes]] = []
    for client, data in conversation()[1:]:
        at = 0
        for cut in cuts:
            pieces.append((client, data[at : at + cut]))
            at += cut
        pieces.append((client, data[at:]))
    assert calls([(c, d) for c, d in pieces if d]) == EXPECTED


def compare(tshark: str, path: Path) -> None:
    fields = ["amqp.type", "amqp.channel", "amqp.method.class", "amqp.method.method"]
    fields += ["amqp.method.arguments.exchange", "amqp.method.arguments.routing_key"]
    ours = summaries(PARSER, path)
    rows = tshark_columns(tshark, path, ["frame.protocols", "_ws.col.Info", *fields])
    headers = {i for i, said in ours.items() if "Protocol-Header" in said.info}  # tshark: "unknown version", no layer
    assert set(ours) - headers == {i for i, row in enumerate(rows, 1) if "amqp" in row["frame.protocols"][0]}
    for number in set(ours) - headers:
        said, row = ours[number], rows[number - 1]
        for field in fields[: 6 if " x=" in said.info else 4]:
            assert said.rest.get(field, "") == (row[field] or [""])[0], (number, field)
        info = row["_ws.col.Info"][0].partition(", JavaScript")[0].replace(" (text/plain)", "")
        assert said.info.split() == info.partition(" reply=")[0].split()


def test_corpus_is_tsharks(corpus: Path, tshark: str):
    compare(tshark, corpus / "amqp.pcap")


def test_own_conversation_is_tsharks(tmp_path: Path, tshark: str):
    compare(tshark, write_pcap(tmp_path / "amqp.pcap", conversation(), 5672))


def test_other_versions_are_named_and_left_alone():
    said = told([(True, b"AMQP\0\1\0\0"), (True, b"\0\0\0\x10\2\0\0\0secret..")])
    assert [(s.info, s.rest) for s in said] == [("Protocol-Header 1-0-0", {"amqp.version": "1-0-0"})]


def test_probe():
    assert claims(PARSER, b"AMQP\0\0\x09\1")
    assert claims(PARSER, method(60, 40, b"\0\0\0\0\0"))
    assert claims(PARSER, frame(8, 0, b""))
    assert not claims(PARSER, frame(3, 1, b"body"))
    assert not claims(PARSER, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4000, 5672)
    assert not claims(PARSER, bytes(40), 4000, 5672)
