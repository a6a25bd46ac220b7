"""What the filters of captures see: each block is decoded once for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.assemble import SLOW_BUDGET, engine_of
from agent.capture import Block, Interface, pick
from agent.decode.decoder import Decoder
from agent.recorder.match import AT_ONCE, Test, compiled
from protocol.columns import Columns

Mask = NDArray[np.bool_]


class Wanted:
    """One display filter, empty for all frames. Raises ValueError where it is wrong."""

    def __init__(self, text: str, agent: str) -> None:
        self.test: Test | None = None
        self.with_l7 = False
        if text.strip():
            self.test, self.with_l7 = compiled(text, agent)


class Sight:
    """A decoder of live blocks, with the engine of application protocols while a filter asks for them.

    `interfaces` is the source's own list, which grows. `skipped` counts frames for which a dissector had no time: who
    knows whether they pass.
    """

    def __init__(self, interfaces: list[Interface], run: str) -> None:
        self._decoder = Decoder(interfaces, slow_budget=SLOW_BUDGET, clock=monotonic)
        self._run = run
        self._engine: Any = None

    @property
    def skipped(self) -> int:
        """Since the start."""
        engine = 0 if self._engine is None else self._engine.counts.skipped
        return int(self._decoder.decoded.skipped + engine)

    def masks(self, block: Block, wanted: Iterable[Wanted]) -> list[Mask | None]:
        """Which frames of the block each of the filters lets pass; None for all."""
        wanted = list(wanted)
        tests = [each.test for each in wanted]
        masks: list[list[Mask]] = [[] for _ in wanted]
        if any(tests):
            with_l7 = any(each.with_l7 for each in wanted)
            for first in range(0, len(block), AT_ONCE):
                columns = self._columns(pick(block, slice(first, first + AT_ONCE)), with_l7)
                for test, found in zip(tests, masks, strict=True):
                    if test is not None:
                        found.append(test(columns, self._run))
        return [np.concatenate(found) if found else None for found in masks]

    def _columns(self, block: Block, with_l7: bool) -> Columns:
        self._decoder.turn()
        if not with_l7:
            self._engine = None  # what it knew of connections is old when it is asked for again
            return self._decoder.block(block, 1)
        if self._engine is None:
            self._engine = engine_of("fast", False, True)
        columns, payloads = self._decoder.with_payloads(block, 1)
        self._engine.add(columns, payloads)
        return columns
