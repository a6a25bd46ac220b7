"""Tunnels: PPP, PPPoE, MPLS, GRE, IP in IP, VXLAN, Geneve, GTP-U, NSH."""

from __future__ import annotations

import numpy as np

from agent.decode.kinds import PPP_ETHERTYPE, Kind
from agent.decode.walk import Array, Walk, record
from protocol.schema import Has

BYTE = record(1, first=("u1", 0))
WORD = record(2, value=(">u2", 0))
LABEL = record(4, value=(">u4", 0))
PPPOE = record(6, version=("u1", 0), code=("u1", 1), session=(">u2", 2), len=(">u2", 4))
GRE = record(4, flags=(">u2", 0), type=(">u2", 2))
VXLAN = record(8, flags=("u1", 0), next=("u1", 3), vni=(">u4", 4), reserved=(">u4", 0))
GENEVE = record(8, first=("u1", 0), type=(">u2", 2), vni=(">u4", 4))
GTPU = record(8, flags=("u1", 0), message=("u1", 1), len=(">u2", 2), teid=(">u4", 4))
NSH = record(8, first=(">u2", 0), next=("u1", 3), path=(">u4", 4))

GRE_CHECKSUM, GRE_ROUTING, GRE_KEY, GRE_SEQUENCE, GRE_ACK = 0x8000, 0x4000, 0x2000, 0x1000, 0x0080


# -- PPP -----------------------------------------------------------------------------------------------------------


def ppp(walk: Walk, rows: Array) -> None:
    """PPP (RFC 1661, 1662): address and control may be absent, the protocol may be one byte."""
    rows, off, head = walk.head(rows, WORD)
    framed = head["value"] == 0xFF03
    walk.off[rows] = off + np.where(framed, 2, 0)
    rows, off, head = walk.head(rows, BYTE)
    short = head["first"] & 1 == 1
    ones, twos = rows[short], rows[~short]
    walk.off[ones] += 1
    _ppp_protocol(walk, ones, head["first"][short].astype(np.uint16))
    twos, off, words = walk.head(twos, WORD)
    walk.off[twos] = off + 2
    _ppp_protocol(walk, twos, words["value"])


def _ppp_protocol(walk: Walk, rows: Array, protocol: Array) -> None:
    types = PPP_ETHERTYPE[protocol]
    known = types != 0
    walk.by_ethertype(rows[known], types[known])


def pppoe(walk: Walk, rows: Array) -> None:
    """PPPoE session (RFC 2516): code 0, then PPP of the length said."""
    rows, off, head = walk.head(rows, PPPOE)
    fine = (head["version"] == 0x11) & (head["code"] == 0)
    walk.malformed(rows[~fine])
    rows, off, head = rows[fine], off[fine] + 6, head[fine]
    walk.tunnel(rows, "pppoe", head["session"])
    walk.off[rows] = off
    walk.trim(rows, off + head["len"])
    walk.go(rows, Kind.PPP)


# -- MPLS ----------------------------------------------------------------------------------------------------------


def mpls(walk: Walk, rows: Array) -> None:
    """One label (RFC 3032). What follows the last is not named: IP by its version, else a pseudowire."""
    rows, off, head = walk.head(rows, LABEL)
    word = head["value"].astype(np.uint32)
    walk.append("mpls_label", rows, word >> 12)
    walk.tunnel(rows, "mpls")
    walk.found(rows, Has.MPLS)
    walk.off[rows] = off + 4
    bottom = word >> 8 & 1 == 1
    walk.go(rows[~bottom], Kind.MPLS)
    _after_labels(walk, rows[bottom])


def _after_labels(walk: Walk, rows: Array) -> None:
    rows, off, head = walk.head(rows, BYTE)
    nibble = head["first"] >> 4
    walk.by_ethertype(rows[nibble == 4], 0x0800)
    walk.by_ethertype(rows[nibble == 6], 0x86DD)
    control = nibble == 0  # RFC 4448: a control word, then Ethernet
    rows, off = rows[control], off[control]
    walk.off[rows] = off + 4
    walk.go(rows, Kind.ETHERNET)


