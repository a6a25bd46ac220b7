"""What the store knows of every run: which batches it holds, their sums, the newest report.

Pure. A `Line` is one row of the table `batches`; a `StoredEpoch` is the sum of a run's lines; `advance` guesses the
report of a batch whose line was lost in a crash from its rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from hub.store.ddl import BATCHES
from protocol.columns import MAX_TEXT, NUMPY, Columns, ColumnValue, Dict, text_of
from protocol.ledger import Held, Report, at_least, settle
from protocol.messages import Batch, Tombstone
from protocol.ranges import Ranges
from protocol.schema import Column

DAY_NS = 86_400 * 10**9

Key = tuple[str, int]
"""(agent, epoch): one run."""
Place = tuple[str, int, int]
"""(agent, epoch, seq): one batch."""


@dataclass(frozen=True)
class Entry:
    """One thing to commit: a batch with its columns, or a tombstone or report.

    `sound` where the columns are just as `unpack_body` gave them, which has looked at each.
    """

    message: Batch | Tombstone
    columns: Columns | None
    node: str
    source: str
    session: int
    sound: bool = False

    @property
    def place(self) -> Place:
        """(agent, epoch, seq)."""
        return self.message.agent, self.message.epoch, self.message.seq

    @property
    def rows(self) -> int:
        """Rows to store."""
        return self.message.rows if isinstance(self.message, Batch) else 0

    @cached_property
    def ledger(self) -> str:
        """What the agent says of its run, as it is stored; empty where it says nothing. Written once: it is in the
        store's line and in the one that the hub counts."""
        ledger = self.message.ledger
        return _json(Report.from_map(ledger).to_map()) if ledger else ""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of `batches`; the fields are its columns (ddl.BATCHES says what they mean)."""

    agent: str
    node: str
    source: str
    epoch: int
    seq: int
    kind: str
    rows: int
    packets: int
    flow_only: int
    first: int
    last: int
    reason: str
    final: int
    ledger: str
    session: int
    commit: int
    stored_at: int
    ingest_day: int
    recovered: int = 0

    @property
    def key(self) -> Key:
        """(agent, epoch)."""
        return self.agent, self.epoch


@dataclass(frozen=True, slots=True)
class News:
    """What a store that several hubs share has to tell: lines that others stored, up to which commit everything may be
    shown, and by name the agents that are connected elsewhere, as those hubs describe them."""

    lines: list[Line]
    commit: int
    elsewhere: dict[str, dict[str, Any]]
    wishes: tuple[int, dict[str, dict[str, str]]] = (0, {})
    """What people want of agents, and when that was said last."""


def day_of(now_ns: int) -> int:
    """Days since 1970-01-01 UTC."""
    return now_ns // DAY_NS


def line_of(entry: Entry, commit: int, now_ns: int) -> Line:
    """The line of an entry."""
    message = entry.message
    tombstone = message if isinstance(message, Tombstone) else None
    return Line(
        agent=message.agent,
        node=entry.node,
        source=entry.source,
        epoch=message.epoch,
        seq=message.seq,
        kind=message.kind,
        rows=entry.rows,
        packets=message.packets,
        flow_only=message.flow_only,
        first=message.first,
        last=message.last,
        reason=tombstone.reason if tombstone else "",
        final=tombstone.final if tombstone else 0,
        ledger=entry.ledger,
        session=entry.session,
        commit=commit,
        stored_at=now_ns,
        ingest_day=day_of(now_ns),
    )


_ENCODER = json.JSONEncoder(separators=(",", ":"))


def _json(values: dict[str, Any]) -> str:
    """Compact JSON that fits a text column; empty (no report) where it does not: only a broken agent's is so long."""
    text = _ENCODER.encode(values)
    return text if len(text.encode()) <= MAX_TEXT else ""


def columns_of_lines(lines: Sequence[Line]) -> Columns:
    """Lines as the columns of `batches`."""
    return {column.name: _gather(column, [getattr(line, column.name) for line in lines]) for column in BATCHES.columns}


