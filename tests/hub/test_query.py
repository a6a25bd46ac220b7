"""Selections: what leaves the store is what the rows say, in the order and the window asked for."""

from __future__ import annotations

import csv
import io
import json
import random
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc, parquet
from query_rows import Row, address, as_json, entry
from test_filter import random_rows

from hub.query.answer import build
from hub.query.output import OUTPUTS, SETTINGS, expression, whole_lines
from hub.query.select import Question, WrongQuestion
from hub.query.window import format_ns, point, rfc3339_ns
from hub.store.store import Store
from protocol.filter.grammar import parse
from protocol.schema import PARTS, TABLES, Has, fields_of

NOW = 1_700_000_000 * 10**9
EDGES = (-(1 << 63), -1_000_000_001, -1, 0, 1, 999_999_999, 10**9, (1 << 63) - 1)


def packet_rows() -> list[Row]:
    rows = random_rows("packets", 150, 3)
    for row in rows:
        row["time"] = random.Random(row["frame_number"]).choice((*EDGES, NOW, NOW + 1, NOW + 2))
    return rows


PACKETS = packet_rows()
FLOWS = random_rows("flows", 60, 4)
ORIGIN = {"epoch": 0xAB, "agent": "web-1", **{column.name: "" for column in PARTS}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('query')}/store")
    store.open(NOW)
    store.commit([entry("packets", PACKETS[:75], 1, epoch=0xAB), entry("packets", PACKETS[75:], 2, epoch=0xAB)], NOW)
    store.commit([entry("flows", FLOWS, 3, epoch=0xAB)], NOW)
    yield store
    store.close()


def raw(store: Store, question: Question) -> bytes:
    query = build(question)
    with store.reader() as reader:
        chunks = reader.stream(query.sql, query.params, fmt=query.store_format, timeout=20, settings=SETTINGS)
        return query.head + b"".join(OUTPUTS[question.output].joined(chunks))


def ask(store: Store, table: str = "packets", **wanted: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw(store, Question(table, **wanted)).splitlines()]


# -- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "rows"), [("packets", PACKETS), ("flows", FLOWS)])
def test_json_is_what_the_rows_say(store: Store, table: str, rows: list[Row]) -> None:
    found = ask(store, table, limit=0)
    expected = [as_json(table, row | ORIGIN) for row in rows]
    key = "frame.number" if table == "packets" else "flow.packets"
    assert {row[key]: row for row in found} == {row[key]: row for row in expected}
    assert len(found) == len(rows)


def test_members_keep_the_order_asked_for(store: Store) -> None:
    (row,) = ask(store, limit=1, fields=("frame.len", "nodetap.agent", "frame.number"))
    assert list(row) == ["frame.len", "nodetap.agent", "frame.number"]


def test_order_is_time_then_frame_number(store: Store) -> None:
    found = [row["frame.number"] for row in ask(store, limit=0)]
    assert found == [row["frame_number"] for row in sorted(PACKETS, key=lambda r: (r["time"], r["frame_number"]))]


@pytest.mark.parametrize("limit", [1, 7, 149, 150, 1000])
def test_the_limit_keeps_the_newest_oldest_first(store: Store, limit: int) -> None:
    assert ask(store, limit=limit) == ask(store, limit=0)[-limit:]


@pytest.mark.parametrize("text", ["tcp", "udp or tcp", "frame.number == 1", "frame.number == 0"])
@pytest.mark.parametrize("since", [None, NOW, NOW + 1])
def test_the_newest_of_what_a_filter_finds(store: Store, text: str, since: int | None) -> None:
    asked = {"filter": parse(text, "packets"), "since": since, "until": NOW + 2}
    assert ask(store, limit=7, **asked) == ask(store, limit=0, **asked)[-7:]


@pytest.mark.parametrize("limit", [1, 7, 60, 100])
def test_the_newest_flows(store: Store, limit: int) -> None:
    found, everything = ask(store, "flows", limit=limit), ask(store, "flows", limit=0)
    assert [row["flow.start"] for row in found] == [row["flow.start"] for row in everything[-limit:]]
    assert len({row["flow.packets"] for row in found} & {row["flow.packets"] for row in everything}) == len(found)


@pytest.mark.parametrize("since", [None, *EDGES, NOW + 1])
@pytest.mark.parametrize("until", [None, *EDGES, NOW + 1])
def test_packets_of_a_window(store: Store, since: int | None, until: int | None) -> None:
    found = {row["frame.number"] for row in ask(store, since=since, until=until, limit=0, fields=("frame.number",))}
    low, high = (-(1 << 63) if since is None else since), (1 << 63 if until is None else until)
    assert found == {row["frame_number"] for row in PACKETS if low <= row["time"] < high}


def test_flows_that_touch_a_window(store: Store) -> None:
    found = {row["flow.packets"] for row in ask(store, "flows", since=NOW, until=NOW + 2, limit=0)}
    assert found == {row["packets"] for row in FLOWS if row["start"] < NOW + 2 and row["end"] >= NOW}


