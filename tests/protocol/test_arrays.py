"""Arrays: whatever way they are sent they come back, and what lies is refused by `WrongBatch` and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.arrays import Shape, Way, pack_array, pack_items, unpack_array
from protocol.errors import WrongBatch
from protocol.groups import Groups

DTYPES = ("<u1", "<u2", "<u4", "<u8")
WAYS = st.builds(
    Way,
    plus=st.sampled_from([(), ("near",), ("near", "far")]),
    minus=st.sampled_from([(), ("far",)]),
    steps=st.booleans(),
    planes=st.booleans(),
    time=st.just(False),
    sort=st.booleans(),
)


def words(packed: Any) -> list[str]:
    """The encodings of an array, the outer one first."""
    found = []
    while isinstance(packed, list):
        found.append(packed[0])
        packed = packed[-1]
    return found


def numbers(dtype: str, rows: int) -> st.SearchStrategy[Any]:
    top = int(np.iinfo(dtype).max)
    values = st.one_of(st.integers(0, top), st.integers(0, 9), st.sampled_from([0, 1, top, top // 2, top // 2 + 1]))
    lists = st.one_of(st.lists(values, min_size=rows, max_size=rows), values.map(lambda value: [value] * rows))
    return lists.map(lambda value: np.array(value, dtype=dtype))


def partition(rows: int) -> st.SearchStrategy[Groups]:
    """Rows in groups, numbered as they begin."""
    return st.lists(st.integers(0, 3), min_size=rows, max_size=rows).map(groups_of_names)


def groups_of_names(names: list[int]) -> Groups:
    order = list(dict.fromkeys(names))
    return Groups(np.array([order.index(name) for name in names], dtype="<u4"), len(order))


def back(packed: Any, shape: Shape) -> list[Any]:
    array = unpack_array(packed, shape)
    assert array.dtype == np.dtype(shape.dtype)
    return list(array.tolist())


@given(st.data(), st.sampled_from(DTYPES), st.integers(1, 30), WAYS)
def test_every_array_comes_back_whatever_way_it_went(data: st.DataObject, dtype: str, rows: int, way: Way) -> None:
    groups = data.draw(st.none() | partition(rows))
    near = {name: data.draw(numbers(data.draw(st.sampled_from(DTYPES)), rows)) for name in ("near", "far")}
    values = data.draw(numbers(dtype, rows))
    if groups is not None and data.draw(st.booleans()):
        values = values[groups.starts % rows].take(groups.codes)  # the same in each group
    packed = pack_array(values, way, groups, near)
    assert back(packed, Shape("c", dtype, rows, groups=groups, near=near)) == values.tolist()


@given(st.data(), st.integers(1, 30), st.booleans())
def test_addresses_come_back(data: st.DataObject, rows: int, grouped: bool) -> None:
    groups = data.draw(partition(rows)) if grouped else None
    few = st.sampled_from([bytes(16), b"\xff" * 16, bytes(7) + b"\x7f" + bytes(8), b"\0" * 15 + b"\1"])
    parts = data.draw(st.lists(few | st.binary(min_size=16, max_size=16), min_size=rows, max_size=rows))
    values = np.frombuffer(b"".join(parts), "u1").reshape(rows, 16)
    packed = pack_array(values, Way(), groups, {})
    assert back(packed, Shape("c", "u1", rows, 16, groups)) == values.tolist()


@given(st.data(), st.sampled_from(DTYPES), st.integers(0, 20), st.booleans())
def test_items_come_back(data: st.DataObject, dtype: str, count: int, planes: bool) -> None:
    values = data.draw(numbers(dtype, count))
    packed = pack_items(values, planes)
    assert packed[0] in ("raw", "planes")
    assert back(packed, Shape("c", dtype, count, rows=False)) == values.tolist()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.sampled_from([1, 1000]))
def test_times_come_back(times: list[int], unit: int) -> None:
    values = (np.array(times, dtype="<i8") // 1000 * unit).view("<u8")
    for way in (Way(steps=True, time=True), Way(time=True), Way(plus=("near",), time=True)):
        near = {"near": values[::-1].view("<i8")}
        packed = pack_array(values, way, None, near)
        assert back(packed, Shape("c", "<u8", len(values), near=near)) == values.tolist()


@pytest.mark.parametrize("step", [127, -128, 128, 32767, -32768, 32768, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**63])
def test_steps_of_any_width_come_back(step: int) -> None:
    values = np.array([2**40 + i * i * step & 2**64 - 1 for i in range(3)], dtype="<u8")
    packed = pack_array(values, Way(steps=True), None, {})
    assert words(packed)[0] == "delta"
    assert back(packed, Shape("c", "<u8", 3)) == values.tolist()


def test_each_way_makes_what_it_says() -> None:
    groups = groups_of_names([0, 1, 0, 1, 2])
    shared, mixed = np.array([5, 6, 5, 6, 900], "<u2"), np.array([5, 6, 5, 7, 900], "<u2")
    times = np.array([10**18 + 1000 * i * i for i in range(5)], "<u8")
    assert words(pack_array(np.full(5, 7, "<u2"), Way(), groups, {})) == ["const"]
    assert words(pack_array(shared, Way(), groups, {})) == ["group", "raw"]
    assert words(pack_array(mixed, Way(), groups, {})) == ["sorted", "raw"]
    assert words(pack_array(mixed, Way(planes=True), groups, {})) == ["sorted", "planes"]
    assert words(pack_array(mixed, Way(sort=False), groups, {})) == ["raw"]
    assert words(pack_array(times, Way(steps=True, time=True), None, {})) == ["delta", "times", "zigzag", "raw"]
    near = {"len": mixed + np.uint16(14)}
    assert pack_array(mixed, Way(plus=("len",)), groups, near)[3] == ["const", b"\xf2\xff"]
    assert words(pack_array(mixed, Way(plus=("gone",)), None, near)) == ["raw"]


GROUPS = Groups(np.array([0, 1, 0], "<u4"), 2)
RAW1 = ["raw", 1, bytes(3)]
LIES: dict[str, Any] = {
    "nothing": None,
    "empty": [],
    "bytes": b"raw",
    "a word in bytes": [b"raw", 1, bytes(3)],
    "a list for a word": [["raw"], 1, bytes(3)],
    "an unknown word": ["zip", 1, bytes(3)],
    "no word": ["", 1, bytes(3)],
    "too few parts": ["raw", 1],
    "too many parts": ["raw", 1, bytes(3), 0],
    "a byte short": ["raw", 1, bytes(2)],
    "a byte over": ["raw", 1, bytes(4)],
    "a string": ["raw", 1, "\0\0\0"],
    "a width that is true": ["raw", True, bytes(3)],
    "a width that is a float": ["raw", 1.0, bytes(3)],
    "a width of 3": ["raw", 3, bytes(9)],
    "a width of 0": ["raw", 0, b""],
    "a width below 0": ["raw", -1, b""],
    "a width that is huge": ["raw", 2**63, b""],
    "a width that is a list": ["raw", [1], bytes(3)],
    "wider than the column": ["raw", 8, bytes(24)],
    "as wide as an address": ["raw", 16, bytes(48)],
    "planes wider than the column": ["planes", 5, bytes(15)],
    "planes of 0": ["planes", 0, b""],
    "planes short": ["planes", 2, bytes(5)],
    "const too wide": ["const", bytes(8)],
    "const that is a number": ["const", 7],
    "zigzag of no array": ["zigzag", bytes(3)],
    "zigzag in zigzag": ["zigzag", ["zigzag", RAW1]],
    "times 0": ["times", 0, RAW1],
    "times below 0": ["times", -1, RAW1],
    "times true": ["times", True, RAW1],
    "times 1.0": ["times", 1.0, RAW1],
    "times more than the column": ["times", 2**32, RAW1],
    "times in times": ["times", 2, ["times", 2, RAW1]],
    "delta of as many": ["delta", bytes(8), RAW1],
    "delta from 4 bytes": ["delta", bytes(4), ["raw", 1, bytes(2)]],
    "delta in delta": ["delta", bytes(8), ["delta", bytes(8), ["raw", 1, b"\0"]]],
    "sorted in delta": ["delta", bytes(8), ["sorted", ["raw", 1, bytes(2)]]],
    "one a row where one a group belongs": ["group", RAW1],
    "one a group where one a row belongs": ["sorted", ["raw", 1, bytes(2)]],
    "sorted in group": ["group", ["sorted", ["raw", 1, bytes(2)]]],
    "group in sorted": ["sorted", ["group", ["raw", 1, bytes(2)]]],
    "from in sorted": ["sorted", ["from", ["near"], [], RAW1]],
    "from in from": ["from", ["near"], [], ["from", ["near"], [], RAW1]],
    "from an unknown column": ["from", ["later"], [], RAW1],
    "from a number": ["from", [1], [], RAW1],
    "from no list": ["from", "near", [], RAW1],
    "from a list in a list": ["from", [["near"]], [], RAW1],
    "from too many": ["from", ["near"] * 5, [], RAW1],
    "less too many": ["from", [], ["near"] * 5, RAW1],
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused(name: str) -> None:
    shape = Shape("c", "<u4", 3, groups=GROUPS, near={"near": np.zeros(3, "<u8")})
    with pytest.raises(WrongBatch) as caught:
        unpack_array(LIES[name], shape)
    assert caught.value.code == "bad_column"
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize("packed", [["group", ["const", bytes(4)]], ["sorted", RAW1]])
def test_a_batch_without_groups_has_nothing_by_group(packed: Any) -> None:
    with pytest.raises(WrongBatch, match="without groups"):
        unpack_array(packed, Shape("c", "<u4", 3))


@pytest.mark.parametrize("packed", [["const", bytes(4)], ["delta", bytes(8), ["raw", 1, bytes(2)]], ["zigzag", RAW1]])
def test_what_a_row_has_several_of_is_there_in_bytes(packed: Any) -> None:
    with pytest.raises(WrongBatch, match="does not belong"):
        unpack_array(packed, Shape("c", "<u4", 3, rows=False))


@pytest.mark.parametrize("packed", [["planes", 16, bytes(48)], ["zigzag", RAW1], ["raw", 1, bytes(3)]])
def test_an_address_is_no_number(packed: Any) -> None:
    with pytest.raises(WrongBatch):
        unpack_array(packed, Shape("c", "u1", 3, 16, GROUPS))


def test_no_steps_between_no_values() -> None:
    with pytest.raises(WrongBatch, match="no values"):
        unpack_array(["delta", bytes(8), ["raw", 1, b""]], Shape("c", "<u4", 0))


ARRAYS = st.recursive(
    st.one_of(
        st.tuples(st.just("raw"), st.integers(0, 9), st.binary(max_size=9)),
        st.tuples(st.just("planes"), st.integers(0, 9), st.integers(0, 9).map(bytes)),
        st.tuples(st.just("const"), st.binary(max_size=9)),
    ).map(list),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["zigzag", "group", "sorted"]), inner),
        st.tuples(st.just("times"), st.integers(0, 2**64 - 1), inner),
        st.tuples(st.just("delta"), st.just(bytes(8)), inner),
        st.tuples(st.just("from"), st.just(["near"]), st.lists(st.just("near"), max_size=2), inner),
    ).map(list),
    max_leaves=1,
)


@given(ARRAYS, st.sampled_from(DTYPES), st.integers(0, 4))
def test_what_looks_like_an_array_is_one_or_refused(packed: Any, dtype: str, rows: int) -> None:
    groups = Groups(np.zeros(rows, "<u4"), 1)
    with contextlib.suppress(WrongBatch):
        array = unpack_array(packed, Shape("c", dtype, rows, groups=groups, near={"near": np.ones(rows, "<u2")}))
        assert (array.dtype, array.shape) == (np.dtype(dtype), (rows,))
