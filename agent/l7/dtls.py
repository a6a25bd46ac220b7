"""DTLS over UDP (RFC 6347, 9147): hellos and handshake messages in the clear. Columns hold tshark's `dtls.*` fields:
handshake types, server name; and the chosen cipher and JA4."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.l7 import UDP, Conn, Heads, Signs, Summary, Value
from agent.l7.hello import TYPES, Hellos

RECORDS = 32  # most records read of one datagram
HEADER, MESSAGE = 13, 12
COLUMNS = frozenset(("tls_handshake_type", "tls_sni", "tls_cipher", "tls_ja4"))
_KINDS = {20: "Change Cipher Spec", 21: "Alert", 23: "Application Data", 24: "Heartbeat"}


class DtlsParser:
    """DTLS 1.0 and 1.2 records, and the hellos of 1.3, on any port; no state: of a fragmented hello only the type."""

    name = "dtls"
    transports = frozenset((UDP,))
    stateful = False
    signs = Signs(range(20, 25))

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """By content: a record's header (RFC 6347, 4.1) with a length that fits, its epoch 0 or low."""
        kind, version = heads.first[:, 0], heads.word(1, 2)
        size = heads.word(11, 2)
        found: NDArray[np.bool_] = (
            (kind >= 20)
            & (kind <= 24)
            & ((version == 0xFEFF) | (version == 0xFEFD))
            & (heads.word(3, 2) < 256)
            & (size > 0)
            & (size + np.uint64(HEADER) <= heads.length.astype(np.uint64))
        )
        return found

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """All records of one datagram."""
        hellos, told = Hellos("d"), []
        pos = 0
        for _ in range(RECORDS):
            if pos + HEADER > len(payload) or payload[pos + 1] != 0xFE or not 20 <= payload[pos] <= 24:
                break
            size = int.from_bytes(payload[pos + 11 : pos + 13])
            body = payload[pos + HEADER : pos + HEADER + size]
            if payload[pos] == 22:
                told += _handshake(body, hellos) if payload[pos + 3 : pos + 5] == b"\0\0" else ["Encrypted Handshake"]
            else:
                told.append(_KINDS[payload[pos]])
            pos += HEADER + size
        if not told:
            return None
        fields: dict[str, Value] = {k: v for k, v in hellos.fields().items() if k in COLUMNS}
        return Summary("DTLS", ", ".join(told), fields)


def _handshake(body: bytes, hellos: Hellos) -> list[str]:
    """Messages of one record (RFC 6347, 4.2.2); a fragment has its type, no more."""
    told: list[str] = []
    pos = 0
    while pos + MESSAGE <= len(body) and len(told) < RECORDS and body[pos] in TYPES:
        size, offset = int.from_bytes(body[pos + 1 : pos + 4]), int.from_bytes(body[pos + 6 : pos + 9])
        part = int.from_bytes(body[pos + 9 : pos + 12])
        message = body[pos + MESSAGE : pos + MESSAGE + part]
        if offset == 0 and part == size and len(message) == size:
            hellos.message(body[pos], message)
            told.append(hellos.info[-1])
        else:
            hellos.types.append(body[pos])
            told.append(f"{TYPES[body[pos]]} (fragment)")
        pos += MESSAGE + part
    return told


PARSER = DtlsParser()
