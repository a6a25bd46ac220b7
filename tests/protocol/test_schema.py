"""The tables hold together: names, kinds, bits and types."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from protocol import schema
from protocol.columns import empty
from protocol.schema import EITHER, NAMES, ORIGIN, PARTS, TABLES, Has, Table, fields_of, second

KINDS = {"uint", "bool", "time", "seconds", "ip", "mac", "text", "epoch", "uints", "texts", "map"}
WIRES_OF = {  # kind of a field -> wire kinds of its column
    "uint": {"u1", "u2", "u4", "u8"},
    "bool": {"u1", "u2", "u4", "u8"},
    "time": {"i8"},
    "seconds": {"i8"},
    "ip": {"addr"},
    "mac": {"u8"},
    "text": {"dict", "text"},
    "epoch": {"u8"},
    "uints": {"list_u2", "list_u4"},
    "texts": {"list_text"},
    "map": {"map"},
}
CLICKHOUSE = {
    "u1": {"UInt8"},
    "u2": {"UInt16", "Date"},
    "u4": {"UInt32"},
    "u8": {"UInt64"},
    "i8": {"Int64"},
    "addr": {"IPv6"},
    "dict": {"LowCardinality(String)"},
    "text": {"String"},
    "list_u2": {"Array(UInt16)"},
    "list_u4": {"Array(UInt32)"},
    "list_text": {"Array(String)"},
    "map": {"Map(String, String)"},
}
BITS = {"u1": 8, "u2": 16, "u4": 32, "u8": 64, "list_u2": 16, "list_u4": 32}
each_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


@each_table
def test_names_are_unique(table: Table) -> None:
    columns = [c.name for c in (*ORIGIN, *NAMES, *PARTS, *table.columns)]
    fields = [f.name for f in table.fields]
    assert len(set(columns)) == len(columns)
    assert len(set(fields)) == len(fields)
    assert list(fields_of(table.name)) == fields


@each_table
def test_every_field_shows_a_column_of_its_kind(table: Table) -> None:
    for field in table.fields:
        assert field.kind in KINDS, field
        column = table.column(field.column)
        assert column.wire in WIRES_OF[field.kind], field
        assert field.doc
        if field.kind in ("bool", "uints"):
            assert field.shift + field.bits <= BITS[column.wire], field
            assert field.only < 1 << BITS[column.wire], field
        else:
            assert (field.shift, field.bits, field.only) == (0, 0, 0), field


@each_table
def test_every_need_is_made_of_bits_that_exist(table: Table) -> None:
    known = sum(Has)
    for field in table.fields:
        assert 0 <= field.need <= known, field
        assert field.need & ~known == 0, field


def test_every_bit_is_one_bit_and_fits() -> None:
    assert all(bit.bit_count() == 1 for bit in Has)
    assert len({int(bit) for bit in Has}) == len(list(Has))
    assert max(Has) < 1 << 64


@each_table
def test_the_store_keeps_what_the_wire_carries(table: Table) -> None:
    for column in (*ORIGIN, *NAMES, *PARTS, *table.columns):
        assert column.clickhouse in CLICKHOUSE[column.wire], column
        assert column.doc


@each_table
def test_every_column_has_an_empty_value(table: Table) -> None:
    assert all(len(empty(column, 3)) == 3 for column in (*ORIGIN, *NAMES, *PARTS, *table.columns))


@each_table
def test_order_and_time_are_columns(table: Table) -> None:
    first, rest = second(table.time), table.order_by.removeprefix(f"{second(table.time)}, ")
    assert table.order_by.startswith(first)
    for name in [*rest.split(", "), table.time, table.until]:
        assert table.column(name)
    assert {table.column(table.time).wire, table.column(table.until).wire} == {"i8"}
    with pytest.raises(KeyError):
        table.column("no_such_column")


def test_a_field_means_the_same_in_every_table() -> None:
    seen: dict[str, schema.Field] = {}
    for table in TABLES.values():
        for field in table.fields:
            first = seen.setdefault(field.name, field)
            assert replace(first, column="", doc="") == replace(field, column="", doc=""), field


def test_either_names_fields_of_every_table_where_one_is() -> None:
    for word, pair in EITHER.items():
        for table in TABLES.values():
            assert word not in fields_of(table.name)
            assert len({name in fields_of(table.name) for name in pair}) == 1
        assert all(name in fields_of("packets") for name in pair)


def test_the_schema_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'msgpack', 'scapy', 'backports', 'asyncio'}"
    code = f"import sys, protocol.schema; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"


def test_tables_are_found_by_name() -> None:
    assert {name: table.name for name, table in TABLES.items()} == {name: name for name in TABLES}
