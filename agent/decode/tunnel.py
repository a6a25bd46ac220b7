"""Tunnels: PPP, PPPoE, MPLS, PBB, IP in IP, GRE, VXLAN, Geneve, NSH, GTP-U, L2TP, Teredo, LISP."""

from __future__ import annotations

import numpy as np

from agent.decode.kinds import ETHERTYPE, PPP_ETHERTYPE, Kind
from agent.decode.walk import Array, Walk, record
from protocol.schema import Has

BYTE = record(1, first=("u1", 0))
WORD = record(2, value=(">u2", 0))
LABEL = record(4, value=(">u4", 0))
PPPOE = record(6, version=("u1", 0), code=("u1", 1), session=(">u2", 2), len=(">u2", 4))
PSEUDOWIRE = record(18, first=("u1", 0), bare=(">u2", 12), behind=(">u2", 16))
L2TP = record(2, flags=(">u2", 0))
MULTILINK = record(4, bits=("u1", 0))
TEREDO_SIGNED = record(4, id=("u1", 2), key=("u1", 3))
PIM = record(9, kind=("u1", 0), first=("u1", 8))
MAC = record(14, type=(">u2", 12))
GRE = record(4, flags=(">u2", 0), type=(">u2", 2))
ERSPAN2 = record(8, first=("u1", 0))
ERSPAN3 = record(12, first=("u1", 0), bits=(">u2", 10))
VXLAN = record(8, flags=("u1", 0), next=("u1", 3), vni=(">u4", 4), reserved=(">u4", 0))
GENEVE = record(8, first=("u1", 0), type=(">u2", 2), vni=(">u4", 4))
LISP = record(8, flags=("u1", 0), instance=(">u4", 4))
GTPU = record(8, flags=("u1", 0), message=("u1", 1), len=(">u2", 2), teid=(">u4", 4))
NSH = record(8, first=(">u2", 0), next=("u1", 3), path=(">u4", 4))

PPP_MULTILINK = 0x003D
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
    walk.go(rows[protocol == PPP_MULTILINK], Kind.MULTILINK)
    types = PPP_ETHERTYPE[protocol]
    known = types != 0
    walk.by_ethertype(rows[known], types[known])


def multilink(walk: Walk, rows: Array) -> None:
    """PPP multilink (RFC 1990, 3) with long sequence numbers: a packet that is whole in one fragment goes on."""
    rows, off, head = walk.head(rows, MULTILINK)
    whole = head["bits"] == 0xC0  # begins and ends here
    walk.off[rows] = off + 4
    walk.go(rows[whole], Kind.PPP)


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
    """4 and 6 are IP (RFC 4928), 1 is an associated channel (RFC 4385), anything else is Ethernet (RFC 4448)."""
    rows, off, head = walk.head(rows, BYTE)
    nibble = head["first"] >> 4
    walk.by_ethertype(rows[nibble == 4], 0x0800)
    walk.by_ethertype(rows[nibble == 6], 0x86DD)
    ethernet = (nibble != 1) & (nibble != 4) & (nibble != 6)
    rows, off = rows[ethernet], off[ethernet]
    control = _has_control_word(walk, rows)
    walk.off[rows] = off + np.where(control, 4, 0)
    walk.go(rows, Kind.ETHERNET)


def _has_control_word(walk: Walk, rows: Array) -> Array:
    """Whether a control word precedes Ethernet: nothing says so but zeros, and an ethertype where it should be."""
    control = np.zeros(len(rows), dtype=bool)
    whole = np.flatnonzero(walk.cap[rows] - walk.off[rows] >= PSEUDOWIRE.itemsize)
    head = walk.gather(walk.off[rows[whole]], PSEUDOWIRE)
    bare = (ETHERTYPE[head["bare"]] != 0) & (ETHERTYPE[head["behind"]] == 0)
    control[whole] = (head["first"] >> 4 == 0) & ~bare
    return control


def mpls_in_ip(walk: Walk, rows: Array) -> None:
    """MPLS directly over IP (RFC 4023) or UDP (RFC 7510)."""
    walk.tunnel(rows, "mpls")
    walk.go(rows, Kind.MPLS)


