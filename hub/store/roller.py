"""Rolls closed periods up: the same for both stores, which say what is closed and where rows are.

A roll sums the rows of a period up into new rows of rollups, under a number of its own, reads the sums back, and writes
the period's lines last. Rows count that a line speaks of; so a roll can be cut off anywhere and repeated, and one that
is repeated replaces the period whole. What was cut off stays unseen until its partition is dropped. The periods of a
day that is over are joined in the same way, from their sums.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from hub import failpoints
from hub.store import rollups
from hub.store.errors import StoreError
from hub.store.periods import Period, Rolled, Span, days, holds, rolled

_COLUMNS = ", ".join(column.name for column in rollups.PERIODS.columns)
_LINES = f"SELECT {_COLUMNS.replace('day', 'toUInt16(day)')} FROM {rollups.PERIODS.name} FINAL"
_JOINED = {source: rollups.name_of(source, "day") for source in rollups.SOURCES}
"""As what the lines of joined days stand in `periods`."""

RANDOM = 20
"""Low bits of a roll's number that are random: no two of any hub are the same. The others are its time, ns."""


class Client(Protocol):
    """What is needed of a connection to the engine."""

    def query(self, sql: str, /) -> Any:
        """Its answer has `result_rows`."""

    def command(self, sql: str, /) -> Any:
        """Do it."""


class Roller:
    """The rollups of one store. `roll` on one thread at a time; `of` from any."""

    def __init__(self, client: Client, verify: Callable[[str], None] = lambda table: None) -> None:
        self._client, self._verify = client, verify
        self._periods = _none()
        self._rolled = {source: Rolled() for source in rollups.SOURCES}
        self._oldest = 0  # the first day of ingest whose hours are kept
        self._roll = 0
        self._waits: int | None = None  # since when the period waits that is next
        self._ending = threading.Event()

    def load(self) -> None:
        """Read what is rolled up; other hubs may have done it."""
        found = _none()
        for source, *values in self._client.query(_LINES).result_rows:
            if source in found:
                period = Period(*values)
                found[source][period.first] = period
        self._periods = found

    def of(self, source: str) -> Rolled:
        """From what questions of a table can be answered; of a table without rollups, where its rows begin."""
        return self._rolled[source]

    def keep(self, source: str, raw: int, minute_day: int, hour_day: int) -> None:
        """Rows are there from commit `raw` on, minutes and hours from these days of ingest on."""
        self._oldest = hour_day
        periods, lines = self._periods.get(source, {}), self._periods.get(_JOINED.get(source, ""), {})
        self._rolled[source] = rolled(periods.values(), lines, raw, minute_day, hour_day)

    @property
    def upto(self) -> int:
        """The newest commit that is rolled up."""
        return max((period.last for periods in self._periods.values() for period in periods.values()), default=0)

    def rows(self, source: str, first: int) -> int:
        """Rows of a table that the period which begins there sums up; -1 where there is none."""
        period = self._periods[source].get(first)
        return -1 if period is None else period.rows

    def behind(self, now_ns: int) -> int:
        """Since how long the hour of the oldest period that waits is over, ns; 0 where none waits."""
        waits = self._waits
        return 0 if waits is None else max(0, now_ns - waits)

    @contextlib.contextmanager
    def trying(self, now_ns: int) -> Iterator[None]:
        """What fails in the block leaves something waiting, if only since now; what does not, leaves nothing."""
        try:
            yield
        except Exception:
            self._waits = now_ns if self._waits is None else self._waits
            raise
        self._waits = None

    def end(self) -> None:
        """Begin nothing more."""
        self._ending.set()

    def roll(self, spans: Iterable[Span], now_ns: int) -> int:
        """Roll these up, one after the other; returns how many. Raises StoreError where rows are not all there."""
        done = 0
        for span in spans:
            if self._ending.is_set():
                break
            self._waits = span.over
            self._one(span, now_ns)
            done += 1
        return done

    def join(self, before: int, now_ns: int) -> None:
        """Join the periods of each day of ingest before that one, where it is not done. Raises StoreError at the end
        where sums of a day are not all there."""
        wrong: list[StoreError] = []
        for source, name in _JOINED.items():
            closed = [p for p in self._periods[source].values() if self._oldest <= p.day < before]
            for day in days(closed):
                if holds(self._periods[name].get(day.first), day):
                    continue
                if self._ending.is_set():
                    return
                try:
                    self._join(source, replace(day, roll=self._number(now_ns)))
                except StoreError as error:
                    wrong.append(error)
        if wrong:
            raise wrong[0]

    def _number(self, now_ns: int) -> int:
        """Of a new roll: larger than any before."""
        self._roll = max(self._roll + 1, (now_ns >> RANDOM << RANDOM) | secrets.randbits(RANDOM))
        return self._roll

    def _one(self, span: Span, now_ns: int) -> None:
        roll = self._number(now_ns)
        self._count({source: self._sum_up(source, span, roll) for source in rollups.SOURCES})

    def _count(self, lines: Mapping[str, Period]) -> None:
        """From now on these count."""
        values = ", ".join(
            f"('{source}', {p.first}, {p.last}, {p.roll}, {p.day}, {p.rows}, {p.longest}, {p.earliest}, {p.latest})"
            for source, p in lines.items()
        )
        into = f"INSERT INTO {rollups.PERIODS.name} ({_COLUMNS})"
        self._write(f"{into} SETTINGS distributed_foreground_insert = 1 VALUES {values}")
        self._verify(rollups.PERIODS.name)
        for source, period in lines.items():
            self._periods[source][period.first] = period

    def _sum_up(self, source: str, span: Span, roll: int) -> Period:
        expected = span.rows.get(source, 0)
        if not expected:
            return Period(span.first, span.last, roll, span.day, 0, 0, 0, 0)
        found = self._client.query(rollups.rows_of(source, span.first, span.last)).result_rows[0]
        period = Period(span.first, span.last, roll, span.day, *map(int, found))
        _same(source, period, expected)
        for step, statement in rollups.roll_up(source, span.first, span.last, roll, span.day).items():
            self._sum(source, step, statement, period)
        return period

    def _join(self, source: str, day: Period) -> None:
        if day.rows:
            self._read_back(source, rollups.joinable(source, day.first, day.last), day)
            self._sum(source, "day", rollups.join(source, day.first, day.last, day.roll, day.day), day)
        self._count({_JOINED[source]: day})

    def _sum(self, source: str, step: str, statement: str, period: Period) -> None:
        """Write sums of a period, and read back what they sum up."""
        self._write(statement)
        self._verify(rollups.name_of(source, step))
        self._read_back(source, rollups.rolled(source, step, period.roll), period)

    def _read_back(self, source: str, sql: str, period: Period) -> None:
        """Raise StoreError where sums are not of all rows of a period."""
        found = self._client.query(sql).result_rows[0][0]
        _same(source, replace(period, rows=int(found)), period.rows)

    def _write(self, statement: str) -> None:
        failpoints.roll()
        self._client.command(statement)


def _same(source: str, found: Period, expected: int) -> None:
    if found.rows != expected:
        raise StoreError(
            f"commits {found.first} to {found.last} have {expected} rows of {source}, and {found.rows} are found: "
            "they are not rolled up yet"
        )


def _none() -> dict[str, dict[int, Period]]:
    """No lines: by what they stand for, and first commit."""
    return {name: {} for name in (*rollups.SOURCES, *_JOINED.values())}
