"""Ranges against a Python set, in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.ranges import Ranges

NUMBER = st.integers(1, 60)


class RangesAgainstASet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ranges, self.model = Ranges(), set[int]()

    @rule(number=NUMBER)
    def add_one(self, number: int) -> None:
        self.ranges.add(number)
        self.model.add(number)

    @rule(first=NUMBER, size=st.integers(0, 20))
    def add_range(self, first: int, size: int) -> None:
        self.ranges.add(first, first + size)
        self.model.update(range(first, first + size + 1))

    @rule(first=st.integers(-3, 60), last=st.integers(-3, 60))
    def a_wrong_range_changes_nothing(self, first: int, last: int) -> None:
        if first < 1 or last < first:
            with pytest.raises(ValueError, match="not a range"):
                self.ranges.add(first, last)

    @invariant()
    def same_members(self) -> None:
        assert {n for n in range(-2, 90) if n in self.ranges} == self.model
        assert self.ranges.count == len(self.model)

    @invariant()
    def sorted_and_apart(self) -> None:
        pairs = list(self.ranges)
        assert len(self.ranges) == len(pairs)
        assert all(first <= last for first, last in pairs)
        assert all(b[0] > a[1] + 1 for a, b in zip(pairs, pairs[1:], strict=False))  # noqa: RUF007
        assert {n for first, last in pairs for n in range(first, last + 1)} == self.model

    @invariant()
    def watermark_and_what_is_above(self) -> None:
        watermark = next(n for n in range(1, 100) if n not in self.model) - 1
        assert self.ranges.watermark == watermark
        assert {n for a, b in self.ranges.above for n in range(a, b + 1)} == {n for n in self.model if n > watermark}

    @invariant()
    def rebuilt_is_equal(self) -> None:
        assert Ranges(reversed(list(self.ranges))) == self.ranges


TestRanges = RangesAgainstASet.TestCase


@given(st.permutations(range(1, 30)))
def test_any_order_ends_in_one_range(order: list[int]) -> None:
    ranges = Ranges()
    for number in order:
        ranges.add(number)
    assert list(ranges) == [(1, 29)]
    assert (ranges.watermark, ranges.above) == (29, [])


def test_the_ends_of_64_bits() -> None:
    top = 2**64 - 1
    ranges = Ranges([(top, top), (1, top - 2)])
    assert (ranges.watermark, ranges.above, ranges.count) == (top - 2, [(top, top)], top - 1)
    ranges.add(top - 1)
    assert (ranges.watermark, len(ranges)) == (top, 1)


def test_an_empty_one_holds_nothing() -> None:
    ranges = Ranges()
    assert (ranges.watermark, ranges.above, ranges.count, len(ranges), 0 in ranges) == (0, [], 0, 0, False)
    assert ranges != [(1, 1)]
    with pytest.raises(TypeError):
        hash(ranges)
