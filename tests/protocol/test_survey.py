"""The survey agrees with msgpack about what is one value, and counts it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import damage

from protocol.errors import WrongMessage
from protocol.limits import MAX_DEPTH, MAX_STRING, MAX_STRINGS, MAX_VALUES
from protocol.survey import _survey, survey

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.binary(max_size=300),
        st.text(max_size=40),
        st.sampled_from([bytes(65_535), bytes(65_536), "x" * 65_535, "x" * 65_536]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=20), st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=20)
    ),
    max_leaves=40,
)


def count(value: Any) -> int:
    if isinstance(value, list):
        return 1 + sum(map(count, value))
    if isinstance(value, dict):
        return 1 + sum(1 + count(v) for v in value.values())
    return 1


@given(VALUES)
def test_it_counts_what_msgpack_builds(value: Any) -> None:
    try:
        data = msgpack.packb(value)
    except OverflowError:  # a key beyond 64 bits
        return
    assert survey(data, depth=100) == count(msgpack.unpackb(data, strict_map_key=False))


@given(st.binary(max_size=64))
@settings(max_examples=2000)
def test_what_it_takes_msgpack_takes(data: bytes) -> None:
    try:
        survey(data)
    except WrongMessage:
        return
    with contextlib.suppress(TypeError):  # an unhashable key: msgpack alone finds that
        msgpack.unpackb(data, raw=True, strict_map_key=False)


@given(st.binary(max_size=64))
@settings(max_examples=2000)
def test_what_it_refuses_msgpack_refuses(data: bytes) -> None:
    try:
        msgpack.unpackb(data, raw=True, strict_map_key=False, ext_hook=_refuse, timestamp=2)
    except Exception:
        return
    if not any(0xC7 <= b <= 0xC9 or 0xD4 <= b <= 0xD8 for b in data):  # timestamps never reach the hook
        survey(data, depth=100)


@given(VALUES, st.integers(0, 2**32), st.integers(1, 60), st.integers(0, 5), st.integers(0, 60), st.integers(0, 99))
@settings(max_examples=300)
def test_the_kernel_takes_and_refuses_the_same(
    value: Any, seed: int, values: int, depth: int, string: int, strings: int
) -> None:  # fmt: skip
    try:
        data = msgpack.packb(value)
    except OverflowError:
        return
    for one in (data, damage(data, random.Random(seed))):
        assert said(survey, one) == said(_survey, one)
        assert said(survey, one, values, depth, string, strings) == said(_survey, one, values, depth, string, strings)


def said(look: Callable[..., int], data: bytes, *limits: int) -> int | tuple[str, str]:
    try:
        return look(data, *(limits or (MAX_VALUES, MAX_DEPTH, MAX_STRING, MAX_STRINGS)))
    except WrongMessage as error:
        return error.code, error.detail


def _refuse(code: int, data: bytes) -> None:
    raise ValueError(code, data)


@pytest.mark.parametrize(("values", "fits"), [(3, True), (2, False)])
def test_the_number_of_values_is_bounded(values: int, fits: bool) -> None:
    _check(fits, msgpack.packb([1, 2]), values=values)
    _check(fits, msgpack.packb({1: 2}), values=values)


@pytest.mark.parametrize(("depth", "fits"), [(2, True), (1, False)])
def test_the_depth_is_bounded(depth: int, fits: bool) -> None:
    _check(fits, msgpack.packb([[1], [2]]), depth=depth)
    _check(fits, msgpack.packb({1: {}}), depth=depth)


@pytest.mark.parametrize(("string", "fits"), [(70_000, True), (69_999, False)])
def test_the_length_of_strings_is_bounded_and_of_binaries_is_not(string: int, fits: bool) -> None:
    _check(fits, msgpack.packb("x" * 70_000), string=string)
    _check(True, msgpack.packb(b"x" * 70_000), string=string)


@pytest.mark.parametrize(("strings", "fits"), [(12, True), (11, False)])
def test_the_length_of_all_strings_is_bounded(strings: int, fits: bool) -> None:
    _check(fits, msgpack.packb([{"key": "value"}, "text", bytes(99)]), strings=strings)


def _check(fits: bool, data: bytes, **limits: int) -> None:
    if fits:
        survey(data, **limits)
        return
    with pytest.raises(WrongMessage) as caught:
        survey(data, **limits)
    assert caught.value.code == "too_large"