def pbb(walk: Walk, rows: Array) -> None:
    """Provider backbone bridging (IEEE 802.1ah): the I-tag with its 24-bit service, then Ethernet."""
    rows, off, head = walk.head(rows, LABEL)
    walk.tunnel(rows, "pbb", head["value"] & 0xFFFFFF)
    walk.off[rows] = off + 4
    walk.go(rows, Kind.ETHERNET)


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


def ethernet_in_ip(walk: Walk, rows: Array) -> None:
    """Ethernet directly over IP, protocol 143 (RFC 8986, 4.9)."""
    walk.tunnel(rows, "ethernet")
    walk.go(rows, Kind.ETHERNET)


def pim(walk: Walk, rows: Array) -> None:
    """PIM (RFC 7761, 4.9): a Register of version 2 carries the packet of a source behind 8 bytes."""
    rows, off, head = walk.head(rows, PIM, mark=False)
    version = head["first"] >> 4
    carries = (head["kind"] == 0x21) & ((version == 4) | (version == 6))
    rows = rows[carries]
    walk.tunnel(rows, "pim")
    walk.off[rows] = off[carries] + 8
    walk.go(rows, Kind.RAW)


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
    """ERSPAN type II: version 1, 8 bytes, then Ethernet."""
    rows, off, head = walk.head(rows, ERSPAN2)
    fine = head["first"] >> 4 == 1
    walk.off[rows] = off + 8
    walk.go(rows[fine], Kind.ETHERNET)


def erspan3(walk: Walk, rows: Array) -> None:
    """ERSPAN type III: version 2, 12 bytes, 8 more with the O bit, then Ethernet where the frame type is 0."""
    rows, off, head = walk.head(rows, ERSPAN3)
    bits = head["bits"].astype(np.uint16)
    fine = (head["first"] >> 4 == 2) & (bits & 0x7C00 == 0)
    walk.off[rows] = off + np.where(bits & 1, 20, 12)
    walk.go(rows[fine], Kind.ETHERNET)


def wccp(walk: Walk, rows: Array) -> None:
    """WCCP in GRE: IPv4, in version 2 behind 4 bytes of which the first nibble is not 4."""
    rows, off, head = walk.head(rows, BYTE)
    walk.off[rows] = off + np.where(head["first"] >> 4 == 4, 0, 4)
    walk.by_ethertype(rows, 0x0800)


# -- over UDP ------------------------------------------------------------------------------------------------------


def vxlan(walk: Walk, rows: Array) -> None:
    """VXLAN (RFC 7348): the I flag set."""
    rows, off, head = walk.head(rows, VXLAN)
    _vxlan(walk, rows, off, head, head["flags"] & 0x08 != 0)


def vxlan_likely(walk: Walk, rows: Array) -> None:
    """What may be VXLAN by its port: so it is where the reserved bits are zero and only the I flag is set."""
    rows, off, head = walk.head(rows, VXLAN, mark=False)
    _vxlan(walk, rows, off, head, (head["reserved"] == 0x08000000) & (head["vni"] & 0xFF == 0))


def _vxlan(walk: Walk, rows: Array, off: Array, head: Array, fine: Array) -> None:
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
    walk.go(rows[named == 5], Kind.MPLS)


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
    """GTP-U version 1 (3GPP TS 29.281, 5.1): only message 255, G-PDU, carries a packet.

    Any of the flags E, S, PN adds 4 bytes; the last of them names an extension header where E is set.
    """
    rows, off, head = walk.head(rows, GTPU)
    fine = (head["flags"] >> 5 == 1) & (head["flags"] & 0x10 != 0) & (head["message"] == 255)
    rows, off, head = rows[fine], off[fine], head[fine]
    walk.tunnel(rows, "gtpu", head["teid"])
    walk.trim(rows, off + 8 + head["len"])
    optional, extended = head["flags"] & 0x07 != 0, head["flags"] & 0x04 != 0
    walk.off[rows] = off + np.where(extended, 11, np.where(optional, 12, 8))
    walk.go(rows[~extended], Kind.GTPU_PDU)
    walk.go(rows[extended], Kind.GTPU_EXTENSION)


