"""MQTT: packets, topics, codes and calls, against tshark and scapy."""

from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from l7_payloads import claims, payloads, summaries, tshark_columns, write_pcap
from scapy.contrib.mqtt import MQTT

from agent.l7 import Conn, Summary
from agent.l7.mqtt import PARSER


def text(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def packet(first: int, body: bytes = b"") -> bytes:
    length, size = b"", len(body)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([first]) + length + bytes([size]) + body


def connect(level: int) -> bytes:
    properties = b"\0" if level == 5 else b""
    return packet(
        16, text(b"MQTT") + bytes([level, 0xC2, 0, 60]) + properties + text(b"me") + text(b"u") + text(b"hunter2")
    )


def conversation(level: int) -> list[tuple[bool, bytes]]:
    five = level == 5
    none = b"\0" if five else b""
    return [
        (True, connect(level)),
        (False, packet(32, b"\0\0" + none)),
        (True, packet(130, b"\0\7" + none + text(b"home/+/lamp") + b"\1" + text(b"other") + b"\0")),
        (False, packet(144, b"\0\7" + none + (b"\1\x87" if five else b"\1\x80"))),
        (True, packet(0x32, text(b"home/one") + b"\0\x08" + none + b"hunter2") + packet(0xC0)),
        (False, packet(64, b"\0\x08" + (b"\x10" if five else b"")) + packet(0xD0)),
        (True, packet(0x30, text(b"home/two") + none + b"x" * 300)),
        (True, packet(0x34, text(b"home/three") + b"\0\x09" + none + b"hunter2")),
        (False, packet(80, b"\0\x09")),
        (True, packet(98, b"\0\x09")),
        (False, packet(112, b"\0\x09")),
        (True, packet(162, b"\0\x0a" + none + text(b"other"))),
        (False, packet(176, b"\0\x0a" + (b"\0\0" if five else b""))),
        (True, packet(224)),
    ]


def told(segments: list[tuple[bool, bytes]]) -> list[Summary]:
    conn = Conn()
    feeds = [PARSER.feed(d, 0 if c else 1, *((4000, 1883) if c else (1883, 4000)), conn) for c, d in segments]
    return [said for said in feeds if said is not None]


def calls(segments: list[tuple[bool, bytes]]) -> list[tuple[str, str, bool]]:
    turns = [turn for said in told(segments) for turn in said.turns]
    answers = {t.key: t for t in turns if not t.request}
    return [(t.operation, answers[t.key].status, answers[t.key].error) for t in turns if t.request]


EXPECTED = [
    ("CONNECT", "0", False),
    ("SUBSCRIBE", "1", False),
    ("PUBLISH", "16", False),
    ("PINGREQ", "0", False),
    ("PUBLISH", "0", False),
    ("UNSUBSCRIBE", "0", False),
]


def test_calls():
    assert calls(conversation(5)) == EXPECTED
    assert calls(conversation(4)) == [(o, "0" if s == "16" else s, e) for o, s, e in EXPECTED]


def test_a_refused_connection_is_an_error():
    assert calls([(True, connect(4)), (False, packet(32, b"\0\5"))]) == [("CONNECT", "5", True)]


def test_nothing_of_messages_and_credentials_comes_out():
    assert "hunter2" not in repr(told(conversation(5))) + repr(told(conversation(4)))


@given(st.lists(st.integers(1, 30), max_size=20))
def test_any_segmentation_says_the_same(cuts: list[int]):
    pieces: list[tuple[bool, bytes]] = []
    for client, data in conversation(5):
        at = 0
        for cut in cuts:
            pieces.append((client, data[at : at + cut]))
            at += cut
        pieces.append((client, data[at:]))
    assert calls([(c, d) for c, d in pieces if d]) == EXPECTED


def compare(tshark: str, path: Path) -> None:
    fields = ["mqtt.msgtype", "mqtt.topic", "mqtt.msgid", "mqtt.ver", "mqtt.connack.reason_code", "mqtt.conack.val"]
    fields += ["mqtt.puback.reason_code", "mqtt.suback.reason_code", "mqtt.suback.qos"]
    ours = summaries(PARSER, path)
    rows = tshark_columns(tshark, path, ["frame.protocols", "_ws.col.Info", *fields])
    assert set(ours) == {i for i, row in enumerate(rows, 1) if "mqtt" in row["frame.protocols"][0]}
    for number, said in ours.items():
        row = rows[number - 1]
        for field in fields:
            assert said.rest.get(field, "") == (row[field] or [""])[0], (number, field)
        assert said.info.split("]")[0] == row["_ws.col.Info"][0].split(", [")[0].split("]")[0]


def test_corpus_is_tsharks(corpus: Path, tshark: str):
    compare(tshark, corpus / "mqtt5-qos2-ipv6.pcap")


def test_own_conversations_are_tsharks(tmp_path: Path, tshark: str):
    for level in (4, 5):
        compare(tshark, write_pcap(tmp_path / f"mqtt{level}.pcap", conversation(level), 1883))


def test_corpus_is_scapys(corpus: Path):
    ours = summaries(PARSER, corpus / "mqtt5-qos2-ipv6.pcap")
    for p in payloads(corpus / "mqtt5-qos2-ipv6.pcap"):
        assert ours[p.frame].rest["mqtt.msgtype"] == str(MQTT(p.data).type)


def test_probe():
    assert claims(PARSER, connect(4))
    assert claims(PARSER, connect(5))
    assert claims(PARSER, packet(0xC0), 4000, 1883)
    assert not claims(PARSER, packet(0xC0))
    assert not claims(PARSER, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4000, 1883)
    assert not claims(PARSER, bytes(40), 4000, 1883)
