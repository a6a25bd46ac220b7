"""Lines out of chunks of bytes, without looking into them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from hub.cli.errors import HubLost

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


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines, each with its line end, as soon as they are there; what has no line end is dropped."""
    kept = b""
    for chunk in chunks:
        kept += chunk
        cut = kept.rfind(b"\n") + 1
        yield from kept[:cut].splitlines(keepends=True)
        kept = kept[cut:]


def array(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks of NDJSON lines as one JSON array, a row a line."""
    before = b"[\n"
    for block in blocks:
        yield before + block[:-1].replace(b"\n", b",\n")
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"
