"""DHCP (RFC 2131, 2132) and DHCPv6 (RFC 8415): message type, transaction, the client's name and address."""

from __future__ import annotations

from socket import inet_ntoa

import numpy as np
from numpy.typing import NDArray

from agent.l7 import UDP, Conn, Heads, Signs, Summary
from agent.l7.text import printed

COOKIE = b"\x63\x82\x53\x63"
FIXED = 44  # up to the hardware address: what has to be there of a message cut by the capture
OPTIONS = 240  # where DHCP's options begin
MOST = 64  # most options read of one message

TYPES = {1: "Discover", 2: "Offer", 3: "Request", 4: "Decline", 5: "ACK", 6: "NAK", 7: "Release", 8: "Inform",
         9: "Force Renew", 10: "Lease query", 11: "Lease Unassigned", 12: "Lease Unknown",
         13: "Lease Active"}  # fmt: skip
TYPES6 = {1: "Solicit", 2: "Advertise", 3: "Request", 4: "Confirm", 5: "Renew", 6: "Rebind", 7: "Reply",
          8: "Release", 9: "Decline", 10: "Reconfigure", 11: "Information-request", 12: "Relay-forw",
          13: "Relay-reply"}  # fmt: skip
RELAYED = 12


class DhcpParser:
    """Both versions, by their ports; no state. Replies come on other address pairs, so calls are not paired."""

    name = "dhcp"
    transports = frozenset((UDP,))
    stateful = False
    signs = Signs(ports=(67, 68, 546, 547))

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """By port and header: op 1 or 2 with a hardware address of 16 bytes or less; or a message type of DHCPv6."""
        four = heads.port(67, 68) & (heads.first[:, 0] >= 1) & (heads.first[:, 0] <= 2) & (heads.first[:, 2] <= 16)
        six = heads.port(546, 547) & (heads.first[:, 0] >= 1) & (heads.first[:, 0] <= 13)
        found: NDArray[np.bool_] = (four & (heads.first[:, 3] <= 16) & (heads.length >= FIXED)) | (
            six & (heads.length >= 4)
        )
        return found

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """One datagram, one message."""
        return _four(payload) if {sport, dport} & {67, 68} else _six(payload)


def _four(data: bytes) -> Summary | None:
    if len(data) < FIXED or data[0] not in (1, 2):
        return None
    rest = {"dhcp.id": f"0x{data[4:8].hex()}"}
    if data[2] == 6:
        rest["dhcp.hw.mac_addr"] = data[28:34].hex(":")
    if any(data[16:20]):
        rest["dhcp.ip.your"] = inet_ntoa(data[16:20])
    if data[236:240] != COOKIE:
        return Summary("DHCP", "Boot Request" if data[0] == 1 else "Boot Reply", rest=rest)
    kind = _options(data, rest)
    name = f"DHCP {TYPES.get(kind, kind)}" if kind else "DHCP"
    return Summary("DHCP", f"{name} - Transaction ID {rest['dhcp.id']}", rest=rest)


def _options(data: bytes, rest: dict[str, str]) -> int:
    """Put the options worth telling into `rest`; the message type, 0 where it is missing."""
    kind, pos, end = 0, OPTIONS, len(data)
    for _ in range(MOST):
        if pos + 2 > end or data[pos] == 255:
            break
        if data[pos] == 0:
            pos += 1
            continue
        code, value = data[pos], data[pos + 2 : pos + 2 + data[pos + 1]]
        if code == 53 and value:
            kind = value[0]
            rest["dhcp.option.dhcp"] = str(kind)
        elif code == 12:
            rest["dhcp.option.hostname"] = printed(value.rstrip(b"\0"))
        elif code == 50 and len(value) == 4:
            rest["dhcp.option.requested_ip_address"] = inet_ntoa(value)
        pos += 2 + len(value) if value else 2
    return kind


def _six(data: bytes) -> Summary | None:
    if len(data) < 4 or data[0] not in TYPES6:
        return None
    rest = {"dhcpv6.msgtype": str(data[0])}
    told = TYPES6[data[0]]
    if data[0] < RELAYED:
        rest["dhcpv6.xid"] = f"0x{data[1:4].hex()}"
        told += f" XID: {rest['dhcpv6.xid']}"
        _name(data, rest)
    return Summary("DHCPv6", told, rest=rest)


def _name(data: bytes, rest: dict[str, str]) -> None:
    """The client's full name (RFC 4704: option 39, a flags byte and labels)."""
    pos = 4
    for _ in range(MOST):
        if pos + 4 > len(data):
            return
        size = int.from_bytes(data[pos + 2 : pos + 4])
        if data[pos : pos + 2] == b"\0\x27":
            rest["dhcpv6.client_domain"] = _labels(data[pos + 5 : pos + 4 + size])
            return
        pos += 4 + size


def _labels(wire: bytes) -> str:
    labels: list[bytes] = []
    pos = 0
    while pos < len(wire) and 0 < wire[pos] < 64:
        labels.append(wire[pos + 1 : pos + 1 + wire[pos]])
        pos += 1 + wire[pos]
    return printed(b".".join(labels))


PARSER = DhcpParser()