def _gather(column: Column, values: list[Any]) -> ColumnValue:
    if column.wire == "text":
        return text_of(values)
    if column.wire == "dict":
        index: dict[str, int] = {}
        codes = np.array([index.setdefault(value, len(index)) for value in values], dtype="<u4")
        return Dict(codes, tuple(index))
    return np.array(values, dtype=NUMPY[column.wire])


@dataclass(slots=True)
class StoredEpoch:
    """One run as the store has it. Times are ns since 1970; 0 where nothing was seen.

    `ledger` is the one with the largest seq (`report_seq`), `recovered` where it was worked out from rows after a
    crash, which know nothing of batches below that came later. `last_packet` is the newest packet time of its batches.
    """

    agent: str
    epoch: int
    node: str = ""
    source: str = ""
    seqs: Ranges = field(default_factory=Ranges)
    held: Held = field(default_factory=Held)
    ledger: str = ""
    report_seq: int = 0
    recovered: bool = False
    final: bool = False
    first_stored: int = 0
    last_stored: int = 0
    last_packet: int = 0
    session: int = 0

    def add(self, line: Line) -> None:
        """Count one line."""
        self.seqs.add(line.seq)
        self.held.add(line.kind, line.rows, line.packets, line.flow_only, line.reason)
        if line.ledger and line.seq > self.report_seq:
            self.ledger, self.report_seq = line.ledger, line.seq
            self.recovered = bool(line.recovered)
        self.node, self.source = line.node or self.node, line.source or self.source
        self.final = self.final or bool(line.final)
        self.first_stored = min(self.first_stored or line.stored_at, line.stored_at)
        self.last_stored = max(self.last_stored, line.stored_at)
        self.session = max(self.session, line.session)
        if line.rows:
            self.last_packet = max(self.last_packet, line.last)

    @property
    def report(self) -> Report:
        """What the agent said of it; read from the text where it is wanted, as batches come far more often."""
        return Report.from_map(json.loads(self.ledger)) if self.ledger else Report()

    @property
    def known(self) -> Report:
        """What is known of the agent's books."""
        return at_least(self.report, self.held) if self.recovered else self.report

    @property
    def whole(self) -> bool:
        """Whether no batch is missing below the newest."""
        return len(self.seqs) == (self.seqs.watermark > 0)


@dataclass(slots=True)
class Past:
    """The books of runs that are over for so long that their rows have expired: sums, and which runs they are.

    A run takes 3 KB of memory, here 70 bytes. What is asked of one after all is read from its lines again.
    """

    keys: set[int] = field(default_factory=set)  # hashes: another run may have the same, and then too much is read
    sums: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    unbalanced: int = 0
    incomplete: int = 0
    session: int = 0

    def has(self, key: Key) -> bool:
        """Whether a run may be among them."""
        return hash(key) in self.keys

    def add(self, run: StoredEpoch) -> None:
        """Count a run."""
        self.keys.add(hash((run.agent, run.epoch)))
        self._count(run, 1)
        self.session = max(self.session, run.session)

    def remove(self, run: StoredEpoch) -> None:
        """A run is known by itself again."""
        self.keys.discard(hash((run.agent, run.epoch)))
        self._count(run, -1)

    def _count(self, run: StoredEpoch, sign: int) -> None:
        books = settle(run.known, run.held)
        for name in ("captured", "row", "flow_only", "quarantined", "pending", "kernel_dropped"):
            self.sums[name] = self.sums.get(name, 0) + sign * getattr(books, name)
        for reason, packets in books.lost.items():
            self.lost[reason] = self.lost.get(reason, 0) + sign * packets
        self.unbalanced += sign * (not books.balanced)
        self.incomplete += sign * (not run.final or not run.whole)

    def to_map(self) -> dict[str, Any]:
        """As the ledger shows it."""
        lost = {reason: packets for reason, packets in self.lost.items() if packets}
        return {"runs": len(self.keys), **self.sums, "lost": lost, "balanced": not self.unbalanced,
                "complete": not self.incomplete}  # fmt: skip


