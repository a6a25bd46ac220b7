"""Which rows and which sums together answer a question of groups: every row once, whatever its window.

Rows that are not rolled up yet are read as rows. Of those that are, whole hours of packet time are read as sums by
hour, whole minutes before and behind as sums by minute, and the rest as rows; where a day of ingest is joined, whole
days of packet time are read as its sums by day. A row counts where it touches the window, and stands in the minute of
its start, so rows that began before the window are among the rest. Where rows have expired, the first and the last
minute (or hour) are whole, and `rounded` says so.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hub.query.select import starts
from hub.query.sql import Params
from hub.store import rollups
from hub.store.periods import Period, Rolled
from protocol.schema import TABLES

MINUTE, HOUR, DAY = (rollups.STEPS[step] for step in ("minute", "hour", "day"))
LONG = 2 * HOUR
"""A window of this many ns or more is answered from sums where it can be."""
_SANE = 1 << 62
"""Times beyond this (the year 2116, or 1823) are not rounded."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer: a table, and conditions on it."""

    table: str
    conditions: tuple[str, ...]

    @property
    def sums(self) -> bool:
        """Whether it has sums and not rows."""
        return self.table in rollups.NAMES


@dataclass(slots=True)
class Pieces:
    """All of them. `rounded` is the step that the ends of the window were rounded to, `minute` or `hour`."""

    pieces: list[Piece] = field(default_factory=list)
    rounded: str = ""


