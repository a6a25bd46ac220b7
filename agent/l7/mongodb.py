"""MongoDB's wire protocol: the command's name and whether it went well; of documents nothing else."""

from __future__ import annotations

from struct import Struct

import numpy as np

from agent.l7 import TCP, Conn, Heads, Summary, Turn
from agent.l7.stream import Mask, Passing, among

PORT = 27017
MOST_SIZE = 48_000_000  # maxMessageSizeBytes
MOST_ELEMENTS = 256
MOST_MESSAGES = 64
WAIT = 8192
"""A message up to this size that is not whole is waited for: whether it went well stands at its end."""

REPLY, QUERY, COMPRESSED, MSG = 1, 2004, 2012, 2013
OPCODES = {
    1: "Reply",
    2001: "Update document",
    2002: "Insert document",
    2004: "Query",
    2005: "Get More",
    2006: "Delete document",
    2007: "Kill Cursors",
    2010: "Command Request",
    2011: "Command Reply",
    2012: "Compressed Data",
    2013: "Extensible Message Format",
}
"""Under Wireshark's names."""
OPS = np.array(list(OPCODES), dtype=np.int64)
MORE_TO_COME = 2

_header = Struct("<iiii").unpack_from
_int = Struct("<i").unpack_from
_long = Struct("<q").unpack_from
_double = Struct("<d").unpack_from

SIZES = {1: 8, 6: 0, 7: 12, 8: 1, 9: 8, 10: 0, 16: 4, 17: 8, 18: 8, 19: 16, 255: 0, 127: 0}
"""BSON types of fixed size."""
TEXTS = frozenset((2, 13, 14))
DOCUMENTS = frozenset((3, 4))


def _closer(heads: Heads) -> Mask:
    """The candidates that pass all tests. Shape (n,)."""
    word = [heads.first[:, i].astype(np.int64) for i in range(16)]
    size = word[0] | word[1] << 8 | word[2] << 16 | word[3] << 24
    code = word[12] | word[13] << 8 | word[14] << 16 | word[15] << 24
    sane = (heads.length >= 16) & (size >= 20) & (size <= MOST_SIZE)
    known = np.isin(code, OPS) & ((code != REPLY) | heads.port(PORT))
    fits = (size == heads.length) | (code >= QUERY) & (size > heads.length) | heads.port(PORT)
    claimed: Mask = sane & known & fits
    return claimed


class MongoParser:
    """MongoDB and what speaks its protocol."""

    name = "MongoDB"
    transports = frozenset((TCP,))
    stateful = True

    def probe(self, heads: Heads) -> Mask:
        """A message header: a sane length and one of the operation codes."""
        return among(heads, (heads.first[:, 14] == 0) & (heads.first[:, 15] == 0) & (heads.first[:, 3] < 3), _closer)

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Read the messages that begin in one segment."""
        if not isinstance(conn.state, Passing):
            conn.state = Passing()
        state: Passing = conn.state
        data = state.take(conn, side, payload)
        texts: list[str] = []
        turns: list[Turn] = []
        rest: dict[str, str] = {}
        at, size = 0, len(data)
        while at + 16 <= size:
            length, number, to, code = _header(data, at)
            if code not in OPCODES or not 16 <= length <= MOST_SIZE:
                state.lost(conn, side)
                return _summary(texts, rest, turns)
            if at + length > size and length <= WAIT:
                break
            if len(texts) < MOST_MESSAGES:
                rest.setdefault("mongo.opcode", str(code))
                texts.append(_message(data, at, min(at + length, size), number, to, code, turns, rest))
            at += length
        state.leave(conn, side, data, at)
        return _summary(texts, rest, turns)

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed or cut."""
        if isinstance(conn.state, Passing):
            conn.state.lost(conn, side)


def _summary(texts: list[str], rest: dict[str, str], turns: list[Turn]) -> Summary | None:
    return Summary("MongoDB", ", ".join(texts[:8]), rest=rest, turns=tuple(turns)) if texts else None


