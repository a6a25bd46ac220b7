"""Redis: commands and replies against tshark; arguments never come out; values are passed over."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from l7_payloads import claims, summaries, tshark_columns, write_pcap

from agent.l7 import Conn, Summary, Turn
from agent.l7.redis import PARSER


def ask(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def conversation() -> list[tuple[bool, bytes]]:
    return [
        (True, ask(b"AUTH", b"hunter2")),
        (False, b"+OK\r\n"),
        (True, ask(b"set", b"key", b"*3\r\n$3\r\nGET\r\n") + ask(b"GET", b"key")),
        (False, b"+OK\r\n$13\r\n*3\r\n$3\r\nGET\r\n\r\n"),
        (True, ask(b"LPUSH", b"k", b"v") + ask(b"LRANGE", b"k", b"0", b"-1") + ask(b"GET", b"none")),
        (False, b"-WRONGTYPE Operation against a key\r\n*2\r\n$1\r\na\r\n*1\r\n:5\r\n$-1\r\n"),
        (True, ask(b"CONFIG", b"GET", b"requirepass")),
        (False, b"%1\r\n+requirepass\r\n+hunter2\r\n"),
        (False, b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"),
    ]


def told(segments: list[tuple[bool, bytes]]) -> list[Summary]:
    conn = Conn()
    feeds = [PARSER.feed(d, 0 if c else 1, *((4000, 6379) if c else (6379, 4000)), conn) for c, d in segments]
    return [said for said in feeds if said is not None]


def turns(segments: list[tuple[bool, bytes]]) -> list[Turn]:
    return [turn for said in told(segments) for turn in said.turns]


def test_commands_and_replies():
    asked = [t.operation for t in turns(conversation()) if t.request]
    assert asked == ["AUTH", "SET", "GET", "LPUSH", "LRANGE", "GET", "CONFIG GET"]
    replies = [(t.status, t.error) for t in turns(conversation()) if not t.request]
    assert replies[:3] == [("OK", False), ("OK", False), ("Bulk", False)]
    assert replies[3:] == [("WRONGTYPE", True), ("Array", False), ("Null", False), ("Map", False)]


def test_nothing_of_values_comes_out():
    text = repr(told([*conversation(), (False, b"-hunter2 is no code\r\n"), (True, b"hunter2 secret\r\n")]))
    assert "hunter2" not in text
    assert "requirepass" not in text


def test_corpus_inline_commands_pair_with_their_replies(corpus: Path, tshark: str):
    ours = summaries(PARSER, corpus / "sll-redis-inline.pcap")
    rows = tshark_columns(tshark, corpus / "sll-redis-inline.pcap", ["frame.protocols"])
    assert set(ours) == {i for i, r in enumerate(rows, 1) if "resp" in r["frame.protocols"][0]}
    pairs = [turn for said in ours.values() for turn in said.turns]
    assert sum(turn.request for turn in pairs) == sum(not turn.request for turn in pairs) == 12


def test_own_conversation_is_resp_to_tshark(tmp_path: Path, tshark: str):
    path = write_pcap(tmp_path / "redis.pcap", conversation(), 6379)
    rows = tshark_columns(tshark, path, ["resp.array.length", "resp.error", "frame.protocols"])
    ours = summaries(PARSER, path)
    for number, row in enumerate(rows, 1):
        said = ours.get(number)
        if "resp" in row["frame.protocols"][0] and number < len(rows):  # the last one is a message nobody asked for
            assert said is not None
            assert [t.status for t in said.turns if t.error] == [e.split()[0].strip("-") for e in row["resp.error"]]


@given(st.lists(st.integers(1, 30), max_size=30))
def test_any_segmentation_says_the_same(cuts: list[int]):
    pieces: list[tuple[bool, bytes]] = []
    for client, data in conversation()[:-1]:
        at = 0
        for cut in cuts:
            pieces.append((client, data[at : at + cut]))
            at += cut
        pieces.append((client, data[at:]))
    names = {"AUTH", "SET", "GET", "LPUSH", "LRANGE", "CONFIG", "CONFIG GET", ""}
    said = turns([(c, d) for c, d in pieces if d])
    assert {t.operation for t in said} <= names
    assert [t.status for t in said if not t.request] == [t.status for t in turns(conversation()) if not t.request]


def test_probe():
    assert claims(PARSER, ask(b"PING"))
    assert claims(PARSER, ask(*[b"x"] * 12))
    assert claims(PARSER, b"+OK\r\n", 6379, 4000)
    assert claims(PARSER, b"PING\r\n", 4000, 6379)
    assert not claims(PARSER, b"+OK\r\n")
    assert not claims(PARSER, bytes(40), 4000, 6379)
    assert PARSER.feed(b"GIF89a junk on the port\r\n", 0, 4000, 6379, Conn()) is None
