"""Native blocks: what the engine reads of ours is what we wrote, and what it writes itself is the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import chdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rows import packet_columns

from hub.store import ddl, native
from protocol.columns import (
    LIST_ITEM,
    MAX_TEXT,
    NUMPY,
    ColumnValue,
    Dict,
    Lists,
    Maps,
    Text,
    Texts,
    cut,
    empty,
    maps_of,
    text_of,
    texts_of,
)
from protocol.schema import PACKETS, Column

TYPES = {
    "u1": "UInt8",
    "u2": "UInt16",
    "u4": "UInt32",
    "u8": "UInt64",
    "i8": "Int64",
    "addr": "IPv6",
    "dict": "LowCardinality(String)",
    "text": "String",
    "list_u2": "Array(UInt16)",
    "list_u4": "Array(UInt32)",
    "list_text": "Array(String)",
    "map": "Map(String, String)",
}


class Scratch:
    """An engine in memory and a file for blocks."""

    def __init__(self, folder: Path) -> None:
        self.engine = chdb.connect(":memory:")
        self.file = folder / "block.native"

    def query(self, sql: str, fmt: str = "TSV") -> bytes:
        return self.engine.query(sql, fmt).bytes()

    def rows(self, columns: list[Column], block: list[Any]) -> list[list[str]]:
        """The block as the engine reads it: every value as its text."""
        self.file.write_bytes(b"".join(block))
        names = ", ".join(f"hex(toString({c.name})) AS {c.name}" for c in columns)
        structure = ", ".join(f"{c.name} {c.clickhouse}" for c in columns)
        text = self.query(f"SELECT {names} FROM file('{self.file}', Native, '{structure}')").decode()
        return [[bytes.fromhex(v).decode() for v in line.split("\t")] for line in text.splitlines()]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
    scratch = Scratch(tmp_path_factory.mktemp("native"))
    yield scratch
    scratch.engine.close()


def texts(value: ColumnValue) -> list[str]:
    """What the engine should print for each row."""
    if isinstance(value, Dict):
        return [value.values[code] for code in value.codes]
    if isinstance(value, Text):
        ends = np.cumsum(value.lengths)
        return [value.data[e - n : e].tobytes().decode() for e, n in zip(ends, value.lengths, strict=True)]
    if isinstance(value, Lists):
        ends = np.cumsum(value.lengths, dtype=int)
        return [
            "[" + ",".join(map(str, value.values[e - n : e])) + "]" for e, n in zip(ends, value.lengths, strict=True)
        ]
    if isinstance(value, Texts | Maps):
        items = [f"'{text}'" for text in texts(value.strings if isinstance(value, Texts) else value.values)]
        if isinstance(value, Maps):
            items = [f"'{key}':{item}" for key, item in zip(texts(value.keys), items, strict=True)]
        ends = np.cumsum(value.counts, dtype=int)
        rows = [",".join(items[e - n : e]) for e, n in zip(ends, value.counts, strict=True)]
        return [f"[{row}]" if isinstance(value, Texts) else f"{{{row}}}" for row in rows]
    if value.ndim == 2:
        return [_address(row.tobytes()) for row in value]
    return [str(v) for v in value.tolist()]


def _address(data: bytes) -> str:
    address = IPv6Address(data)
    return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)


@st.composite
def values(draw: st.DrawFn, wire: str, rows: int) -> ColumnValue:
    if wire in NUMPY:
        info = np.iinfo(NUMPY[wire])
        numbers = st.lists(st.integers(int(info.min), int(info.max)), min_size=rows, max_size=rows)
        return np.array(draw(numbers), dtype=NUMPY[wire])
    if wire == "addr":
        # 2001:db8::/32 and mapped IPv4: Python and the engine print some deprecated IPv4-compatible forms differently
        heads = st.sampled_from([b"\x20\x01\x0d\xb8" + bytes(8), bytes(10) + b"\xff\xff"])
        parts = [draw(heads) + draw(st.binary(min_size=4, max_size=4)) for _ in range(rows)]
        return np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(rows, 16)
    if wire == "dict":
        words = tuple(draw(st.lists(st.text(max_size=5), min_size=1, max_size=4)))
        codes = draw(st.lists(st.integers(0, len(words) - 1), min_size=rows, max_size=rows))
        return Dict(np.array(codes, dtype="<u4"), words)
    if wire == "text":
        sizes = st.sampled_from([0, 1, 127, 128, 129, 300, MAX_TEXT])
        return text_of(draw(st.lists(sizes.map("é".__mul__) | st.text(max_size=20), min_size=rows, max_size=rows)))
    words = st.text(st.characters(categories=["L", "N"]), max_size=5)  # nothing the engine would escape
    if wire == "list_text":
        return texts_of(draw(st.lists(st.lists(words, max_size=3), min_size=rows, max_size=rows)))
    if wire == "map":
        return maps_of(draw(st.lists(st.dictionaries(words, words, max_size=3), min_size=rows, max_size=rows)))
    top = int(np.iinfo(LIST_ITEM[wire]).max)
    lists = draw(st.lists(st.lists(st.integers(0, top), max_size=3), min_size=rows, max_size=rows))
    flat = [n for item in lists for n in item]
    return Lists(np.array([len(item) for item in lists], dtype="u1"), np.array(flat, dtype=LIST_ITEM[wire]))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_engine_reads_what_was_written(scratch: Scratch, data: st.DataObject) -> None:
    wires = data.draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=4))
    columns = [Column(f"c{i}", wire, TYPES[wire], "") for i, wire in enumerate(wires)]
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    parts = [{c.name: data.draw(values(c.wire, size)) for c in columns} for size in sizes]
    for part, size in zip(parts, sizes, strict=True):
        for column in columns:
            native.check(column, part[column.name], size)
    expected = [[text for part in parts for text in texts(part[c.name])] for c in columns]
    assert scratch.rows(columns, native.block(columns, parts, sum(sizes))) == [
        list(r) for r in zip(*expected, strict=True)
    ]


@pytest.mark.parametrize("column", [c for c in PACKETS.columns if c.wire != "dict"], ids=lambda c: c.name)
def test_the_engine_writes_the_same_bytes(scratch: Scratch, column: Column) -> None:
    rows = 1000
    block = b"".join(native.block([column], [packet_columns(rows)], rows))
    scratch.file.write_bytes(block)
    own = scratch.query(
        f"SELECT * FROM file('{scratch.file}', Native, '`{column.name}` {column.clickhouse}') "
        "SETTINGS max_block_size = 65536, max_threads = 1",
        "Native",
    )
    assert own == block


@pytest.mark.parametrize("keys", [1, 256, 257, 65_536])
def test_dictionaries_of_every_index_width(scratch: Scratch, keys: int) -> None:
    column = Column("c", "dict", TYPES["dict"], "")
    value = Dict(np.arange(keys, dtype="<u4")[::-1], tuple(f"k{i}" for i in range(keys)))
    got = scratch.rows([column], native.block([column], [{"c": value}], keys))
    assert [row[0] for row in got] == texts(value)


@pytest.mark.parametrize("step", [1, native.TEXT_STEP])
def test_pieces_of_one_column_are_the_column_in_one_piece(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "TEXT_STEP", step)
    whole = packet_columns(100)
    pieces = [{name: cut(value, a, b) for name, value in whole.items()} for a, b in ((0, 1), (1, 60), (60, 100))]
    columns = PACKETS.columns
    assert b"".join(native.block(columns, pieces, 100)) == b"".join(native.block(columns, [whole], 100))


def test_a_broadcast_value_is_written_once_per_row(scratch: Scratch) -> None:
    column = Column("c", "u8", "UInt64", "")
    value = np.broadcast_to(np.uint64(2**63 + 1), (3,))
    assert scratch.rows([column], native.block([column], [{"c": value}], 3)) == [[str(2**63 + 1)]] * 3


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        ("u4", None),
        ("u4", np.zeros(2, dtype="<u4")),
        ("u4", np.zeros((3, 16), dtype=np.uint8)),
        ("u4", text_of(["", "", ""])),
        ("addr", np.zeros((3, 4), dtype=np.uint8)),
        ("dict", Dict(np.array([0, 1, 2], dtype="<u4"), ("a", "b"))),
        ("text", Text(np.array([1, 1, 1], dtype="<u4"), np.zeros(2, dtype=np.uint8))),
        ("text", Text(np.array([MAX_TEXT + 1, 0, 0], dtype="<u4"), np.zeros(MAX_TEXT + 1, dtype=np.uint8))),
        ("list_u2", Lists(np.array([1, 1, 1], dtype="u1"), np.zeros(4, dtype="<u2"))),
        ("list_text", Texts(np.array([1, 1, 1], dtype="u1"), text_of(["a", "b"]))),
        ("list_text", Texts(np.array([1, 0, 0], dtype="u1"), Text(np.array([2]), np.zeros(1, dtype="u1")))),
        ("map", Maps(np.array([1, 0, 0], dtype="u1"), Dict(np.array([0, 0]), ("k",)), text_of(["v"]))),
        ("map", Maps(np.array([1, 0, 0], dtype="u1"), Dict(np.array([1]), ("k",)), text_of(["v"]))),
    ],
)
def test_a_value_that_does_not_fit_is_refused(wire: str, value: ColumnValue | None) -> None:
    with pytest.raises(ValueError, match="column c "):
        native.check(Column("c", wire, TYPES[wire], ""), value, 3)


def test_words_lists_and_maps_without_a_value_are_left_to_their_default() -> None:
    nothing = {c.name: empty(c, 2) for c in PACKETS.columns}
    something = nothing | {"dns_qry_name": texts_of([[""], []]), "l7_fields": maps_of([{}, {"k": "v"}])}
    used = {column.name for column in native.used(PACKETS.columns, [nothing, something])}
    left = {c.name for c in PACKETS.columns if c.wire in ("dict", "list_u2", "list_u4", "list_text", "map")}
    assert used == {c.name for c in PACKETS.columns} - left | {"dns_qry_name", "l7_fields"}


def test_every_column_of_the_schema_has_its_clickhouse_type() -> None:
    for table in ddl.STORED.values():
        for column in ddl.columns_of(table):
            assert column.clickhouse == TYPES[column.wire] or (column.name, column.clickhouse) == ("ingest_day", "Date")
