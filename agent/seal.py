"""Rows become batches: cut to size, numbered, packed, and in the same step entered in the books.

Pure: no clock, no input or output. Batches of all tables share one sequence of numbers, from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from protocol.codec import pack_body
from protocol.columns import Array, Columns, Dict, Lists, Maps, Text, Texts, cut, join
from protocol.errors import LocalError
from protocol.ledger import Report
from protocol.limits import MAX_MESSAGE
from protocol.messages import Batch, Tombstone
from protocol.schema import TABLES, Has

MAX_ROWS = 32_768
"""Rows after which a batch is closed."""
MAX_AGE_NS = 500_000_000
"""Age at which `due` closes a batch."""
LONGEST_AGE_NS = 2_000_000_000
"""The same for a hub that has a great many agents."""
FULL_WINDOW = 64
"""Batches that a hub grants an agent at a time as long as it has some hundreds of agents or fewer."""
MAX_BODY = MAX_MESSAGE - (64 << 10)
"""Bytes of a body that leave room for the rest of its message."""
MAX_BEHIND = 400
"""Interfaces of which a batch tells what is behind them."""
HALVINGS = 6
"""How often rows that cannot be packed are split to find those that can: at least MAX_ROWS / 64 go on without loss."""

OnProblem = Callable[[str, Exception], None]
"""Called with a reason of loss (`protocol.ledger.LOST`) and what was raised."""


@dataclass(slots=True)
class _Open:
    """The rows of one table that are not sealed yet."""

    parts: list[Columns] = field(default_factory=list)
    rows: int = 0
    since: int | None = None  # the first `due` that saw them


def age_of(window: int) -> int:
    """Age in ns at which to close a batch for a hub that grants `window` batches at a time; 0: none did yet.

    A batch costs a hub a millisecond, however few rows it has: a thousand agents that each send three every half
    second would need cores for that alone. The more agents send, the fewer batches each is granted.
    """
    share = FULL_WINDOW / window if window else 1.0
    return int(min(LONGEST_AGE_NS, MAX_AGE_NS * max(1.0, share)))


def bytes_of(columns: Columns) -> int:
    """Memory that the arrays of some columns describe."""
    return sum([_BYTES[type(value)](value) for value in columns.values()])


_BYTES: dict[type, Callable[[Any], int]] = {
    np.ndarray: lambda value: value.nbytes,
    Dict: lambda value: value.codes.nbytes,
    Text: lambda value: value.lengths.nbytes + value.data.nbytes,
    Lists: lambda value: value.lengths.nbytes + value.values.nbytes,
    Texts: lambda value: value.counts.nbytes + value.strings.lengths.nbytes + value.strings.data.nbytes,
    Maps: lambda value: (
        value.counts.nbytes + value.keys.codes.nbytes + value.values.lengths.nbytes + value.values.data.nbytes
    ),
}


class Sealer:
    """Seals the batches of one run. `report` are the run's books; who adds rows has counted them as open before."""

    def __init__(self, agent: str, epoch: int, report: Report, *, max_rows: int = MAX_ROWS) -> None:
        Tombstone(agent, epoch, 1, "report")  # raises here and not at the first batch, where a name cannot be sent
        self.agent, self.epoch = agent, epoch
        self.seq = 0
        """Number of the last item, 0 before the first."""
        self.on_problem: OnProblem = lambda reason, error: None
        self.behind: Mapping[str, str] = {}
        """Interface -> the address behind it (`agent.capture.behind`); another thread may put a new one here."""
        self._report = report
        self._max_rows = max_rows
        self._open = {kind: _Open() for kind in TABLES}

    @property
    def bytes(self) -> int:
        """Memory held by rows that are not sealed."""
        return sum(bytes_of(part) for waiting in self._open.values() for part in tuple(waiting.parts))

    def add(self, kind: str, columns: Columns) -> list[Batch]:
        """Take rows of the table `kind`; the batches that became full."""
        waiting = self._open[kind]
        waiting.parts.append(columns)
        waiting.rows += len(columns["layers"])
        return self._cut(kind, waiting.rows - waiting.rows % self._max_rows)

    def due(self, now_ns: int, max_age_ns: int = MAX_AGE_NS) -> list[Batch]:
        """Seal what has waited `max_age_ns` since the first `due` after it came; or where the clock was set back."""
        batches: list[Batch] = []
        for kind, waiting in self._open.items():
            if waiting.rows and waiting.since is None:
                waiting.since = now_ns
            elif waiting.since is not None and not 0 <= now_ns - waiting.since < max_age_ns:
                batches += self._cut(kind, waiting.rows)
        return batches

    def waits(self, kind: str) -> int:
        """Rows of a table that are not sealed."""
        return self._open[kind].rows

    def seal(self, *kinds: str) -> list[Batch]:
        """Seal all rows of these tables, of every table where none is named, however few rows it is."""
        return [batch for kind in kinds or self._open for batch in self._cut(kind, self._open[kind].rows)]

    def report(self, final: bool = False) -> Tombstone:
        """An item that carries the books and no rows; `final` in the last one of an orderly run."""
        self.seq += 1
        return Tombstone(self.agent, self.epoch, self.seq, "report", final=int(final), ledger=self._report.to_map())

    # -- inside ----------------------------------------------------------------------------------------------------

    def _cut(self, kind: str, stop: int) -> list[Batch]:
        """Seal the first `stop` open rows, `max_rows` at a time; the rest stays open."""
        waiting = self._open[kind]
        if not stop:
            return []
        parts, rows = waiting.parts, waiting.rows
        self._open[kind] = waiting = _Open()
        try:
            columns = _join(parts)
        except Exception as error:
            for part in parts:
                self._lose(kind, part)
            self.on_problem("encode_error", error)
            return []
        if stop < rows:
            rest = _rows(columns, stop, rows)
            waiting.parts, waiting.rows = [rest], rows - stop
        batches: list[Batch] = []
        for start in range(0, stop, self._max_rows):
            batches += self._seal(kind, _rows(columns, start, min(start + self._max_rows, stop)), HALVINGS)
        return batches

    def _seal(self, kind: str, columns: Columns, halvings: int) -> list[Batch]:
        """One batch; more where the rows do not fit into one; none where they cannot be packed at all."""
        rows = len(columns["layers"])
        try:
            body, raw_size, zstd = pack_body(kind, columns)
            if len(body) > MAX_BODY:
                raise LocalError(f"columns of {len(body)} bytes do not fit a message")
        except Exception as error:
            if rows > 1 and halvings:
                half = rows // 2
                return [
                    *self._seal(kind, _rows(columns, 0, half), halvings - 1),
                    *self._seal(kind, _rows(columns, half, rows), halvings - 1),
                ]
            self._lose(kind, columns)
            self.on_problem("encode_error", error)
            return []
        packets, flow_only = self._count(kind, columns)
        first, last = _extent(kind, columns)
        self.seq += 1
        return [
            Batch(
                self.agent, self.epoch, self.seq, kind, rows, packets, flow_only, first, last, raw_size, zstd, body,
                ledger=self._report.to_map(), behind=self._behind(columns),
            )
        ]  # fmt: skip

    def _behind(self, columns: Columns) -> dict[str, str]:
        """What is behind the interfaces of some rows."""
        known, faces = self.behind, columns.get("iface")
        if not known or not isinstance(faces, Dict):
            return {}
        return {name: known[name] for name in [name for name in faces.values if name in known][:MAX_BEHIND]}

    def _count(self, kind: str, columns: Columns) -> tuple[int, int]:
        """Enter rows that are sealed in the books: the packets they stand for, and those without a row of their own."""
        packets, flow_only = _weight(kind, columns)
        report = self._report
        if kind == "packets":
            report.rows += packets
            report.open -= packets
        else:
            report.flow_packets += packets
            report.flow_open -= packets
            report.flow_only += flow_only
            report.open -= flow_only
        return packets, flow_only

    def _lose(self, kind: str, columns: Columns) -> None:
        packets, flow_only = _weight(kind, columns)
        report = self._report
        gone = packets if kind == "packets" else flow_only
        report.flow_open -= 0 if kind == "packets" else packets
        report.open -= gone
        if gone:
            report.lost["encode_error"] = report.lost.get("encode_error", 0) + gone


