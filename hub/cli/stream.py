"""Lines out of chunks of bytes, without looking into them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from hub.cli.errors import HubLost

CONTROL = (b'{"nodetap.heartbeat":', b'{"nodetap.lost":', b'{"nodetap.skipped":', b'{"nodetap.error":')
"""How lines begin that are no rows of what is followed."""
_ENDS = ("nodetap.completeness", "nodetap.error")


class Rows:
    """Iterates over an NDJSON answer in blocks of whole lines; the last line, which ends the answer, is kept in `end`.

    The rows themselves are not parsed. Raises HubLost where the answer was cut.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.end: dict[str, Any] = {}

    def __iter__(self) -> Iterator[bytes]:
        kept = b""
        for chunk in self._chunks:
            kept += chunk
            cut = kept.rfind(b"\n", 0, len(kept) - 1) + 1
            if cut:
                yield kept[:cut]
                kept = kept[cut:]
        self.end = _end(kept)


def _end(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not line.endswith(b"\n") or not isinstance(value, dict) or not any(name in value for name in _ENDS):
        raise HubLost("the hub's answer was cut off before its end; ask again")
    return value


def parsed(blocks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of blocks of NDJSON lines."""
    for block in blocks:
        for line in block.splitlines():
            yield json.loads(line)


def pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What is followed, as it comes: blocks of whole rows, and lines about them (`CONTROL`) each by itself.

    What has no line end is dropped. No row looks like such a line: rows begin with their cursor, and hold no line end.
    """
    for block in _whole(chunks):
        at = 0
        for start in _told(block):
            if start > at:
                yield block[at:start]
            at = block.index(b"\n", start) + 1
            yield block[start:at]
        if at < len(block):
            yield block[at:]


def _told(block: bytes) -> list[int]:
    """Where lines of `CONTROL` begin."""
    starts = [0] if block.startswith(CONTROL) else []
    for head in CONTROL:
        at = -1
        while (at := block.find(b"\n" + head, at + 1)) >= 0:
            starts.append(at + 1)
    return sorted(starts)


def _whole(chunks: Iterable[bytes]) -> Iterator[bytes]:
    kept = b""
    for chunk in chunks:
        kept += chunk
        cut = kept.rfind(b"\n") + 1
        if cut:
            yield kept[:cut]
            kept = kept[cut:]


def first(blocks: Iterable[bytes], count: int) -> Iterator[bytes]:
    """The first `count` lines of blocks of them, all where it is 0; it does not wait for more than those."""
    left = count
    for block in blocks:
        lines = block.count(b"\n")
        if count and lines >= left:
            yield b"".join(block.splitlines(keepends=True)[:left])
            return
        left -= lines
        yield block


def array(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks of NDJSON lines as one JSON array, a row a line."""
    before = b"[\n"
    for block in blocks:
        yield before + block[:-1].replace(b"\n", b",\n")
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"
