"""The books: where every captured packet is. Unit: packets, per (agent, epoch), cumulative.

The agent counts what it does in a `Report` and puts a copy into every batch it seals; sealing a batch and copying the
report is one step, so the report of batch s is the truth at s. The hub adds up what it holds in a `Held`. `settle`
joins the two: every captured packet has one fate.

    captured = row + flow_only + lost + quarantined + pending

The agent's own conservation law, true in every report: captured = rows + flow_only + sum(lost) + open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeGuard

from protocol.limits import MAX_REASONS, MAX_WORD

LOST: dict[str, str] = {
    "shed": "the outbox was full and the batch was never sent",
    "in_doubt": "the batch was sent, not acknowledged, and had to go",
    "spool_damaged": "the batch's copy on disk could not be read after a restart",
    "drain_deadline": "the agent had to stop before it was acknowledged",
    "capture_error": "the source failed with packets in hand",
    "encode_error": "the packets could not be encoded",
}
"""Reasons of loss, one vocabulary from the agent to the command line."""

QUARANTINED = "quarantined"
"""Reason of a tombstone that stands for a batch that the hub refused twice."""

DISCARDED: dict[str, str] = {
    "loopback_copy": "the second copy of a frame on the loopback interface",
    "unselected_interface": "the frame's interface was not chosen",
    "own_traffic": "the agent's own uplink or the hub's API",
}
"""Reasons why a frame the kernel handed over was not captured."""


@dataclass(slots=True)
class Report:
    """What an agent says of one run. All are packets since the run's start.

    `rows` were sealed into packet batches, `flow_only` into flow records only, `open` wait in blocks or open flows to
    be one of the two. `flow_packets` were sealed into flow batches and `flow_open` wait in the flow table.
    The kernel terms are zero for a replay.
    """

    captured: int = 0
    rows: int = 0
    flow_only: int = 0
    open: int = 0
    flow_packets: int = 0
    flow_open: int = 0
    kernel_packets: int = 0
    kernel_dropped: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    discarded: dict[str, int] = field(default_factory=dict)

    def to_map(self) -> dict[str, Any]:
        """The report as plain values, for msgpack and JSON."""
        return {name: (dict(v) if isinstance(v := getattr(self, name), dict) else v) for name in _TERMS}

    def copy(self) -> Report:
        """A report of its own with the same values."""
        return replace(self, lost=dict(self.lost), discarded=dict(self.discarded))

    @classmethod
    def from_map(cls, values: Mapping[str, Any]) -> Report:
        """The report in a map; unknown keys are ignored, values of a wrong type count as absent.

        So do reasons that are no words, and those beyond MAX_REASONS: they become labels of metrics. What is left out
        is missing in the sum, and the books say so.
        """
        known = {name: values[name] for name in _COUNTS if name in values and is_count(values[name])}
        for name in _REASONS:
            if isinstance(value := values.get(name), Mapping):
                reasons = [(k, v) for k, v in value.items() if is_reason(k) and is_count(v)]
                known[name] = dict(reasons[:MAX_REASONS])
        return cls(**known)

    @property
    def conserved(self) -> bool:
        """The agent's own law: nothing captured is without a place."""
        return self.captured == self.rows + self.flow_only + sum(self.lost.values()) + self.open


_TERMS = tuple(f.name for f in fields(Report))
_REASONS = tuple(name for name in _TERMS if isinstance(getattr(Report(), name), dict))
_COUNTS = tuple(name for name in _TERMS if name not in _REASONS)


def is_count(value: object) -> TypeGuard[int]:
    """Whether `value` can be a number of packets in the books."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def is_reason(value: object) -> bool:
    """Whether `value` can be a reason, ours or a newer version's: one word of a few letters."""
    return isinstance(value, str) and len(value) <= MAX_WORD and value.isascii() and value.isidentifier()


