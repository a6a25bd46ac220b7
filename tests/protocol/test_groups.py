"""Groups: rows of one flow are one group, tables with them come back, and no hash makes them costly or wrong."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import columns_of, damage, to_list

from protocol.codec import unpack_body
from protocol.columns import Columns, Dict, empty, take
from protocol.errors import LocalError, WrongBatch
from protocol.groups import MIN_ROWS, Groups, _leaders, groups_of
from protocol.messages import Batch
from protocol.packing import GROUPS, pack_columns, unpack_columns
from protocol.schema import PACKETS, TABLES, Table


def flows(table: Table, flow: list[int]) -> Columns:
    """Rows of a table of which row `i` is of the flow number `flow[i]`; other columns differ from row to row."""
    rows, of = len(flow), np.array(flow)
    columns = {c.name: empty(c, rows) for c in table.columns}
    address = np.zeros((rows, 16), np.uint8)
    address[:, 15], address[:, 14] = of & 0xFF, of >> 8
    return {**columns, "src": address, "dst_port": (of % 3).astype("<u2"), "layers": np.arange(rows, dtype="<u8")}


def comes_back(table: Table, columns: Columns) -> dict[str, Any]:
    packed = pack_columns(table, columns)
    back, unknown = unpack_columns(table, packed, len(columns["layers"]))
    assert unknown == 0
    assert {k: to_list(v) for k, v in back.items()} == {k: to_list(v) for k, v in columns.items()}
    return packed


@given(st.lists(st.integers(0, 20), min_size=MIN_ROWS, max_size=4 * MIN_ROWS))
def test_a_group_is_the_rows_of_a_flow(flow: list[int]) -> None:
    groups = groups_of(flows(PACKETS, flow))
    order = list(dict.fromkeys(flow))
    if len(order) in range(2, len(flow) // 2 + 1):
        assert groups is not None
        assert groups.count == len(order)
        assert groups.codes.tolist() == [order.index(name) for name in flow]
        assert groups.order.tolist() == sorted(range(len(flow)), key=lambda row: order.index(flow[row]))
        assert groups.order[groups.starts].tolist() == [flow.index(name) for name in order]
        assert groups.order[groups.places].tolist() == list(range(len(flow)))
    else:
        assert groups is None


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_every_table_comes_back_in_groups(table: Table, data: st.DataObject) -> None:
    kinds = data.draw(columns_of(table, 4))
    index = data.draw(st.lists(st.integers(0, 3), min_size=MIN_ROWS, max_size=2 * MIN_ROWS))
    columns = {name: take(value, np.array(index)) for name, value in kinds.items()}
    columns["layers"] = np.array(data.draw(st.permutations(range(len(index)))), dtype="<u8")
    packed = comes_back(table, columns)
    assert (GROUPS in packed) == (groups_of(columns) is not None)


def test_what_a_flow_shares_is_sent_once_a_group() -> None:
    packed = comes_back(PACKETS, flows(PACKETS, [3, 1, 2, 1, 3] * 100))
    assert packed["src"][0] == packed["dst_port"][0] == "group"
    assert packed["src"][1] == ["raw", 16, b"".join(bytes(15) + bytes([n]) for n in (3, 1, 2))]
    assert packed["layers"][0] == "sorted"


@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_damage_to_a_batch_with_groups_is_refused_or_a_value(seed: int) -> None:
    rng = random.Random(seed)
    columns = flows(PACKETS, [rng.randrange(9) for _ in range(MIN_ROWS)])
    for name in ("time", "len", "ip_len", "tcp_seq"):
        columns[name] = np.array([rng.randrange(1 << 16) for _ in range(MIN_ROWS)], dtype=np.int64)
    raw = damage(msgpack.packb(pack_columns(PACKETS, columns)), rng)
    body = Batch("a", 1, 1, "packets", MIN_ROWS, 1, 0, 0, 0, len(raw), 0, raw)
    with contextlib.suppress(WrongBatch):
        assert {len(to_list(value)) for value in unpack_body(body)[0].values()} == {MIN_ROWS}


@pytest.mark.parametrize("flow", [[1] * 100, list(range(100)), [0, 1] * 10])
def test_groups_that_do_not_pay_are_not_sent(flow: list[int]) -> None:
    assert GROUPS not in comes_back(PACKETS, flows(PACKETS, flow))


def test_flows_of_one_hash_are_one_group_and_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    two = (np.arange(200) % 2).astype("<u8")
    monkeypatch.setattr("protocol.groups._hashes", lambda columns, rows: two)
    packed = comes_back(PACKETS, flows(PACKETS, [3, 1, 2, 5] * 50))
    assert packed["src"][0] == "sorted"


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), min_size=2, max_size=200))
def test_a_leader_is_the_first_row_of_its_hash(hashes: list[int]) -> None:
    leaders = _leaders(np.array(hashes, dtype="<u8"))
    assert leaders is not None
    assert leaders.tolist() == [hashes.index(value) for value in hashes]


def test_places_that_collide_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.groups.ROUNDS", 1)
    assert _leaders(np.arange(200, dtype="<u8")) is None  # small numbers all have the first place


def test_a_column_of_another_kind_is_our_own_mistake_in_groups_too() -> None:
    columns = flows(PACKETS, [1, 2] * 100)
    text, number = Dict(np.zeros(200, "<u4"), ("x",)), columns["layers"]
    for name, value in {"src": number, "iface": number, "len": text, "src_port": text}.items():
        with pytest.raises(LocalError, match=name):
            pack_columns(PACKETS, {**columns, name: value})


@pytest.mark.parametrize(
    "packed",
    [
        None,
        [],
        ["raw", 1, bytes(2)],
        ["raw", 1, b"\0\1\3"],
        ["raw", 4, b"\0\0\0\0\1\0\0\0\xff\xff\xff\xff"],
        ["const", b"\3\0\0\0"],
        ["group", ["const", bytes(4)]],
        ["sorted", ["const", bytes(4)]],
        ["from", ["layers"], [], ["const", bytes(4)]],
        ["dict", ["const", bytes(4)], ["a"]],
    ],
)
def test_groups_that_lie_are_refused(packed: Any) -> None:
    with pytest.raises(WrongBatch) as caught:
        unpack_columns(PACKETS, {GROUPS: packed}, 3)
    assert caught.value.code == "bad_column"


def test_groups_may_be_empty() -> None:
    packed = {
        GROUPS: ["raw", 1, b"\2\0\2"],
        "ttl": ["group", ["raw", 1, b"\7\0\x09"]],
        "len": ["sorted", ["raw", 1, b"abc"]],
    }
    back, _ = unpack_columns(PACKETS, packed, 3)
    assert to_list(back["ttl"]) == [9, 7, 9]
    assert to_list(back["len"]) == [ord("b"), ord("a"), ord("c")]


def test_a_table_has_no_column_where_the_groups_stand() -> None:
    assert not any(column.name == GROUPS for table in TABLES.values() for column in table.columns)


def test_a_column_is_taken_from_those_before_it_only() -> None:
    later = ["from", ["cap_len"], [], ["const", bytes(4)]]
    with pytest.raises(WrongBatch, match="before"):
        unpack_columns(PACKETS, {"len": later, "cap_len": ["const", b"\1\0\0\0"]}, 3)
    back, _ = unpack_columns(PACKETS, {"cap_len": ["from", ["len"], [], ["const", b"\1\0\0\0"]]}, 3)
    assert to_list(back["cap_len"]) == [1, 1, 1]  # len was not sent: zero


def test_codes_of_many_groups_are_sorted_as_those_of_few() -> None:
    codes = np.arange(70_000, dtype="<u4")[::-1].copy()
    assert Groups(codes, 70_000).order.tolist() == list(range(69_999, -1, -1))
