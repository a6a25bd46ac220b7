"""Memcached, text, binary and UDP, against tshark."""

from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from l7_payloads import claims, summaries, tshark_columns, write_pcap

from agent.l7 import Conn, Summary, Turn
from agent.l7.memcached import PARSER


def binary(magic: int, code: int, key: bytes = b"", status: int = 0, extras: bytes = b"", value: bytes = b"") -> bytes:
    body = extras + key + value
    return struct.pack(">BBHBBHIIQ", magic, code, len(key), len(extras), 0, status, len(body), 77, 0) + body


def text() -> list[tuple[bool, bytes]]:
    return [
        (True, b"set secret 0 0 11\r\nget secret\n\r\nincr secret 1 noreply\r\n"),
        (False, b"STORED\r\n"),
        (True, b"gets secret other\r\nget none\r\n"),
        (False, b"VALUE secret 0 5 9\r\nEND\r\n\r\nVALUE other 0 1 9\r\na\r\nEND\r\nEND\r\n"),
        (True, b"incr secret 5\r\ndelete secret\r\nfoo\r\n"),
        (False, b"17\r\nDELETED\r\nCLIENT_ERROR bad command line\r\n"),
    ]


def packets() -> list[tuple[bool, bytes]]:
    return [
        (True, binary(0x80, 1, b"secret", extras=bytes(8), value=b"hunter2")),
        (False, binary(0x81, 1)),
        (True, binary(0x80, 9, b"secret") + binary(0x80, 0, b"secret")),
        (False, binary(0x81, 0, status=1, value=b"Not found")),
        (True, binary(0x80, 5, b"secret", extras=bytes(20))),
        (False, binary(0x81, 5, status=6, value=b"Non-numeric value")),
    ]


def told(segments: list[tuple[bool, bytes]]) -> list[Summary]:
    conn = Conn()
    feeds = [PARSER.feed(d, 0 if c else 1, *((4000, 11211) if c else (11211, 4000)), conn) for c, d in segments]
    return [said for said in feeds if said is not None]


def turns(segments: list[tuple[bool, bytes]]) -> list[Turn]:
    return [turn for said in told(segments) for turn in said.turns]


def test_text():
    said = turns(text()[:4])
    assert [t.operation for t in said if t.request] == ["set", "gets", "get"]
    assert [t.status for t in said if not t.request] == ["STORED", "VALUE", "END"]
    said = turns(text()[4:])
    assert [(t.status, t.error) for t in said if not t.request] == [("Number", 0), ("DELETED", 0), ("CLIENT_ERROR", 1)]


def test_binary():
    said = turns(packets())
    assert [(t.operation, t.key) for t in said if t.request] == [("Set", 77), ("Get", 77), ("Increment", 77)]
    answers = [("No error", False), ("Key not found", False), ("Incr/Decr on non-numeric value", True)]
    assert [(t.status, t.error) for t in said if not t.request] == answers


def test_datagrams():
    head = struct.pack(">HHHH", 9, 0, 1, 0)
    ask, answer = head + b"get secret\r\n", head + b"VALUE secret 0 1\r\na\r\nEND\r\n"
    assert claims(PARSER, ask, 4000, 11211)
    assert turns([(True, ask), (False, answer)]) == [Turn(True, "get", key=9), Turn(False, status="VALUE", key=9)]
    assert turns([(False, struct.pack(">HHHH", 9, 1, 2, 0) + b"get more of a value")]) == []


def test_nothing_of_keys_and_values_comes_out():
    for said in told(text()) + told(packets()):
        assert not any(word in repr(said) for word in ("secret", "hunter2", "other"))


def test_text_is_tsharks(tmp_path: Path, tshark: str):
    path = write_pcap(tmp_path / "text.pcap", [s for s in text() if b"foo" not in s[1]][:4], 11211)
    rows = tshark_columns(tshark, path, ["memcache.command", "memcache.response", "frame.protocols"])
    ours = summaries(PARSER, path)
    assert set(ours) == {i for i, row in enumerate(rows, 1) if "memcache" in row["frame.protocols"][0]}
    for number, said in ours.items():
        for field in ("memcache.command", "memcache.response"):
            if rows[number - 1][field]:
                assert said.rest.get(field) == rows[number - 1][field][0]


def test_binary_is_tsharks(tmp_path: Path, tshark: str):
    path = write_pcap(tmp_path / "binary.pcap", packets(), 11211)
    rows = tshark_columns(tshark, path, ["memcache.opcode", "memcache.status"])
    ours = summaries(PARSER, path)
    assert set(ours) == {i for i, row in enumerate(rows, 1) if row["memcache.opcode"]}
    for number, said in ours.items():
        row = rows[number - 1]
        assert said.rest["memcache.opcode"] == row["memcache.opcode"][0]
        assert said.rest.get("memcache.status", "") == "".join(row["memcache.status"])


@given(st.lists(st.integers(1, 30), max_size=20), st.sampled_from([text, packets]))
def test_any_segmentation_says_the_same(cuts: list[int], make):
    whole, pieces = make()[:4], []
    for client, data in whole:
        at = 0
        for cut in cuts:
            pieces.append((client, data[at : at + cut]))
            at += cut
        pieces.append((client, data[at:]))
    assert turns([(c, d) for c, d in pieces if d]) == turns(whole)


def test_probe():
    assert claims(PARSER, b"get a\r\n", 4000, 11211)
    assert claims(PARSER, binary(0x80, 0, b"secret"))
    assert not claims(PARSER, b"get a\r\n")
    assert not claims(PARSER, bytes(40), 4000, 11211)
    assert PARSER.feed(b"great junk\r\n", 0, 4000, 11211, Conn()) is None
