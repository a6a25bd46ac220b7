"""NTP (RFC 5905, 9327): version, mode and stratum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.l7 import UDP, Conn, Heads, Signs, Summary, Turn

PORT = 123
TIME_MODES = 5  # modes 1 to 5 have the header of 48 bytes
MODES = {1: "symmetric active", 2: "symmetric passive", 3: "client", 4: "server", 5: "broadcast", 6: "control",
         7: "private"}  # fmt: skip
HEADER = 48


class NtpParser:
    """One datagram, one message; no state. A client's transmit time is its reply's origin time, and the calls' key."""

    name = "ntp"
    transports = frozenset((UDP,))
    stateful = False
    signs = Signs(ports=(PORT,))

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """By port and header: versions 1 to 4, a mode, a stratum up to 16, the length of the mode."""
        version, mode = heads.first[:, 0] >> 3 & 7, heads.first[:, 0] & 7
        timing = (mode >= 1) & (mode <= TIME_MODES) & (heads.first[:, 1] <= 16) & (heads.length >= HEADER)
        control = (mode >= 6) & (version >= 2) & (heads.length >= 8) & (heads.first[:, 1] & 0x1F <= 31)
        found: NDArray[np.bool_] = heads.port(PORT) & (version >= 1) & (version <= 4) & (timing | control)
        return found

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """The header's first bytes."""
        if len(payload) < 8 or not 1 <= payload[0] >> 3 & 7 <= 4:
            return None
        version, mode = payload[0] >> 3 & 7, payload[0] & 7
        if mode not in MODES or (mode <= TIME_MODES and len(payload) < HEADER):
            return None
        rest = {"ntp.flags.vn": str(version), "ntp.flags.mode": str(mode)}
        turns: tuple[Turn, ...] = ()
        if mode <= TIME_MODES:
            rest["ntp.stratum"] = str(payload[1])
            turns = _turns(mode, payload)
        return Summary("NTP", f"NTP Version {version}, {MODES[mode]}", rest=rest, turns=turns)


def _turns(mode: int, payload: bytes) -> tuple[Turn, ...]:
    if mode == 3:
        return (Turn(True, "client", key=int.from_bytes(payload[40:48])),)
    if mode == 4:
        # Stratum 0 is a kiss of death (RFC 5905, 7.4): its code is in the reference id.
        kiss = payload[1] == 0
        status = payload[12:16].decode("ascii", "replace").rstrip("\0") if kiss else "ok"
        return (Turn(False, "", status, kiss, int.from_bytes(payload[24:32])),)
    return ()


PARSER = NtpParser()
