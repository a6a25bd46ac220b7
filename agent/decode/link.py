"""Link layers: Ethernet, VLAN tags, LLC/SNAP, Linux cooked captures, BSD loopback, raw IP, Cisco HDLC."""

from __future__ import annotations

import numpy as np

from agent.decode.kinds import Kind
from agent.decode.walk import Array, Walk, record
from protocol.schema import Has

MAX_LENGTH = 1500
"""An Ethernet type field up to this is the length of an IEEE 802.3 frame (802.3, 3.2.6)."""

ETHERNET = record(14, dst=(">u8", 0), src=(">u8", 6))  # both words hold two bytes more than the address
TCI = record(2, tci=(">u2", 0))
TAG = record(4, type=(">u2", 2))
LLC = record(3, dsap=("u1", 0), ssap=("u1", 1), control=("u1", 2))
SNAP = record(8, oui=(">u4", 2), type=(">u2", 6))
SLL = record(16, hardware=(">u2", 2), type=(">u2", 14))
SLL2 = record(20, type=(">u2", 0), hardware=(">u2", 8))
NULL = record(4, family=("<u4", 0), wire=(">u4", 0))
NIBBLE = record(1, first=("u1", 0))
PFLOG = record(2, len=("u1", 0), family=("u1", 1))
CHDLC = record(4, type=(">u2", 2))
SHIM6 = record(6, type=(">u2", 4))
SHIM8 = record(8, type=(">u2", 6))
SECTAG = record(6, bits=("u1", 0))
SECTAG_CHANNEL, SECTAG_ENCRYPTED, SECTAG_CHANGED = 0x20, 0x08, 0x04
ETHERTYPE_FIELD = record(2, type=(">u2", 0))

ARPHRD_NETLINK = 824


def ethernet(walk: Walk, rows: Array) -> None:
    """Ethernet II and IEEE 802.3."""
    rows, off, head = walk.head(rows, ETHERNET)
    source = head["src"].astype(np.uint64)
    types = source & np.uint64(0xFFFF)
    walk.put("eth_src", rows, source >> np.uint64(16))
    walk.put("eth_dst", rows, head["dst"].astype(np.uint64) >> np.uint64(16))
    walk.put("eth_type", rows, types)
    walk.found(rows, Has.ETH)
    walk.off[rows] = off + 14
    _typed(walk, rows, types.astype(np.uint16))


def _typed(walk: Walk, rows: Array, types: Array) -> None:
    """What follows a field that is an ethertype or a length."""
    length = types <= MAX_LENGTH
    if not length.any():
        walk.by_ethertype(rows, types)
        return
    walk.by_ethertype(rows[~length], types[~length])
    rows = rows[length]
    walk.trim(rows, walk.off[rows] + types[length])
    walk.go(rows, Kind.LLC)


def vlan(walk: Walk, rows: Array) -> None:
    """One 802.1Q or 802.1ad tag (IEEE 802.1Q, 9.6). A tag cut behind its id still has the id."""
    rows, _, head = walk.head(rows, TCI)
    walk.append("vlan_id", rows, head["tci"].astype(np.uint16) & np.uint16(0x0FFF))
    walk.found(rows, Has.VLAN)
    rows, off, head = walk.head(rows, TAG)
    walk.off[rows] = off + 4
    _typed(walk, rows, head["type"].astype(np.uint16))


def shim6(walk: Walk, rows: Array) -> None:
    """VN-Tag, HSR, R-Tag: 4 bytes and the ethertype of what follows."""
    _shim(walk, rows, SHIM6)


def shim8(walk: Walk, rows: Array) -> None:
    """Cisco metadata, E-Tag: 6 bytes and the ethertype of what follows."""
    _shim(walk, rows, SHIM8)


def _shim(walk: Walk, rows: Array, layout: np.dtype[np.void]) -> None:
    rows, off, head = walk.head(rows, layout)
    walk.off[rows] = off + layout.itemsize
    _typed(walk, rows, head["type"].astype(np.uint16))


def macsec(walk: Walk, rows: Array) -> None:
    """MACsec (IEEE 802.1AE, 9.3): of what is not encrypted, the ethertype; its last 16 bytes are the check value."""
    rows, off, head = walk.head(rows, SECTAG)
    plain = head["bits"] & (SECTAG_ENCRYPTED | SECTAG_CHANGED) == 0
    rows, off, head = rows[plain], off[plain], head[plain]
    walk.off[rows] = off + np.where(head["bits"] & SECTAG_CHANNEL, 14, 6)
    walk.trim(rows, walk.end[rows] - 16)
    rows, off, head = walk.head(rows, ETHERTYPE_FIELD)
    walk.off[rows] = off + 2
    _typed(walk, rows, head["type"].astype(np.uint16))


