"""Filters: what they accept, how they print back, how they refuse, and that SQL and a naive reading agree."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from query_rows import Row, address, entry, holds

from hub.query.filter import (
    PROTOCOLS,
    And,
    Compare,
    FilterError,
    Member,
    Node,
    Not,
    Or,
    Present,
    names_of,
    operand,
)
from hub.query.grammar import MAX_DEPTH, MAX_LENGTH, MAX_TERMS, parse
from hub.query.sql import Params, compile_filter
from hub.query.values import KINDS
from hub.store.store import Store
from protocol.schema import TABLES, Has

NOW = 1_700_000_000 * 10**9
TEXTS = (
    "",
    "eth0",
    "web-1",
    "O'Neil",
    'say "hi"',
    "back\\slash",
    "tab\there",
    "line\nend",
    "ünïcode",
    "a.b",
    "{p0:String}",
)
ADDRESSES = ("0.0.0.0", "10.0.0.1", "10.0.0.2", "192.168.1.255", "255.255.255.255")
ADDRESSES6 = ("::", "::1", "2001:db8::1", "fe80::1:2", "::ffff:10.0.0.1", "ffff::")
NUMBERS = (0, 1, 2, 53, 80, 255)


# -- examples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("tcp", "tcp"),
        ("tcp.port==443", "tcp.port == 443"),
        ("tcp.port eq 0x1bb", "tcp.port == 443"),
        ("ip.src ne 10.1.2.3", "ip.src != 10.1.2.3"),
        ("ip.addr == 10.1.2.3/8", "ip.addr == 10.0.0.0/8"),
        ("ipv6.addr == 2001:DB8:0::/32", "ipv6.addr == 2001:db8::/32"),
        ("eth.src == AA-BB-CC-00-11-22", "eth.src == aa:bb:cc:00:11:22"),
        ("nodetap.agent == web-1", 'nodetap.agent == "web-1"'),
        ("nodetap.iface == and", 'nodetap.iface == "and"'),
        (r'nodetap.info contains "a\x41\n\"\\"', r'nodetap.info contains "aA\n\"\\"'),
        (r"nodetap.info matches '^\d+$'", r'nodetap.info matches "^\\d+$"'),
        (r'nodetap.info ~ r"\x41"', r'nodetap.info matches "\\x41"'),
        ("tcp.flags.syn == true && !tcp.flags.ack==1", "tcp.flags.syn == 1 and not tcp.flags.ack == 1"),
        ("frame.time_epoch >= 1.5", "frame.time_epoch >= 1.500000000"),
        ("frame.time_epoch < -0.000000001", "frame.time_epoch < -0.000000001"),
        ("frame.time_epoch == 18446744073709.551615999", "frame.time_epoch == -0.000000001"),
        ('frame.time_epoch < "1970-01-01T00:00:01Z"', "frame.time_epoch < 1.000000000"),
        ("tcp.port in {80,443, 8000..8010}", "tcp.port in {80, 443, 8000..8010}"),
        ("tcp.port in {80 .. 90}", "tcp.port in {80..90}"),
        ("udp.port not in {53}", "not udp.port in {53}"),
        ("tcp or udp and not arp", "tcp or udp and not arp"),
        ("(tcp or udp) and arp", "(tcp or udp) and arp"),
        ("((tcp)||(udp))&&not(arp)", "(tcp or udp) and not arp"),
        ("nodetap.epoch == 00112233445566aa", "nodetap.epoch == 00112233445566aa"),
        ("vlan.id all_eq 3", "vlan.id === 3"),
        ("dns and not tls or http2", "dns and not tls or http2"),
        ("dns.qry.name contains example", 'dns.qry.name contains "example"'),
        ("http.host in {a.example, 'b c'}", 'http.host in {"a.example", "b c"}'),
    ],
)
def test_accepted(text: str, printed: str) -> None:
    node = parse(text, "packets")
    assert str(node) == printed
    assert parse(printed, "packets") == node


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_empty(text: str) -> None:
    assert parse(text, "packets") is None


@pytest.mark.parametrize(
    ("text", "code", "column", "words"),
    [
        ("ip.srcc == 1.2.3.4", "unknown_field", 1, "did you mean ip.src?"),
        ("tcp and tpc", "unknown_field", 9, "did you mean tcp?"),
        ("flow.bytes > 3", "unknown_field", 1, "packets have no field"),
        ("tcp.port = 443", "syntax", 10, "did you mean ==?"),
        ("tcp & udp", "syntax", 5, "did you mean &&?"),
        ("tcp.port ==", "syntax", 12, "ends where a value is expected"),
        ("(tcp", "syntax", 5, "ends where ) is expected"),
        ("tcp)", "syntax", 4, "not ')'"),
        ("not", "syntax", 4, "ends where a field is expected"),
        ('nodetap.info == "abc', "syntax", 17, "no end"),
        ("nodetap.info contains Client Hello", "syntax", 30, "quote a text of several words"),
        ("tcp.port in {}", "syntax", 14, "a value is expected"),
        ("ip.src == ::1", "bad_value", 11, "IPv4"),
        ("ipv6.src == 1.2.3.4", "bad_value", 13, "IPv6"),
        ("ip.src == 1.2.3", "bad_value", 11, "IP address"),
        ("ip.src == ip.dst", "bad_value", 11, "IP address"),
        ("tcp.port == -1", "bad_value", 13, "a number from 0"),
        ("tcp.port == ٣", "bad_value", 13, "a number from 0"),
        ("tcp.port == 99999999999999999999999", "bad_value", 13, "a number from 0"),
        ("tcp.port in {5..1}", "bad_value", 14, "ends before it begins"),
        ("eth.src == 00:11:22", "bad_value", 12, "MAC"),
        ("tcp.flags.syn == 2", "bad_value", 18, "true or false"),
        ("nodetap.info matches '('", "bad_value", 22, "regular expression"),
        ("nodetap.info matches '(?=a)'", "bad_value", 22, "RE2"),
        ("nodetap.info > a", "bad_operator", 14, "contains"),
        ("tcp.port contains 3", "bad_operator", 10, "not contains"),
        ("ip.src > 10.0.0.0/8", "bad_operator", 8, "network"),
        ("tcp == 3", "bad_operator", 1, "protocol"),
        ("frame.time_epoch == 0.0000000001", "bad_value", 21, "9 decimals"),
        ("frame.time_epoch == 99999999999999", "bad_value", 21, "9 decimals"),
        ("!" * (MAX_DEPTH + 1) + "tcp", "too_large", 1, "nested"),
        ("tcp or " * MAX_TERMS + "tcp", "too_large", 1, "comparisons"),
        ("tcp.port in {" + "1," * MAX_TERMS + "1}", "too_large", 1, "comparisons"),
        ("(" * MAX_LENGTH + "tcp", "too_large", 1, "longer"),
        ("ü" * MAX_LENGTH, "too_large", 1, "longer"),
    ],
)
def test_refused(text: str, code: str, column: int, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text, "packets")
    assert (caught.value.code, caught.value.column) == (code, column)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bounds_are_reached() -> None:
    assert parse("(" * 4000 + "tcp" + ")" * 4000, "packets") == Present("tcp", None)
    assert parse("!" * MAX_DEPTH + "tcp", "packets") is not None
    assert parse(" or ".join(["tcp"] * MAX_TERMS), "packets") is not None


@given(st.text(max_size=80) | st.text(alphabet="tcp.port=!<>&|(){},\"'\\ 01..:~ in not", max_size=60))
def test_nonsense_is_refused_and_nothing_else(text: str) -> None:
    node, error = attempt(text)
    if error is not None:
        assert 1 <= error.column <= len(text) + 1
        assert "\n" not in str(error)
    else:
        assert node is None or parse(str(node), "packets") == node


def attempt(text: str) -> tuple[Node | None, FilterError | None]:
    try:
        return parse(text, "packets"), None
    except FilterError as error:
        return None, error


# -- any filter ----------------------------------------------------------------------------------------------------


def literals(kind: str, name: str) -> st.SearchStrategy[Any]:
    """Literals that a field takes, most of them near what the rows hold."""
    v4 = st.sampled_from(ADDRESSES).map(IPv4Address)
    v6 = st.sampled_from(ADDRESSES6).map(IPv6Address)
    if kind == "ip" and name.startswith("ipv6"):
        return v6 | st.ip_addresses(v=6)
    if kind == "ip":
        return v4 | st.ip_addresses(v=4)
    texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    return {
        **dict.fromkeys(("text", "texts", "map"), texts),
        "bool": st.integers(0, 1),
        "time": st.integers(NOW - 5, NOW + 5) | st.integers(-(1 << 63), (1 << 63) - 1),
        "seconds": st.integers(-3, 3),
        "mac": st.sampled_from(NUMBERS) | st.integers(0, (1 << 48) - 1),
        "epoch": st.sampled_from((7, 8)) | st.integers(0, (1 << 64) - 1),
    }.get(kind, st.sampled_from(NUMBERS) | st.integers(0, (1 << 64) - 1))


@st.composite
def comparisons(draw: st.DrawFn, table: str) -> Node:
    name = draw(st.sampled_from(names_of(table)))
    target = operand(name, table)
    if target is None or draw(st.integers(0, 9)) == 0:
        return Present(name, target)
    kind = KINDS[target.kind]
    one = literals(target.kind, name)
    if draw(st.booleans()):
        operator = draw(st.sampled_from(kind.operators))
        value = draw(st.sampled_from(("a", "e.h", "^web", "[0-9]$", "O'N"))) if operator == "matches" else draw(one)
        if target.kind == "ip" and operator in ("==", "!=", "===", "!==") and draw(st.booleans()):
            value = (IPv4Network if value.version == 4 else IPv6Network)(
                (value, draw(st.integers(0, 32))), strict=False
            )
        return Compare(target, operator, value)
    ranges = target.kind not in ("text", "texts", "map", "bool", "epoch")
    items = draw(
        st.lists(st.tuples(one, one if ranges else st.none()) | st.tuples(one, st.none()), min_size=1, max_size=4)
    )
    return Member(target, tuple((a, b) if b is None or a <= b else (b, a) for a, b in items))


def trees(table: str) -> st.SearchStrategy[Node]:
    return st.recursive(
        comparisons(table),
        lambda below: (
            st.lists(below, min_size=2, max_size=4).map(lambda items: And(tuple(items)))
            | st.lists(below, min_size=2, max_size=4).map(lambda items: Or(tuple(items)))
            | below.map(Not)
        ),
        max_leaves=8,
    )


@pytest.mark.parametrize("table", ["packets", "flows"])
@given(data=st.data())
def test_round_trip(table: str, data: st.DataObject) -> None:
    node = data.draw(trees(table))
    assert parse(str(node), table) == node


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
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sql_finds_what_the_naive_reading_finds(store: Store, table: str, data: st.DataObject) -> None:
    node = parse(str(data.draw(trees(table))), table)
    assert node is not None
    params = Params()
    sql = f"SELECT `{KEY[table]}` FROM {table} WHERE {compile_filter(node, params)} ORDER BY 1"
    with store.reader() as reader:
        found = [number for (number,) in reader.rows(sql, params.values, timeout=20)]
    origin = {"agent": "web-1", "epoch": 7}
    assert found == [row[KEY[table]] for row in ROWS[table] if holds(node, row | origin)], str(node)


def test_the_rows_have_what_filters_ask_for() -> None:
    """Guards the property above against rows that answer everything with no."""
    for name, bit in PROTOCOLS.items():
        found = [row for row in ROWS["packets"] if row["layers"] & bit]
        assert 20 < len(found) < 380, name


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
