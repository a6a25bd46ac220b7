"""Periods of ingest: where one ends, which days of them are joined, and from what a question can be answered."""

from __future__ import annotations

from dataclasses import replace

from hub.store.periods import Committed, Period, cut, days, holds, rolled

MINUTE = 60 * 10**9


def committed(commit: int, minute: int, rows: int = 10, day: int = 0) -> Committed:
    return Committed(commit, minute * MINUTE, day, {"flows": rows})


def test_a_period_ends_with_its_hour_its_day_or_when_it_has_enough() -> None:
    commits = [committed(1, 1), committed(3, 59), committed(4, 60), committed(7, 61, 3_000_000), committed(8, 62),
               committed(9, 70, day=1), committed(11, 121)]  # fmt: skip

    def found(now: int, everything: bool = False) -> list[tuple[int, int, int]]:
        spans = cut(commits, now * MINUTE, everything)
        return [(span.first, span.last, span.rows["flows"]) for span in spans]

    closed = [(1, 3, 20), (4, 7, 3_000_010), (8, 8, 10), (9, 9, 10)]
    assert found(150) == closed
    assert found(180) == found(150, everything=True) == [*closed, (11, 11, 10)]


def period(first: int, day: int, rows: int = 10, roll: int = 1, last: int = 0) -> Period:
    return Period(first, last or first + 4, roll, day, rows, 7 * first, -first if rows else 0, first if rows else 0)


HOURS = [period(1, 3), period(6, 3, rows=0, roll=5), period(11, 3), period(16, 4), period(21, 4), period(26, 5)]


def test_periods_of_one_day_are_joined() -> None:
    three, four, five = days(reversed(HOURS))
    assert three == Period(1, 15, 5, 3, 20, 77, -11, 11)
    assert (four.first, four.last, four.rows, four.roll) == (16, 25, 20, 1)
    assert five == HOURS[-1]
    assert list(days([period(1, 3, rows=0)])) == [period(1, 3, rows=0)]
    back = [day.day for day in days([period(1, 4), period(6, 3), period(11, 4)])]
    assert back == [4, 3, 4], "after a clock went back"


def test_a_day_holds_until_one_of_its_periods_is_another() -> None:
    day = next(days(HOURS))
    line = replace(day, roll=6)
    assert holds(line, day)
    assert not holds(None, day)
    assert not holds(day, day)
    for changed in ([replace(HOURS[0], roll=7)], [replace(HOURS[0], rows=11)], [period(1, 3, last=4)]):
        found = next(days([*changed, *HOURS[1:]]))
        assert holds(line, found) == (changed[0].roll < 6 and changed[0].rows == 10)
    assert not holds(line, next(days([*HOURS[:3], period(16, 3)])))


def test_days_that_are_joined_and_what_lies_beside_them() -> None:
    lines = {day.first: replace(day, roll=9) for day in days(HOURS[:-1])}
    kept = rolled(HOURS, lines, 0, 0, 0)
    assert [day.first for day in kept.days] == [1, 16]

    def found(first: int, beyond: int) -> tuple[list[int], list[tuple[int, int]]]:
        joined, apart = kept.joined(first, beyond)
        return [day.first for day in joined], apart

    assert found(1, 31) == ([1, 16], [(26, 31)])
    assert found(1, 26) == ([1, 16], [])
    assert found(6, 31) == ([16], [(6, 16), (26, 31)]), "a day that is not whole there is none"
    assert found(1, 15) == ([], [(1, 15)])
    assert found(27, 31) == ([], [])
    lines[1] = replace(lines[1], rows=19)
    kept = rolled(HOURS, lines, 0, 0, 0)
    assert found(1, 31) == ([16], [(1, 16), (26, 31)])
    assert rolled(HOURS, lines, 0, 0, hour_day=5).days == ()
