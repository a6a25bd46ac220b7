"""TCP, UDP, UDP-Lite, SCTP, ICMP, ICMPv6.

A header may be cut: each field is there as soon as tshark has it, so a cut header still gives the ports. Of TCP, tshark
gives sequence number, flags and the rest only where the first 16 bytes are there.
"""

from __future__ import annotations

import numpy as np

from agent.decode.kinds import LEAST_PORT, UDP_DESTINATION, UDP_SOURCE
from agent.decode.walk import Array, Walk, record
from protocol.schema import Has

PORTS = record(4, src=(">u2", 0), dst=(">u2", 2))
TCP = record(16, src=(">u2", 0), dst=(">u2", 2), seq=(">u4", 4), ack=(">u4", 8), bits=(">u2", 12), window=(">u2", 14))
UDP = record(6, src=(">u2", 0), dst=(">u2", 2), len=(">u2", 4))
ICMP_TYPE = record(1, type=("u1", 0))
ICMP = record(2, code=("u1", 1))

_TCP_ALL = Has.TCP | Has.TCP_SEQ | Has.TCP_ACK | Has.TCP_FLAGS | Has.TCP_WINDOW
_TCP_BAD = np.uint64(~(Has.TCP_ACK | Has.TCP_FLAGS | Has.TCP_WINDOW) & (2**64 - 1))


def _ports(walk: Walk, rows: Array, head: Array, bits: int) -> None:
    walk.put("src_port", rows, head["src"])
    walk.put("dst_port", rows, head["dst"])
    walk.found(rows, bits)


def _cut(walk: Walk, rows: Array, size: int, bits: int) -> None:
    """Only the ports of those rows whose header of `size` bytes is cut."""
    rows = rows[walk.cap[rows] - walk.off[rows] < size]
    if len(rows):
        rows, _, head = walk.head(rows, PORTS)
        _ports(walk, rows, head, bits | Has.MALFORMED)


def tcp(walk: Walk, rows: Array) -> None:
    """TCP (RFC 9293). The payload of a first fragment has no length: the datagram's is not known."""
    _cut(walk, rows, TCP.itemsize, Has.TCP)
    rows, off, head = walk.head(rows, TCP, mark=False)
    _ports(walk, rows, head, _TCP_ALL)
    bits = head["bits"].astype(np.uint16)
    for name, values in (
        ("tcp_seq", head["seq"]),
        ("tcp_ack", head["ack"]),
        ("tcp_window", head["window"]),
        ("tcp_flags", bits & np.uint16(0x0FFF)),
    ):
        walk.put(name, rows, values)
    hlen = (bits >> np.uint16(12)).astype(np.int64) * 4
    _tcp_length(walk, rows, off, hlen)
    _tcp_wrong(walk, rows[hlen < 20])


def _tcp_length(walk: Walk, rows: Array, off: Array, hlen: Array) -> None:
    length = walk.end[rows] - off - hlen
    walk.payload(rows, off + hlen, np.where(hlen >= 20, walk.end[rows], 0))
    known = (length >= 0) & (walk.array("frag_more")[rows] == 0)
    walk.malformed(rows[(length < 0) | (walk.cap[rows] < off + hlen)])
    if not known.all():
        rows, length = rows[known], length[known]
    walk.put("tcp_len", rows, length)
    walk.found(rows, Has.TCP_LEN)


def _tcp_wrong(walk: Walk, rows: Array) -> None:
    """A data offset below 5 leaves no header that could be trusted beyond the sequence number."""
    if len(rows):
        walk.malformed(rows)
        walk.layers[rows] &= _TCP_BAD
        for name in ("tcp_ack", "tcp_flags", "tcp_window"):
            walk.put(name, rows, 0)


def udp(walk: Walk, rows: Array) -> None:
    """UDP (RFC 768), and by port the tunnels over it."""
    _cut(walk, rows, UDP.itemsize, Has.UDP)
    rows, off, head = walk.head(rows, UDP, mark=False)
    _ports(walk, rows, head, Has.UDP | Has.UDP_LENGTH)
    length = head["len"].astype(np.int64)
    walk.put("udp_length", rows, length)
    jumbo = (length == 0) & ((walk.layers[rows] & np.uint64(Has.IPV6)) != 0)  # to the packet's end (RFC 2675, 4)
    bad = ((length < 8) & ~jumbo) | (walk.cap[rows] - off < 8)
    walk.malformed(rows[bad])
    kinds = UDP_DESTINATION[head["dst"]]
    kinds = np.where(kinds, kinds, UDP_SOURCE[head["src"]])
    if walk.payloads is not None:
        size = np.where(jumbo, walk.end[rows] - off, length)
        walk.payload(rows, off + 8, off + np.where(bad, 0, size))
    if kinds.any():
        ephemeral = (head["src"] >= LEAST_PORT) & (head["dst"] >= LEAST_PORT)
        chosen = ephemeral & ~bad & (kinds != 0)
        size = np.where(jumbo, walk.end[rows] - off, length)
        _into(walk, rows[chosen], off[chosen], size[chosen], kinds[chosen])


def _into(walk: Walk, rows: Array, off: Array, size: Array, kinds: Array) -> None:
    walk.off[rows] = off + 8
    walk.payload(rows, off, off)  # the packet described is another one
    walk.trim(rows, off + size)
    walk.split(rows, kinds)


def udplite(walk: Walk, rows: Array) -> None:
    """UDP-Lite (RFC 3828): ports as UDP, and no length."""
    rows, _, head = walk.head(rows, PORTS)
    _ports(walk, rows, head, Has.UDP)


def sctp(walk: Walk, rows: Array) -> None:
    """SCTP (RFC 9260): ports; the payload is all chunks."""
    rows, off, head = walk.head(rows, PORTS)
    _ports(walk, rows, head, Has.SCTP)
    walk.payload(rows, off + 12, walk.end[rows])
    walk.malformed(rows[walk.cap[rows] - off < 12])


def icmp(walk: Walk, rows: Array) -> None:
    """ICMP (RFC 792). A packet quoted by an error is not walked into."""
    _icmp(walk, rows, Has.ICMP, Has.ICMP_CODE)


def icmpv6(walk: Walk, rows: Array) -> None:
    """ICMPv6 (RFC 4443)."""
    _icmp(walk, rows, Has.ICMPV6, Has.ICMPV6_CODE)


def _icmp(walk: Walk, rows: Array, type_bit: int, code_bit: int) -> None:
    rows, off, head = walk.head(rows, ICMP_TYPE)
    walk.put("icmp_type", rows, head["type"])
    walk.found(rows, type_bit)
    walk.malformed(rows[walk.cap[rows] - off < 4])
    rows, _, head = walk.head(rows, ICMP)
    walk.put("icmp_code", rows, head["code"])
    walk.found(rows, code_bit)
