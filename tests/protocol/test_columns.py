"""Columns: what goes out comes back, what lies is refused by `WrongBatch`, and nothing costs more than it carries."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import columns_of, lists_of, to_list, values_of

from protocol.columns import (
    MAX_DICT,
    MAX_TEXT,
    Dict,
    Lists,
    Maps,
    Text,
    Texts,
    absent,
    cut,
    empty,
    is_stretched,
    join,
    maps_of,
    stretch,
    take,
    text_of,
    texts_of,
)
from protocol.errors import LocalError, WrongBatch
from protocol.limits import MAX_ROWS
from protocol.packing import pack_column, pack_columns, unpack_column, unpack_columns
from protocol.schema import TABLES, Column

KINDS = ("u1", "u2", "u4", "u8", "i8", "addr", "dict", "text", "list_u2", "list_u4", "list_text", "map")
COLUMNS = {kind: Column("c", kind, "", "") for kind in KINDS}


@st.composite
def any_column(draw: st.DrawFn, rows: st.SearchStrategy[int] = st.integers(0, 20)) -> tuple[Column, Any]:  # noqa: B008
    column = COLUMNS[draw(st.sampled_from(KINDS))]
    return column, draw(values_of(column, draw(rows)))


# -- round trips ---------------------------------------------------------------------------------------------------


@given(any_column())
def test_every_kind_comes_back(pair: tuple[Column, Any]) -> None:
    column, value = pair
    back = unpack_column(column, pack_column(column, value), len(value))
    assert to_list(back) == to_list(value)
    assert type(back) is type(value)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_table_comes_back(table: Any, data: st.DataObject) -> None:
    columns = data.draw(columns_of(table))
    packed = pack_columns(table, columns)
    back, unknown = unpack_columns(table, {**packed, "from_the_future": ["quantum", b"x"]}, len(columns["layers"]))
    assert unknown == 1
    assert list(back) == [c.name for c in table.columns if c.name in back]
    assert {k: to_list(v) for k, v in back.items()} == {k: to_list(v) for k, v in columns.items()}


def test_one_value_is_sent_once_and_read_as_a_view() -> None:
    for kind in ("u1", "u2", "u4", "u8", "i8", "addr"):
        packed = pack_column(COLUMNS[kind], empty(COLUMNS[kind], 1000))
        assert packed[0] == "const"
        back = unpack_column(COLUMNS[kind], packed, 1000)
        assert isinstance(back, np.ndarray)
        assert back.strides[0] == 0


@pytest.mark.parametrize("values", [256, 257, MAX_DICT])
def test_a_dictionary_of_many_strings_comes_back(values: int) -> None:
    value = Dict(np.arange(values, dtype="<u4"), tuple(f"v{i}" for i in range(values)))
    packed = pack_column(COLUMNS["dict"], value)
    assert packed[1][:2] == ["raw", 1 if values == 256 else 2]
    assert to_list(unpack_column(COLUMNS["dict"], packed, values)) == to_list(value)


@given(st.integers(0, 4), st.sampled_from("aé€😀"), st.integers(-3, 3))
def test_text_is_cut_at_a_character(ascii_: int, char: str, more: int) -> None:
    string = "x" * ascii_ + char * (MAX_TEXT // len(char.encode()) + more)
    (back,) = to_list(text_of([string]))
    assert string.startswith(back)
    size = len(back.encode())
    assert size <= MAX_TEXT
    assert back == string or size + len(char.encode()) > MAX_TEXT


def test_strings_from_the_system_never_break_a_batch() -> None:
    odd = "eth\udcff"  # what os.fsdecode makes of a name that is not UTF-8
    packed = pack_column(COLUMNS["dict"], Dict(np.zeros(1, "<u4"), (odd, "é" * MAX_TEXT)))
    back = unpack_column(COLUMNS["dict"], packed, 1)
    assert isinstance(back, Dict)
    assert back.values == ("eth?", "é" * (MAX_TEXT // 2))
    assert to_list(text_of([odd])) == ["eth?"]


# -- rows taken, cut and joined ------------------------------------------------------------------------------------


@given(any_column(st.integers(1, 20)), st.data())
def test_take_is_indexing(pair: tuple[Column, Any], data: st.DataObject) -> None:
    _, value = pair
    index = data.draw(st.lists(st.integers(0, len(value) - 1), max_size=30))
    rows = to_list(value)
    assert to_list(take(value, np.array(index, dtype=np.int64))) == [rows[i] for i in index]


@given(any_column(), st.integers(-25, 25), st.integers(-25, 25))
def test_cut_is_slicing(pair: tuple[Column, Any], start: int, stop: int) -> None:
    _, value = pair
    assert to_list(cut(value, start, stop)) == to_list(value)[start:stop]


@given(st.data())
def test_join_is_concatenation(data: st.DataObject) -> None:
    column = COLUMNS[data.draw(st.sampled_from(KINDS))]
    parts = [data.draw(values_of(column, data.draw(st.integers(0, 5)))) for _ in range(data.draw(st.integers(1, 4)))]
    assert to_list(join(parts)) == [row for part in parts for row in to_list(part)]


@given(st.sampled_from(KINDS), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 4))
def test_what_is_absent_takes_no_memory_when_joined(kind: str, sizes: list[int], other: int) -> None:
    column = COLUMNS[kind]
    whole = absent(column, 5)
    parts = [cut(whole, 0, size) for size in sizes]
    assert to_list(join(parts)) == to_list(absent(column, sum(sizes)))
    if isinstance(whole, np.ndarray) and all(sizes):
        assert is_stretched(join(parts))
    if column.wire == "u4":
        parts.insert(min(other, len(parts)), stretch(np.full(1, 7, dtype="<u4"), 3))
        assert to_list(join(parts)) == [row for part in parts for row in to_list(part)]


def test_join_refuses_different_kinds() -> None:
    with pytest.raises(LocalError, match="different kinds"):
        join([empty(COLUMNS["dict"], 1), empty(COLUMNS["text"], 1)])


# -- our own mistakes ----------------------------------------------------------------------------------------------

WRONG_VALUES: dict[str, tuple[str, Any]] = {
    "kind": ("u1", empty(COLUMNS["text"], 1)),
    "two dimensions": ("u2", np.zeros((2, 2), "<u2")),
    "float": ("u2", np.array([1.0])),
    "too large": ("u2", np.array([65536], dtype=np.int64)),
    "negative": ("u8", np.array([-1], dtype=np.int64)),
    "beyond i8": ("i8", np.array([2**63], dtype=np.uint64)),
    "address of 4": ("addr", np.zeros((3, 4), np.uint8)),
    "address flat": ("addr", np.zeros(16, np.uint8)),
    "code beyond": ("dict", Dict(np.array([256], "<u4"), ("a",) * 256)),
    "negative code": ("dict", Dict(np.array([-1]), ("a",))),
    "no strings": ("dict", Dict(np.array([0], "<u4"), ())),
    "too many strings": ("dict", Dict(np.array([0], "<u4"), ("a",) * (MAX_DICT + 1))),
    "text too long": ("text", Text(np.array([MAX_TEXT + 1], "<u4"), np.zeros(MAX_TEXT + 1, np.uint8))),
    "text short": ("text", Text(np.array([3], "<u4"), np.zeros(2, np.uint8))),
    "text not UTF-8": ("text", Text(np.array([1, 1], "<u4"), np.frombuffer("é".encode(), np.uint8))),
    "list of 256": ("list_u2", Lists(np.array([256]), np.zeros(256, "<u2"))),
    "list short": ("list_u2", Lists(np.array([2], "u1"), np.zeros(1, "<u2"))),
    "counts short": ("list_text", Texts(np.array([2], "u1"), text_of(["a"]))),
    "counts of 256": ("list_text", Texts(np.array([256]), text_of(["a"] * 256))),
    "texts not UTF-8": (
        "list_text",
        Texts(np.array([2], "u1"), Text(np.array([1, 1]), np.frombuffer(b"\xc3\xa9", "u1"))),
    ),
    "texts short": ("list_text", Texts(np.array([1], "u1"), Text(np.array([3]), np.zeros(2, "u1")))),
    "pairs short": ("map", Maps(np.array([2], "u1"), Dict(np.array([0]), ("k",)), text_of(["v"]))),
    "key without value": ("map", Maps(np.array([1], "u1"), Dict(np.array([0, 0]), ("k",)), text_of(["v"]))),
    "key beyond": ("map", Maps(np.array([1], "u1"), Dict(np.array([1]), ("k",)), text_of(["v"]))),
    "list item": ("list_u2", Lists(np.array([1], "u1"), np.array([65536]))),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_value_that_does_not_fit_is_our_own_mistake(name: str) -> None:
    kind, value = WRONG_VALUES[name]
    with pytest.raises(LocalError):
        pack_column(COLUMNS[kind], value)


def test_a_value_that_fits_is_taken_whatever_its_type() -> None:
    for array in (np.array([1, 65535], np.int64), np.array([1, 65535], ">u2"), np.array([True, False])):
        packed = pack_column(COLUMNS["u2"], array)
        assert to_list(unpack_column(COLUMNS["u2"], packed, 2)) == [int(v) for v in array]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_columns_that_differ_in_rows_or_are_missing_are_our_own_mistake(table: Any) -> None:
    columns = {c.name: empty(c, 3) for c in table.columns}
    with pytest.raises(LocalError):
        pack_columns(table, {**columns, "layers": np.zeros(2, "<u8")})
    del columns["layers"]
    with pytest.raises(LocalError, match="layers"):
        pack_columns(table, columns)


# -- lies ----------------------------------------------------------------------------------------------------------


def raw(width: int, payload: Any) -> list[Any]:
    return ["raw", width, payload]


TWO = raw(1, bytes(2))
ONE_STRING = raw(4, b"\1\0\0\0")

LIES: list[tuple[str, Any, str]] = [
    ("u4", None, "bad_column"),
    ("u4", [], "bad_column"),
    ("u4", b"raw", "bad_column"),
    ("u4", {"raw": b""}, "bad_column"),
    ("u4", ["dict", TWO, ["a"]], "bad_column"),
    ("addr", raw(16, bytes(31)), "bad_column"),
    ("addr", ["const", bytes(15)], "bad_column"),
    ("dict", TWO, "bad_column"),
    ("dict", ["dict", bytes(2), ["a"]], "bad_column"),
    ("dict", ["dict", TWO], "bad_column"),
    ("dict", ["dict", TWO, []], "bad_column"),
    ("dict", ["dict", raw(1, b"\0\1"), ["a"]], "bad_column"),
    ("dict", ["dict", raw(2, b"\xff\xff\0\0"), ["a"]], "bad_column"),
    ("dict", ["dict", ["const", b"\1\0\0\0"], ["a"]], "bad_column"),
    ("dict", ["dict", raw(1, bytes(3)), ["a"]], "bad_column"),
    ("dict", ["dict", TWO, "a"], "bad_column"),
    ("dict", ["dict", TWO, {"a": 1}], "bad_column"),
    ("dict", ["dict", TWO, ["a"] * (MAX_DICT + 1)], "bad_column"),
    ("dict", ["dict", TWO, [b"a"]], "bad_utf8"),
    ("dict", ["dict", TWO, [None]], "bad_utf8"),
    ("dict", ["dict", TWO, [["a"]]], "bad_utf8"),
    ("dict", ["dict", TWO, ["\ud800"]], "bad_utf8"),
    ("dict", ["dict", TWO, ["a" * (MAX_TEXT + 1)]], "too_large"),
    ("dict", ["dict", TWO, ["é" * (MAX_TEXT // 2 + 1)]], "too_large"),
    ("text", ["text", raw(4, bytes(7)), b""], "bad_column"),
    ("text", ["text", TWO, b"x"], "bad_column"),
    ("text", ["text", raw(1, b"\2\0"), b"x"], "bad_column"),
    ("text", ["text", raw(4, b"\xff" * 8), b"x"], "too_large"),
    ("text", ["text", ["const", b"\xff" * 4], b"x"], "too_large"),
    ("text", ["text", raw(1, b"\2\0"), b"\xff\xfe"], "bad_utf8"),
    ("text", ["text", raw(1, b"\1\1"), "é".encode()], "bad_utf8"),
    ("text", ["text", raw(1, b"\1\0"), b"\xc3"], "bad_utf8"),
    ("text", ["text", raw(1, b"\3\0"), b"\xed\xa0\x80"], "bad_utf8"),  # a surrogate
    ("text", ["text", raw(1, b"\2\0"), b"\xc0\x80"], "bad_utf8"),  # an overlong zero
    ("text", ["text", raw(1, "\0" * 2), b""], "bad_column"),
    ("text", ["text", TWO, ""], "bad_column"),
    ("list_u2", ["list", raw(1, b"\1\0"), raw(2, b"")], "bad_column"),
    ("list_u2", ["list", raw(1, b"\1\0"), raw(2, bytes(3))], "bad_column"),
    ("list_u2", ["list", raw(1, b"\1\0"), raw(4, bytes(4))], "bad_column"),
    ("list_u2", ["list", raw(1, b"\xff\xff"), raw(2, bytes(2))], "bad_column"),
    ("list_u2", ["list", raw(2, bytes(4)), raw(2, b"")], "bad_column"),
    ("list_u2", ["list", ["const", b"\2"], ["const", bytes(2)]], "bad_column"),  # no item without a byte
    ("list_u4", ["list", raw(1, b"\1"), raw(4, bytes(4))], "bad_column"),
    ("list_u4", ["list", [1, 0], raw(4, bytes(4))], "bad_column"),
    ("list_text", ["text", TWO, b""], "bad_column"),
    ("list_text", ["texts", raw(1, b"\1\0"), raw(4, bytes(4))], "bad_column"),
    ("list_text", ["texts", raw(1, b"\1"), raw(4, bytes(4)), b""], "bad_column"),
    ("list_text", ["texts", raw(1, b"\1\1"), raw(4, bytes(4)), b""], "bad_column"),
    ("list_text", ["texts", raw(1, b"\1\1"), ["const", bytes(4)], b""], "bad_column"),
    ("list_text", ["texts", raw(1, b"\1\0"), ONE_STRING, b""], "bad_column"),
    ("list_text", ["texts", raw(1, b"\1\0"), ONE_STRING, b"\xff"], "bad_utf8"),
    ("list_text", ["texts", raw(1, b"\1\1"), raw(1, b"\1\1"), "é".encode()], "bad_utf8"),
    ("list_text", ["texts", raw(1, b"\1\0"), raw(4, b"\xff\xff\0\0"), b""], "too_large"),
    ("list_text", ["texts", "\1\0", raw(4, bytes(4)), b""], "bad_column"),
    ("map", ["map", raw(1, b"\1\0"), raw(1, b"\0"), ["k"], raw(4, bytes(4))], "bad_column"),
    ("map", ["map", raw(1, b"\1\0"), raw(1, b"\1"), ["k"], raw(4, bytes(4)), b""], "bad_column"),
    ("map", ["map", raw(1, b"\1\0"), raw(3, b"\0"), ["k"], raw(4, bytes(4)), b""], "bad_column"),
    ("map", ["map", raw(1, b"\1\0"), raw(1, b"\0\0"), ["k"], raw(4, bytes(4)), b""], "bad_column"),
    ("map", ["map", raw(1, b"\1\0"), raw(1, b"\0"), [], raw(4, bytes(4)), b""], "bad_column"),
    ("map", ["map", raw(1, b"\1\0"), raw(1, b"\0"), [b"k"], raw(4, bytes(4)), b""], "bad_utf8"),
    ("map", ["map", raw(1, b"\1\0"), raw(1, b"\0"), ["k"], ONE_STRING, b"\xff"], "bad_utf8"),
    ("map", ["map", raw(1, b"\1\1"), raw(1, b"\0"), ["k"], raw(4, bytes(4)), b""], "bad_column"),
]


@pytest.mark.parametrize(("kind", "packed", "code"), LIES)
def test_a_lie_is_refused_by_its_code(kind: str, packed: Any, code: str) -> None:
    with pytest.raises(WrongBatch) as caught:
        unpack_column(COLUMNS[kind], packed, 2)
    assert caught.value.code == code
    assert len(caught.value.detail) < 200


def test_text_is_checked_over_the_seams_of_its_pieces() -> None:
    rows = 1024
    string = "€" * (MAX_TEXT // 3)
    value = text_of([string] * rows)  # 4 MB; characters lie across every seam
    packed = pack_column(COLUMNS["text"], value)
    assert isinstance(unpack_column(COLUMNS["text"], packed, rows), Text)
    broken = bytearray(packed[2])
    broken[-1] = 0x41
    with pytest.raises(WrongBatch, match="UTF-8"):
        unpack_column(COLUMNS["text"], ["text", packed[1], bytes(broken)], rows)


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.binary(max_size=40),
        st.text(max_size=5),
        st.sampled_from(
            ["raw", "planes", "const", "delta", "times", "group", "from", "dict", "text", "list", bytes(8), 1, 2, 4]
        ),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=8,
)


@given(any_column(st.integers(1, 8)), JUNK, st.data())
@settings(max_examples=400)
def test_a_changed_column_is_refused_or_a_value(pair: tuple[Column, Any], junk: Any, data: st.DataObject) -> None:
    column, value = pair
    packed = pack_column(column, value)
    at = data.draw(st.integers(0, len(packed)))
    packed[at : at + data.draw(st.integers(0, 1))] = [junk]
    try:
        back = unpack_column(column, packed, len(value))
    except WrongBatch:
        return
    assert len(back) == len(to_list(back)) == len(value)  # to_list touches every row and decodes every string


@given(any_column(st.integers(1, 8)), st.integers(0, 2**31), st.integers(0, 255))
@settings(max_examples=400)
def test_a_changed_byte_is_refused_or_a_value(pair: tuple[Column, Any], where: int, byte: int) -> None:
    column, value = pair
    packed = pack_column(column, value)
    places = [i for i, part in enumerate(packed) if isinstance(part, bytes) and part]
    if not places:
        return
    at = places[where % len(places)]
    payload = bytearray(packed[at])
    payload[where % len(payload)] = byte
    packed[at] = bytes(payload)
    try:
        back = unpack_column(column, packed, len(value))
    except WrongBatch:
        return
    assert len(to_list(back)) == len(value)


@given(any_column(st.integers(0, 20)), st.integers(0, 40))
def test_another_row_count_is_refused_or_a_value(pair: tuple[Column, Any], rows: int) -> None:
    column, value = pair
    packed = pack_column(column, value)
    try:
        back = unpack_column(column, packed, rows)
    except WrongBatch:
        return
    assert len(to_list(back)) == rows


# -- memory --------------------------------------------------------------------------------------------------------


def peak_of(call: Any) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_columns_that_are_not_sent_take_no_memory(table: Any) -> None:
    assert peak_of(lambda: unpack_columns(table, {}, MAX_ROWS)) < 100_000
    back, _ = unpack_columns(table, {}, 5)
    assert {k: to_list(v) for k, v in back.items()} == {c.name: to_list(empty(c, 5)) for c in table.columns}


@pytest.mark.parametrize(
    ("kind", "packed"),
    [
        ("u8", ["delta", bytes(8), ["times", 7, ["zigzag", raw(1, bytes(MAX_ROWS - 1))]]]),
        ("u8", ["delta", bytes(8), ["times", 7, ["zigzag", ["const", bytes(8)]]]]),
        ("u8", raw(8, bytes(8 * MAX_ROWS))),
        ("u8", ["planes", 1, bytes(MAX_ROWS)]),
        ("u8", ["planes", 8, b"\1" * (8 * MAX_ROWS)]),
        ("dict", ["dict", raw(1, bytes(MAX_ROWS)), ["a"]]),
        ("dict", ["dict", ["const", bytes(4)], ["a"]]),
        ("text", ["text", raw(1, b"\xff" * MAX_ROWS), b"\xc3\xa9" * (255 * MAX_ROWS // 2)]),
        ("text", ["text", raw(2, b"\xff\xff" * MAX_ROWS), b""]),
        ("text", ["text", ["const", b"\xff\0\0\0"], b""]),
        ("list_u4", ["list", raw(1, b"\xff" * MAX_ROWS), raw(1, b"")]),
        ("list_u4", ["list", ["const", b"\xff"], raw(4, b"")]),
        ("list_text", ["texts", raw(1, b"\x08" * MAX_ROWS), raw(4, bytes(4 * 8 * MAX_ROWS)), b""]),
        ("list_text", ["texts", ["const", b"\x08"], ["planes", 1, bytes(8 * MAX_ROWS)], b""]),
        ("list_text", ["texts", ["const", b"\x08"], raw(1, b"\2" * (8 * MAX_ROWS)), "é".encode() * (8 * MAX_ROWS)]),
        ("list_text", ["texts", raw(1, b"\xff" * MAX_ROWS), raw(4, b""), b""]),
        ("map", ["map", ["const", b"\x08"], raw(1, bytes(8 * MAX_ROWS)), ["k"], raw(1, bytes(8 * MAX_ROWS)), b""]),
        ("list_u4", ["list", raw(1, b"\xff" * 4096 + bytes(MAX_ROWS - 4096)), raw(4, bytes(4 * 255 * 4096))]),
        ("list_u4", ["list", raw(1, b"\xff" * 4096 + bytes(MAX_ROWS - 4096)), ["planes", 1, bytes(255 * 4096)]]),
    ],
)
def test_reading_a_column_takes_eight_times_its_bytes_and_its_rows_at_most(kind: str, packed: list[Any]) -> None:
    def read() -> None:
        with contextlib.suppress(WrongBatch):
            unpack_column(COLUMNS[kind], packed, MAX_ROWS)

    assert peak_of(read) <= 8 * held(packed) + 32 * MAX_ROWS


def held(packed: Any) -> int:
    """Bytes in a column's binaries."""
    if isinstance(packed, list):
        return sum(map(held, packed))
    return len(packed) if isinstance(packed, bytes) else 0


