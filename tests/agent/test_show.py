"""Lines of packet columns against a naive printer that goes row by row."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import show
from agent.show import FIELDS, Memo, Ndjson, table
from protocol.columns import LIST_ITEM, NUMPY, Columns, Dict, Lists, empty, maps_of, text_of, texts_of
from protocol.schema import PACKETS, Field, Has

Row = dict[str, Any]
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def value_of(wire: str) -> st.SearchStrategy[Any]:
    if wire in ("dict", "text"):
        return names
    if wire == "list_text":
        return st.lists(names, max_size=3)
    if wire == "map":
        return st.dictionaries(names, names, max_size=2)
    if wire in LIST_ITEM:
        return st.lists(st.integers(0, np.iinfo(LIST_ITEM[wire]).max), max_size=3)
    if wire == "addr":
        v4 = st.integers(0, 2**32 - 1).map(lambda n: bytes(10) + b"\xff\xff" + n.to_bytes(4, "big"))
        return st.one_of(v4, st.binary(min_size=16, max_size=16), st.just(bytes(16)))
    limits = np.iinfo(NUMPY[wire])
    return st.one_of(st.integers(int(limits.min), int(limits.max)), st.integers(0, 9))


rows = st.fixed_dictionaries({column.name: value_of(column.wire) for column in PACKETS.columns})
layers = st.lists(st.sampled_from(list(Has)), max_size=12).map(lambda bits: int(sum(set(bits))))


def columns_of(made: list[Row]) -> Columns:
    columns: Columns = {}
    for column in PACKETS.columns:
        values = [row[column.name] for row in made]
        if column.wire == "dict":
            words = tuple(dict.fromkeys(values))
            columns[column.name] = Dict(np.array([words.index(v) for v in values], dtype="<u4"), words)
        elif column.wire == "text":
            columns[column.name] = text_of(values)
        elif column.wire == "list_text":
            columns[column.name] = texts_of(values)
        elif column.wire == "map":
            columns[column.name] = maps_of(values)
        elif column.wire in LIST_ITEM:
            flat = np.array([item for v in values for item in v], dtype=LIST_ITEM[column.wire])
            columns[column.name] = Lists(np.array([len(v) for v in values], dtype="u1"), flat)
        elif column.wire == "addr":
            columns[column.name] = np.frombuffer(b"".join(values), dtype="u1").reshape(-1, 16)
        else:
            columns[column.name] = np.array(values, dtype=NUMPY[column.wire])
    return columns


def naive(field: Field, row: Row) -> Any:
    value = row[field.column]
    if row["layers"] & field.need != field.need or value in ("", [], {}):
        return None
    if field.kind == "uints" and field.bits:
        chosen = [v >> field.shift & (1 << field.bits) - 1 for v in value if v & field.only == field.only]
        return chosen or None
    if field.kind == "time":
        printed = value + (1 << 64) * 1000 if value < 0 else value  # as the file had it: unsigned microseconds
        return f"{printed // 10**9}.{printed % 10**9:09d}"
    if field.kind == "mac":
        return ":".join(f"{value % 2**48:012x}"[i : i + 2] for i in range(0, 12, 2))
    if field.kind == "bool":
        return value >> field.shift & 1
    if field.kind == "ip":
        mapped = IPv6Address(value).ipv4_mapped
        if field.need & (Has.IPV4 | Has.ARP_IPV4) or (mapped and not field.need & Has.IPV6):
            return str(IPv4Address(value[12:]))
        return IPv6Address(value)
    return value


@given(st.lists(st.tuples(rows, layers), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_ndjson_equals_the_naive_printer(made: list[tuple[Row, int]]) -> None:
    packets = [row | {"layers": bits} for row, bits in made]
    lines = Ndjson(list(FIELDS.values())).lines(columns_of(packets)).splitlines()
    assert len(lines) == len(packets)
    for line, packet in zip(lines, packets, strict=True):
        printed = json.loads(line)
        assert list(printed) == [n for n, f in FIELDS.items() if naive(f, packet) is not None]
        for name, value in printed.items():
            expected = naive(FIELDS[name], packet)
            assert value == expected or (isinstance(expected, IPv6Address) and IPv6Address(value) == expected), name


@given(st.lists(st.tuples(rows, layers), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_table_is_one_printable_line_per_row(made: list[tuple[Row, int]]) -> None:
    columns = columns_of([row | {"layers": bits} for row, bits in made])
    for printer in (table(None), table(list(FIELDS.values()))):
        for header in (1, 0):  # only before the first block
            lines = printer.lines(columns).split("\n")
            assert len(lines) == len(made) + header + 1
            assert all(line.isprintable() for line in lines)


def test_times_addresses_and_macs() -> None:
    assert show.seconds(1_700_000_000_000_000_001) == "1700000000.000000001"
    assert show.seconds(-505_425_287_000) == "18446744073204.126329000"  # tshark, of a file with such a time
    assert show.mac(0x0000_0123_4567_89AB) == "01:23:45:67:89:ab"
    assert show.ipv6(IPv6Address("2001:db8::1").packed) == "2001:db8::1"
    assert show.either(IPv6Address("::ffff:10.0.0.1").packed) == "10.0.0.1"


def test_a_memo_stays_small() -> None:
    memo = Memo(str)
    count = 3 * (1 << 16)
    assert memo.all(range(count)) == [str(i) for i in range(count)]
    assert len(memo) <= 1 << 16


def test_the_table_says_who_talked_to_whom() -> None:
    columns = {column.name: empty(column, 2) for column in PACKETS.columns}
    tcp = Has.TIME | Has.IP | Has.TCP | Has.TCP_FLAGS
    columns["layers"][:] = [int(tcp | Has.IPV4), int(tcp | Has.IPV6 | Has.MALFORMED)]
    columns["src"][0] = list(IPv6Address("::ffff:10.0.0.1").packed)
    columns["dst"][0] = list(IPv6Address("::ffff:10.0.0.2").packed)
    columns["src"][1] = columns["dst"][1] = list(IPv6Address("fe80::1").packed)
    columns["src_port"][:], columns["dst_port"][:], columns["proto"][:] = 1234, 80, 6
    columns["tcp_flags"][:], columns["frame_number"][:] = [0x12, 0x01], [1, 2]
    lines = [line.split() for line in table(None).lines(columns).splitlines()[1:]]
    assert [line[2:] for line in lines] == [
        ["10.0.0.1:1234", "10.0.0.2:80", "TCP", "0", "[SYN,", "ACK]"],
        ["[fe80::1]:1234", "[fe80::1]:80", "TCP", "0", "[FIN]", "malformed"],
    ]
