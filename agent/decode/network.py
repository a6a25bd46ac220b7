"""ARP, IPv4, IPv6 with its extension headers, AH."""

from __future__ import annotations

import numpy as np

from agent.decode.kinds import IPV4_PROTOCOL, IPV6_NEXT, Kind
from agent.decode.walk import MAPPED, Array, Walk, record
from protocol.schema import Has

ARP = record(8, protocol=(">u2", 2), hlen=("u1", 4), plen=("u1", 5), opcode=(">u2", 6))
ADDRESS = record(4, value=("<u4", 0))
IPV4 = record(
    20,
    first=("u1", 0),
    dsfield=("u1", 1),
    len=(">u2", 2),
    id=(">u2", 4),
    frag=(">u2", 6),
    ttl=("u1", 8),
    proto=("u1", 9),
    src=("<u4", 12),
    dst=("<u4", 16),
)
IPV6 = record(40, word=(">u4", 0), len=(">u2", 4), nxt=("u1", 6), hlim=("u1", 7), src=("V16", 8), dst=("V16", 24))
OPTIONS = record(2, nxt=("u1", 0), len=("u1", 1))
FRAGMENT = record(8, nxt=("u1", 0), offset=(">u2", 2), id=(">u4", 4))

_L4 = ("src_port", "dst_port", "tcp_flags", "tcp_seq", "tcp_ack", "tcp_window", "tcp_len", "udp_length")
_OF_PACKET = (*_L4, "icmp_type", "icmp_code", "ip_id", "frag_offset", "frag_more")
_L4_BITS = Has.TCP | Has.TCP_SEQ | Has.TCP_ACK | Has.TCP_FLAGS | Has.TCP_WINDOW | Has.TCP_LEN | Has.UDP
_L4_BITS |= Has.UDP_LENGTH | Has.SCTP | Has.ICMP | Has.ICMP_CODE | Has.ICMPV6 | Has.ICMPV6_CODE
_OUTER = np.uint64(_L4_BITS | Has.IPV4 | Has.IPV6 | Has.FRAG)


def arp(walk: Walk, rows: Array) -> None:
    """ARP (RFC 826). Inside a tunnel the tunnel's IP packet stays described; only the opcode is added."""
    rows, off, head = walk.head(rows, ARP)
    walk.put("arp_opcode", rows, head["opcode"])
    walk.found(rows, Has.ARP)
    hlen = head["hlen"].astype(np.int64)
    ipv4 = (head["protocol"] == 0x0800) & (head["plen"] == 4)
    whole = walk.cap[rows] - off >= 16 + 2 * hlen
    walk.malformed(rows[~whole])
    take = ipv4 & whole & ((walk.layers[rows] & np.uint64(Has.IP)) == 0)
    rows, sender, hlen = rows[take], off[take] + 8 + hlen[take], hlen[take]
    for name, at in (("src", sender), ("dst", sender + 4 + hlen)):
        words = walk.words(name)
        words[rows, 2] = MAPPED
        words[rows, 3] = walk.gather(at, ADDRESS)["value"]
    walk.found(rows, Has.ARP_IPV4)


def _enter(walk: Walk, rows: Array, bits: int) -> None:
    """Rows enter an IP header: what an outer packet left in the columns goes."""
    again = rows[(walk.layers[rows] & np.uint64(Has.IP)) != 0]
    if len(again):
        walk.layers[again] &= ~_OUTER
        for name in _OF_PACKET:
            walk.put(name, again, 0)
    walk.found(rows, bits)


def _limit(walk: Walk, rows: Array, off: Array, length: Array) -> None:
    """The packet is `length` bytes long from `off`; what follows is padding. Longer than the frame is wrong."""
    end = off + length
    walk.malformed(rows[end > walk.end[rows]])
    walk.trim(rows, end)