def _message(data: bytes, at: int, end: int, number: int, to: int, code: int, turns: list[Turn], rest: dict) -> str:  # type: ignore[type-arg]
    """One message; its line for people."""
    start = _body(data, at, end, code)
    if to or code in (REPLY, 2011):
        status, error, known = _outcome(data, start, end)
        if error:
            rest["mongo.error"] = status
        if known:
            rest["mongo.ok"] = "0" if error else "1"
        turns.append(Turn(False, status=status, error=error, key=to))
        return f"Response {status}".rstrip()
    name = OPCODES[code] if code not in (MSG, QUERY) else _command(data, start, end)
    more = code == MSG and end >= at + 20 and _int(data, at + 16)[0] & MORE_TO_COME
    rest.setdefault("nodetap.operation", name)
    if not more and code in (MSG, QUERY, 2005, 2010, COMPRESSED):
        turns.append(Turn(True, name, key=number))
    return f"Request {name}".rstrip()


def _body(data: bytes, at: int, end: int, code: int) -> int:
    """Where the document with the command, or the outcome, begins; `end` where it is not there."""
    if code == REPLY:
        return at + 36
    if code == QUERY:
        stop = data.find(b"\0", at + 20, end)
        return stop + 9 if stop >= 0 else end
    if code != MSG:
        return end
    place = at + 20
    while place + 5 <= end and data[place] == 1:  # a sequence of documents before the body
        place += 1 + max(4, _int(data, place + 1)[0])
    return place + 1 if place < end and data[place] == 0 else end


def _command(data: bytes, at: int, end: int) -> str:
    """The first element's name; inside a $query or query wrapper that of the first element there."""
    for _ in range(2):
        stop = data.find(b"\0", at + 5, min(end, at + 70))
        name = data[at + 5 : stop] if stop >= 0 else b""
        if name in (b"$query", b"query") and data[at + 4 : at + 5] == b"\x03":
            at = stop + 1
            continue
        return name.decode() if name.isalnum() and name.isascii() else ""
    return ""


def _outcome(data: bytes, at: int, end: int) -> tuple[str, bool, bool]:
    """Status, whether it is an error, whether `ok` was found; of a reply's document as far as it is there."""
    ok, code = 1.0, ""
    known = False
    if at + 4 > end:
        return "", False, False
    end = min(end, at + max(4, _int(data, at)[0]))
    at += 4
    for _ in range(MOST_ELEMENTS):
        stop = data.find(b"\0", at + 1, end)
        if at >= end or stop < 0 or data[at] == 0:
            break
        kind, name, value = data[at], data[at + 1 : stop], stop + 1
        size = _size(data, kind, value, end)
        if size < 0 or value + size > end:
            break
        if name == b"ok":
            ok, known = _number(data, kind, value), True
        elif name == b"codeName" and kind == 2:
            code = data[value + 4 : value + min(size, 64) - 1].decode("ascii", "replace")
        elif name == b"code" and not code:
            code = str(int(_number(data, kind, value)))
        at = value + size
    if not known:
        return "", False, False
    return ("ok", False, True) if ok else (code or "error", True, True)


def _size(data: bytes, kind: int, value: int, end: int) -> int:
    """Bytes of an element's value; -1 where it is not known."""
    if kind in SIZES:
        return SIZES[kind]
    if kind == 11:  # regular expression: two strings
        first = data.find(b"\0", value, end)
        second = data.find(b"\0", first + 1, end) if first >= 0 else -1
        return second + 1 - value if second >= 0 else -1
    if value + 4 > end:
        return -1
    length = int(_int(data, value)[0])
    if length < 0:
        return -1
    if kind in DOCUMENTS or kind == 15:
        return max(4, length)
    return 4 + length + (1 if kind == 5 else 12 if kind == 12 else 0) if kind in TEXTS or kind in (5, 12) else -1


def _number(data: bytes, kind: int, value: int) -> float:
    if kind == 1:
        number = float(_double(data, value)[0])
        return number if abs(number) < 1e15 else 0.0
    if kind == 16:
        return float(_int(data, value)[0])
    if kind == 18:
        return float(_long(data, value)[0])
    return float(data[value]) if kind == 8 else 0.0


PARSER = MongoParser()
