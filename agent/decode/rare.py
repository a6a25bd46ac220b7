"""Link layers of old and rare networks: FDDI, token ring, ATM, Frame Relay, IP over Fibre Channel and IEEE 1394, BSD's
enc, macOS's PKTAP. The kernel does not know them.
"""

from __future__ import annotations

import numpy as np

from agent.decode.kinds import LINKTYPE, Kind
from agent.decode.link import by_family
from agent.decode.walk import Array, Walk, record

FDDI = record(13, control=("u1", 0))
TOKEN_RING = record(14, control=("u1", 1), source=("u1", 8))
BYTE = record(1, first=("u1", 0))
SNAP = record(8, head=(">u8", 0))
ENC = record(12, little=("<u4", 0), big=(">u4", 0))
IP_OVER_FC = record(16)
IEEE1394 = record(18, type=(">u2", 16))
ADDRESS = record(2, last=("u1", 1))
Q922 = record(2, type=(">u2", 0), control=("u1", 0), nlpid=("u1", 1))
NLPID_SNAP = record(5, oui=(">u4", 0), type=(">u2", 3))
PKTAP = record(108, len=("<u4", 0), kind=("<u4", 4), link=("<u4", 8))

BRIDGED = (0xAAAA030080C20001, 0xAAAA030080C20007)
"""LLC and SNAP headers of bridged Ethernet, with and without its check sequence (RFC 2684, 5.2)."""

_FIRST = np.zeros(512, dtype=np.uint8)
for _linktype, _kind in LINKTYPE.items():
    _FIRST[_linktype] = _kind


def fddi(walk: Walk, rows: Array) -> None:
    """FDDI (ISO 9314-2): asynchronous LLC frames."""
    rows, off, head = walk.head(rows, FDDI)
    walk.off[rows] = off + 13
    walk.go(rows[head["control"] & 0xF0 == 0x50], Kind.LLC)


def token_ring(walk: Walk, rows: Array) -> None:
    """Token ring (IEEE 802.5): LLC, behind routing information where the source address has its first bit."""
    rows, off, head = walk.head(rows, TOKEN_RING)
    llc = head["control"] & 0xC0 == 0x40
    rows, routed = rows[llc], head["source"][llc] & 0x80 != 0
    walk.off[rows] = off[llc] + 14
    walk.go(rows[~routed], Kind.LLC)
    rows, off, head = walk.head(rows[routed], BYTE)
    walk.off[rows] = off + (head["first"] & 0x1F)
    walk.go(rows, Kind.LLC)


def rfc1483(walk: Walk, rows: Array) -> None:
    """LINKTYPE_ATM_RFC1483: LLC; bridged Ethernet stands behind two bytes of padding (RFC 2684, 5.2)."""
    whole, off, head = walk.head(rows, SNAP, mark=False)
    bridged = np.isin(head["head"].astype(np.uint64), np.array(BRIDGED, dtype=np.uint64))
    walk.off[whole[bridged]] = off[bridged] + 10
    walk.go(whole[bridged], Kind.ETHERNET)
    walk.go(np.setdiff1d(rows, whole[bridged]), Kind.LLC)


def enc(walk: Walk, rows: Array) -> None:
    """LINKTYPE_ENC: the address family in the byte order of the capturing machine, then 8 bytes of IPsec's."""
    rows, off, head = walk.head(rows, ENC)
    walk.off[rows] = off + 12
    by_family(walk, rows, np.minimum(head["little"], head["big"].astype(np.uint32)))


def ip_over_fc(walk: Walk, rows: Array) -> None:
    """LINKTYPE_IP_OVER_FC (RFC 2625): two addresses of 8 bytes, then LLC."""
    rows, off, _ = walk.head(rows, IP_OVER_FC)
    walk.off[rows] = off + 16
    walk.go(rows, Kind.LLC)


def ieee1394(walk: Walk, rows: Array) -> None:
    """LINKTYPE_APPLE_IP_OVER_IEEE1394: two addresses of 8 bytes and an ethertype."""
    rows, off, head = walk.head(rows, IEEE1394)
    walk.off[rows] = off + 18
    walk.by_ethertype(rows, head["type"].astype(np.uint16))


def frame_relay(walk: Walk, rows: Array) -> None:
    """Frame Relay: an address of 2 or 4 bytes, then a control byte 3 and NLPID (RFC 2427), or an ethertype (Cisco)."""
    rows, off, head = walk.head(rows, ADDRESS)
    walk.off[rows] = off + np.where(head["last"] & 1, 2, 4)
    rows, off, head = walk.head(rows, Q922)
    typed = head["control"] != 3
    walk.off[rows[typed]] = off[typed] + 2
    walk.by_ethertype(rows[typed], head["type"][typed].astype(np.uint16))
    named, padded = rows[~typed], head["nlpid"][~typed] == 0
    walk.off[named] = off[~typed] + np.where(padded, 2, 1)
    _nlpid(walk, named)


def _nlpid(walk: Walk, rows: Array) -> None:
    """A network layer protocol identifier: IP, or SNAP without LLC (RFC 2427, 4)."""
    rows, off, head = walk.head(rows, BYTE)
    walk.off[rows] = off + 1
    for nlpid, ethertype in ((0xCC, 0x0800), (0x8E, 0x86DD)):
        walk.by_ethertype(rows[head["first"] == nlpid], ethertype)
    rows, off, head = walk.head(rows[head["first"] == 0x80], NLPID_SNAP)
    oui, types = head["oui"] >> 8, head["type"].astype(np.uint16)
    walk.off[rows] = off + 5
    walk.by_ethertype(rows[oui == 0], types[oui == 0])
    walk.go(rows[(oui == 0x80C2) & np.isin(types, (1, 7))], Kind.ETHERNET)


def pktap(walk: Walk, rows: Array) -> None:
    """LINKTYPE_PKTAP: a header of the length it says, and a frame of the link type it names."""
    rows, off, head = walk.head(rows, PKTAP)
    fine = (head["kind"] == 1) & (head["len"] >= 108) & (head["len"] < 65536) & (head["link"] < len(_FIRST))
    fine &= head["link"] != 258
    rows, head = rows[fine], head[fine]
    walk.off[rows] = off[fine] + head["len"]
    walk.split(rows, _FIRST[head["link"]])