def mpls_in_ip(walk: Walk, rows: Array) -> None:
    """MPLS directly over IP (RFC 4023) or UDP (RFC 7510)."""
    walk.tunnel(rows, "mpls")
    walk.go(rows, Kind.MPLS)


# -- IP in IP ------------------------------------------------------------------------------------------------------


def _in_ip(walk: Walk, rows: Array, names: tuple[str, str], ethertype: int) -> None:
    over4 = (walk.layers[rows] & np.uint64(Has.IPV4)) != 0
    walk.tunnel(rows[over4], names[0])
    walk.tunnel(rows[~over4], names[1])
    walk.by_ethertype(rows, ethertype)


def ip4_in_ip(walk: Walk, rows: Array) -> None:
    """IPv4 in IPv4 (RFC 2003) or in IPv6 (RFC 2473)."""
    _in_ip(walk, rows, ("ipip", "4in6"), 0x0800)


def ip6_in_ip(walk: Walk, rows: Array) -> None:
    """IPv6 in IPv4 (RFC 4213) or in IPv6 (RFC 2473)."""
    _in_ip(walk, rows, ("6in4", "6in6"), 0x86DD)


def ether_in_ip(walk: Walk, rows: Array) -> None:
    """EtherIP (RFC 3378): version 3 in the first nibble."""
    rows, off, head = walk.head(rows, WORD)
    walk.tunnel(rows, "etherip")
    walk.off[rows] = off + 2
    walk.go(rows[head["value"] >> 12 == 3], Kind.ETHERNET)


# -- GRE -----------------------------------------------------------------------------------------------------------


def gre(walk: Walk, rows: Array) -> None:
    """GRE (RFC 2784, 2890, 1701) and its version 1, which carries PPP for PPTP (RFC 2637)."""
    rows, off, head = walk.head(rows, GRE)
    flags, types = head["flags"].astype(np.uint16), head["type"].astype(np.uint16)
    at_key = off + 4 + np.where(flags & (GRE_CHECKSUM | GRE_ROUTING), 4, 0)
    start = at_key + np.where(flags & GRE_KEY, 4, 0) + np.where(flags & GRE_SEQUENCE, 4, 0)
    version = flags & 7
    start += np.where((version == 1) & (flags & GRE_ACK != 0), 4, 0)
    whole = walk.cap[rows] >= start
    walk.malformed(rows[~whole])
    fine = whole & (version <= 1) & (flags & GRE_ROUTING == 0)
    rows, flags, types, at_key, version = rows[fine], flags[fine], types[fine], at_key[fine], version[fine]
    walk.off[rows] = start[fine]
    _gre_tunnel(walk, rows, flags, types, at_key, version)
    erspan1 = (types == 0x88BE) & (flags & GRE_SEQUENCE == 0)  # type I has no header of its own
    walk.go(rows[erspan1], Kind.ETHERNET)
    walk.by_ethertype(rows[~erspan1], types[~erspan1])


def _gre_tunnel(walk: Walk, rows: Array, flags: Array, types: Array, at_key: Array, version: Array) -> None:
    ids = np.zeros(len(rows), dtype=np.uint32)
    keyed = np.flatnonzero(flags & GRE_KEY)
    ids[keyed] = walk.gather(at_key[keyed], LABEL)["value"]
    ids[version == 1] &= 0xFFFF  # the high half is the payload's length (RFC 2637, 4.1)
    bridged, mirrored = types == 0x6558, (types == 0x88BE) | (types == 0x22EB)
    for name, chosen in (
        ("pptp", version == 1),
        ("gretap", bridged & (version == 0)),
        ("erspan", mirrored & (version == 0)),
        ("gre", ~bridged & ~mirrored & (version == 0)),
    ):
        if chosen.any():
            walk.tunnel(rows[chosen], name, ids[chosen])


def erspan2(walk: Walk, rows: Array) -> None:
    """ERSPAN type II: 8 bytes, then Ethernet."""
    walk.off[rows] += 8
    walk.go(rows, Kind.ETHERNET)