def test_what_was_read_cannot_be_written() -> None:
    for kind in KINDS:
        value = empty(COLUMNS[kind], 3)
        back = unpack_column(COLUMNS[kind], pack_column(COLUMNS[kind], value), 3)
        first = {Dict: "codes", Text: "lengths", Lists: "lengths", Texts: "counts", Maps: "counts"}.get(type(back))
        array = getattr(back, first) if first else back
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    delta = unpack_column(COLUMNS["u8"], ["delta", bytes(8), raw(1, b"\1\1")], 3)
    assert isinstance(delta, np.ndarray)
    with pytest.raises(ValueError, match="read-only"):
        delta[0] = 1


def test_what_is_empty_in_every_row_is_not_sent() -> None:
    for table in TABLES.values():
        assert pack_columns(table, {c.name: empty(c, 1000) for c in table.columns}) == {}
        assert pack_columns(table, {c.name: absent(c, 1000) for c in table.columns}) == {}
    columns = {c.name: empty(c, 2) for c in TABLES["packets"].columns}
    columns["dns_qry_name"] = texts_of([[], [""]])  # one empty string is something
    columns["info"] = text_of(["", "x"])
    columns["l7"] = Dict(np.array([1, 1], "<u4"), ("", "DNS"))
    columns["ttl"] = np.array([0, 64], "u1")
    packed = pack_columns(TABLES["packets"], columns)
    assert sorted(packed) == ["dns_qry_name", "info", "l7", "ttl"]
    back, _ = unpack_columns(TABLES["packets"], packed, 2)
    assert {k: to_list(v) for k, v in back.items()} == {k: to_list(v) for k, v in columns.items()}