def test_rows_of_an_open_commit_are_not_shown(store: Store) -> None:
    assert len(ask(store, limit=0, commit=store.committed())) == len(PACKETS)
    assert ask(store, limit=0, commit=0) == []


@pytest.mark.parametrize("table", ["packets", "flows"])
def test_a_window_is_looked_up_by_what_rows_are_sorted_by(store: Store, table: str) -> None:
    assert "intDiv(" in keys_used(store, Question(table, until=NOW), "PrimaryKey")


@pytest.mark.parametrize("table", ["packets", "flows"])
def test_an_address_is_looked_up(store: Store, table: str) -> None:
    question = Question(table, filter=parse("ip.addr == 203.0.113.99 and tcp.port == 80", table), until=NOW)
    assert "by_address" in keys_used(store, question, "Skip")


def test_what_was_over_before_a_window_is_looked_up(store: Store) -> None:
    assert "by_end" in keys_used(store, Question("flows", since=NOW), "Skip")


def keys_used(store: Store, question: Question, kind: str) -> str:
    """What the engine says of the indexes of a kind that it reads for a question."""
    query = build(question)
    with store.reader() as reader:
        told = [str(line) for (line,) in reader.rows(f"EXPLAIN indexes = 1 {query.sql}", query.params, timeout=20)]
    begins = [number for number, line in enumerate(told) if line.strip(" │") == kind]
    return "\n".join(line for number in begins for line in told[number : number + 4])


def test_a_filter_and_a_window(store: Store) -> None:
    found = ask(store, filter=parse("tcp and frame.number <= 40", "packets"), since=NOW, limit=0)
    expected = [r for r in PACKETS if r["layers"] & Has.TCP and r["frame_number"] <= 40 and r["time"] >= NOW]
    assert [r["frame.number"] for r in found] == [
        r["frame_number"] for r in sorted(expected, key=lambda r: (r["time"], r["frame_number"]))
    ]


@pytest.mark.parametrize("table", ["packets", "flows"])
def test_csv_has_the_same_cells(store: Store, table: str) -> None:
    cells = list(csv.DictReader(io.StringIO(raw(store, Question(table, limit=0, output="csv")).decode(), newline="")))
    rows = ask(store, table, limit=0)
    assert list(cells[0]) == list(fields_of(table))
    for cell, row in zip(cells, rows, strict=True):
        for name, text in cell.items():
            value = row.get(name, "")
            if isinstance(value, dict):
                assert json.loads(text) == value
                continue
            want = ",".join(map(str, value)) if isinstance(value, list) else value
            assert text == str(want) or (name == "flow.rtt" and float(text) == want), name


@pytest.mark.parametrize("output", ["parquet", "arrow"])
def test_parquet_and_arrow_are_one_file_with_the_same_rows(store: Store, output: str) -> None:
    data = raw(store, Question("packets", limit=0, output=output))
    table = parquet.read_table(io.BytesIO(data)) if output == "parquet" else ipc.open_stream(data).read_all()
    assert table.column_names == list(fields_of("packets"))
    rows = ask(store, limit=0)
    assert table["frame.number"].to_pylist() == [row["frame.number"] for row in rows]
    assert table["nodetap.info"].to_pylist() == [row.get("nodetap.info") for row in rows]
    for several in ("vlan.id", "dns.flags.rcode", "dns.qry.name"):
        assert table[several].to_pylist() == [row.get(several, []) for row in rows]
    assert [dict(pairs) for pairs in table["nodetap.fields"].to_pylist()] == [r.get("nodetap.fields", {}) for r in rows]


@pytest.mark.parametrize("output", ["parquet", "arrow"])
def test_no_rows_have_their_columns(store: Store, output: str) -> None:
    none = Question("packets", filter=parse("frame.len < 0", "packets"), fields=("ip.src", "vlan.id"), output=output)
    data = raw(store, none)
    table = parquet.read_table(io.BytesIO(data)) if output == "parquet" else ipc.open_stream(data).read_all()
    assert (table.num_rows, table.column_names) == (0, ["ip.src", "vlan.id"])


def test_groups(store: Store) -> None:
    found = ask(store, "flows", by=("ip.src", "nodetap.proto"), top=0)
    sums: dict[tuple[Any, Any], list[int]] = {}
    for row in FLOWS:
        shown = as_json("flows", row | ORIGIN)
        total = sums.setdefault((shown.get("ip.src"), shown.get("nodetap.proto")), [0] * 5)
        for index, name in enumerate(("packets", "bytes", "packets_rev", "bytes_rev")):
            total[index] = (total[index] + row[name]) % (1 << 64)
        total[4] += 1
    names = ("flow.packets", "flow.bytes", "flow.packets_rev", "flow.bytes_rev", "flow.records")
    assert {(r.get("ip.src"), r.get("nodetap.proto")): [r[n] for n in names] for r in found} == sums
    assert len(ask(store, "flows", by=("ip.src",), top=2)) == 2