def erspan3(walk: Walk, rows: Array) -> None:
    """ERSPAN type III: 12 bytes, 8 more with the O bit, then Ethernet."""
    rows, off, head = walk.head(rows, record(12, flags=("u1", 11)))
    walk.off[rows] = off + 12 + np.where(head["flags"] & 1, 8, 0)
    walk.go(rows, Kind.ETHERNET)


# -- over UDP ------------------------------------------------------------------------------------------------------


def vxlan(walk: Walk, rows: Array) -> None:
    """VXLAN (RFC 7348): the I flag set. Port 8472 is OTV's too, so nothing else passes."""
    rows, off, head = walk.head(rows, VXLAN)
    fine = head["flags"] & 0x08 != 0
    rows, off, head = rows[fine], off[fine], head[fine]
    walk.tunnel(rows, "vxlan", head["vni"] >> 8)
    walk.off[rows] = off + 8
    walk.go(rows, Kind.ETHERNET)


def vxlan_gpe(walk: Walk, rows: Array) -> None:
    """VXLAN-GPE: the P flag says that the next protocol is named."""
    rows, off, head = walk.head(rows, VXLAN)
    walk.tunnel(rows, "vxlan-gpe", head["vni"] >> 8)
    walk.off[rows] = off + 8
    named = np.where(head["flags"] & 0x04, head["next"], 3)
    _nsh_next(walk, rows, named)


def _nsh_next(walk: Walk, rows: Array, named: Array) -> None:
    """Next protocol numbers of VXLAN-GPE and NSH (RFC 8300, 2.2)."""
    walk.by_ethertype(rows[named == 1], 0x0800)
    walk.by_ethertype(rows[named == 2], 0x86DD)
    walk.go(rows[named == 3], Kind.ETHERNET)
    walk.go(rows[named == 4], Kind.NSH)


def nsh(walk: Walk, rows: Array) -> None:
    """Network service header (RFC 8300): its length in 4-byte words."""
    rows, off, head = walk.head(rows, NSH)
    length = (head["first"] & 0x3F).astype(np.int64) * 4
    fine = length >= 8
    walk.malformed(rows[~fine])
    rows, head = rows[fine], head[fine]
    walk.tunnel(rows, "nsh", head["path"] >> 8)
    walk.off[rows] = off[fine] + length[fine]
    _nsh_next(walk, rows, np.where(head["next"] == 4, 0, head["next"]))


def geneve(walk: Walk, rows: Array) -> None:
    """Geneve (RFC 8926), version 0: options, then what the ethertype names."""
    rows, off, head = walk.head(rows, GENEVE)
    fine = head["first"] >> 6 == 0
    rows, off, head = rows[fine], off[fine], head[fine]
    walk.tunnel(rows, "geneve", head["vni"] >> 8)
    walk.off[rows] = off + 8 + (head["first"] & 0x3F).astype(np.int64) * 4
    walk.by_ethertype(rows, head["type"].astype(np.uint16))


def gtpu(walk: Walk, rows: Array) -> None:
    """GTP-U version 1 (3GPP TS 29.281): only message 255, G-PDU, carries a packet."""
    rows, off, head = walk.head(rows, GTPU)
    fine = (head["flags"] >> 5 == 1) & (head["flags"] & 0x10 != 0) & (head["message"] == 255)
    rows, off, head = rows[fine], off[fine], head[fine]
    walk.tunnel(rows, "gtpu", head["teid"])
    optional = head["flags"] & 0x07 != 0
    walk.off[rows] = off + np.where(optional, 11, 8)
    walk.go(rows[~optional], Kind.RAW)
    walk.go(rows[optional], Kind.GTPU_EXTENSION)


def gtpu_extension(walk: Walk, rows: Array) -> None:
    """The type of the next extension header, and that header: its length in 4-byte words (5.2.1)."""
    rows, off, head = walk.head(rows, BYTE)
    last = head["first"] == 0
    walk.off[rows] = off + 1
    walk.go(rows[last], Kind.RAW)
    rows, off, head = walk.head(rows[~last], BYTE)
    fine = head["first"] > 0
    walk.malformed(rows[~fine])
    walk.off[rows[fine]] = off[fine] + head["first"][fine].astype(np.int64) * 4 - 1
    walk.go(rows[fine], Kind.GTPU_EXTENSION)
