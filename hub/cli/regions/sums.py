"""Figures of groups of several hubs as one: counts and sums are added, shares worked out anew. Pure.

Latencies of a group that only one hub has stay that hub's. Of others the hubs tell how many calls took how long, in
buckets that are GAMMA apart, and quantiles of their sum are right within 1 % (Masson, Rim, Lee: DDSketch, VLDB 2019).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import accumulate
from typing import Any

from hub.cli.regions.order import Order, Row, order
from protocol.sketch import SKETCH, value_of

SUMS = {
    "flows": ("flow.packets", "flow.bytes", "flow.packets_rev", "flow.bytes_rev", "flow.records"),
    "calls": ("call.count", "call.errors", "call.unanswered", "call.request_bytes", "call.response_bytes"),
}
_QUANTILES = {f"call.latency_p{percent}": percent / 100 for percent in (50, 95, 99)}
FIGURES = {
    "flows": SUMS["flows"],
    "calls": (
        "call.count", "call.errors", "call.error_rate", "call.unanswered", *_QUANTILES,
        "call.request_bytes", "call.response_bytes",
    ),
}  # fmt: skip
"""What is told of each group, in the order in which hubs tell it."""
_MOST_BYTES = "the most bytes"
_FIRST = {"flows": _MOST_BYTES, "calls": "call.count"}
"""What groups sort by unless something else is asked for, the largest first."""


@dataclass(slots=True)
class Groups:
    """The groups of a table by some of its fields."""

    table: str
    by: Sequence[str]
    _rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    _buckets: dict[str, Counter[int]] = field(default_factory=dict)
    _shared: set[str] = field(default_factory=set)

    def add(self, row: dict[str, Any]) -> None:
        """One group of one hub."""
        place = json.dumps([row.get(name) for name in self.by])
        told = row.pop(SKETCH, None)
        if told is not None:
            self._buckets.setdefault(place, Counter()).update(dict(zip(*json.loads(told), strict=True)))
        known = self._rows.setdefault(place, row)
        if known is not row:
            self._shared.add(place)
            for name in SUMS[self.table]:
                known[name] = known.get(name, 0) + row.get(name, 0)

    def rows(self, sort: Sequence[tuple[str, bool]], top: int) -> list[Row]:
        """The first `top` groups in order, 0 all."""
        rows = [self._finished(place, row) for place, row in self._rows.items()]
        by = self._order(sort)
        return nsmallest(top, rows, by.key) if top else sorted(rows, key=by.key)

    def _order(self, sort: Sequence[tuple[str, bool]]) -> _By:
        return _By(order(self.table, sort or [(_FIRST[self.table], True)], self.by))

    def _finished(self, place: str, row: dict[str, Any]) -> Row:
        if self.table != "calls" or place not in self._shared:
            return row
        row["call.error_rate"] = row["call.errors"] / row["call.count"]
        quantiles = quantiles_of(self._buckets.get(place, {}))
        every = {**row, **quantiles}
        return {name: every[name] for name in (*self.by, *FIGURES["calls"]) if name in every}


@dataclass(frozen=True, slots=True)
class _By:
    """An order that knows the most bytes."""

    order: Order

    def key(self, row: Row) -> tuple[Any, ...]:
        """What a group sorts by."""
        if _MOST_BYTES in self.order.names:
            row = {**row, _MOST_BYTES: row.get("flow.bytes", 0) + row.get("flow.bytes_rev", 0)}
        return self.order.key(row)


def quantiles_of(buckets: Mapping[int, int]) -> dict[str, float]:
    """The latencies that are told, seconds; none without calls that were answered."""
    if not buckets:
        return {}
    places = sorted(buckets)
    ends = list(accumulate(buckets[place] for place in places))
    return {name: value_of(_place(places, ends, share)) / 1e9 for name, share in _QUANTILES.items()}


def _place(places: Sequence[int], ends: Sequence[int], share: float) -> int:
    rank = share * (ends[-1] - 1)
    return next(place for place, end in zip(places, ends, strict=True) if end > rank)


def as_lines(rows: Iterable[Row]) -> Iterable[bytes]:
    """Rows as NDJSON lines."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
