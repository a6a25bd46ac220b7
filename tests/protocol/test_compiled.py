"""The kernel gives the columns that numpy gives, in every cell, and refuses what numpy refuses in the same words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import columns_of, damage
from test_arrays import ARRAYS, LIES
from unpack_both import differences, recorded

from protocol import arrays, built, compiled, groups, kernel
from protocol.columns import MAX_DICT, MAX_TEXT, Columns
from protocol.limits import MAX_ROWS, MAX_STRINGS, MAX_VALUES
from protocol.packing import GROUPS, pack_columns
from protocol.schema import TABLES

pytestmark = pytest.mark.skipif(kernel.load() is None, reason="the kernel is not built or not wanted")


def packed(kind: str, columns: Columns) -> bytes:
    raw: bytes = msgpack.packb(pack_columns(TABLES[kind], columns))
    return raw


def taken(kind: str, raw: bytes, rows: int) -> bool:
    """Whether the kernel itself takes it."""
    return compiled.unpack(kind, raw, rows) is not None


def test_what_agents_send(corpus: Path) -> None:
    kinds = set()
    for kind, raw, rows in recorded(corpus):
        assert taken(kind, raw, rows)
        assert differences(kind, raw, rows) == []
        kinds.add(kind)
    assert kinds == set(TABLES)


def test_what_agents_send_damaged(corpus: Path) -> None:
    rng = random.Random(1)
    for kind, raw, rows in rng.sample(recorded(corpus), 40):
        for _ in range(20):
            assert differences(kind, damage(raw, rng), rows) == []
            assert differences(kind, damage(raw[:400], rng) + raw[400:], rows) == []


@pytest.mark.parametrize("kind", TABLES)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_columns_of_every_table(kind: str, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "MIN_ROWS", 2)
        patch.setattr(groups, "MIN_SHARE", 1)
        columns = data.draw(columns_of(TABLES[kind]))
        raw = packed(kind, columns)
    rows = len(columns["layers"])
    assert taken(kind, raw, rows)
    assert differences(kind, raw, rows) == []
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(20):
        assert differences(kind, damage(raw, rng), rows) == []
    assert differences(kind, raw, rows + 1) == []


CODES = ["raw", 1, bytes([0, 1, 0])]
NEAR = ["raw", 1, bytes([7, 8, 9])]


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("column", ["cap_len", "len", "src", "iface", "info", "dns_id", "dns_a", "l7_fields", GROUPS])
def test_arrays_that_lie(name: str, column: str) -> None:
    array, words = LIES[name], {"src": [], "cap_len": [], "len": [], GROUPS: []}
    around: dict[str, Any] = {
        "iface": ["dict", array, ["a", "b"]],
        "info": ["text", array, b"abc"],
        "dns_id": ["list", array, ["raw", 1, b"abc"]],
        "dns_a": ["texts", array, ["raw", 1, b"\1\1\1"], b"abc"],
        "l7_fields": ["map", array, ["raw", 1, b"\0\0\0"], ["k"], ["raw", 1, b"\1\1\1"], b"abc"],
        **dict.fromkeys(words, array),
    }
    body = {GROUPS: CODES, "len": NEAR, column: around[column]}
    assert differences("packets", msgpack.packb(body).replace(b"\xa4near", b"\xa3len"), 3) == []


@given(ARRAYS, st.sampled_from(["frame_number", "len", "iface_id", "src_port", "proto", "src"]), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_arrays_of_all_sorts(packed: Any, column: str, rows: int) -> None:
    body = {GROUPS: ["const", bytes(4)], "time": ["const", b"\1" * 8], column: packed}
    assert differences("packets", msgpack.packb(body).replace(b"\xa4near", b"\xa4time"), rows) == []


WIDTHS = {"eth_dst": 8, "tunnel_id": 4, "dst_port": 2, "ttl": 1}
BEFORE = {"time": ["raw", 8, bytes(range(40))], "len": ["const", b"\xff\xfe\xfd\xfc"]}


@st.composite
def fitting(draw: st.DrawFn, width: int, rows: int, count: int) -> Any:
    """An array of so many bytes a value, in any encodings that it may have; `count` groups."""
    bases = st.lists(st.sampled_from(["frame_number", "time", "len"]), max_size=4)
    outer = draw(st.sampled_from(["", "group", "sorted"]))
    values = count if outer == "group" else rows
    ways = [way for way in ("delta", "times", "zigzag") if draw(st.booleans())]
    values -= "delta" in ways
    sent = draw(st.integers(1, width))
    noise = draw(st.binary(min_size=values * sent, max_size=values * sent))
    kinds = [["planes", sent, noise], ["const", draw(st.binary(min_size=width, max_size=width))]]
    array: Any = draw(st.sampled_from([*kinds, ["raw", sent, noise]] if sent in (1, 2, 4, 8) else kinds))
    for way in reversed(ways):
        parts = {"delta": [b"\xfe" * 8], "times": [draw(st.sampled_from([1, 251]))], "zigzag": []}
        array = [way, *parts[way], array]
    array = [outer, array] if outer else array
    return ["from", draw(bases), draw(bases), array] if draw(st.booleans()) else array


@given(st.data(), st.integers(1, 5), st.sampled_from(sorted(WIDTHS)))
@settings(max_examples=300, deadline=None)
def test_arrays_in_arrays(data: st.DataObject, rows: int, column: str) -> None:
    codes = data.draw(st.lists(st.integers(0, rows - 1), min_size=rows, max_size=rows))
    array = data.draw(fitting(WIDTHS[column], rows, max(codes) + 1))
    body = {column: array, GROUPS: ["raw", 1, bytes(codes)], **BEFORE, "time": ["raw", 8, bytes(range(8 * rows))]}
    raw = msgpack.packb(body)
    assert taken("packets", raw, rows)
    assert differences("packets", raw, rows) == []


def lengths(number: int) -> list[Any]:
    return ["raw", 2, np.full(3, number, "<u2").tobytes()]


STRANGE: dict[str, tuple[Any, bool]] = {
    "nothing": ({}, True),
    "no map": ([1], False),
    "a column that nobody knows": ({"quantum": 1}, False),
    "a name that is a number": ({1: ["const", b"\1"]}, False),
    "the longest string": ({"l7": ["dict", CODES, ["x" * MAX_TEXT, ""]]}, True),
    "a string that is too long": ({"l7": ["dict", CODES, ["x" * (MAX_TEXT + 1), ""]]}, False),
    "a long string of two bytes a character": ({"l7": ["dict", CODES, ["é" * (MAX_TEXT // 2 + 1), ""]]}, False),
    "wide characters": ({"l7": ["dict", CODES, ["é€😀", ""]]}, True),
    "a code too many": ({"l7": ["dict", CODES, ["a"]]}, False),
    "most strings": ({"l7": ["dict", CODES, [""] * MAX_DICT]}, True),
    "a string too many": ({"l7": ["dict", CODES, [""] * (MAX_DICT + 1)]}, False),
    "no strings": ({"l7": ["dict", CODES, []]}, False),
    "strings that are bytes": ({"l7": ["dict", CODES, [b"a", b"b"]]}, False),
    "all values": ({k: ["dict", CODES, [""] * MAX_DICT] for k in ("iface", "l7", "tunnel_type")}, True),
    "the longest text": ({"info": ["text", lengths(MAX_TEXT), bytes(3 * MAX_TEXT)]}, True),
    "a text that is too long": ({"info": ["text", lengths(MAX_TEXT + 1), bytes(3 * MAX_TEXT + 3)]}, False),
    "a text that is shorter": ({"info": ["text", lengths(2), b"abcde"]}, False),
    "one length": ({"info": ["text", ["const", b"\2\0\0\0"], b"abcdef"]}, True),
    "one length, wide characters": ({"info": ["text", ["const", b"\2\0\0\0"], "éàè".encode()]}, True),
    "characters cut by a length": ({"info": ["text", ["const", b"\2\0\0\0"], "aééa".encode()]}, False),
    "one count": ({"dns_id": ["list", ["const", b"\1"], ["raw", 2, b"abcdef"]]}, True),
    "items that are counted wrong": ({"dns_id": ["list", CODES, ["raw", 1, b"ab"]]}, False),
    "items in planes": ({"http2_streamid": ["list", CODES, ["planes", 3, b"abc"]]}, True),
    "items wider than the column": ({"dns_id": ["list", CODES, ["raw", 4, b"abcd"]]}, False),
    "more items than counts can say": ({"dns_id": ["list", CODES, ["raw", 1, bytes(766)]]}, False),
    "no items": ({"dns_id": ["list", ["const", b"\0"], ["raw", 1, b""]]}, True),
    "strings of a row": ({"dns_a": ["texts", CODES, ["raw", 1, b"\2"], "é".encode()]}, True),
    "strings of a row cut": ({"dns_a": ["texts", ["const", b"\1"], ["raw", 1, b"\1\1\1"], "éa".encode()]}, False),
    "pairs": ({"l7_fields": ["map", CODES, ["raw", 1, b"\0"], ["k"], ["raw", 1, b"\1"], b"v"]}, True),
    "a key too many": ({"l7_fields": ["map", CODES, ["raw", 1, b"\1"], ["k"], ["raw", 1, b"\1"], b"v"]}, False),
    "no pairs": ({"l7_fields": ["map", ["const", b"\0"], ["raw", 1, b""], [], ["raw", 1, b""], b""]}, True),
    "groups beyond the rows": ({GROUPS: ["raw", 1, b"\0\3\1"]}, False),
    "groups by group": ({GROUPS: ["group", ["raw", 1, b"\0"]]}, False),
    "groups of nothing": ({GROUPS: ["from", [], [], CODES]}, True),
    "an empty group": ({GROUPS: ["raw", 1, b"\2\0\2"], "len": ["group", NEAR], "ttl": ["sorted", NEAR]}, True),
    "addresses by group": ({GROUPS: CODES, "src": ["group", ["raw", 16, bytes(range(32))]]}, True),
    "addresses in order": ({GROUPS: CODES, "src": ["sorted", ["raw", 16, bytes(range(48))]]}, True),
    "one address by group": ({GROUPS: CODES, "src": ["group", ["const", bytes(range(16))]]}, True),
    "one address": ({"src": ["const", bytes(range(16))]}, True),
    "addresses in steps": ({"src": ["delta", bytes(8), ["raw", 16, bytes(32)]]}, False),
    "a time below zero": ({"time": ["raw", 8, b"\xff" * 24]}, True),
    "from one that comes later": ({"len": NEAR, "time": ["from", ["len"], [], NEAR]}, False),
    "from one that is no integer": ({"src": ["const", bytes(16)], "ttl": ["from", ["src"], [], NEAR]}, False),
    "codes from a column": (
        {"len": CODES, "l7": ["dict", ["from", ["len"], [], ["const", bytes(4)]], ["a", "b"]]},
        True,
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_strange(name: str) -> None:
    body, takes = STRANGE[name]
    raw = msgpack.packb(body)
    assert taken("packets", raw, 3) == takes
    assert differences("packets", raw, 3) == []


EDGES = (
    "7f c280 dfbf e0a080 e28aac ed9fbf ee8080 efbfbf f0908080 f09f9880 f48fbfbf "
    "80 ff c0af c181 c3 e09fbf eda080 e282 f08fbfbf f4908080 f5808080 f09f98"
)


@pytest.mark.parametrize("utf8", [*map(bytes.fromhex, EDGES.split())], ids=EDGES.split())
def test_characters(utf8: bytes) -> None:
    text = {"info": ["text", ["const", len(utf8).to_bytes(4, "little")], utf8]}
    assert differences("packets", msgpack.packb(text), 1) == []
    keys = msgpack.packb({"l7": ["dict", CODES, ["abcd", "b"]]}).replace(b"abcd", utf8.ljust(4, b"x"))
    assert differences("packets", keys, 3) == []


@given(st.binary(max_size=12))
@settings(max_examples=500)
def test_bytes_are_characters_to_both(utf8: bytes) -> None:
    raw = msgpack.packb({"info": ["text", ["const", len(utf8).to_bytes(4, "little")], utf8]})
    assert differences("packets", raw, 1) == []


@pytest.mark.parametrize("head", ["cut", "long", "twice", "map32", "array32", "str32", "bin32", "signed"])
def test_heads_of_other_sizes(head: str) -> None:
    raw = msgpack.packb({"ttl": ["raw", 1, b"abc"]})
    raws = {
        "cut": raw[:-1],
        "long": raw + b"\0",
        "twice": b"\x82" + raw[1:] + raw[1:],
        "map32": b"\xdf\0\0\0\1" + raw[1:],
        "array32": raw.replace(b"\x93", b"\xdd\0\0\0\3"),
        "str32": raw.replace(b"\xa3raw", b"\xdb\0\0\0\3raw"),
        "bin32": raw.replace(b"\xc4\3", b"\xc6\0\0\0\3"),
        "signed": raw.replace(b"raw\1", b"raw\xd3\0\0\0\0\0\0\0\1"),
    }
    assert taken("packets", raws[head], 3) == (head not in ("cut", "long", "twice"))
    assert differences("packets", raws[head], 3) == []


def test_limits_of_a_body() -> None:
    many = [""] * MAX_DICT
    most = {name: ["dict", CODES, many] for name in ("iface", "l7", "tunnel_type")}
    pairs = ["map", ["const", b"\0"], ["raw", 1, b""], many, ["raw", 1, b""], b""]
    beyond = msgpack.packb({**most, "l7_fields": pairs})
    assert 4 * MAX_DICT >= MAX_VALUES
    long = ["x" * MAX_TEXT] * (MAX_STRINGS // MAX_TEXT)
    for raw in (beyond, msgpack.packb({"l7": ["dict", CODES, long]})):
        assert not taken("packets", raw, 3)
        assert differences("packets", raw, 3) == []
    assert taken("packets", msgpack.packb({"l7": ["dict", CODES, long[1:]]}), 3)


@pytest.mark.parametrize("rows", [0, -1, MAX_ROWS + 1, 2**62])
def test_rows_that_no_batch_has(rows: int) -> None:
    assert not taken("packets", msgpack.packb({"ttl": ["const", b"a"]}), rows)


def test_encodings_that_are_not_ours_turn_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(arrays.RANK, "zigzag", 7)
    compiled._agrees.cache_clear()
    try:
        assert not taken("packets", msgpack.packb({"ttl": ["const", b"a"]}), 3)
        assert "zigzag=1/7" in built.complaints.pop()
    finally:
        compiled._agrees.cache_clear()