def test_groups_have_most_bytes_first(store: Store) -> None:
    small = parse("flow.bytes <= 255 and flow.bytes_rev <= 255", "flows")
    found = [r["flow.bytes"] + r["flow.bytes_rev"] for r in ask(store, "flows", by=("tcp.srcport",), filter=small)]
    assert found == sorted(found, reverse=True)
    assert len(found) > 1


@pytest.mark.parametrize(
    "wanted",
    [
        Question("packets", by=("ip.src",)),
        Question("packets", fields=("ip.scr",)),
        Question("flows", by=("ip.scr",)),
        Question("flows", by=("ip.src",), fields=("ip.dst",)),
    ],
)
def test_questions_that_cannot_be_asked(wanted: Question) -> None:
    with pytest.raises(WrongQuestion):
        build(wanted)


@given(st.lists(st.binary(max_size=5).map(lambda b: b.replace(b"\r", b"\n")), max_size=20))
def test_whole_lines_cut_only_at_line_ends(chunks: list[bytes]) -> None:
    pieces = list(whole_lines(chunks))
    assert b"".join(pieces) == b"".join(chunks)
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    assert all(pieces)


# -- addresses as tshark prints them -------------------------------------------------------------------------------

TRICKY = (
    "::", "::1", "::2", "::1:0", "::1.2.3.4", "::ffff:1.2.3.4", "::ffff:0:1.2.3.4", "64:ff9b::1.2.3.4", "1::", "1:2::",
    "2001:db8:0:0:1:0:0:1", "2001:db8:0:1:0:0:0:1", "1:0:2:0:3:0:4:0", "0:1:0:2:0:3:0:4", "0:0:1:0:0:1:0:0",
    "1:2:3:4:5:6:7:0", "0:2:3:4:5:6:7:8", "fe80::1:2:3:4", "ff02::1:ff00:0", "::5:6:7", "::5:6:7:8",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:0db8:00a0::0b",
)  # fmt: skip


def test_addresses_are_printed_as_tshark_does(tmp_path: Path, tshark: str, store: Store) -> None:
    dice = random.Random(5)
    some = [":".join(format(dice.choice((0, 0, 0, 1, 0xAB, 0xFFFF)), "x") for _ in range(8)) for _ in range(200)]
    packed = [IPv6Address(text).packed for text in (*TRICKY, *some)]
    capture = tmp_path / "v6.pcap"
    frames = [struct.pack("!IHBB16s16s", 6 << 28, 0, 59, 64, a, b) for a, b in zip(packed, packed[::-1], strict=True)]
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 229)  # LINKTYPE_IPV6
    capture.write_bytes(head + b"".join(struct.pack("<IIII", 0, 0, len(f), len(f)) + f for f in frames))
    command = [tshark, "-n", "-r", str(capture), "-T", "fields", "-e", "ipv6.src"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert printed(store, "ipv6.src", Has.IPV6, packed) == told


def test_ipv4_addresses_have_dots_and_nothing_else(store: Store) -> None:
    texts = ["0.0.0.0", "1.2.3.4", "255.255.255.255", "10.0.0.0"]
    packed = [address(text) for text in texts]
    assert printed(store, "ip.src", Has.IPV4, packed) == texts
    assert printed(store, "arp.src.proto_ipv4", Has.ARP_IPV4, packed) == texts
    assert printed(store, "ip.src", Has.IPV6, packed) == [None] * 4


def printed(store: Store, name: str, layers: Has, packed: list[bytes]) -> list[str | None]:
    """Addresses as the store prints them for a field."""
    value = expression(TABLES["packets"], fields_of("packets")[name])
    rows = "SELECT toIPv6(arrayJoin({all:Array(String)})) AS src, toUInt64({layers:UInt64}) AS layers"
    params = {"all": [str(IPv6Address(a)) for a in packed], "layers": int(layers)}
    with store.reader() as reader:
        return [text for (text,) in reader.rows(f"SELECT {value} FROM ({rows})", params, timeout=20)]


# -- points in time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("all", None),
        ("5m", NOW - 300 * 10**9),
        ("90s", NOW - 90 * 10**9),
        ("1d", NOW - 86400 * 10**9),
        ("1700000000000000001", 1700000000000000001),
        ("-5", -5),
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01T02:00:00.000000001+02:00", 1),
        ("1969-12-31 23:59:59.9z", -100_000_000),
    ],
)
def test_points_in_time(text: str, moment: int | None) -> None:
    assert point(text, NOW) == moment


@pytest.mark.parametrize(
    "text",
    ["", "5y", "1.5h", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T00:00:00Z", "9" * 19, "99999999w", "٣m"],
)
def test_no_points_in_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|range|exist"):
        point(text, NOW)


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_times_round_trip(moment: int) -> None:
    assert rfc3339_ns(format_ns(moment)) == moment
