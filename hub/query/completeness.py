"""How complete an answer is: who is in it, what is known to be missing, lost or without rows of its own.

Pure but for the `rows` it is given to ask the store with. Read from `batches`, which outlives the rows, and from what
the register says of the agents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from hub.query.clocks import clocks_off
from hub.query.sql import Params
from hub.query.window import rfc3339_ns

Rows: TypeAlias = "Callable[[str, dict[str, Any]], list[tuple[Any, ...]]]"
"""Asks the store: SQL and parameters to rows."""

MAX_GAPS = 100
"""Gaps that are listed; one more says that there are more."""
ABSENT = ("stalled", "gone", "lagging")
"""Verdicts of an agent whose newest packets are not here."""

_LOST = {"packets": "if(kind = 'packets', packets, flow_only)", "flows": "if(kind = 'flows', packets, 0)"}
_LOST["calls"] = f"if(kind = 'calls', 1, {_LOST['packets']})"  # calls are read of packets with rows; a batch has none


@dataclass(frozen=True, slots=True)
class Window:
    """Packet time, nanoseconds since 1970; `until` is exclusive, None is open."""

    since: int | None = None
    until: int | None = None

    def holds(self, moment: int) -> bool:
        """Whether the window reaches `moment` or lies after it: what came after `moment` could be in it."""
        return self.until is None or moment < self.until


@dataclass(slots=True)
class Completeness:
    """The end of every answer; packets where numbers are."""

    window: Window
    agents: list[str] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    flow_only: int = 0
    clocks: list[dict[str, Any]] = field(default_factory=list)
    expired: int = 0
    rounded: str | None = None

    def to_map(self, table: str) -> dict[str, Any]:
        """The JSON object. Flow records speak for every packet, so `flow_only` counts not against them."""
        rows_left_out = 0 if table == "flows" else self.flow_only
        return {
            "since": self.window.since,
            "until": self.window.until,
            "agents": self.agents,
            "missing": self.missing,
            "gaps": self.gaps,
            "lost": self.lost,
            "flow_only": self.flow_only,
            "clocks": self.clocks,
            "expired": self.expired,
            "rounded": self.rounded,
            "complete": not (self.missing or self.gaps or self.lost or rows_left_out or self.expired),
        }


def completeness(
    rows: Rows,
    table: str,
    window: Window,
    agents: Sequence[Mapping[str, Any]],
    unreported: Sequence[Mapping[str, Any]],
    gone: Sequence[tuple[int, int]] = (),
    rounded: str = "",
) -> dict[str, Any]:
    """The completeness of an answer from `table` over `window`. `agents` and the runs that ended `unreported` are the
    register's.

    Of the commits `gone`, each a first one and one beyond the last, the answer has nothing any more; its window was
    `rounded` to whole minutes or hours.
    """
    runs = _runs(rows, table, window, gone)
    inside = {run.agent for run in runs if run.inside}
    result = Completeness(window, rounded=rounded or None)
    result.flow_only, result.expired = sum(run.flow_only for run in runs), sum(run.expired for run in runs)
    result.lost = _lost(runs)
    broken = [(run.agent, run.epoch) for run in runs if not run.whole]
    result.gaps = _gaps(rows, window, broken) if broken else []
    result.missing = list(_missing(window, agents, unreported, inside))
    absent = {entry["agent"] for entry in result.missing}
    present = {a["agent"] for a in agents if a.get("state") != "stopped" and a.get("source") != "replay"}
    result.agents = sorted(inside | (present - absent if window.until is None else set()))
    result.clocks = clocks_off(agent for agent in agents if agent["agent"] in result.agents)
    return result.to_map(table)


def _overlap(window: Window, params: Params) -> str:
    """Batches with packets inside the window. Reports have no packets and no times."""
    conditions = ["kind != 'report'"]
    if window.since is not None:
        conditions.append(f"last >= {params.add('Int64', window.since)}")
    if window.until is not None:
        conditions.append(f"first < {params.add('Int64', window.until)}")
    return " AND ".join(conditions)


class _Run(NamedTuple):
    """What `batches` say of one run: batches, packets without a row and rows that expired inside the window, packets of
    batches that never came by reason, and the books before the window and at its end."""

    agent: str
    epoch: int
    inside: int
    whole: int
    flow_only: int
    expired: int
    never: tuple[list[str], list[int]]
    before: str
    newest: str


def _runs(rows: Rows, table: str, window: Window, gone: Sequence[tuple[int, int]]) -> list[_Run]:
    """In one question: `batches` have a part for each of the newest commits, which is most of what an answer takes."""
    params = Params()
    inside, expired = _overlap(window, params), _gone(gone, params)
    sealed = "if(kind = 'report', stored_at, last)"
    before = f"{sealed} < {params.add('Int64', window.since)}" if window.since is not None else "0"
    newest = f"{sealed} < {params.add('Int64', window.until)}" if window.until is not None else "1"
    found = rows(
        f"SELECT agent, epoch, countIf({inside}), min(seq) = 1 AND max(seq) = count(), "
        f"sumIf(flow_only, {inside} AND kind = 'flows' AND reason = ''), "
        f"sumIf(rows, {inside} AND kind = '{table}' AND ({expired})), "
        f"sumMapIf([toString(reason)], [toUInt64({_LOST[table]})], {inside} AND reason != ''), "
        f"argMaxIf(ledger, seq, {before}), argMaxIf(ledger, seq, {newest}) FROM batches GROUP BY agent, epoch",
        params.values,
    )
    return [_Run(*row) for row in found]


def _gone(gone: Sequence[tuple[int, int]], params: Params) -> str:
    """Commits of which nothing is there any more."""
    conditions = [
        f"commit >= {params.add('UInt64', first)} AND commit < {params.add('UInt64', beyond)}"
        for first, beyond in gone
        if first < beyond
    ]
    return " OR ".join(conditions) or "0"


def _lost(runs: Iterable[_Run]) -> dict[str, int]:
    """Packets lost inside the window by reason: of batches that never came, and what agents say of themselves."""
    lost: dict[str, int] = {}
    for run in runs:
        for reason, packets in zip(*run.never, strict=True):
            if packets:
                lost[reason] = lost.get(reason, 0) + packets
    lost = dict(sorted(lost.items()))
    for run in runs:
        _add_reported(lost, run.before, run.newest)
    return lost


def _add_reported(lost: dict[str, int], before: str, newest: str) -> None:
    """What an agent lost itself inside the window: the difference of its books, kernel drops included."""
    start, end = _counts(before), _counts(newest)
    for reason, packets in end.items():
        if packets > start.get(reason, 0):
            lost[reason] = lost.get(reason, 0) + packets - start.get(reason, 0)


def _counts(ledger: str) -> dict[str, int]:
    try:
        books = json.loads(ledger or "{}")
        return {**books.get("lost", {}), "kernel_dropped": books.get("kernel_dropped", 0)}
    except (ValueError, AttributeError, TypeError):
        return {}


def _gaps(rows: Rows, window: Window, epochs: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """Batch numbers between two that are here, and before the first, where their time may touch the window.

    A gap lies in time between its neighbours; a neighbour without times (a report) leaves that side open.
    """
    params = Params()
    runs = ", ".join(
        f"({params.add('String', agent)}, {params.add('UInt64', epoch)})" for agent, epoch in epochs[:1000]
    )
    conditions = ["seq > previous + 1"]
    if window.since is not None:
        conditions.append(f"(kind = 'report' OR last >= {params.add('Int64', window.since)})")
    if window.until is not None:
        conditions.append(f"(earlier_kind IN ('', 'report') OR earlier < {params.add('Int64', window.until)})")
    frame = "OVER (PARTITION BY agent, epoch ORDER BY seq ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING)"
    found = rows(
        "SELECT agent, lower(hex(epoch)), previous + 1, seq - 1 FROM ("
        f"SELECT agent, epoch, seq, kind, last, any(seq) {frame} AS previous, any(first) {frame} AS earlier, "
        f"any(toString(kind)) {frame} AS earlier_kind FROM batches WHERE (agent, epoch) IN ({runs})) "
        f"WHERE {' AND '.join(conditions)} ORDER BY agent, epoch, previous LIMIT {MAX_GAPS + 1}",
        params.values,
    )
    return [{"agent": a, "epoch": e.rjust(16, "0"), "first": first, "last": last} for a, e, first, last in found]


def _missing(
    window: Window, agents: Iterable[Mapping[str, Any]], unreported: Iterable[Mapping[str, Any]], inside: set[str]
) -> Iterable[dict[str, str]]:
    """Agents whose packets could be in the window and are not, or not all; one reason each."""
    named: set[str] = set()
    for agent in agents:
        replay = agent.get("source") == "replay"
        touched = agent["agent"] in inside if replay else window.holds(_moment(agent.get("last_seen")))
        if agent.get("verdict") in ABSENT and touched:
            named.add(agent["agent"])
            yield {"agent": agent["agent"], "reason": f"{agent['verdict']}, last seen {agent.get('last_seen')}"}
    for run in unreported:
        agent, since = run["agent"], run["unreported_since"]
        replay = run["source"] == "replay"
        touched = agent in inside if replay else _contains(window, _moment(since))
        if touched and agent not in named:
            named.add(agent)
            yield {"agent": agent, "reason": f"run {run['epoch']} ended without a word after {since}"}


def _contains(window: Window, moment: int) -> bool:
    return window.holds(moment) and (window.since is None or window.since <= moment)


def _moment(text: object) -> int:
    try:
        return rfc3339_ns(str(text))
    except ValueError:
        return 0
