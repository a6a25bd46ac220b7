"""A file at a chosen speed: the frames of a source, handed out when they are due."""

from __future__ import annotations

from time import monotonic, sleep

import numpy as np

from agent.capture import Block, Counters, Source, pick

SLICE = 0.02
"""Seconds between two hand-outs: frames that are due within one come in one block."""


class PacedSource:
    """`source` at `rate` packets a second, or with `rate` None as fast as it was captured.

    Times in the frames stay as they are.
    """

    def __init__(self, source: Source, rate: float | None) -> None:
        self._source, self._rate = source, rate
        self._block: Block | None = None
        self._at = 0
        self._given = 0
        self._started = 0.0
        self._first: int | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    @property
    def interfaces(self) -> list:  # type: ignore[type-arg]
        """The source's interfaces."""
        return self._source.interfaces

    @property
    def live(self) -> bool:
        """Whether the source is live."""
        return self._source.live

    @property
    def done(self) -> bool:
        """Whether everything was handed out."""
        return self._block is None and self._source.done

    def next_block(self, timeout: float) -> Block | None:
        """The frames that are due, or None where none fell due within `timeout` seconds."""
        if self._block is None:
            self._block, self._at = self._source.next_block(timeout), 0
        if self._block is None:
            return None
        self._started = self._started or monotonic()
        deadline = monotonic() + timeout
        while (stop := self._due(self._block)) <= self._at:
            if monotonic() >= deadline:
                return None
            sleep(SLICE)
        return self._give(self._block, stop)

    def _give(self, block: Block, stop: int) -> Block:
        piece = pick(block, slice(self._at, stop))
        self._given += stop - self._at
        self._at = stop
        if stop == len(block):
            self._block = None
        return piece

    def _due(self, block: Block) -> int:
        """How many frames of the block are due by now."""
        elapsed = monotonic() - self._started
        if self._rate is not None:
            return min(len(block), self._at + int(elapsed * self._rate) - self._given)
        if self._first is None:
            self._first = int(block.time[0])
        late = block.time - self._first > elapsed * 1e9
        late[: self._at] = False
        return int(np.argmax(late)) if bool(late.any()) else len(block)

    def open(self) -> None:
        """Start the source."""
        self._source.open()

    def counters(self) -> Counters:
        """What the source has seen."""
        return self._source.counters()

    def stop(self) -> None:
        """Stop the source and drop what is not due."""
        self._block = None
        self._source.stop()

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def paced(source: Source, speed: str) -> Source:
    """`source` at `speed`: `max`, `original`, or packets per second. Raises ValueError."""
    if speed == "max":
        return source
    if speed == "original":
        return PacedSource(source, None)  # type: ignore[return-value]
    try:
        rate = float(speed)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e9:
        raise ValueError(f"bad --speed {speed!r}: use max, original, or packets per second")
    return PacedSource(source, rate)  # type: ignore[return-value]