def test_lengths_that_promise_more_than_nothing_are_our_own_mistake() -> None:
    columns = {c.name: empty(c, 2) for c in TABLES["packets"].columns}
    for name, lie in {
        "info": Text(np.array([1, 0], "<u4"), np.zeros(0, "u1")),
        "vlan_id": Lists(np.array([1, 0], "u1"), np.zeros(0, "<u2")),
        "dns_qry_name": Texts(np.array([1, 0], "u1"), text_of([])),
        "l7_fields": Maps(np.array([1, 0], "u1"), Dict(np.zeros(0, "<u4"), ()), text_of([])),
        "l7": Dict(np.array([1, 0], "<u4"), ("",)),
    }.items():
        with pytest.raises(LocalError, match=name):
            pack_columns(TABLES["packets"], {**columns, name: lie})


def test_too_many_strings_are_refused_before_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.packing.MAX_ITEMS", 3)
    with pytest.raises(WrongBatch) as caught:
        unpack_column(COLUMNS["list_text"], ["texts", raw(1, b"\2\2"), raw(4, bytes(16)), b""], 2)
    assert caught.value.code == "too_large"
    with pytest.raises(LocalError, match="limit"):
        pack_column(COLUMNS["list_text"], texts_of([["a", "b"], ["c", "d"]]))


def test_a_row_has_at_most_255_strings() -> None:
    assert [len(row) for row in to_list(texts_of([["x"] * 300, ["y"]]))] == [255, 1]
    assert [len(row) for row in to_list(maps_of([{str(i): "x" for i in range(300)}, {"y": "z"}]))] == [255, 1]


def test_lists_hold_up_to_255_values() -> None:
    value = lists_of("list_u4", [[2**32 - 1] * 255, [], [0]])
    packed = pack_column(COLUMNS["list_u4"], value)
    assert to_list(unpack_column(COLUMNS["list_u4"], packed, 3)) == to_list(value)
