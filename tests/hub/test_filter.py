"""Filters: SQL in the store, numpy over columns and a naive reading find the same rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from filters import ADDRESSES, ADDRESSES6, NOW, NUMBERS, TEXTS, trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from query_rows import Row, address, columns_of, entry, holds

from hub.query.sql import Params, compile_filter
from hub.store.store import Store
from protocol.filter.grammar import parse
from protocol.filter.names import PROTOCOLS
from protocol.filter.predicate import Predicate
from protocol.filter.tree import Present
from protocol.schema import PARTS, TABLES, Has

# -- SQL against the naive reading ---------------------------------------------------------------------------------


def random_rows(table: str, count: int, seed: int) -> list[Row]:
    """Rows whose columns hold what filters ask for; every layer bit comes and goes."""
    dice = random.Random(seed)
    picks = {"u1": 255, "u2": 65535, "u4": (1 << 32) - 1, "u8": (1 << 64) - 1}

    def layers() -> int:
        bits = dice.getrandbits(max(Has).bit_length())
        version = dice.choice((Has.IPV4, Has.IPV6, Has.ARP_IPV4, Has(0)))
        return bits & ~int(Has.IPV4 | Has.IPV6 | Has.ARP_IPV4) | int(version)

    def value(column: Any, row: Row) -> Any:
        if column.name == "layers":
            return layers()
        if column.name == "eth_src" or column.name == "eth_dst":
            return dice.choice((*NUMBERS, (1 << 48) - 1))
        if column.wire == "addr":
            pool = ADDRESSES6 if row["layers"] & Has.IPV6 else ADDRESSES
            return address(dice.choice(pool))
        if column.name == "l7":
            return dice.choice([w for p in PROTOCOLS.values() if p.column == "l7" for w in p.values] + ["DNS"])
        if column.name == "tunnel_type":
            return dice.choice(("vxlan", "geneve", "gre", "pppoe", "gtpu", ""))
        if column.name in ("nxt", "proto"):
            return dice.choice((0, 2, 6, 43, 44, 50, 51, 60, 53, 80))
        if column.name == "encap_type":
            return dice.choice((1, 7, 15, 25))
        if column.name == "eth_type":
            return dice.choice((0x88A8, 0x8100, 0x800))
        if column.name in ("dns_a", "dns_aaaa"):
            return [dice.choice((*ADDRESSES, "::1", "no address")) for _ in range(dice.randrange(4))]
        if column.wire in ("dict", "text"):
            return dice.choice(TEXTS)
        if column.wire == "list_text":
            return [dice.choice(TEXTS) for _ in range(dice.randrange(4))]
        if column.wire == "map":
            return {dice.choice(TEXTS): dice.choice(TEXTS) for _ in range(dice.randrange(3))}
        if column.name == "dns_flags":
            return [dice.getrandbits(16) for _ in range(dice.randrange(4))]
        if column.wire.startswith("list"):
            return [dice.choice(NUMBERS) for _ in range(dice.randrange(4))]
        if column.name in ("time", "start", "end"):
            return NOW + dice.randrange(-5, 6)
        if column.wire == "i8":
            return dice.randrange(-1, 3)
        return dice.choice((*NUMBERS, picks[column.wire]))

    rows: list[Row] = []
    for number in range(count):
        row: Row = {"layers": layers()}
        row |= {c.name: value(c, row) for c in TABLES[table].columns if c.name != "layers"}
        if table == "packets":
            row["frame_number"] = number + 1
        else:
            row["packets"], row["packets_rev"], row["flow_only"] = number + 1, 0, 0
        rows.append(row)
    return rows


ROWS = {"packets": random_rows("packets", 400, 1), "flows": random_rows("flows", 200, 2)}
COLUMNS = {table: columns_of(table, rows) for table, rows in ROWS.items()}
NAMELESS = {column.name: "" for column in PARTS}
KEY = {"packets": "frame_number", "flows": "packets"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('filter')}/store")
    store.open(NOW)
    for seq, (table, rows) in enumerate(ROWS.items(), 1):
        store.commit([entry(table, rows, seq)], NOW)
    yield store
    store.close()


@pytest.mark.parametrize("table", ["packets", "flows"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_three_readings_find_the_same(store: Store, table: str, data: st.DataObject) -> None:
    agree(store, table, str(data.draw(trees(table))))


def agree(store: Store, table: str, text: str) -> list[int]:
    """The rows that the store, numpy and the naive reading find."""
    node = parse(text, table)
    assert node is not None
    params = Params()
    sql = f"SELECT `{KEY[table]}` FROM {table} WHERE {compile_filter(node, params, table)} ORDER BY 1"
    with store.reader() as reader:
        stored = [number for (number,) in reader.rows(sql, params.values, timeout=20)]
    origin = {"agent": "web-1", "epoch": 7, **NAMELESS}
    naive = [row[KEY[table]] for row in ROWS[table] if holds(node, row | origin, table)]
    live = Predicate(node, table).matches(COLUMNS[table], origin)
    assert stored == naive, text
    assert [row[KEY[table]] for row, found in zip(ROWS[table], live, strict=True) if found] == naive, text
    return naive


@pytest.mark.parametrize(
    "text",
    [
        "tcp.port - 53 < 0",
        "tcp.port - 53 != 5",
        "frame.len / tcp.srcport == 1",
        "frame.len % tcp.srcport == 0",
        "tcp.seq_raw * tcp.seq_raw > 5",
        "tcp.flags & 3",
        "tcp.flags & 3 == 2",
        "vlan.id & 1",
        "vlan.id - 1 >= 0",
        "eth.src[0:3] == 00:00:00",
        "eth.addr[5] == 0x35",
        "eth.addr[5] & 0x01",
        "ip.src[0] == 0a",
        "tunnel.src[0:2] == 0a:00",
        'nodetap.iface[0:3] == "eth"',
        "dns.qry.name[-1:] == 31",
        "dns.qry.name[0,2] contains 61",
        "len(dns.qry.name) > 3",
        "len(ip.src) == 4",
        "len(tunnel.src) == 4",
        "count(vlan.id) == 2",
        "count(tcp.port) == 2",
        'upper(nodetap.iface) == "ETH0"',
        'lower(dns.qry.name) contains "e"',
        'string(tcp.port) matches "^5"',
        'string(ip.addr) contains "10."',
        'string(eth.src) == "00:00:00:00:00:35"',
        'string(tunnel.src) contains "1"',
        "max(tcp.srcport, tcp.dstport) == 80",
        "min(vlan.id) == 53",
        "max(vlan.id, frame.len) > 80",
        "ip.src == ip.dst",
        "tcp.srcport > tcp.dstport",
        "all tcp.srcport == vlan.id",
        "vlan.id == vlan.id",
        "vlan.id != vlan.id",
        "dns.qry.name == dns.resp.name",
        "nodetap.iface contains dns.qry.name",
        "ip.src < 10.0.0.0/31",
        "ip.src >= 10.0.0.0/31",
        "all ip.addr == 10.0.0.0/8",
        "any ip.addr != 10.0.0.1",
        "all vlan.id in {0..53, 80}",
        "tcp xor udp xor dns",
        "dns and not mdns",
        "mdns",
        "http.request",
        "ieee8021ad.id",
        "vxlan.vni == 1",
        "ieee8021ad",
        "dns.a == 10.0.0.0/8",
        'nodetap.iface > "eth"',
        'nodetap.info matches "K.s"',
        'nodetap.info matches "a$"',
        "frame",
        "tcp.len + 1",
        "frame.time_epoch - frame.time_epoch == 0",
        "frame.number + 1 == 3",
        "nodetap.agent == web-1 and nodetap.epoch == 7",
        "dns.flags.response == 1",
        'dns.flags.rcode == "No such name"',
        "tcp.flags.syn > 0",
        "{tcp.len - 80} / 3 == -26",
    ],
)
def test_three_readings_of_examples(store: Store, text: str) -> None:
    agree(store, "packets", text)


def test_the_rows_have_what_filters_ask_for() -> None:
    """Guards the property above against rows that answer everything with no."""
    for name, wanted in PROTOCOLS.items():
        found = [row for row in ROWS["packets"] if holds(Present(name, None), row)]
        assert name == "frame" or (wanted.column and found) or 20 < len(found) < 380, name


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("tcp.port == 53", {1, 2}), ("tcp.port != 53", {3}), ("tcp.port === 53", {2}), ("tcp.port !== 53", {1, 3})],
)
def test_both_sides_of_a_port(text: str, numbers: set[int]) -> None:
    """Wireshark 4: == any, != all differ, === all, !== any differs; a row without TCP passes none."""
    has = int(Has.TCP)
    rows = [(1, has, 53, 80), (2, has, 53, 53), (3, has, 1, 2), (4, 0, 53, 53)]
    node = parse(text, "packets")
    assert node is not None
    found = {n for n, layers, a, b in rows if holds(node, {"layers": layers, "src_port": a, "dst_port": b})}
    assert found == numbers