def llc(walk: Walk, rows: Array) -> None:
    """LLC, for SNAP and IP (IEEE 802.2, RFC 1042)."""
    rows, off, head = walk.head(rows, LLC)
    snap = (head["dsap"] == 0xAA) & (head["ssap"] == 0xAA) & (head["control"] == 3)
    ip = (head["dsap"] == 6) & (head["control"] == 3)
    walk.off[rows[ip]] = off[ip] + 3
    walk.by_ethertype(rows[ip], 0x0800)
    rows, off, head = walk.head(rows[snap], SNAP)
    oui = head["oui"].astype(np.uint32) & np.uint32(0xFFFFFF)
    known = (oui == 0) | (oui == 0xF8)  # RFC 1042; the second is 802.1H's
    walk.off[rows] = off + 8
    walk.by_ethertype(rows[known], head["type"].astype(np.uint16)[known])


def sll(walk: Walk, rows: Array) -> None:
    """LINKTYPE_LINUX_SLL."""
    rows, off, head = walk.head(rows, SLL)
    walk.off[rows] = off + 16
    _cooked(walk, rows, head)


def sll2(walk: Walk, rows: Array) -> None:
    """LINKTYPE_LINUX_SLL2."""
    rows, off, head = walk.head(rows, SLL2)
    walk.off[rows] = off + 20
    _cooked(walk, rows, head)


def _cooked(walk: Walk, rows: Array, head: Array) -> None:
    """The protocol field of a cooked header: an ethertype, 3 for Ethernet or 4 for LLC; netlink has its own numbers."""
    hardware, types = head["hardware"], head["type"].astype(np.uint16)
    network = hardware != ARPHRD_NETLINK
    walk.go(rows[(types == 3) & network], Kind.ETHERNET)
    walk.go(rows[(types == 4) & network], Kind.LLC)
    typed = (types > MAX_LENGTH) & network
    walk.by_ethertype(rows[typed], types[typed])


def null(walk: Walk, rows: Array) -> None:
    """LINKTYPE_NULL: an address family in the byte order of the capturing machine."""
    rows, off, head = walk.head(rows, NULL)
    little, big = head["family"], head["wire"].astype(np.uint32)
    walk.off[rows] = off + 4
    by_family(walk, rows, np.minimum(little, big))  # the other order has its value in the high half


def loop(walk: Walk, rows: Array) -> None:
    """LINKTYPE_LOOP: an address family in network byte order."""
    rows, off, head = walk.head(rows, NULL)
    walk.off[rows] = off + 4
    by_family(walk, rows, head["wire"].astype(np.uint32))


def by_family(walk: Walk, rows: Array, family: Array) -> None:
    """AF_INET is 2 everywhere; AF_INET6 is 24 (NetBSD, OpenBSD), 28 (FreeBSD), 30 (macOS)."""
    walk.by_ethertype(rows[family == 2], 0x0800)
    walk.by_ethertype(rows[np.isin(family, (24, 28, 30))], 0x86DD)
    typed = (family > MAX_LENGTH) & (family < 65536)
    walk.by_ethertype(rows[typed], family[typed])


def raw(walk: Walk, rows: Array) -> None:
    """LINKTYPE_RAW: IPv4 or IPv6 by its version."""
    rows, _, head = walk.head(rows, NIBBLE)
    version = head["first"] >> 4
    walk.by_ethertype(rows[version == 4], 0x0800)
    walk.by_ethertype(rows[version == 6], 0x86DD)
    walk.malformed(rows[(version != 4) & (version != 6)])


def chdlc(walk: Walk, rows: Array) -> None:
    """LINKTYPE_C_HDLC: address, control, ethertype."""
    rows, off, head = walk.head(rows, CHDLC)
    walk.off[rows] = off + 4
    walk.by_ethertype(rows, head["type"].astype(np.uint16))


def pflog(walk: Walk, rows: Array) -> None:
    """LINKTYPE_PFLOG: a header of the length it says, aligned to 4 bytes, and the address family."""
    rows, off, head = walk.head(rows, PFLOG)
    walk.off[rows] = off + ((head["len"].astype(np.int64) + 3) & ~3)
    by_family(walk, rows, head["family"].astype(np.uint32))
