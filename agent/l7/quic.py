"""QUIC (RFC 9000, 9001, 9369): versions of long headers, and the hellos inside Initial packets.

A hello may come in many CRYPTO frames, out of order, over several Initials; it is reported in the datagram that
completes it. Packets with short headers are QUIC only on connections that showed a long one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.l7 import UDP, Conn, Heads, Signs, Summary, Value
from agent.l7.hello import Hellos
from agent.l7.quic_keys import SALTS, V2, Keys, Opened, initial_keys
from agent.l7.stream import found_in

COALESCED = 8  # most packets read of one datagram
MESSAGES = 8  # most handshake messages read of one packet
FRAMES = 256  # most frames read of one packet
OPENINGS = 24  # most Initials of a connection that are opened, those that cannot be included
CRYPTO_BYTES, CRYPTO_PARTS = 16_384, 128  # most that is kept of an unfinished hello, each way
CID = 20
INITIAL, ZERO_RTT, HANDSHAKE, RETRY = range(4)
KINDS = ("Initial", "0-RTT", "Handshake", "Retry")
_VERSIONS = np.array(sorted({*SALTS, *range(0xFF000017, 0xFF000023)}), dtype=np.uint64)
_KNOWN = frozenset(_VERSIONS.tolist())


class Cut(Exception):
    """A packet ends before its header does."""


class QuicState:
    """What is kept of a connection: the keys of its Initials, and parts of hellos, by side."""

    __slots__ = ("client", "keys", "opened", "parts", "told")

    def __init__(self) -> None:
        self.keys: tuple[Keys, Keys] | None = None
        self.client = 0
        self.opened = 0
        self.parts: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
        self.told = [0, 0]  # bytes of the handshake already reported

    def open(self, version: int, cid: bytes, side: int, packet: bytes, at: int) -> Opened | None:
        """Open an Initial of `side` that was sent to `cid`."""
        if self.opened >= OPENINGS:
            return None
        self.opened += 1
        if self.keys is not None:
            found = self.keys[side != self.client].open(packet, at)
            if found is not None or side != self.client:
                return found
        # The first Initial, or the first after a Retry, which changes the id and with it the keys (RFC 9001, 5.2).
        if (keys := initial_keys(version, cid)) is None or (found := keys[0].open(packet, at)) is None:
            return None
        self.keys, self.client = keys, side
        return found

    def handshake(self, side: int, chunks: dict[int, bytes]) -> tuple[bytes, int]:
        """The handshake's beginning as far as it is there, and how much of it was told before.

        A packet that has a whole message again (sent again, or after a Retry) tells it again.
        """
        alone = _joined(chunks)
        if _whole(alone):
            self.parts[side].clear()
            self.told[side] = len(alone)
            return alone, 0
        parts = self.parts[side]
        for offset, data in chunks.items():
            if (
                len(parts) < CRYPTO_PARTS
                and offset + len(data) <= CRYPTO_BYTES
                and len(data) > len(parts.get(offset, b""))
            ):
                parts[offset] = data
        together, before = _joined(parts), self.told[side]
        if _whole(together, before):
            self.told[side] = len(together)
            parts.clear()
            return together, before
        return b"", 0


def _joined(chunks: dict[int, bytes]) -> bytes:
    """The bytes from offset 0 on without a gap."""
    whole = b""
    for offset in sorted(chunks):
        if offset > len(whole):
            break
        whole += chunks[offset][len(whole) - offset :]
    return whole


def _whole(data: bytes, pos: int = 0) -> bool:
    """Whether the handshake message at `pos` is complete."""
    return len(data) >= pos + 4 and len(data) >= pos + 4 + int.from_bytes(data[pos + 1 : pos + 4])


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    """RFC 9000, 16: value, and where the next bytes are. Raises Cut."""
    if pos >= len(data):
        raise Cut
    size = 1 << (data[pos] >> 6)
    if pos + size > len(data):
        raise Cut
    return int.from_bytes(data[pos : pos + size]) & (1 << size * 8 - 2) - 1, pos + size


def _crypto(frames: bytes) -> tuple[dict[int, bytes], str]:
    """The CRYPTO frames' data by offset, and the error code of a CONNECTION_CLOSE ("" where there is none).

    Only the frames that Initials may have are known (RFC 9000, 17.2.2); the reading ends at others. Raises Cut.
    """
    chunks: dict[int, bytes] = {}
    code, pos, end = "", 0, len(frames)
    for _ in range(FRAMES):
        while pos < end and frames[pos] <= 1:  # PADDING, PING
            pos += 1
        if pos >= end:
            break
        kind = frames[pos]
        if kind == 6:
            offset, pos = _varint(frames, pos + 1)
            size, pos = _varint(frames, pos)
            if size > len(chunks.get(offset, b"")):
                chunks[offset] = frames[pos : pos + size]
            pos += size
        elif kind in (2, 3):
            pos = _after_ack(frames, pos + 1, kind == 3)
        else:
            if kind == 0x1C:
                code = str(_varint(frames, pos + 1)[0])
            break
    return chunks, code


def _after_ack(frames: bytes, pos: int, ecn: bool) -> int:
    """RFC 9000, 19.3: where the next frame begins. Raises Cut."""
    _, pos = _varint(frames, pos)
    _, pos = _varint(frames, pos)
    ranges, pos = _varint(frames, pos)
    for _ in range(1 + 2 * min(ranges, FRAMES) + (3 if ecn else 0)):
        _, pos = _varint(frames, pos)
    return pos


class Datagram:
    """What the packets of one datagram say."""

    __slots__ = ("hellos", "info", "rest", "side", "state", "versions")

    def __init__(self, state: QuicState, side: int) -> None:
        self.state, self.side = state, side
        self.versions: list[int] = []
        self.info: list[str] = []
        self.rest: dict[str, str] = {}
        self.hellos: Hellos | None = None

    def packets(self, data: bytes) -> None:
        """All packets (RFC 9000, 12.2); what comes after one that is cut or unknown is not read."""
        pos = 0
        try:
            for _ in range(COALESCED):
                if pos + 7 > len(data) or not data[pos] & 0x80:
                    break
                pos += self._long(data[pos:] if pos else data)
        except Cut:
            pass
        if self.versions and pos < len(data) and data[pos] & 0xC0 == 0x40:
            self.info.append("Protected Payload")

    def _long(self, data: bytes) -> int:
        """One packet with a long header at byte 0 (RFC 9000, 17.2); its length. Raises Cut."""
        version = int.from_bytes(data[1:5])
        at = 6 + data[5]
        dcid = data[6:at]
        if len(dcid) > CID or at >= len(data) or (version and version not in _KNOWN):
            raise Cut
        scid = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        self.versions.append(version)
        cids = "".join(f", {name}={cid.hex()}" for name, cid in (("DCID", dcid), ("SCID", scid)) if cid)
        if not version:
            self.info.append(f"Version Negotiation{cids}")
            return len(data)
        # Version 2 numbers the types anew (RFC 9369, 3.2).
        kind = ((data[0] >> 4) - (1 if version == V2 else 0)) & 3
        self.info.append(KINDS[kind] + cids)
        if kind == RETRY:
            return len(data)
        if kind == INITIAL:
            size, at = _varint(data, at)
            at += size
        size, at = _varint(data, at)
        if kind == INITIAL and at + size <= len(data):
            self._initial(version, dcid, data[: at + size], at)
        return at + size

    def _initial(self, version: int, dcid: bytes, packet: bytes, at: int) -> None:
        opened = self.state.open(version, dcid, self.side, packet, at)
        if opened is None:
            return
        chunks, code = _crypto(opened.frames)
        self.info[-1] += f", PKN: {opened.number}"
        if code:
            self.rest["quic.cc.error_code"] = code
            self.info[-1] += f", CC (error {code})"
        if chunks:
            self._messages(*self.state.handshake(self.side, chunks))

    def _messages(self, data: bytes, pos: int) -> None:
        for _ in range(MESSAGES):
            if not _whole(data, pos):
                break
            size = int.from_bytes(data[pos + 1 : pos + 4])
            if self.hellos is None:
                self.hellos = Hellos("q")
            self.hellos.message(data[pos], data[pos + 4 : pos + 4 + size])
            self.info[-1] += f", {self.hellos.info[-1]}"
            pos += 4 + size

    def summary(self) -> Summary | None:
        """The row's part."""
        if not self.versions:
            return None
        fields: dict[str, Value] = {"quic_version": self.versions}
        if self.hellos is not None:
            fields.update(self.hellos.fields())
        return Summary("QUIC", "; ".join(self.info), fields, self.rest)


class QuicParser:
    """QUIC on any port; one state per 5-tuple."""

    name = "quic"
    transports = frozenset((UDP,))
    stateful = True
    signs = Signs(range(0xC0, 0x100))

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """By content: a long header of a version that exists and ids that may be that long. Version negotiation is
        taken on connections that are known only."""
        found: NDArray[np.bool_] = (
            (heads.first[:, 0] & 0xC0 == 0xC0)
            & found_in(_VERSIONS, heads.word(1, 4))
            & (heads.first[:, 5] <= CID)
            & (heads.length >= 21)
        )
        return found

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """All packets of one datagram."""
        if not payload:
            return None
        if not payload[0] & 0x80:
            known = conn.state is not None and payload[0] & 0x40
            return Summary("QUIC", "Protected Payload") if known else None
        state = conn.state or QuicState()
        datagram = Datagram(state, side)
        datagram.packets(payload)
        if datagram.versions:
            conn.state = state
        return datagram.summary()


PARSER = QuicParser()