def gtpu_extension(walk: Walk, rows: Array) -> None:
    """The type of the next extension header, and that header: its length in 4-byte words (5.2.1)."""
    rows, off, head = walk.head(rows, BYTE)
    last = head["first"] == 0
    walk.off[rows] = off + 1
    walk.go(rows[last], Kind.GTPU_PDU)
    rows, off, head = walk.head(rows[~last], BYTE)
    fine = head["first"] > 0
    walk.malformed(rows[~fine])
    walk.off[rows[fine]] = off[fine] + head["first"][fine].astype(np.int64) * 4 - 1
    walk.go(rows[fine], Kind.GTPU_EXTENSION)


def gtpu_pdu(walk: Walk, rows: Array) -> None:
    """IP by its version; else Ethernet, where an ethertype of ours stands at its place, or what is neither."""
    rows, _, head = walk.head(rows, BYTE)
    version = head["first"] >> 4
    ip = (version == 4) | (version == 6)
    walk.go(rows[ip], Kind.RAW)
    rows, _, head = walk.head(rows[~ip], MAC, mark=False)
    walk.go(rows[ETHERTYPE[head["type"]] != 0], Kind.ETHERNET)


def l2tp(walk: Walk, rows: Array) -> None:
    """L2TP version 2 (RFC 2661, 3.1): data messages carry PPP; tunnel and session id are the tunnel's id."""
    rows, off, head = walk.head(rows, L2TP)
    flags = head["flags"].astype(np.uint16)
    fine = (flags & 0x8000 == 0) & (flags & 0x0007 == 2)
    rows, flags = rows[fine], flags[fine]
    walk.off[rows] = off[fine] + np.where(flags & 0x4000, 4, 2)
    rows, off, flags = _l2tp_ids(walk, rows, flags)
    walk.off[rows] = off + 4 + np.where(flags & 0x0800, 4, 0)
    padded = flags & 0x0200 != 0
    walk.go(rows[~padded], Kind.PPP)
    rows, off, head = walk.head(rows[padded], WORD)
    walk.off[rows] = off + 2 + head["value"].astype(np.int64)
    walk.go(rows, Kind.PPP)


def _l2tp_ids(walk: Walk, rows: Array, flags: Array) -> tuple[Array, Array, Array]:
    kept = walk.cap[rows] - walk.off[rows] >= LABEL.itemsize
    flags = flags[kept]
    rows, off, head = walk.head(rows, LABEL)
    walk.tunnel(rows, "l2tp", head["value"])
    return rows, off, flags


def teredo(walk: Walk, rows: Array) -> None:
    """Teredo (RFC 4380, 5.1.1): IPv6, alone or behind an authentication, an origin indication, or both."""
    rows, _, head = walk.head(rows, WORD)
    signed = head["value"] == 1
    trusted, off, sizes = walk.head(rows[signed], TEREDO_SIGNED)
    walk.off[trusted] = off + 13 + sizes["id"].astype(np.int64) + sizes["key"]
    rows, off, head = walk.head(np.concatenate((rows[~signed], trusted)), WORD, mark=False)
    origin = head["value"] == 0
    ip = head["value"] >> 12 == 6
    walk.off[rows[origin]] = off[origin] + 8
    rows = rows[ip | origin]
    rows, _, head = walk.head(rows, BYTE, mark=False)
    rows = rows[head["first"] >> 4 == 6]
    walk.tunnel(rows, "teredo")
    walk.by_ethertype(rows, 0x86DD)


def lisp(walk: Walk, rows: Array) -> None:
    """LISP data (RFC 9300, 5.3): 8 bytes, then IP; the instance id where the I bit is set."""
    rows, off, head = walk.head(rows, LISP)
    instance = np.where(head["flags"] & 0x08, head["instance"] >> 8, 0)
    walk.tunnel(rows, "lisp", instance)
    walk.off[rows] = off + 8
    walk.go(rows, Kind.RAW)
