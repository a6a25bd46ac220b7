"""Which columns fit and how wide they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.cli.columns import DEFAULT, READ, of_fields
from hub.cli.follow import SAMPLE
from hub.cli.table import GAP, Column, clean, field_column, fit, layout, without_constant
from protocol.schema import TABLES, fields_of

ROW = {
    "frame.time_epoch": "1700000000.123456789",
    "nodetap.agent": "web-1",
    "nodetap.iface": "eth0",
    "frame.number": 7,
    "frame.len": 1514,
    "ip.src": "192.168.100.200",
    "ip.dst": "203.0.113.250",
    "ip.ttl": 64,
    "tcp.srcport": 50000,
    "tcp.dstport": 443,
    "nodetap.proto": 6,
    "tcp.flags": 0x18,
    "tcp.seq_raw": 4294967295,
    "tcp.ack_raw": 4294967295,
    "tcp.len": 1448,
}
OTHER = {**ROW, "nodetap.agent": "web-2"}


def line(columns: list[Column], width: int | None, row: dict[str, object] = ROW) -> str:
    return GAP.join(layout(without_constant(columns, [ROW, row], "agent"), [ROW, row], width).cells(row)).rstrip()


def test_80_columns_hold_the_essentials() -> None:
    text = line(list(DEFAULT["packets", "table"]), 80)
    assert len(text) <= 80
    assert "192.168.100.200:50000  →  203.0.113.250:443  TCP" in text
    assert "web-1" not in text


def test_80_columns_hold_the_protocol_of_what_is_followed() -> None:
    rows = [SAMPLE["packets"]]
    headers = layout(without_constant(DEFAULT["packets", "table"], rows, "agent"), rows, 80).header()
    assert {"time", "src", "dst", "proto", "info"} <= {header.strip() for header in headers}


def test_the_agent_stays_where_rows_are_about_it() -> None:
    columns = [
        Column("agent", lambda row: "web-1"),
        Column("a", lambda row: "x" * 60),
        Column("b", lambda row: "y" * 60, drop=1),
    ]
    assert line(columns, 80) == f"web-1  {'x' * 60}"


def test_the_agent_is_shown_where_there_are_several() -> None:
    assert "web-2" in line(list(DEFAULT["packets", "table"]), 100, OTHER)


def test_200_columns_hold_everything() -> None:
    text = line(list(DEFAULT["packets", "wide"]), 200)
    assert len(text) <= 200
    for part in ("web-1", "eth0", "7", "1514", "64", "[PSH, ACK] Seq=4294967295 Ack=4294967295 Len=1448", ".123456789"):
        assert part in text


def test_a_pipe_cuts_nothing() -> None:
    text = line(list(DEFAULT["packets", "table"]), None, {**ROW, "nodetap.info": "x" * 500})
    assert text.endswith("x" * 500)
    assert "…" not in text


@given(
    width=st.integers(20, 250),
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=9),
    drops=st.lists(st.integers(0, 5), min_size=9, max_size=9),
)
def test_no_line_is_wider_than_the_terminal(width: int, lengths: list[int], drops: list[int]) -> None:
    columns = [
        Column(f"c{i}", lambda row, i=i: "x" * lengths[i], drop=drops[i], flexible=i == len(lengths) - 1)
        for i in range(len(lengths))
    ]
    chosen = layout(columns, [{}], width)
    needed = len(chosen.columns) * (1 + len(GAP))  # one character each is the least that there is
    for cells in (chosen.header(), chosen.cells({})):
        assert len(GAP.join(cells)) <= max(width, needed)


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert clean("a\x1b[2Jb\r\n") == "a\\x1b[2Jb\\r\\n"
    assert clean("grüße") == "grüße"


@pytest.mark.parametrize(("width", "text"), [(3, "ab "), (2, "ab"), (1, "…"), (0, "ab")])
def test_fit(width: int, text: str) -> None:
    assert fit("ab", width) == text


def test_fields_have_their_own_columns() -> None:
    columns = of_fields(["ip.src", "vlan.id", "frame.len"], "packets")
    chosen = layout(columns, [ROW], None)
    assert [c.strip() for c in chosen.header()] == ["ip.src", "vlan.id", "frame.len"]
    assert [c.strip() for c in chosen.cells({**ROW, "vlan.id": [7, 8]})] == ["192.168.100.200", "7,8", "1514"]
    assert field_column("absent").cell(ROW) == ""


VALUES = {
    "uint": st.integers(0, 1 << 16), "bool": st.integers(0, 1), "time": st.just("1.500000000"),
    "ip": st.just("10.0.0.1"), "seconds": st.floats(0, 9), "mac": st.just("00:11:22:33:44:55"),
    "text": st.text(min_size=1, max_size=5), "epoch": st.just("00112233445566aa"),
    "uints": st.lists(st.integers(0, 99), min_size=1, max_size=2),
    "texts": st.lists(st.text(max_size=3), min_size=1, max_size=2), "map": st.just({"a": "b"}),
}  # fmt: skip


@given(st.data(), st.sampled_from(sorted(DEFAULT)))
def test_columns_read_what_is_asked_for(data: st.DataObject, which: tuple[str, str]) -> None:
    """Without the other fields every cell is the same."""
    table, _ = which
    fields = [field for field in TABLES[table].fields if field.kind in VALUES]
    names = data.draw(st.lists(st.sampled_from(fields), unique=True), "fields of the row")
    row = {field.name: data.draw(VALUES[field.kind]) for field in names}
    less = {name: value for name, value in row.items() if name in READ[table]}
    assert [column.cell(less) for column in DEFAULT[which]] == [column.cell(row) for column in DEFAULT[which]]


@pytest.mark.parametrize("table", READ)
def test_what_is_asked_for_are_fields(table: str) -> None:
    assert set(READ[table]) <= set(fields_of(table))