@dataclass(slots=True)
class Held:
    """What a hub holds of one epoch, summed over the batches and tombstones in its store. Packets."""

    rows: int = 0
    flow_only: int = 0
    flow_packets: int = 0
    quarantined: int = 0  # rows in refused packet batches
    quarantined_flow_only: int = 0  # flow-only packets in refused flow batches
    lost: dict[str, int] = field(default_factory=dict)  # rows in tombstones of packet batches
    lost_flow_only: dict[str, int] = field(default_factory=dict)  # flow-only packets in tombstones of flow batches
    lost_flow_packets: int = 0

    def add(self, kind: str, rows: int, packets: int, flow_only: int, reason: str = "") -> None:
        """Count one stored batch, or with a `reason` one tombstone of a batch of that kind."""
        if reason:
            self._add_tombstone(kind, packets, flow_only, reason)
        elif kind == "packets":
            self.rows += rows
        elif kind == "flows":
            self.flow_packets += packets
            self.flow_only += flow_only

    def _add_tombstone(self, kind: str, packets: int, flow_only: int, reason: str) -> None:
        if kind == "packets" and reason == QUARANTINED:
            self.quarantined += packets
        elif kind == "packets":
            self.lost[reason] = self.lost.get(reason, 0) + packets
        elif kind == "flows":
            self.lost_flow_packets += packets
            if reason == QUARANTINED:
                self.quarantined_flow_only += flow_only
            elif flow_only:
                self.lost_flow_only[reason] = self.lost_flow_only.get(reason, 0) + flow_only


@dataclass(frozen=True, slots=True)
class Books:
    """The balance of one epoch. `balanced`: every packet known is attributed."""

    captured: int
    row: int
    flow_only: int
    lost: dict[str, int]
    quarantined: int
    pending: int
    flow_packets: int
    flow_lost: int
    flow_pending: int
    kernel_packets: int
    kernel_dropped: int
    discarded: dict[str, int]
    balanced: bool

    def to_map(self) -> dict[str, Any]:
        """The books as plain values, for JSON."""
        return {name: getattr(self, name) for name in _BALANCE}


_BALANCE = tuple(f.name for f in fields(Books))


def at_least(report: Report, held: Held) -> Report:
    """A report that was worked out from rows, as its own was lost: what is held now was sealed, whatever it says."""
    rows = max(report.rows, held.rows + held.quarantined + sum(held.lost.values()))
    in_flows = held.flow_only + held.quarantined_flow_only + sum(held.lost_flow_only.values())
    flow_only = max(report.flow_only, in_flows)
    flow_packets = max(report.flow_packets, held.flow_packets + held.lost_flow_packets)
    placed = rows + flow_only + sum(report.lost.values())
    captured = max(report.captured, placed, flow_packets)
    grown = captured - report.captured
    return replace(
        report, captured=captured, rows=rows, flow_only=flow_only, open=captured - placed, flow_packets=flow_packets,
        flow_open=max(0, report.flow_open + grown - (flow_packets - report.flow_packets)),
    )  # fmt: skip


def settle(report: Report, held: Held) -> Books:
    """The books of one epoch from its newest report and what the hub holds.

    `pending` is what the agent says is still on its way: not yet sealed, or sealed and neither held nor tombstoned.
    It is worked out from the agent's side and not as the rest of the sum, so that the sum can be wrong.
    """
    lost = dict(report.lost)
    for reasons in (held.lost, held.lost_flow_only):
        for reason, packets in reasons.items():
            lost[reason] = lost.get(reason, 0) + packets
    rows_out = report.rows - held.rows - held.quarantined - sum(held.lost.values())
    flow_only_out = report.flow_only - held.flow_only - held.quarantined_flow_only - sum(held.lost_flow_only.values())
    flow_out = report.flow_packets - held.flow_packets - held.lost_flow_packets
    pending = report.open + rows_out + flow_only_out
    quarantined = held.quarantined + held.quarantined_flow_only
    attributed = held.rows + held.flow_only + sum(lost.values()) + quarantined + pending
    in_flows_once = report.flow_packets + report.flow_open <= report.captured
    return Books(
        captured=report.captured,
        row=held.rows,
        flow_only=held.flow_only,
        lost=lost,
        quarantined=quarantined,
        pending=pending,
        flow_packets=held.flow_packets,
        flow_lost=held.lost_flow_packets,
        flow_pending=report.flow_open + flow_out,
        kernel_packets=report.kernel_packets,
        kernel_dropped=report.kernel_dropped,
        discarded=dict(report.discarded),
        balanced=report.captured == attributed and in_flows_once and min(rows_out, flow_only_out, flow_out) >= 0,
    )
