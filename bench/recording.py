"""Batches recorded once and sent many times: what an agent makes of a capture at some rate, with new numbers and times.

The agent's own pipeline reads the capture with times of a Poisson process of that rate, in nanoseconds as a ring gives
them, and seals when it is due; so batches are as large, flows as long and calls as many as a live agent has at that
rate. A recording is cut into segments, each with a pipeline of its own that is finished: whatever segment is sent
next, the books are right. A batch that is sent again gets its numbers and times in place, and is compressed anew:
some 5 ns a row beside a few µs a batch.
"""

from __future__ import annotations

import heapq
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, cycle, islice, pairwise
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from agent.assemble import pipeline_of
from agent.capture import Block, pick
from agent.capture.file import FileSource
from agent.pipeline import Pipeline
from agent.seal import MAX_AGE_NS
from protocol.codec import MIN_GAIN, ZSTD_LEVEL
from protocol.ledger import Report
from protocol.messages import Batch, Tombstone
from protocol.schema import TABLES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TICK = 0.25
"""Seconds of the recording between two looks at what is due, as the agent's worker has them."""
SEGMENT = 10.0
"""Seconds of a segment: the active timeout of flows."""
LEAST = 16
"""Segments that a capture is cut into, at least: agents that send the same at the same time would compress too well."""
MARK = b"\xa7recoded"
"""Eight bytes that stand where a number is, to find the place; a batch that holds them is refused."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where in the packed columns a first value stands (8 bytes), and what it is in the recording."""

    column: str
    place: int
    value: int


@dataclass(frozen=True, slots=True)
class Cast:
    """One recorded batch: `raw` are its packed columns, `at` when it was sealed, seconds since its segment began.

    Times and frame numbers in it count from 0 and 1 at the segment's beginning.
    """

    at: float
    batch: Batch
    raw: bytes
    spots: tuple[Spot, ...]

    def sent(self, agent: str, epoch: int, seq: int, begin_ns: int, before: Report) -> Batch:
        """The batch as an agent would have made it whose segment began at `begin_ns`, with `before` in its books."""
        raw, shifts = bytearray(self.raw), {"frame_number": before.captured}
        for spot in self.spots:
            value = spot.value + shifts.get(spot.column, begin_ns)
            raw[spot.place : spot.place + 8] = value.to_bytes(8, "little")
        body = zstd.compress(raw, ZSTD_LEVEL)
        packed = len(body) <= len(raw) * MIN_GAIN
        return replace(
            self.batch, agent=agent, epoch=epoch, seq=seq, body=body if packed else bytes(raw), zstd=int(packed),
            first=self.batch.first + begin_ns, last=self.batch.last + begin_ns,
            ledger=added(before, self.report).to_map(),
        )  # fmt: skip

    @property
    def report(self) -> Report:
        """The books of the segment when this was sealed."""
        return Report.from_map(self.batch.ledger)


@dataclass(frozen=True, slots=True)
class Segment:
    """Batches in the order they were sealed; `seconds` it lasts; `report` are its books at the end, nothing open."""

    casts: tuple[Cast, ...]
    seconds: float
    report: Report


def crowd(segments: Sequence[Segment], agents: int, begin_ns: int, turns: int | None = None) -> Iterator[Batch]:
    """What `agents` agents would send, all together in the order of time; no two begin alike.

    Of each `turns` segments; without, it does not end.
    """
    random = np.random.default_rng(23)
    lines = (_line(segments, n, begin_ns, random.uniform(0.0, SEGMENT), turns) for n in range(agents))
    for _, batch in heapq.merge(*lines, key=lambda sent: sent[0]):
        yield batch


def _line(
    segments: Sequence[Segment], number: int, begin_ns: int, at: float, turns: int | None
) -> Iterator[tuple[float, Batch]]:  # fmt: skip
    """One agent's batches, each with when it is sent, seconds after `begin_ns`."""
    before, seqs = Report(), count(1)
    first = number % len(segments)
    for segment in islice(cycle([*segments[first:], *segments[:first]]), turns):
        for cast in segment.casts:
            sent = cast.sent(f"node-{number}", number + 1, next(seqs), begin_ns + int(at * 1e9), before)
            yield at + cast.at, sent
        before, at = added(before, segment.report), at + segment.seconds


