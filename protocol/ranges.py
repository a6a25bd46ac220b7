"""A set of sequence numbers as sorted, disjoint, closed ranges: what a receiver holds of one epoch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of positive integers that grows by single numbers and by ranges.

    `watermark` is the largest w such that 1..w are all in the set, 0 where 1 is missing. Adding is O(log n) to find
    and O(n) to shift, n being the number of ranges: one, unless there are gaps.
    """

    __slots__ = ("_first", "_last")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int | None = None) -> None:
        """Add `first`, or `first..last`. Raises ValueError where that is no range of positive integers."""
        last = first if last is None else last
        if first < 1 or last < first:
            raise ValueError(f"not a range of positive integers: {first}..{last}")
        low = bisect_right(self._last, first - 2)  # the first range that touches or follows
        high = bisect_right(self._first, last + 1)  # one past the last range that touches
        if low < high:
            first, last = min(first, self._first[low]), max(last, self._last[high - 1])
        self._first[low:high] = [first]
        self._last[low:high] = [last]

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._first, number) - 1
        return at >= 0 and number <= self._last[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._first, self._last, strict=True))

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._first)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"

    @property
    def watermark(self) -> int:
        """The largest w with 1..w all held."""
        return self._last[0] if self._first and self._first[0] == 1 else 0

    @property
    def above(self) -> list[tuple[int, int]]:
        """The ranges above the watermark."""
        return list(self)[1:] if self.watermark else list(self)

    @property
    def count(self) -> int:
        """How many numbers are in the set."""
        return sum(last - first + 1 for first, last in self)