def _join(parts: list[Columns]) -> Columns:
    """Parts one after the other. What lies so in a sheet (`agent.decode.walk.Sheet`) is not copied.

    That the rows of a part are the same ones of every sheet's column it has is taken for granted.
    """
    if len(parts) == 1:
        return parts[0]
    places = [_place(part["layers"], parts[0]["layers"]) for part in parts]
    follow = all(one.stop == other.start for one, other in pairwise(places))
    columns: Columns = {}
    for name in parts[0]:
        values: list[Any] = [part[name] for part in parts]
        base = _sheet_of(values) if follow else None
        columns[name] = join(values) if base is None else base[places[0].start : places[-1].stop]
    return columns


def _place(part: Any, first: Any) -> range:
    """Which rows of the array that holds `first` another part is; rows that follow none where it is not."""
    sheet = first.base
    if not isinstance(sheet, np.ndarray) or part.base is not sheet or part.strides != sheet.strides:
        return range(-2, -1)
    start = (part.__array_interface__["data"][0] - sheet.__array_interface__["data"][0]) // sheet.itemsize
    return range(start, start + len(part))


def _sheet_of(values: list[Any]) -> Array | None:
    """The array that holds all of these, rows for rows; None where there is none."""
    base = values[0].base if isinstance(values[0], np.ndarray) else None
    if not isinstance(base, np.ndarray) or values[0].strides != base.strides:
        return None
    return base if all(value.base is base for value in values) else None


def _rows(columns: Columns, start: int, stop: int) -> Columns:
    return {name: cut(value, start, stop) for name, value in columns.items()}


def _weight(kind: str, columns: Columns) -> tuple[int, int]:
    """Packets that rows stand for, and those of them without a row of their own."""
    if kind == "packets":
        return len(columns["layers"]), 0
    if kind == "calls":  # their packets are counted as rows and in flows
        return 0, 0
    sums = [int(np.asarray(columns[name]).sum()) for name in ("packets", "packets_rev", "flow_only")]
    return sums[0] + sums[1], sums[2]


def _extent(kind: str, columns: Columns) -> tuple[int, int]:
    """First and last time of the rows, ns; 0 where none has a time."""
    table = TABLES[kind]
    starts, ends = np.asarray(columns[table.time]), np.asarray(columns[table.until])
    if kind == "packets":
        timed = (np.asarray(columns["layers"]) & np.uint64(int(Has.TIME))) != 0
        starts = ends = starts if timed.all() else starts[timed]
    return (int(starts.min()), int(ends.max())) if len(starts) else (0, 0)