def added(one: Report, other: Report) -> Report:
    """The books of two runs as if they were one."""
    names = ("captured", "rows", "flow_only", "open", "flow_packets", "flow_open")
    return Report(**{name: getattr(one, name) + getattr(other, name) for name in names})


def record(
    path: Path, rate: float, l7: str = "fast", frames: int | None = None, live: bool = True,
    age_ns: int = MAX_AGE_NS,
) -> list[Segment]:  # fmt: skip
    """What an agent at `rate` packets a second makes of a capture, of its first `frames`. Raises CaptureError.

    `age_ns` is how old batches become. Not `live`: as a file is read at full speed, in batches as large as can be and
    long segments.
    """
    source = FileSource([path])
    source.open()
    total = sum(len(block) for block in _blocks(path))
    total = min(frames or total, total)
    length = max(1, min(int(rate * SEGMENT), total // LEAST)) if live else total // LEAST
    random = np.random.default_rng(19)
    segments, left = [], total
    blocks = _Pieces(iter(lambda: source.next_block(1.0), None))
    while left >= length:
        segments.append(_segment(source, blocks.take(length), rate, l7, random, live, age_ns))
        left -= length
    source.close()
    return segments


def _blocks(path: Path) -> Iterator[Block]:
    source = FileSource([path])
    source.open()
    while not source.done:
        if (block := source.next_block(1.0)) is not None:
            yield block
    source.close()


class _Pieces:
    """Blocks, cut to measure."""

    def __init__(self, blocks: Iterator[Block | None]) -> None:
        self._blocks, self._rest = blocks, None

    def take(self, frames: int) -> Iterator[Block]:
        """The next `frames` frames; each block is used before the next is asked for."""
        while frames:
            block = self._rest if self._rest is not None else next(self._blocks)
            assert block is not None
            head, self._rest = pick(block, slice(0, frames)), None
            if len(block) > frames:
                self._rest = pick(block, slice(frames, None))
            frames -= len(head)
            yield head


def _segment(
    source: FileSource, blocks: Iterable[Block], rate: float, l7: str, random: Any, live: bool, age_ns: int
) -> Segment:
    pipeline = pipeline_of(source, "recording", 1, logging.getLogger("bench"), l7=l7)
    casts, begin = [], 0
    for block in blocks:
        times = begin + np.cumsum(random.exponential(1e9 / rate, len(block))).astype(np.int64)
        begin = int(times[-1])
        casts += _fed(pipeline, replace(block, time=times, timeless=None), live, age_ns)
    end = begin / 1e9
    casts += _casts(end, pipeline.finish())
    return Segment(tuple(casts), end, replace(pipeline.report))


def _fed(pipeline: Pipeline, block: Block, live: bool, age_ns: int) -> Iterator[Cast]:
    """Feed a block, tick by tick where it is live."""
    if not live:
        yield from _casts(int(block.time[-1]) / 1e9, pipeline.feed(block))
        return
    ticks = (block.time // int(TICK * 1e9)).astype(np.int64)
    edges = [0, *(np.flatnonzero(np.diff(ticks)) + 1), len(block)]
    for start, stop in pairwise(edges):
        now = int(block.time[stop - 1])
        yield from _casts(now / 1e9, [*pipeline.feed(pick(block, slice(start, stop))), *pipeline.tick(now, age_ns)])


def _casts(at: float, items: Iterable[Batch | Tombstone]) -> Iterator[Cast]:
    for item in items:
        if isinstance(item, Batch):
            raw = zstd.decompress(item.body) if item.zstd else item.body
            yield Cast(at, replace(item, body=b""), *_marked(item.kind, raw))


def _marked(kind: str, raw: bytes) -> tuple[bytes, tuple[Spot, ...]]:
    """Packed columns, and where the first time and the first frame number stand in them."""
    packed: dict[str, Any] = msgpack.unpackb(raw, strict_map_key=False)
    spots = []
    for column in (TABLES[kind].time, "frame_number"):
        if column not in packed:
            continue
        way, value, *rest = packed[column]
        assert way in ("delta", "const"), way  # as `protocol.packing.WAYS` has it
        packed[column] = [way, MARK, *rest]
        marked: bytes = msgpack.packb(packed, use_bin_type=True)
        assert marked.count(MARK) == 1
        spots.append(Spot(column, marked.index(MARK), int.from_bytes(value, "little")))
        packed[column] = [way, value, *rest]
    return raw, tuple(spots)
