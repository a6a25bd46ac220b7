"""What a store holds once its hub is down: batches as the books name them, beside the rows that are there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hub.store.store import Store

_BATCHES = """
SELECT b.agent, b.epoch, b.seq, b.kind, b.reason, b.packets, b.flow_only, b.rows, p.n, p.first, p.last FROM batches AS b
LEFT JOIN (
    SELECT agent, epoch, seq, count() AS n, min(frame_number) AS first, max(frame_number) AS last
    FROM packets GROUP BY agent, epoch, seq
) AS p ON b.agent = p.agent AND b.epoch = p.epoch AND b.seq = p.seq
ORDER BY b.agent, b.epoch, b.seq"""

_RUNS = "SELECT agent, epoch, count(), uniqExact(frame_number) FROM packets GROUP BY agent, epoch"
_FRAMES = "SELECT frame_number FROM packets"


@dataclass(frozen=True, slots=True)
class Kept:
    """One line of the books and the packet rows of that batch: how many, their first and last frame number."""

    agent: str
    epoch: int
    seq: int
    kind: str
    reason: str
    packets: int
    flow_only: int
    rows: int
    present: int
    first: int
    last: int

    @property
    def key(self) -> tuple[str, int, int]:
        """(agent, epoch, seq)."""
        return self.agent, self.epoch, self.seq


@dataclass(frozen=True, slots=True)
class Stored:
    """A whole store. `rows` and `frames` per (agent, epoch): packet rows, and different frame numbers among them."""

    batches: list[Kept]
    rows: dict[tuple[str, int], int]
    frames: dict[tuple[str, int], int]
    numbers: list[int]

    def keys(self, reasons: Iterable[str] = ("",)) -> set[tuple[str, int, int]]:
        """The batches stored, or the tombstones of some reasons."""
        wanted = set(reasons)
        return {kept.key for kept in self.batches if kept.reason in wanted}

    def check(self) -> None:
        """No batch is there twice or in part, no row without its batch, no frame of a run twice."""
        assert len({kept.key for kept in self.batches}) == len(self.batches), "a batch is in the books twice"
        packets = [kept for kept in self.batches if kept.kind == "packets" and not kept.reason]
        assert all(kept.rows == kept.present for kept in packets), "a batch is there in part"
        assert sum(kept.rows for kept in packets) == sum(self.rows.values()), "rows are there without their batch"
        assert self.rows == self.frames, "a frame is there twice"


def stored(folder: Path) -> Stored:
    """What the store in `folder` holds; nobody else has it open."""
    store = Store(f"chdb://{folder / 'store'}")
    store.open(1)
    try:
        with store.reader() as reader:
            batches = [Kept(*line) for line in reader.rows(_BATCHES, timeout=120)]
            runs = reader.rows(_RUNS, timeout=120)
            numbers = [number for (number,) in reader.rows(_FRAMES, timeout=120)]
    finally:
        store.close()
    return Stored(
        batches,
        {(agent, epoch): rows for agent, epoch, rows, _ in runs},
        {(agent, epoch): frames for agent, epoch, _, frames in runs},
        numbers,
    )
