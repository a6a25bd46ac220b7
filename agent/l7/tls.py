"""TLS over TCP (RFC 8446, 5246): records and handshake messages, each segment on its own as tshark has it without
reassembly; a client's hello that is split over segments is put together (post-quantum hellos always are).

A record that is not whole in its segment is not reported. Of a server's hello in such a record only the chosen cipher
and the line for people are, because nothing else would say them. A segment that begins inside a record is passed over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.l7 import TCP, Conn, Heads, Signs, Summary, Value
from agent.l7.hello import CLIENT, SERVER, TYPES, Hellos

CIPHER_SPEC, ALERT, HANDSHAKE, DATA, HEARTBEAT = 20, 21, 22, 23, 24
RECORDS = 512  # most records read of one segment
INFO = 20  # most parts of the line for people
RECORD = 16_384 + 2_048  # RFC 5246, 6.2.3: most bytes of a record behind its header
MESSAGES = 64  # most handshake messages read of one record

ALERTS = {
    0: "Close Notify", 10: "Unexpected Message", 20: "Bad Record MAC", 22: "Record Overflow", 40: "Handshake Failure",
    42: "Bad Certificate", 43: "Unsupported Certificate", 44: "Certificate Revoked", 45: "Certificate Expired",
    46: "Certificate Unknown", 47: "Illegal Parameter", 48: "Unknown CA", 49: "Access Denied", 50: "Decode Error",
    51: "Decrypt Error", 70: "Protocol Version", 71: "Insufficient Security", 80: "Internal Error",
    86: "Inappropriate Fallback", 90: "User Canceled", 100: "No Renegotiation", 109: "Missing Extension",
    110: "Unsupported Extension", 112: "Unrecognized Name", 113: "Bad Certificate Status Response",
    115: "Unknown PSK Identity", 116: "Certificate Required", 120: "No Application Protocol",
}  # fmt: skip
LEVELS = {1: "Warning", 2: "Fatal"}
CUT = {CIPHER_SPEC: "Change Cipher Spec", ALERT: "Alert", HANDSHAKE: "Handshake", DATA: "Application Data"}


class TlsState:
    """What is known of a connection: TLS 1.3 was chosen; which side's records are encrypted from now on."""

    __slots__ = ("encrypted", "is13")

    def __init__(self) -> None:
        self.is13 = False
        self.encrypted = [False, False]


