"""PostgreSQL: messages, verbs, errors and pairing, against tshark."""

from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from l7_payloads import claims, summaries, tshark_columns, write_pcap

from agent.l7 import Conn, Summary
from agent.l7.postgresql import PARSER
from agent.l7.sql import verb


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack(">I", 4 + len(body)) + body


SSL = struct.pack(">II", 8, 80877103)
STARTUP = struct.pack(">II", 20, 196608) + b"user\0alice\0\0"
READY = message(b"Z", b"I")
COLUMNS = {"pgsql.code": "pgsql.code", "pgsql.authtype": "pgsql.authtype", "pgsql.status": "pgsql.status"}


def error(code: bytes) -> bytes:
    return message(b"E", b"SERROR\0C" + code + b"\0Mrelation secret does not exist\0\0")


def conversation() -> list[tuple[bool, bytes]]:
    rows = message(b"T", b"\0\0") + message(b"D", b"\0\0") * 3
    execute = message(b"B", b"p\0stmt\0" + bytes(6)) + message(b"E", b"p\0" + bytes(4))
    return [
        (True, SSL),
        (False, b"N"),
        (True, STARTUP),
        (False, message(b"R", struct.pack(">I", 5) + b"salt")),
        (True, message(b"p", b"md5secret\0")),
        (False, message(b"R", bytes(4)) + message(b"S", b"a\0b\0") + READY),
        (True, message(b"Q", b"/* hi */ select secret from t\0")),
        (False, rows + message(b"C", b"SELECT 3\0") + READY),
        (True, message(b"Q", b"INSERT INTO t VALUES ('secret'); DELETE FROM t\0")),
        (False, message(b"C", b"INSERT 0 1\0") + message(b"C", b"DELETE 4\0") + READY),
        (True, message(b"P", b"stmt\0update t set a=$1\0\0\0") + execute + execute + message(b"S")),
        (False, message(b"1") + message(b"2") + message(b"C", b"UPDATE 1\0") + error(b"23505") + READY),
        (True, message(b"Q", b"DROP TABLE secret\0")),
        (False, error(b"42P01") + READY),
        (True, message(b"X")),
    ]


def told(segments: list[tuple[bool, bytes]]) -> list[Summary]:
    conn = Conn()
    feeds = [PARSER.feed(d, 0 if c else 1, *((4000, 5432) if c else (5432, 4000)), conn) for c, d in segments]
    return [said for said in feeds if said is not None]


def calls(segments: list[tuple[bool, bytes]]) -> list[tuple[str, str, bool]]:
    turns = [turn for said in told(segments) for turn in said.turns]
    answers = {t.key: t for t in turns if not t.request}
    return [(t.operation, a.status, a.error) for t in turns if t.request and (a := answers.get(t.key))]


EXPECTED = [
    ("SELECT", "SELECT", False),
    ("INSERT", "INSERT", False),
    ("UPDATE", "UPDATE", False),
    ("UPDATE", "23505", True),
    ("DROP", "42P01", True),
]


def test_calls_are_paired():
    assert calls(conversation()) == EXPECTED


def answered(steps: str) -> list[str]:
    """The queries that get answers: a small letter asks, its capital answers it, `<` and `>` miss bytes of a side."""
    conn, names, pairs = Conn(), {}, []
    for step in steps:
        if step in "<>":
            PARSER.lost(conn, int(step == "<"))
            continue
        data = message(b"Q", step.encode() + b"\0") if step.islower() else message(b"C", step.encode() + b"\0") + READY
        said = PARSER.feed(data, int(step.isupper()), *((5432, 4000) if step.isupper() else (4000, 5432)), conn)
        for turn in said.turns if said else ():
            if turn.request:
                names[turn.key] = step
            else:
                pairs.append(names[turn.key] + step)
    return pairs


def test_after_missed_bytes_no_answer_is_given_to_another_query():
    assert answered("aA>bBcC") == ["aA", "cC"]
    assert answered("a<bBcC") == ["cC"]
    assert answered("abAB>cCdD") == ["aA", "bB"]
    assert answered("ab<BcCdD") == []


def test_nothing_of_statements_or_passwords_comes_out():
    assert "secret" not in repr(told(conversation()))
    assert "alice" not in repr(told(conversation()))


def test_own_conversation_is_tsharks(tmp_path: Path, tshark: str):
    compare(tshark, write_pcap(tmp_path / "pg.pcap", conversation(), 5432))


def test_corpus_is_tsharks(corpus: Path, tshark: str):
    compare(tshark, corpus / "postgresql-login.pcap")


def compare(tshark: str, path: Path) -> None:
    ours = summaries(PARSER, path)
    rows = tshark_columns(tshark, path, ["frame.protocols", *COLUMNS, "_ws.col.Info"])
    refusals = {i for i, said in ours.items() if "pgsql.ssl_response" in said.rest}  # tshark: Info, but no layer
    assert set(ours) - refusals == {i for i, row in enumerate(rows, 1) if "pgsql" in row["frame.protocols"][0]}
    for number, said in ours.items():
        row = rows[number - 1]
        for field in COLUMNS:
            assert said.rest.get(field, "") == (row[field] or [""])[-1], (number, field)
        if " message" not in said.info and " request" not in said.info and "ssl" not in str(said.rest):
            assert said.info.split()[0] == row["_ws.col.Info"][0].split()[0]


@given(st.lists(st.integers(1, 30), max_size=20))
def test_any_segmentation_pairs_the_same(cuts: list[int]):
    pieces: list[tuple[bool, bytes]] = []
    for i, (client, data) in enumerate(conversation()):
        at = 0
        for cut in cuts if i > 5 else []:
            pieces.append((client, data[at : at + cut]))
            at += cut
        pieces.append((client, data[at:]))
    found = calls([(c, d) for c, d in pieces if d])
    assert len(found) == len(EXPECTED)
    for ours, whole in zip(found, EXPECTED, strict=True):
        assert all(not a or a == b for a, b in zip(ours, whole, strict=True))  # a verb may be cut away, never be wrong


def test_probe():
    assert claims(PARSER, SSL)
    assert claims(PARSER, STARTUP)
    assert claims(PARSER, message(b"Q", b"select 1\0"), 4000, 5432)
    assert not claims(PARSER, message(b"Q", b"select 1\0"))
    assert not claims(PARSER, b"GET / HTTP/1.1\r\n", 4000, 5432)


def test_verbs():
    assert verb(b"  -- a comment\n ( select 1)") == "SELECT"
    assert verb(b"# mysql\nupdate t") == "UPDATE"
    assert verb(b"/*! x */insert into t") == "INSERT"
    assert verb(b"/* never closed select") == ""
    assert verb(b"hunter2") == ""
    assert verb(b"COMMIT;") == "COMMIT"
    assert verb(b"") == ""


@given(st.binary(max_size=300))
def test_verbs_of_anything(data: bytes):
    verb(data)