def worth_it(since: int | None, until: int | None, rolled: Rolled) -> bool:
    """Whether a window is long, or reaches where rows have expired; never where its times cannot be rounded."""
    if any(abs(point) > _SANE for point in (since, until) if point is not None):
        return False
    newest = max(period.latest for period in rolled.periods) if until is None else until
    if since is None or newest - since >= LONG:
        return True
    return rolled.touched(rolled.hours, rolled.exact, since // HOUR * HOUR, newest + HOUR)


def divided(
    source: str, since: int | None, until: int | None, commit: int | None, rolled: Rolled, params: Params
) -> Pieces:
    """The pieces of a window, of rows up to `commit`."""
    return _Divider(source, since, until, commit, rolled, params).all()


class _Divider:
    def __init__(
        self, source: str, since: int | None, until: int | None, commit: int | None, rolled: Rolled, params: Params
    ) -> None:
        self.source, self.since, self.until, self.commit = source, since, until, commit
        self.rolled, self.params = rolled, params
        self.found = Pieces()

    def all(self) -> Pieces:
        rolled = self.rolled
        self._rows(self._new(), *self._window())
        self._exact(rolled.exact, rolled.upto + 1)
        self._rounded("minute", rolled.minutes, rolled.exact)
        self._rounded("hour", rolled.hours, rolled.minutes)
        return self.found

    # rows

    def _rows(self, *conditions: str) -> None:
        self.found.pieces.append(Piece(self.source, tuple(c for c in conditions if c)))

    def _new(self) -> str:
        upto = f"`commit` <= {self._number(self.commit)}" if self.commit is not None else ""
        return " AND ".join(filter(None, (f"`commit` > {self._number(self.rolled.upto)}", upto)))

    def _window(self) -> list[str]:
        return [self._ends(), self._starts("<", self.until)]

    def _ends(self) -> str:
        return "" if self.since is None else f"`end` >= {self._time(self.since)}"

    def _starts(self, sign: str, moment: int | None) -> str:
        return "" if moment is None else starts(TABLES[self.source], sign, self._time(moment))

    def _time(self, moment: int) -> str:
        return self.params.add("Int64", moment)

    def _number(self, commit: int) -> str:
        return self.params.add("UInt64", commit)

    # sums

    def _exact(self, first: int, beyond: int) -> None:
        """Periods whose rows are there: sums of the whole minutes inside, rows before and behind."""
        if first >= beyond:
            return
        low, high = _up(self.since, MINUTE), _down(self.until, MINUTE)
        commits = f"`commit` BETWEEN {self._number(first)} AND {self._number(beyond - 1)}"
        if low is not None and high is not None and low >= high:
            self._rows(commits, *self._window(), self._not_before())
            return
        if low is not None:
            self._rows(commits, self._ends(), self._starts("<", low), self._not_before())
        if high is not None and high != self.until:
            self._rows(commits, self._ends(), self._starts(">=", high), self._starts("<", self.until))
        self._sums("minute", low, high, first, beyond)

    def _not_before(self) -> str:
        """No row is longer than the longest: what began before that cannot touch the window, and is not looked at."""
        if self.since is None or self.since - self.rolled.longest < -_SANE:
            return ""
        return self._starts(">=", self.since - self.rolled.longest)

    def _rounded(self, step: str, first: int, beyond: int) -> None:
        """Periods whose rows have expired: the ends of the window are as fine as the sums are."""
        size = rollups.STEPS[step]
        low, high = _down(self.since, size), _up(self.until, size)
        if first >= beyond or not self._touched(first, beyond, low, high):
            return
        ends = [(end, end + size) for end, exact in ((low, self.since), (_down(self.until, size), self.until))
                if end is not None and end != exact]  # fmt: skip
        if any(self.rolled.touched(first, beyond, *end) for end in ends):
            self.found.rounded = step
        self._sums(step, low, high, first, beyond)

    def _touched(self, first: int, beyond: int, low: int | None, high: int | None) -> bool:
        return self.rolled.touched(first, beyond, *_bounds(low, high))

    def _sums(self, step: str, low: int | None, high: int | None, first: int, beyond: int) -> None:
        """Sums from `low` to `high`, whole steps both: by the hour as far as that goes."""
        inside: tuple[int | None, int | None] | None = (low, high)
        if step == "minute":
            inside = self._ends_by("minute", low, high, HOUR, (first, beyond))
        if inside is not None:
            self._hours(*inside, first, beyond)

    def _hours(self, low: int | None, high: int | None, first: int, beyond: int) -> None:
        """Whole hours: by the day as far as that goes, of what is joined."""
        days, apart = self.rolled.joined(first, beyond)
        if not days:
            self._table("hour", low, high, (first, beyond))
            return
        inside = self._ends_by("hour", low, high, DAY, (first, beyond))
        if inside is None:
            return
        if apart:
            self._table("hour", *inside, *apart)
        self._days(*inside, [day for day in days if day.touches(*_bounds(*inside))])

    def _ends_by(
        self, step: str, low: int | None, high: int | None, larger: int, commits: tuple[int, int]
    ) -> tuple[int | None, int | None] | None:
        """Read by `step` what is in no whole `larger` steps; where these begin and end, None where there are none."""
        begin, end = _up(low, larger), _down(high, larger)
        if begin is not None and end is not None and begin >= end:
            self._table(step, low, high, commits)
            return None
        if begin != low:
            self._table(step, low, begin, commits)
        if end != high:
            self._table(step, end, high, commits)
        return begin, end

    def _days(self, low: int | None, high: int | None, days: Sequence[Period]) -> None:
        """Whole days of packet time, as sums by day of these days of ingest; others are not looked at."""
        if days:
            first, last = min(day.day for day in days), max(day.day for day in days)
            rolls = ", ".join(str(day.roll) for day in days)
            within = f"`ingest_day` BETWEEN toDate({first}) AND toDate({last})"
            self._piece("day", low, high, f"{within} AND `roll` IN ({rolls})")

    def _table(self, step: str, low: int | None, high: int | None, *ranges: tuple[int, int]) -> None:
        self._piece(step, low, high, rollups.of_periods(self.source, ranges, self.rolled.upto))

    def _piece(self, step: str, low: int | None, high: int | None, rolls: str) -> None:
        conditions = [
            "" if low is None else f"`time` >= {self._time(low)}",
            "" if high is None else f"`time` < {self._time(high)}",
            rolls,
        ]
        name = rollups.name_of(self.source, step)
        self.found.pieces.append(Piece(name, tuple(c for c in conditions if c)))


def _bounds(low: int | None, high: int | None) -> tuple[int, int]:
    """The same window, without an end that is open."""
    return -(1 << 63) if low is None else low, 1 << 63 if high is None else high


def _down(moment: int | None, step: int) -> int | None:
    return None if moment is None else moment // step * step


def _up(moment: int | None, step: int) -> int | None:
    return None if moment is None else -(-moment // step) * step


def tables(pieces: Pieces) -> Iterator[str]:
    """The tables that are read, each once."""
    yield from dict.fromkeys(piece.table for piece in pieces.pieces)