def ipv4(walk: Walk, rows: Array) -> None:
    """IPv4 (RFC 791). A total length of 0 is segmentation offload: the packet reaches to the end of the frame."""
    rows, off, head = walk.head(rows, IPV4)
    first = head["first"]
    hlen = (first & np.uint8(15)).astype(np.int64) * 4
    total = head["len"].astype(np.int64)
    total = np.where(total == 0, walk.end[rows] - off, total)
    fine = (first >= 0x45) & (first < 0x50) & (total >= hlen)
    if not fine.all():
        version6 = first >> 4 == 6
        walk.go(rows[version6], Kind.IPV6)
        walk.malformed(rows[~fine & ~version6])
        rows, off, head, hlen, total = rows[fine], off[fine], head[fine], hlen[fine], total[fine]
    _enter(walk, rows, Has.IP | Has.IPV4 | Has.FRAG)
    _limit(walk, rows, off, total)
    walk.off[rows] = off + hlen
    _ipv4_columns(walk, rows, head)
    frag = head["frag"].astype(np.uint16)
    begins = frag & np.uint16(0x1FFF) == 0
    kinds = IPV4_PROTOCOL[head["proto"]]
    if begins.all():
        walk.split(rows, kinds)
    else:
        walk.split(rows[begins], kinds[begins])


def _ipv4_columns(walk: Walk, rows: Array, head: Array) -> None:
    for name, of in (("dsfield", "dsfield"), ("ttl", "ttl"), ("nxt", "proto"), ("proto", "proto")):
        walk.put(name, rows, head[of])
    walk.put("ip_len", rows, head["len"])
    walk.put("ip_id", rows, head["id"])
    frag = head["frag"].astype(np.uint16)
    fragments = np.flatnonzero(frag & np.uint16(0x3FFF))
    if len(fragments):
        walk.put("frag_offset", rows[fragments], frag[fragments] & np.uint16(0x1FFF))
        walk.put("frag_more", rows[fragments], frag[fragments] >> 13 & 1)
    for name in ("src", "dst"):
        words = walk.words(name)
        words[rows, :2] = 0
        words[rows, 2] = MAPPED
        words[rows, 3] = head[name]


def ipv6(walk: Walk, rows: Array) -> None:
    """IPv6 (RFC 8200). A payload length of 0 is a jumbogram or segmentation offload: to the end of the frame."""
    rows, off, head = walk.head(rows, IPV6)
    fine = head["word"] >> 28 == 6
    if not fine.all():
        walk.malformed(rows[~fine])
        rows, off, head = rows[fine], off[fine], head[fine]
    length = head["len"].astype(np.int64)
    _enter(walk, rows, Has.IP | Has.IPV6)
    _limit(walk, rows, off, np.where(length == 0, walk.end[rows] - off, length + 40))
    walk.off[rows] = off + 40
    walk.put("dsfield", rows, head["word"] >> 20 & 0xFF)
    walk.put("ttl", rows, head["hlim"])
    walk.put("nxt", rows, head["nxt"])
    walk.put("ip_len", rows, head["len"])
    for name in ("src", "dst"):
        walk.array(name).view("V16").ravel()[rows] = head[name]
    _next(walk, rows, head["nxt"])


def _next(walk: Walk, rows: Array, nxt: Array) -> None:
    walk.put("proto", rows, nxt)
    walk.split(rows, IPV6_NEXT[nxt])


def v6_options(walk: Walk, rows: Array) -> None:
    """Hop-by-hop options, destination options, routing header: 8 bytes and 8 times the length field."""
    rows, off, head = walk.head(rows, OPTIONS)
    walk.off[rows] = off + 8 + head["len"].astype(np.int64) * 8
    _next(walk, rows, head["nxt"])


def v6_fragment(walk: Walk, rows: Array) -> None:
    """Fragment header (RFC 8200, 4.5); only the first fragment goes on."""
    rows, off, head = walk.head(rows, FRAGMENT)
    word = head["offset"].astype(np.uint16)
    walk.found(rows, Has.FRAG)
    walk.put("frag_offset", rows, word >> 3)
    walk.put("frag_more", rows, word & 1)
    walk.put("ip_id", rows, head["id"])
    walk.put("proto", rows, head["nxt"])
    walk.off[rows] = off + 8
    begins = word >> 3 == 0
    _next(walk, rows[begins], head["nxt"][begins])


def ah(walk: Walk, rows: Array) -> None:
    """Authentication header (RFC 4302): 4 times the length field and 8 bytes, behind IPv4 and IPv6."""
    rows, off, head = walk.head(rows, OPTIONS)
    walk.off[rows] = off + 8 + head["len"].astype(np.int64) * 4
    _next(walk, rows, head["nxt"])
