"""What the files of a spool hold, without holding it: pure, and small however many batches there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agent.spool.segment import DONE, Mark, Record, Run
from protocol.messages import Tombstone
from protocol.ranges import Ranges

Key = tuple[int, int]
"""(epoch, seq): one batch of this agent."""


@dataclass(slots=True)
class Segment:
    """One file. Of the batches in it that are still owed, some are in memory as well, the others are `parked`."""

    number: int
    size: int
    since: float  # when it was begun or found, seconds of the monotonic clock
    in_memory: int = 0
    parked: dict[int, Ranges] = field(default_factory=dict)  # epoch -> batch numbers
    batches: int = 0  # that are parked
    packets: int = 0  # whose rows are parked
    kinds: set[str] = field(default_factory=set)  # of the batches that were ever in it

    @property
    def done(self) -> bool:
        """Whether nothing in it is owed any more."""
        return not self.in_memory and not self.batches

    def park(self, stub: Tombstone) -> None:
        """A batch of this file is on disk alone from now on."""
        self.parked.setdefault(stub.epoch, Ranges()).add(stub.seq)
        self.batches += 1
        self.packets += rows_of(stub)

    def note(self, stub: Tombstone) -> None:
        """A batch is in this file."""
        if not stub.reason:
            self.kinds.add(stub.kind)

    def clear(self) -> None:
        """Nothing of this file is parked any more."""
        self.parked, self.batches, self.packets = {}, 0, 0


def rows_of(stub: Tombstone) -> int:
    """The packets whose rows a batch carries; none where it is a tombstone."""
    return stub.packets if stub.kind == "packets" and not stub.reason else 0


class Recovery:
    """What an earlier run left, from its files newest first: of two records of one batch the later one counts.

    `stores`: the store each batch may be in, where a mark says so.
    """

    def __init__(self) -> None:
        self.stores: dict[Key, str] = {}
        self._known: dict[int, Ranges] = {}  # done, or in a later record

    def add(self, segment: Segment, found: Iterable[Record | Mark]) -> None:
        """Park in `segment` what is owed of its file."""
        for each in reversed(list(found)):
            if isinstance(each, Mark):
                self._mark(each)
            elif self._new(each.stub.epoch, each.stub.seq):
                segment.park(each.stub)
                segment.note(each.stub)

    def _new(self, epoch: int, seq: int) -> bool:
        known = self._known.setdefault(epoch, Ranges())
        if seq in known:
            return False
        known.add(seq)
        return True

    def _mark(self, mark: Mark) -> None:
        known = self._known.setdefault(mark.epoch, Ranges())
        for first, last in mark.runs:
            if mark.kind == DONE:
                known.add(first, last)
                continue
            for seq in range(first, last + 1):
                if seq not in known:
                    self.stores.setdefault((mark.epoch, seq), mark.store)


def owed(segment: Segment, found: Iterable[Record | Mark]) -> list[Record]:
    """The records of a file that are parked there, in order."""
    latest: dict[Key, Record] = {}
    for each in found:
        if isinstance(each, Record) and each.stub.seq in segment.parked.get(each.stub.epoch, ()):
            latest[each.stub.epoch, each.stub.seq] = each
    return list(latest.values())


def runs(keys: Iterable[Key]) -> Iterator[tuple[int, list[Run]]]:
    """Keys as ranges, by epoch."""
    by_epoch: dict[int, Ranges] = {}
    for epoch, seq in keys:
        by_epoch.setdefault(epoch, Ranges()).add(seq)
    for epoch, ranges in by_epoch.items():
        yield epoch, list(ranges)
