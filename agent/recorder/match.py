"""Which frames of a file a question means: by time, and by a display filter over what the decoder makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from time import monotonic
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.assemble import SLOW_BUDGET, engine_of
from agent.capture import Block, Interface, pick
from agent.decode.decoder import Decoder
from agent.recorder.segment import Found
from protocol.columns import Columns
from protocol.schema import PACKETS, Field, Has

AT_ONCE = 32_768
"""Frames that are decoded at once."""
_NAMES = [column.name for column in PACKETS.columns]
_L7_COLUMNS = frozenset(_NAMES[_NAMES.index("l7") :])
_L7_BITS = Has.DNS | Has.TLS | Has.DTLS | Has.QUIC | Has.HTTP | Has.HTTP2 | Has.SSH
Test: TypeAlias = "Callable[[Columns, str], NDArray[np.bool_]]"
"""Columns and the run they are of, to which rows pass."""


class Matcher:
    """One display filter, empty for all frames, for the files of one agent. Raises ValueError where it is wrong.

    `skipped` counts frames of the file looked at last for which the fallback dissector had no time: who knows whether
    they pass.
    """

    def __init__(self, text: str, agent: str) -> None:
        self.skipped = 0
        self._test: Test | None = None
        self._with_l7 = False
        if text.strip():
            self._test, self._with_l7 = compiled(text, agent)

    def frames(self, found: Found, since: int, until: int) -> Block:
        """The frames of a file that are meant, in order of time; their memory is the file's."""
        self.skipped = 0
        block = found.block
        inside = (block.time >= since) & (block.time < until)
        if not inside.all():
            block = pick(block, inside)
        if self._test is not None and len(block):
            block = pick(block, self._matches(block, found.interfaces, found.run))
        if (block.time[1:] < block.time[:-1]).any():
            block = pick(block, np.argsort(block.time, kind="stable"))
        return block

    def _matches(self, block: Block, interfaces: list[Interface], run: str) -> NDArray[np.bool_]:
        assert self._test is not None
        decoder = Decoder([replace(face, id=None) for face in interfaces], slow_budget=SLOW_BUDGET, clock=monotonic)
        engine = engine_of("fast", False, False) if self._with_l7 else None
        masks = []
        for first in range(0, len(block), AT_ONCE):
            piece = pick(block, slice(first, first + AT_ONCE))
            if engine is None:
                columns = decoder.block(piece, 1)
            else:
                columns, payloads = decoder.with_payloads(piece, 1)
                engine.add(columns, payloads)
            masks.append(self._test(columns, run))
        self.skipped = decoder.decoded.skipped
        return np.concatenate(masks)


def compiled(text: str, agent: str) -> tuple[Test, bool]:
    """The test of a filter, and whether it looks at application protocols. Raises ValueError where it is wrong."""
    from protocol.filter.grammar import parse
    from protocol.filter.predicate import Predicate

    node = parse(text, "packets")
    assert node is not None  # the text is not empty
    predicate = Predicate(node, "packets")

    def test(columns: Columns, run: str) -> NDArray[np.bool_]:
        origin: dict[str, Any] = {"agent": agent, "epoch": int(run or "0", 16)}
        return predicate.matches(columns, origin)

    return test, any(map(_reads_l7, _leaves(node)))


def _leaves(node: Any) -> Iterator[Any]:
    """Everything that a filter's tree is made of."""
    if isinstance(node, tuple):
        for item in node:
            yield from _leaves(item)
    elif is_dataclass(node):
        yield node
        for each in fields(node):
            yield from _leaves(getattr(node, each.name))


def _reads_l7(leaf: Any) -> bool:
    from protocol.filter.names import protocol
    from protocol.filter.tree import Present

    if isinstance(leaf, Field):
        return leaf.column in _L7_COLUMNS or bool(leaf.need & _L7_BITS)
    found = protocol(leaf.name, "packets") if isinstance(leaf, Present) else None
    return found is not None and (found.column in _L7_COLUMNS or bool(found.need & _L7_BITS))