class Books:
    """Every run the store knows, and the newest commit."""

    def __init__(self) -> None:
        self.runs: dict[Key, StoredEpoch] = {}
        self.past = Past()
        self.commit = 0

    def fold(self, before_ns: int) -> None:
        """Leave of the runs to which nothing was added since then only the sums."""
        for key in [key for key, run in self.runs.items() if run.last_stored < before_ns]:
            self.past.add(self.runs.pop(key))

    def unfold(self, run: StoredEpoch) -> None:
        """A run that was read again."""
        self.past.remove(run)
        self.runs[run.agent, run.epoch] = run

    def run(self, agent: str, epoch: int) -> StoredEpoch:
        """The run, made where it is new."""
        return self.runs.setdefault((agent, epoch), StoredEpoch(agent, epoch))

    def add(self, lines: Iterable[Line]) -> None:
        """Count lines that are stored."""
        for line in lines:
            self.run(line.agent, line.epoch).add(line)
            self.commit = max(self.commit, line.commit)

    def fresh(self, entries: Iterable[Entry]) -> list[Entry]:
        """The entries that are not held, each place once: what makes a commit safe to repeat."""
        seen: set[Place] = set()
        out = []
        for entry in entries:
            agent, epoch, seq = entry.place
            run = self.runs.get((agent, epoch))
            if entry.place in seen or (run is not None and seq in run.seqs):
                continue
            seen.add(entry.place)
            out.append(entry)
        return out


@dataclass(frozen=True, slots=True)
class Found:
    """What the rows of one batch say of it, its line being lost. `frame` is the largest frame number (packets)."""

    commit: int
    agent: str
    epoch: int
    seq: int
    kind: str
    rows: int
    packets: int
    flow_only: int
    frame: int
    first: int
    last: int
    ingest_day: int


def rebuild(found: Iterable[Found], books: Books, given: Mapping[Place, Line], now_ns: int) -> list[Line]:
    """The lines of batches whose rows are stored and whose lines are not, in order of seq; `books` is not changed.

    `given` are lines that are known after all (the process that failed is still there). The others get the newest
    report of their run, advanced by what the rows prove; a batch below that report's seq is in it already.
    """
    reports: dict[Key, tuple[int, Report]] = {}
    lines = []
    for item in sorted(found, key=lambda f: (f.agent, f.epoch, f.seq)):
        line = given.get((item.agent, item.epoch, item.seq))
        if line is not None:
            lines.append(replace(line, commit=item.commit, ingest_day=item.ingest_day))
            continue
        run = books.runs.get((item.agent, item.epoch)) or StoredEpoch(item.agent, item.epoch)
        seq, report = reports.get((item.agent, item.epoch), (run.report_seq, run.known))
        if item.seq > seq:
            seq, report = item.seq, advance(report, item)
            reports[item.agent, item.epoch] = seq, report
            lines.append(_line_found(item, run, _json(report.to_map()), now_ns))
        else:
            lines.append(_line_found(item, run, "", now_ns))
    return lines


def advance(report: Report, found: Found) -> Report:
    """The least that must be true of a run once this batch was sealed; conserved, whatever was before."""
    new = Report.from_map(report.to_map())
    if found.kind == "packets":
        new.rows += found.rows
    else:
        new.flow_packets += found.packets
        new.flow_only += found.flow_only
    placed = new.rows + new.flow_only + sum(new.lost.values())
    new.captured = max(report.captured, found.frame, placed, new.flow_packets)
    new.open = new.captured - placed
    grown = new.captured - report.captured
    new.flow_open = max(0, report.flow_open + grown - (new.flow_packets - report.flow_packets))
    return new


def _line_found(found: Found, run: StoredEpoch, ledger: str, now_ns: int) -> Line:
    return Line(
        agent=found.agent,
        node=run.node,
        source=run.source or ("replay" if "/replay-" in found.agent else "live"),
        epoch=found.epoch,
        seq=found.seq,
        kind=found.kind,
        rows=found.rows,
        packets=found.packets,
        flow_only=found.flow_only,
        first=found.first,
        last=found.last,
        reason="",
        final=0,
        ledger=ledger,
        session=run.session,
        commit=found.commit,
        stored_at=now_ns,
        ingest_day=found.ingest_day,
        recovered=1,
    )
