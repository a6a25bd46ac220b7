"""Strings of a filter in memory: bytes (UTF-8 where they are texts), few distinct ones or many."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from protocol.columns import Array, Dict, Text, starts_of, take
from protocol.filter.patterns import compiled


class Strings:
    """One string a row: `codes` into distinct `values`, or a `Text` whose strings are cut out when they are needed."""

    def __init__(self, codes: Array | None, values: list[bytes], text: Text | None = None) -> None:
        self.codes = codes
        self.values = values
        self.text = text

    @classmethod
    def of(cls, column: Dict | Text) -> Strings:
        """The strings of a column."""
        if isinstance(column, Dict):
            return cls(column.codes, [value.encode("utf-8", "replace") for value in column.values])
        return cls(None, [], column)

    def __len__(self) -> int:
        return len(self.codes) if self.codes is not None else len(self.text or ())

    def take(self, index: Array) -> Strings:
        """The strings at those places."""
        if self.codes is not None:
            return Strings(self.codes[index], self.values)
        taken = take(self._text(), index)
        assert isinstance(taken, Text)
        return Strings(None, [], taken)

    def each(self, test: Callable[[bytes], bool]) -> Array:
        """`test` of every string; of equal ones once."""
        if self.codes is not None:
            found = np.fromiter(map(test, self.values), dtype=bool, count=len(self.values))
            return found[self.codes] if len(found) else np.zeros(len(self.codes), dtype=bool)
        result = np.full(len(self), test(b""), dtype=bool)
        some = np.flatnonzero(self._text().lengths)
        values = list(_cut_out(self._text(), some))
        answers = {value: test(value) for value in set(values)}
        result[some] = np.fromiter(map(answers.__getitem__, values), dtype=bool, count=len(some))
        return result

    def list(self) -> list[bytes]:
        """All of them."""
        if self.codes is not None:
            return [self.values[code] for code in self.codes.tolist()]
        return list(_cut_out(self._text(), np.arange(len(self))))

    def mapped(self, change: Callable[[bytes], bytes]) -> Strings:
        """Each one changed."""
        if self.codes is not None:
            return Strings(self.codes, [change(value) for value in self.values])
        return Strings(np.arange(len(self)), [change(value) for value in self.list()])

    def lengths(self) -> Array:
        """Bytes of each."""
        if self.codes is None:
            return self._text().lengths.astype(np.int64)
        sizes = np.fromiter(map(len, self.values), dtype=np.int64, count=len(self.values))
        return sizes[self.codes] if len(sizes) else np.zeros(len(self.codes), dtype=np.int64)

    def equals(self, literal: bytes) -> Array:
        """Which are that one."""
        if self.codes is not None:
            return self.each(literal.__eq__)
        text = self._text()
        found: Array = text.lengths == len(literal)
        if literal and found.any():
            rows = np.flatnonzero(found)
            at = starts_of(text.lengths)[rows, None] + np.arange(len(literal))
            found[rows] = (text.data[at] == np.frombuffer(literal, np.uint8)).all(axis=1)
        return found

    def contains(self, needle: bytes) -> Array:
        """Which hold that one; nothing is held by none, as in Wireshark."""
        if self.codes is not None or not needle:
            return self.each(lambda value: needle != b"" and needle in value)
        text = self._text()
        hits = np.fromiter(_places(text.data.tobytes(), needle), dtype=np.int64)
        starts = starts_of(text.lengths)
        rows = np.searchsorted(starts, hits, side="right") - 1
        found = np.zeros(len(self), dtype=bool)
        found[rows[hits + len(needle) <= starts[rows + 1]]] = True
        return found

    def _text(self) -> Text:
        assert self.text is not None
        return self.text


def _cut_out(text: Text, index: Array) -> Iterable[bytes]:
    data, starts = text.data.tobytes(), starts_of(text.lengths)
    for first, last in zip(starts[:-1][index].tolist(), starts[1:][index].tolist(), strict=True):
        yield data[first:last]


def _places(data: bytes, needle: bytes) -> Iterable[int]:
    """Where a needle begins, overlapping ones too: one of them may lie across two strings."""
    at = data.find(needle)
    while at >= 0:
        yield at
        at = data.find(needle, at + 1)


def ranked(value: bytes) -> bytes:
    """What sorts as byte strings do: the shorter comes first, as in Wireshark."""
    return len(value).to_bytes(4, "big") + value


def pattern(text: str, kind: str = "text") -> Callable[[bytes], bool]:
    """Whether a string has a match of a regular expression (`patterns`). Raises BadPattern.

    Of the kind `bytes` each byte is a character, as in Wireshark.
    """
    search = compiled(text).search
    if kind == "bytes":
        return lambda value: search(value.decode("latin-1").encode()) is not None
    return lambda value: search(value) is not None
