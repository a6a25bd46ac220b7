"""How long an answer may become. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Size:
    """What may still be sent of an answer: rows, where each is a line, and bytes.

    `cut` says what ended it, `rows` or `bytes`; None while neither has.
    """

    rows_left: int
    bytes_left: int
    lines: bool = True
    cut: str | None = None

    def fitting(self, chunk: bytes) -> bytes:
        """What may be sent of the next chunk: whole lines, or where there are none all of it or nothing."""
        if len(chunk) > self.bytes_left:
            self.cut = "bytes"
            chunk = chunk[: chunk.rfind(b"\n", 0, self.bytes_left) + 1] if self.lines else b""
        rows = chunk.count(b"\n") if self.lines else 0
        if rows > self.rows_left:
            self.cut = "rows"
            chunk, rows = _lines(chunk, self.rows_left), self.rows_left
        self.rows_left -= rows
        self.bytes_left -= len(chunk)
        return chunk


def _lines(chunk: bytes, count: int) -> bytes:
    return b"".join(line + b"\n" for line in chunk.split(b"\n", count)[:count])
