"""Wire cost: the bytes of the messages that a replay sends, made without a hub and counted."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from agent.assemble import pipeline_of
from agent.capture.file import FileSource
from bench.capture import Capture
from bench.table import Figure
from protocol.codec import encode
from protocol.messages import Batch, Tombstone

LIMIT = 12.0
"""Bytes a packet of the whole capture, application protocols included; the other lines are there to judge it by."""


def bench_wire(capture: Capture) -> list[Figure]:
    """Bytes a packet: packet rows, flows, calls and books together, as they go into the WebSocket.

    A batch of a capture that repeats holds the same rows many times, which compression finds: the first round alone
    is measured too.
    """
    with tempfile.TemporaryDirectory(prefix="nodetap-bench-", dir=capture.path.parent) as folder:
        once = Capture(capture.cut(1, Path(folder))[0])
        over = [(capture, "")] if once.frames == capture.frames else [(capture, ""), (once, ", one round alone")]
        return [_figure(frames, depth, words) for depth in ("off", "fast") for frames, words in over]


def _figure(capture: Capture, depth: str, words: str) -> Figure:
    parts = {kind: size / capture.frames for kind, size in bytes_by_kind(capture, depth).items()}
    total = sum(parts.values())
    split = ", ".join(f"{kind} {size:.2f}" for kind, size in parts.items())
    name = f"wire, --l7 {depth}{words}, bytes a packet ({split})"
    if words or depth == "off":
        return Figure(name, f"{total:.2f}")
    return Figure(name, f"{total:.2f}", f"≤ {LIMIT:g}", total <= LIMIT)


def bytes_by_kind(capture: Capture, depth: str) -> Counter[str]:
    """Encoded bytes of all that a replay of the capture sends, by table; `books` for what has no rows."""
    found: Counter[str] = Counter()
    for item in _items(capture, depth):
        found[item.kind if isinstance(item, Batch) else "books"] += len(encode(item))
    return found


def _items(capture: Capture, depth: str) -> Iterator[Batch | Tombstone]:
    source = FileSource([capture.path])
    source.open()
    pipeline = pipeline_of(source, "bench/replay-0000000000000001", 1, logging.getLogger("bench"), l7=depth)
    while not source.done:
        block = source.next_block(1.0)
        yield from pipeline.feed(block) if block is not None else ()
    yield from pipeline.finish()
    source.close()
