"""MySQL: phases, verbs, errors, prepared statements, against tshark."""

from __future__ import annotations

import struct
from pathlib import Path

from l7_payloads import claims, summaries, tshark_columns, write_pcap

from agent.l7 import Conn, Summary
from agent.l7.mysql import PARSER


def packet(number: int, body: bytes) -> bytes:
    return struct.pack("<I", len(body))[:3] + bytes([number]) + body


GREETING = packet(
    0, b"\x0a8.0.36\0" + struct.pack("<I", 9) + b"saltsalt\0" + struct.pack("<HBHHB", 0xF7FF, 33, 2, 0xDFFF, 21)
)
GREETING = packet(0, GREETING[4:] + bytes(10) + b"moresaltsalt\0mysql_native_password\0")
CAPS = 0x000FA285


def login(caps: int = CAPS) -> bytes:
    body = struct.pack("<IIB", caps, 1 << 24, 33) + bytes(23)
    return packet(1, body + b"alice\0\x14" + b"s" * 20 + b"db\0mysql_native_password\0")


OK = b"\0\0\0\2\0\0\0"
ERROR = b"\xff" + struct.pack("<H", 1146) + b"#42S02Table 'secret' doesn't exist"


def conversation() -> list[tuple[bool, bytes]]:
    columns = (
        packet(1, b"\1") + packet(2, b"\3def\0\0\0\1a\0\x0c?\0\1\0\0\0\3\x80\0\0\0\0") + packet(3, b"\xfe\0\0\2\0")
    )
    return [
        (False, GREETING),
        (True, login()),
        (False, packet(2, OK)),
        (True, packet(0, b"\3select secret")),
        (False, columns + packet(4, b"\1x") + packet(5, b"\xfe\0\0\2\0")),
        (True, packet(0, b"\3DELETE FROM secret")),
        (False, packet(1, ERROR)),
        (True, packet(0, b"\x16insert into t values (?)")),
        (False, packet(1, b"\0" + struct.pack("<IHHBH", 7, 0, 0, 0, 0))),
        (True, packet(0, b"\x17" + struct.pack("<IBI", 7, 0, 1))),
        (False, packet(1, OK)),
        (True, packet(0, b"\x0e")),
        (False, packet(1, OK)),
        (True, packet(0, b"\1")),
    ]


def told(segments: list[tuple[bool, bytes]]) -> list[Summary]:
    conn = Conn()
    feeds = [PARSER.feed(d, 0 if c else 1, *((4000, 3306) if c else (3306, 4000)), conn) for c, d in segments]
    return [said for said in feeds if said is not None]


def test_calls():
    turns = [turn for said in told(conversation()) for turn in said.turns]
    assert [t.operation for t in turns[::2]] == ["Login", "SELECT", "DELETE", "INSERT", "INSERT", "Ping"]
    assert [t.request for t in turns] == [True, False] * 6
    assert [(t.status, t.error) for t in turns[1::2]] == [("OK", False)] * 2 + [("1146", True)] + [("OK", False)] * 3


def test_nothing_of_statements_or_users_comes_out():
    assert "secret" not in repr(told(conversation()))
    assert "alice" not in repr(told(conversation()))


def compare(tshark: str, path: Path) -> None:
    fields = ["mysql.command", "mysql.error_code", "mysql.sqlstate", "mysql.version", "mysql.protocol"]
    ours = summaries(PARSER, path)
    rows = tshark_columns(tshark, path, ["frame.protocols", *fields])
    assert set(ours) == {i for i, row in enumerate(rows, 1) if "mysql" in row["frame.protocols"][0]}
    for number, said in ours.items():
        for field in fields:
            assert said.rest.get(field, "") == "|".join(rows[number - 1][field]), (number, field)


def test_corpus_is_tsharks(corpus: Path, tshark: str):
    compare(tshark, corpus / "mysql-selects.pcap")


def test_own_conversation_is_tsharks(tmp_path: Path, tshark: str):
    compare(tshark, write_pcap(tmp_path / "mysql.pcap", conversation(), 3306))


def test_after_an_ssl_request_nothing_is_read():
    ssl = packet(1, struct.pack("<IIB", CAPS | 0x800, 1 << 24, 33) + bytes(23))
    said = told([(False, GREETING), (True, ssl), (True, packet(0, b"\3select 1")), (False, packet(1, OK))])
    assert [s.info for s in said] == ["Server Greeting proto=10 version=8.0.36", "SSL Request"]


def test_a_connection_from_its_middle():
    said = told([(True, packet(0, b"\3select 1")), (False, packet(1, ERROR))])
    assert [s.info for s in said] == ["Request Query SELECT", "Response Error 1146"]


def test_probe():
    assert claims(PARSER, GREETING)
    assert claims(PARSER, packet(0, b"\3select 1"), 4000, 3306)
    assert not claims(PARSER, packet(0, b"\3select 1"))
    assert not claims(PARSER, b"GET / HTTP/1.1\r\n", 4000, 3306)
    assert not claims(PARSER, bytes(30), 3306, 4000)