class Segment:
    """What the records of one segment say."""

    __slots__ = ("hellos", "info", "kinds", "rest", "side", "state")

    def __init__(self, state: TlsState, side: int) -> None:
        self.state, self.side = state, side
        self.kinds: list[int] = []
        self.info: list[str] = []
        self.rest: dict[str, str] = {}
        self.hellos: Hellos | None = None

    def records(self, data: bytes, missing: int = 0) -> bytes:
        """Read the whole records, and the type of one that ends in `missing` bytes behind `data`.

        Gives the beginning of a client's hello behind them that has to be kept, or b"".
        """
        pos, end = 0, len(data)
        for _ in range(RECORDS):
            if pos + 5 > end:
                break
            kind, size = data[pos], data[pos + 3] << 8 | data[pos + 4]
            if not 20 <= kind <= 24 or data[pos + 1] != 3 or size > RECORD:
                return b""
            if end < pos + 5 + size <= end + missing:
                return self._cut(kind, data, pos)
            if pos + 5 + size > end:
                return self._unfinished(kind, data, pos)
            self._record(kind, data[pos + 5 : pos + 5 + size] if kind != DATA else b"")
            pos += 5 + size
        return b""

    def _record(self, kind: int, body: bytes) -> None:
        # In TLS 1.3 the 23 of a record only hides its type (RFC 8446, 5.2, opaque_type).
        if kind != DATA or not self.state.is13:
            self.kinds.append(kind)
        if kind == HANDSHAKE:
            self._handshake(body)
        elif kind == DATA:
            self.info.append("Application Data")
        elif kind == ALERT:
            self._alert(body)
        elif kind == CIPHER_SPEC:
            self.info.append("Change Cipher Spec")
            self.state.encrypted[self.side] = True
        else:
            self.info.append("Heartbeat")

    def _handshake(self, body: bytes) -> None:
        pos, end = 0, len(body)
        if self.state.encrypted[self.side] and not _hello(body):
            self.info.append("Encrypted Handshake Message")
            return
        for _ in range(MESSAGES):
            if pos + 4 > end:
                return
            kind, size = body[pos], body[pos + 1] << 16 | body[pos + 2] << 8 | body[pos + 3]
            if kind not in TYPES or pos + 4 + size > end:
                self.info.append("Encrypted Handshake Message" if kind not in TYPES else "Handshake (fragment)")
                return
            self._message(kind, body[pos + 4 : pos + 4 + size])
            pos += 4 + size

    def _message(self, kind: int, body: bytes) -> None:
        if self.hellos is None:
            self.hellos = Hellos("t")
        self.hellos.message(kind, body)
        self.info.append(self.hellos.info[-1])
        if kind == SERVER:
            self.state.is13 = self.hellos.is13()
        elif kind == CLIENT:
            self.state.encrypted = [False, False]

    def _alert(self, body: bytes) -> None:
        if len(body) != 2 or body[0] not in LEVELS:
            self.info.append("Encrypted Alert")
            return
        self.rest["tls.alert_message.desc"] = str(body[1])
        self.info.append(f"Alert (Level: {LEVELS[body[0]]}, Description: {ALERTS.get(body[1], body[1])})")

    def _cut(self, kind: int, data: bytes, pos: int) -> bytes:
        """The record at `pos` is whole in its segment, of which its end was not captured: tshark has its type."""
        said = len(self.info)
        self._unfinished(kind, data, pos)
        if len(self.info) == said:
            self.info.append(f"{CUT.get(kind, 'Record')} (cut)")
        if kind != DATA or not self.state.is13:
            self.kinds.append(kind)
        return b""

    def _unfinished(self, kind: int, data: bytes, pos: int) -> bytes:
        """The record at `pos` goes on in the next segment."""
        if kind != HANDSHAKE or pos + 6 > len(data) or self.state.encrypted[self.side]:
            return b""
        if data[pos + 5] == CLIENT:
            return data[pos:]
        if data[pos + 5] == SERVER and not self.kinds:
            size = int.from_bytes(data[pos + 6 : pos + 9])
            only = Hellos("t")
            only.message(SERVER, data[pos + 9 : pos + 9 + size])
            self.info.append("Server Hello")
            self.hellos = self.hellos or Hellos("t")
            self.hellos.cipher.extend(only.cipher)
        return b""

    def summary(self) -> Summary | None:
        """The row's part."""
        if not self.info:
            return None
        fields: dict[str, Value] = {"tls_record_type": self.kinds} if self.kinds else {}
        if self.hellos is not None:
            fields.update(self.hellos.fields())
        return Summary("TLS", ", ".join(self.info[:INFO]), fields, self.rest)


def _hello(body: bytes) -> bool:
    """A hello in the clear after Change Cipher Spec: TLS 1.3 after a retry (RFC 8446, D.4), or another connection."""
    return len(body) > 40 and body[0] in (CLIENT, SERVER) and body[1] == 0 and body[4] == 3 and body[5] <= 4


class TlsParser:
    """TLS records on any port."""

    name = "tls"
    transports = frozenset((TCP,))
    stateful = True
    signs = Signs(range(CIPHER_SPEC, HEARTBEAT + 1))

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """By content: a record's header, and behind it what its type may hold. Random bytes pass once in 10**6."""
        kind, size = heads.first[:, 0], heads.word(3, 2)
        record = (heads.first[:, 1] == 3) & (heads.first[:, 2] <= 4) & (size > 0) & (size <= RECORD)
        whole = size + np.uint64(5) <= heads.length.astype(np.uint64)
        behind = np.select(
            [kind == CIPHER_SPEC, kind == ALERT, kind == HANDSHAKE, kind == DATA, kind == HEARTBEAT],
            [
                (size == 1) & (heads.first[:, 5] == 1),
                whole & ((size != 2) | ((heads.first[:, 5] >= 1) & (heads.first[:, 5] <= 2))) & (size <= 128),
                (heads.first[:, 5] <= 67) | whole,
                size >= 16,
                whole & (size >= 3) & (heads.first[:, 5] >= 1) & (heads.first[:, 5] <= 2),  # RFC 6520, 3
            ],
            False,
        )
        found: NDArray[np.bool_] = record & behind & (heads.length > 5)
        return found

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """The records that are whole in this segment, and a client's hello that it completes."""
        state = conn.state
        if state is None:
            state = conn.state = TlsState()
        if not conn.pending[side]:
            if not payload or not 20 <= payload[0] <= 24:
                return None
            if payload[0] == DATA and payload[1:2] == b"\3" and len(payload) == 5 + int.from_bytes(payload[3:5]):
                return Summary("TLS", "Application Data", {} if state.is13 else {"tls_record_type": [DATA]})
        segment = Segment(state, side)
        rest = segment.records(conn.join(side, payload), conn.missing)
        if rest and conn.keep(side, rest):
            segment.info.append("Client Hello (continues)")
        return segment.summary()


PARSER = TlsParser()
