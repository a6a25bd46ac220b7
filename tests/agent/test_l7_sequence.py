"""Where segments stand in their streams, against a naive reading of each in turn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.l7.sequence import FAR, Places, Segments, Sequences

WRAP = 1 << 32


class One(NamedTuple):
    """A segment."""

    key: int
    way: bool
    seq: int
    size: int
    syn: bool = False
    new: bool = False


def placed(sequences: Sequences, segments: list[One]) -> list[tuple[int, bool]]:
    keys, ways, seq, size, syn, new = zip(*segments, strict=True)
    given = Segments(
        np.array(keys, dtype=np.uint64),
        np.array(ways, dtype=np.bool_),
        np.array([n % WRAP for n in seq], dtype=np.uint32),
        np.array(size, dtype=np.int64),
        np.array(syn, dtype=np.bool_),
    )
    found: Places = sequences.place(given, np.array(new, dtype=np.bool_) | given.syn)
    return list(zip(found.ahead.tolist(), found.began.tolist(), strict=True))


def naive(segments: list[One]) -> list[tuple[int, bool]]:
    """One after the other; sequence numbers that never wrap."""
    expected: dict[tuple[int, bool], int] = {}
    found = []
    for key, way, seq, size, syn, new in segments:
        begin, ahead, began = seq + syn, 0, False
        known = expected.get((key, way))
        if known is None and not (new or syn):
            found.append((0, False))
            continue
        if syn and (known is None or not 0 <= known - begin < FAR):
            expected[key, way], began = begin + size, known is not None
        else:
            ahead = seq - known if known is not None else 0
            expected[key, way] = max(begin + size, begin + size if known is None else known)
        found.append((0 if ahead <= -FAR or (ahead == -1 and size > 1) else ahead, began))
    return found


ANYWHERE = st.integers(1, 1 << 62).map(lambda n: n * 2)
ONE_PLACE = st.integers(1, 9).map(lambda n: n << 48)


@st.composite
def streams(draw: st.DrawFn, keys: st.SearchStrategy[int] = ANYWHERE) -> list[One]:
    """The segments of a few connections, mixed: from a SYN or a claimed segment on, repeated, missed, in disorder."""
    found: list[tuple[int, One]] = []
    for key in draw(st.lists(keys, min_size=1, max_size=3, unique=True)):
        way, start = draw(st.booleans()), draw(st.sampled_from([100, WRAP - 3]))
        first = [One(key, way, start, 0, syn=True)] if draw(st.booleans()) else [One(key, way, start + 1, 5, new=True)]
        steps = st.tuples(st.integers(0, 40), st.integers(1, 9), st.booleans())
        more = [One(key, way, start + 1 + at, size, new=new) for at, size, new in draw(st.lists(steps, max_size=9))]
        if first[0].syn and draw(st.booleans()):
            more.insert(draw(st.integers(0, len(more))), first[0])  # the SYN again
        elif draw(st.booleans()):
            more += [One(key, way, start + (1 << 30), 0, syn=True), One(key, way, start + (1 << 30) + 2, 3)]
        clock = sorted(draw(st.lists(st.integers(0, 99), min_size=len(more) + 1, max_size=len(more) + 1)))
        found += zip(clock, first + more, strict=True)
    return [segment for _, segment in sorted(found, key=lambda one: one[0])]


@given(streams(), st.lists(st.integers(1, 5), max_size=6))
def test_as_read_one_after_the_other(segments: list[One], blocks: list[int]) -> None:
    sequences, found, left = Sequences(), [], segments
    for size in [*blocks, len(segments)]:
        part, left = left[:size], left[size:]
        if part:
            found += placed(sequences, part)
    assert found == naive(segments)


def test_directions_that_share_a_place_are_told_apart() -> None:
    sequences = Sequences()
    one, other = One(1 << 40, True, 100, 10, new=True), One(1 << 41, True, 5000, 10, new=True)
    for first in (0, 1):  # the one that comes between takes the place: what is missed meanwhile is not known
        assert [ahead for ahead, _ in placed(sequences, [other, other, one, other, one])] == [first, -10, first, 1, 1]
    assert placed(sequences, [one, one]) == [(-10, False)] * 2
    assert placed(sequences, [other, one._replace(syn=True)]) == [(1, False), (0, False)]  # a SYN begins anew
    sequences.clear()
    assert placed(sequences, [one]) == [(0, False)]


@given(streams(ONE_PLACE), st.lists(st.integers(1, 5), max_size=6))
def test_no_gap_is_hidden_where_directions_take_each_other_s_place(segments: list[One], blocks: list[int]) -> None:
    sequences, found = Sequences(), []
    left = claimed = [segment._replace(new=True) for segment in segments]
    for size in [*blocks, len(segments)]:
        part, left = left[:size], left[size:]
        if part:
            found += placed(sequences, part)
    for (ahead, _), (should, _) in zip(found, naive(claimed), strict=True):
        assert ahead > 0 or should <= 0


def test_what_is_far_behind_was_not_sent_again() -> None:
    sequences = Sequences()
    placed(sequences, [One(4, False, 2 * FAR, 10, new=True)])
    assert placed(sequences, [One(4, False, 10, 10), One(4, False, FAR + 20, 10)]) == [(0, False), (10 - FAR, False)]
