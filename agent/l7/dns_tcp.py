"""DNS over TCP: messages behind their lengths of two bytes (RFC 1035, 4.2.2; RFC 7766), several to a segment or over
several segments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.l7 import TCP, Conn, Heads, Summary
from agent.l7.dns import HEADER, Broken, Message, plausible, summary
from agent.l7.stream import among

MESSAGES = 256  # most messages read of one segment


class DnsTcpParser:
    """Messages are reported in the segment that completes them.

    `Conn.state` is what is still to come, each way, of a message that is longer than a connection may keep.
    """

    name = "dns-tcp"
    transports = frozenset((TCP,))
    stateful = True

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """A length of 12 or more before a DNS header: plausible on port 53; elsewhere sure, and the length right."""
        whole = heads.word(0, 2) + np.uint64(2) == heads.length.view(np.uint64)
        return among(heads, whole | heads.port(53), _closer)

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """All messages that this segment completes."""
        if conn.state is None:
            conn.state = [0, 0]
        skip = conn.state[side]
        if skip:
            conn.state[side] = max(0, skip - len(payload))
            payload = payload[skip:]
        idents, messages, rest = _messages(conn.join(side, payload))
        note = ""
        if rest:
            if not conn.keep(side, rest):
                conn.state[side] = 2 + int.from_bytes(rest[:2]) - len(rest)
            note = " (message continues)" if messages else "DNS message (continues)"
        return summary("DNS", idents, messages, note) if note or messages else None

    def lost(self, conn: Conn, side: int) -> None:
        """Bytes of this side were missed: whatever comes next begins a message, or is none."""
        if conn.state is not None:
            conn.state[side] = 0


def _closer(heads: Heads) -> NDArray[np.bool_]:
    size, port = heads.word(0, 2), heads.port(53)
    maybe, surely = plausible(heads, 2)
    # A server may send the length alone first (RFC 7766, 8): the port, and that the segment is no more, say so.
    alone = (heads.length == 2) & port
    found: NDArray[np.bool_] = (size >= HEADER) & (
        (maybe & port) | (surely & (size + np.uint64(2) == heads.length.astype(np.uint64))) | alone
    )
    return found


def _messages(data: bytes) -> tuple[list[int], list[Message], bytes]:
    """The ids of the whole messages, what they say, and the unfinished one behind them, empty where what is there is no
    DNS."""
    idents: list[int] = []
    messages: list[Message] = []
    pos, end = 0, len(data)
    while pos < end and len(messages) < MESSAGES:
        size = int.from_bytes(data[pos : pos + 2]) if pos + 2 <= end else 0xFFFF
        if pos + 2 + size > end:
            return idents, messages, data[pos:] if _begun(data, pos) else b""
        if size < HEADER or not _begun(data, pos):
            break
        try:
            messages.append(Message(data[pos + 2 : pos + 2 + size]))
        except Broken:
            break
        idents.append(int.from_bytes(data[pos + 2 : pos + 4]))
        pos += 2 + size
    return idents, messages, b""


def _begun(data: bytes, pos: int) -> bool:
    """Whether the opcode and counts, as far as they are there, can be a DNS header's; any opcode with one question."""
    if len(data) - pos < 8:
        return True
    return data[pos + 6] == 0 and (data[pos + 4] >> 3 & 15 in (0, 1, 2, 4, 5) or data[pos + 7] == 1)


PARSER = DnsTcpParser()
