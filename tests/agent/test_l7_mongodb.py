"""MongoDB: commands and outcomes, against tshark."""

from __future__ import annotations

import struct
from pathlib import Path

from l7_payloads import claims, summaries, tshark_columns, write_pcap

from agent.l7 import Conn, Summary, Turn
from agent.l7.mongodb import PARSER


def document(*elements: tuple[int, bytes, bytes]) -> bytes:
    body = b"".join(bytes([kind]) + name + b"\0" + value for kind, name, value in elements) + b"\0"
    return struct.pack("<i", len(body) + 4) + body


def text(value: bytes) -> bytes:
    return struct.pack("<i", len(value) + 1) + value + b"\0"


def message(number: int, to: int, body: bytes, code: int = 2013) -> bytes:
    return struct.pack("<iiii", 16 + len(body), number, to, code) + body


def msg(number: int, to: int, doc: bytes, flags: int = 0, before: bytes = b"") -> bytes:
    return message(number, to, struct.pack("<I", flags) + before + b"\0" + doc)


FIND = document(
    (2, b"find", text(b"secret")), (3, b"filter", document((16, b"a", b"\1\0\0\0"))), (2, b"$db", text(b"db"))
)
INSERT = document((2, b"insert", text(b"secret")), (8, b"ordered", b"\1"), (2, b"$db", text(b"db")))
DOCS = b"\1" + struct.pack("<i", 4 + 10 + 12) + b"documents\0" + document((16, b"a", b"\1\0\0\0"))
GOOD = document((3, b"cursor", document((18, b"id", bytes(8)))), (1, b"ok", struct.pack("<d", 1)), (17, b"t", bytes(8)))
BAD = document(
    (1, b"ok", struct.pack("<d", 0)),
    (2, b"errmsg", text(b"secret collection")),
    (16, b"code", struct.pack("<i", 11000)),
    (2, b"codeName", text(b"DuplicateKey")),
)
HELLO = struct.pack("<I", 0) + b"admin.$cmd\0" + struct.pack("<ii", 0, -1) + document((16, b"isMaster", b"\1\0\0\0"))


def conversation() -> list[tuple[bool, bytes]]:
    reply = struct.pack("<iqii", 8, 0, 0, 1) + document((8, b"ismaster", b"\1"), (1, b"ok", struct.pack("<d", 1)))
    return [
        (True, message(1, 0, HELLO, 2004)),
        (False, message(90, 1, reply, 1)),
        (True, msg(2, 0, FIND)),
        (False, msg(91, 2, GOOD)),
        (True, msg(3, 0, INSERT, before=DOCS) + msg(4, 0, INSERT, flags=2)),
        (False, msg(92, 3, BAD)),
    ]


def told(segments: list[tuple[bool, bytes]]) -> list[Summary]:
    conn = Conn()
    feeds = [PARSER.feed(d, 0 if c else 1, *((4000, 27017) if c else (27017, 4000)), conn) for c, d in segments]
    return [said for said in feeds if said is not None]


def turns(segments: list[tuple[bool, bytes]]) -> list[Turn]:
    return [turn for said in told(segments) for turn in said.turns]


def test_calls():
    assert turns(conversation()) == [
        Turn(True, "isMaster", key=1),
        Turn(False, status="ok", key=1),
        Turn(True, "find", key=2),
        Turn(False, status="ok", key=2),
        Turn(True, "insert", key=3),
        Turn(False, status="DuplicateKey", error=True, key=3),
    ]


def test_nothing_of_documents_comes_out():
    assert "secret" not in repr(told(conversation()))


def test_halves_are_waited_for_and_long_ones_are_not():
    whole = conversation()
    pieces = [(c, part) for c, d in whole for part in (d[:25], d[25:]) if part]
    assert turns(pieces) == turns(whole)
    insert = document((2, b"insert", text(b"secret")), (5, b"blob", struct.pack("<i", 90_000) + b"\0" + bytes(90_000)))
    long = msg(5, 0, insert)
    sent = [(True, long[:1400]), (True, long[1400:80_000]), (True, long[80_000:] + msg(6, 0, FIND))]
    assert turns(sent) == [Turn(True, "insert", key=5), Turn(True, "find", key=6)]


def test_own_conversation_is_tsharks(tmp_path: Path, tshark: str):
    path = write_pcap(tmp_path / "mongo.pcap", conversation(), 27017)
    ours = summaries(PARSER, path)
    columns = ["mongo.opcode", "mongo.request_id", "mongo.element.name", "mongo.response_to"]
    rows = tshark_columns(tshark, path, columns, "-d", "tcp.port==27017,mongo")  # it would take it for TLS
    assert set(ours) == {i for i, row in enumerate(rows, 1) if row["mongo.opcode"]}
    for number, said in ours.items():
        row = rows[number - 1]
        assert said.rest["mongo.opcode"] == row["mongo.opcode"][0]
        for turn in said.turns:
            keys = row["mongo.request_id"] if turn.request else row["mongo.response_to"]
            assert turn.key in [int(key, 0) for key in keys]
            assert not turn.request or turn.operation in row["mongo.element.name"]


def test_probe():
    assert claims(PARSER, msg(2, 0, FIND))
    assert not claims(PARSER, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4000, 27017)
    assert not claims(PARSER, bytes(60), 4000, 27017)
