"""Periods of ingest: which commits are rolled up together, and from what a question can be answered.

A period is a range of commits that nothing can be added to any more. Questions ask for packet time and periods are of
ingest time, so a period may have rows of any time; rows of rollups have their own minute.

    commits   1 ........................................ upto ........ newest
              hours only | minutes, hours | rows too     | rows only
              hours        minutes          exact

The periods of one day of ingest are joined when it is over: what they have by hour is summed up once more, by days. A
line for that, with the same fields, holds as long as the lines it was made from are the ones that count.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

HOUR_NS = 3600 * 10**9
MOST_ROWS = 2_000_000
"""Rows after which a period ends before its hour does: what is summed up at once, and read as rows until it is."""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of commits to be rolled up; `rows` by table is how many rows their lines speak of, `over` when its hour
    of ingest was over, ns since 1970."""

    first: int
    last: int
    day: int
    over: int
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class Period:
    """One line of the table `periods`, but for its table: the fields are its columns."""

    first: int
    last: int
    roll: int
    day: int
    rows: int
    longest: int
    earliest: int
    latest: int

    def touches(self, since: int, until: int) -> bool:
        """Whether any of its rows may start in this time."""
        return self.rows > 0 and self.earliest < until and self.latest >= since


def days(periods: Iterable[Period]) -> Iterator[Period]:
    """What each day of ingest of these periods has once they are joined; the roll is the newest of theirs."""
    for day, group in groupby(sorted(periods, key=lambda p: p.first), key=lambda p: p.day):
        yield _joined(day, list(group))


def _joined(day: int, group: Sequence[Period]) -> Period:
    some = [period for period in group if period.rows] or group[:1]
    return Period(
        first=group[0].first,
        last=group[-1].last,
        roll=max(period.roll for period in group),
        day=day,
        rows=sum(period.rows for period in group),
        longest=max(period.longest for period in some),
        earliest=min(period.earliest for period in some),
        latest=max(period.latest for period in some),
    )


def holds(line: Period | None, day: Period) -> bool:
    """Whether a day was joined from the periods that it has now."""
    return line is not None and (line.last, line.rows) == (day.last, day.rows) and line.roll > day.roll


@dataclass(frozen=True, slots=True)
class Committed:
    """One commit of the embedded store: when it was stored, and rows by table."""

    commit: int
    stored_at: int
    day: int
    rows: dict[str, int]


def cut(commits: Iterable[Committed], now_ns: int, everything: bool = False) -> Iterator[Span]:
    """Commits in order as periods: of one hour and day of ingest, and of about MOST_ROWS at most.

    The last one is left out while it may grow, unless `everything` is wanted now.
    """
    group: list[Committed] = []
    for one in commits:
        if group and (_hour(one) != _hour(group[0]) or one.day != group[0].day or _rows(group) >= MOST_ROWS):
            yield _span(group)
            group = []
        group.append(one)
    if group and (everything or _rows(group) >= MOST_ROWS or _hour(group[0]) != now_ns // HOUR_NS):
        yield _span(group)


def _hour(one: Committed) -> int:
    return one.stored_at // HOUR_NS


def _rows(group: Sequence[Committed]) -> int:
    return sum(sum(one.rows.values()) for one in group)


def _span(group: Sequence[Committed]) -> Span:
    rows: dict[str, int] = {}
    for one in group:
        for table, count in one.rows.items():
            rows[table] = rows.get(table, 0) + count
    return Span(group[0].commit, group[-1].commit, group[0].day, (_hour(group[0]) + 1) * HOUR_NS, rows)


@dataclass(frozen=True, slots=True)
class Rolled:
    """From what questions of one table can be answered. All but the last three are commits.

    Rows of commits from `raw` on are all there. Commits up to `upto` are rolled up; of them those of periods that begin
    at `hours` or later are kept by hours, at `minutes` or later by minutes too, at `exact` or later as rows too.
    `periods` and `days`, those that are joined, are in the order of their commits.
    """

    raw: int = 0
    upto: int = 0
    exact: int = 0
    minutes: int = 0
    hours: int = 0
    longest: int = 0
    periods: tuple[Period, ...] = ()
    days: tuple[Period, ...] = ()

    def gone(self, sums: bool) -> tuple[tuple[int, int], ...]:
        """Commits of which nothing is there any more, as rows or, where these answer, as `sums`: first and beyond."""
        return ((0, self.hours), (self.upto + 1, self.raw)) if sums else ((0, self.raw),)

    def touched(self, first: int, beyond: int, since: int, until: int) -> bool:
        """Whether a period that begins in that range of commits may have rows that start in that time."""
        return any(first <= period.first < beyond and period.touches(since, until) for period in self.periods)

    def joined(self, first: int, beyond: int) -> tuple[list[Period], list[tuple[int, int]]]:
        """The joined days within a range of commits, and the ranges beside them in which periods begin."""
        within = [day for day in self.days if first <= day.first and day.last < beyond]
        begins = [first, *(day.last + 1 for day in within)]
        ends = [*(day.first for day in within), beyond]
        return within, [pair for pair in zip(begins, ends, strict=True) if self._begins(*pair)]

    def _begins(self, first: int, beyond: int) -> bool:
        """Whether a period begins there."""
        place = bisect_left(self.periods, first, key=lambda period: period.first)
        return place < len(self.periods) and self.periods[place].first < beyond


def rolled(periods: Iterable[Period], lines: Mapping[int, Period], raw: int, minute_day: int, hour_day: int) -> Rolled:
    """What is kept: rows from commit `raw` on, minutes from `minute_day` of ingest on, hours and days likewise.

    `lines` are those of joined days, by first commit.
    """
    kept = tuple(sorted((p for p in periods if p.day >= hour_day), key=lambda p: p.first))
    if not kept:
        return Rolled(raw)
    upto = max(period.last for period in kept)
    minutes = _begin((p for p in kept if p.day >= minute_day), upto)
    exact = _begin((p for p in kept if p.day >= minute_day and p.first >= raw), upto)
    longest = max((p.longest for p in kept if p.first >= exact), default=0)
    joined = tuple(lines[day.first] for day in days(kept) if holds(lines.get(day.first), day))
    return Rolled(raw, upto, exact, minutes, kept[0].first, longest, kept, joined)


def _begin(periods: Iterable[Period], upto: int) -> int:
    return min((period.first for period in periods), default=upto + 1)
