"""HPACK (RFC 7541) as an observer needs it: whole fields as far as they are there, and no nonsense after a loss.

The static table and the Huffman code are the `hpack` library's. Its Decoder is made for an endpoint: it gives up at
the first unknown index, and wants whole header blocks. An observer that missed a segment, or began in the middle of a
connection, does not know the older entries of the dynamic table. Indexes count from the newest entry, so what was
inserted since is still right: an index beyond that is a field we do not know, and is left out.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

MOST_TABLE = 65_536
"""Largest dynamic table that is kept, in HPACK's bytes, whatever the peers agree on."""
MOST_FIELDS = 256
"""Most fields of one header block that are looked at."""

Field = tuple[str, str]

WANTED = frozenset((":method", ":path", ":authority", ":status", "content-type", "user-agent", "grpc-status"))
"""Names whose values are read; all other values are counted, never kept."""

STATIC: list[Field] = [(name.decode(), value.decode()) for name, value in HeaderTable.STATIC_TABLE]


class Broken(Exception):
    """Not HPACK."""


class _Short(Exception):
    """The field goes on in bytes that are not there yet."""


@lru_cache(maxsize=1024)
def _plain(coded: bytes) -> str:
    return _huffman(coded).decode("utf-8", "replace")


def _huffman(coded: bytes) -> bytes:
    try:
        return bytes(decode_huffman(coded))
    except HPACKDecodingError as error:
        raise Broken from error


def _integer(data: bytes, at: int, mask: int) -> tuple[int, int]:
    """An integer with a prefix of `mask` bits and the place behind it (RFC 7541 section 5.1)."""
    if at >= len(data):
        raise _Short
    value, at = data[at] & mask, at + 1
    if value < mask:
        return value, at
    for shift in range(0, 28, 7):
        if at >= len(data):
            raise _Short
        byte, at = data[at], at + 1
        value += (byte & 127) << shift
        if byte < 128:
            return value, at
    raise Broken


def _string(data: bytes, at: int) -> tuple[bytes, bool, int]:
    """The coded bytes, whether they are Huffman's, the place behind them."""
    size, start = _integer(data, at, 127)
    if start + size > len(data):
        raise _Short
    return data[start : start + size], data[at] >= 128, start + size


class Fields:
    """The decoder of one direction of a connection, from its beginning (`complete`) or from somewhere in the middle.

    SETTINGS need not be looked at: an encoder says in its blocks which table size it uses (RFC 7541 section 4.2).
    `unknown` counts the fields that were left out.
    """

    __slots__ = ("complete", "maximum", "size", "table", "unknown")

    def __init__(self, complete: bool) -> None:
        self.table: deque[tuple[str, str, int]] = deque()  # newest first: name, value (only of WANTED), size
        self.size = 0
        self.maximum = 4096 if complete else MOST_TABLE
        self.complete = complete
        self.unknown = 0

    def forget(self) -> None:
        """Bytes were missed: only what is inserted from now on is known."""
        self.table.clear()
        self.size, self.maximum, self.complete = 0, MOST_TABLE, False

    def read(self, block: bytes) -> tuple[list[Field], int]:
        """The wanted fields of the whole fields in `block`, in order, and how many bytes those took.

        Raises Broken, after which the table is not to be trusted.
        """
        fields: list[Field] = []
        at, seen, size = 0, 0, len(block)
        while at < size:
            first = block[at]
            if 128 < first < 255:  # an index of one byte, by far the most frequent
                found, at = self._at(first - 128), at + 1
            else:
                try:
                    found, at = self._field(block, at)
                except _Short:
                    break
            seen += 1
            if seen > MOST_FIELDS:
                raise Broken
            if found is not None and found[0] in WANTED:
                fields.append(found)
        return fields, at

    def _field(self, block: bytes, at: int) -> tuple[Field | None, int]:
        first = block[at]
        if first >= 128:
            index, at = _integer(block, at, 127)
            if not index:
                raise Broken
            return self._at(index), at
        if first >= 64:
            return self._literal(block, at, 63, True)
        if first < 32:
            return self._literal(block, at, 15, False)
        size, at = _integer(block, at, 31)
        if size > MOST_TABLE:
            self.complete = False  # we keep less than the peers do
        self.maximum = min(size, MOST_TABLE)
        self._shrink()
        return None, at

    def _literal(self, block: bytes, at: int, mask: int, insert: bool) -> tuple[Field | None, int]:
        index, at = _integer(block, at, mask)
        name: str | None
        if index:
            field = self._at(index)
            name = field[0] if field is not None else None
        else:
            coded, huffman, at = _string(block, at)
            name = _plain(coded) if huffman else coded.decode("utf-8", "replace")
        coded, huffman, at = _string(block, at)
        value = ""
        if name in WANTED:
            value = _plain(coded) if huffman else coded.decode("utf-8", "replace")
        if insert:
            length = len(coded) if not huffman else len(value) if value and value.isascii() else len(_huffman(coded))
            self.size += 32 + len(name or "") + length
            self.table.appendleft((name or "", value, 32 + len(name or "") + length))
            self._shrink()
        return (name, value) if name is not None else None, at

    def _at(self, index: int) -> Field | None:
        if index <= 61:
            return STATIC[index - 1]
        if index - 62 < len(self.table):
            name, value, _ = self.table[index - 62]
            return (name, value) if name else None
        if self.complete:
            raise Broken
        self.unknown += 1
        return None

    def _shrink(self) -> None:
        while self.size > self.maximum:
            self.size -= self.table.pop()[2]
