"""What may come next in a frame, and which number on the wire leads to it.

A `Kind` names one layer handler. The tables below turn ethertypes, IP protocol numbers, PPP protocols, UDP ports and
link types into kinds; they are looked up for many frames at once. Kind.NONE ends the walk: the layer is not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Kind(IntEnum):
    """One layer handler."""

    NONE = 0
    ETHERNET = 1
    SLL = 2
    SLL2 = 3
    NULL = 4
    LOOP = 5
    RAW = 6
    PPP = 7
    CHDLC = 8
    LLC = 9
    VLAN = 10
    ARP = 11
    IPV4 = 12
    IPV6 = 13
    V6_OPTIONS = 14
    V6_FRAGMENT = 15
    AH = 16
    TCP = 17
    UDP = 18
    UDPLITE = 19
    SCTP = 20
    ICMP = 21
    ICMPV6 = 22
    GRE = 23
    IP4_IN_IP = 24
    IP6_IN_IP = 25
    ETHER_IN_IP = 26
    MPLS_IN_IP = 27
    PBB = 28
    MPLS = 29
    PPPOE = 30
    VXLAN = 31
    VXLAN_GPE = 32
    GENEVE = 33
    GTPU = 34
    ERSPAN2 = 35
    ERSPAN3 = 36
    NSH = 37
    GTPU_EXTENSION = 38
    VXLAN_LIKELY = 39
    L2TP = 40
    TEREDO = 41
    PFLOG = 42
    WCCP = 43
    LISP = 44
    SHIM6 = 45
    SHIM8 = 46
    MACSEC = 47
    PIM = 48
    ETHERNET_IN_IP = 49
    GTPU_PDU = 50
    MULTILINK = 51
    FDDI = 52
    TOKEN_RING = 53
    ENC = 54
    IP_OVER_FC = 55
    IEEE1394 = 56
    FRAME_RELAY = 57
    PKTAP = 58
    RFC1483 = 59


def _table(size: int, entries: Mapping[int, Kind]) -> Array:
    table = np.zeros(size, dtype=np.uint8)
    for number, kind in entries.items():
        table[number] = kind
    return table


ETHERTYPE = _table(
    65536,
    {
        0x0800: Kind.IPV4,
        0x0806: Kind.ARP,
        0x6558: Kind.ETHERNET,  # transparent Ethernet bridging (RFC 1701)
        0x8100: Kind.VLAN,
        0x88A8: Kind.VLAN,
        0x9100: Kind.VLAN,
        0x86DD: Kind.IPV6,
        0x880B: Kind.PPP,
        0x8847: Kind.MPLS,
        0x8848: Kind.MPLS,
        0x8864: Kind.PPPOE,
        0x883E: Kind.WCCP,
        0x88E7: Kind.PBB,  # IEEE 802.1ah
        0x8870: Kind.LLC,  # jumbo LLC
        0x88BE: Kind.ERSPAN2,
        0x22EB: Kind.ERSPAN3,
        0x894F: Kind.NSH,
        0x8909: Kind.SHIM8,  # Cisco metadata
        0x8926: Kind.SHIM6,  # VN-Tag
        0x892F: Kind.SHIM6,  # HSR (IEC 62439-3)
        0x893F: Kind.SHIM8,  # E-Tag (IEEE 802.1BR)
        0xF1C1: Kind.SHIM6,  # R-Tag (IEEE 802.1CB)
        0x88E5: Kind.MACSEC,
    },
)

_UPPER = {
    4: Kind.IP4_IN_IP,
    6: Kind.TCP,
    1: Kind.ICMP,
    17: Kind.UDP,
    41: Kind.IP6_IN_IP,
    47: Kind.GRE,
    51: Kind.AH,
    58: Kind.ICMPV6,
    97: Kind.ETHER_IN_IP,
    103: Kind.PIM,
    132: Kind.SCTP,
    136: Kind.UDPLITE,
    137: Kind.MPLS_IN_IP,
    143: Kind.ETHERNET_IN_IP,
}
IPV4_PROTOCOL = _table(256, _UPPER)
IPV6_NEXT = _table(256, {**_UPPER, 0: Kind.V6_OPTIONS, 43: Kind.V6_OPTIONS, 60: Kind.V6_OPTIONS, 44: Kind.V6_FRAGMENT})

_EITHER_PORT = {
    1701: Kind.L2TP,  # RFC 2661
    2152: Kind.GTPU,  # 3GPP TS 29.281
    3544: Kind.TEREDO,  # RFC 4380
    4341: Kind.LISP,  # RFC 9300
    6081: Kind.GENEVE,  # RFC 8926
}
LEAST_PORT = 1024
"""Ports below are servers': a tunnel's port opposite one of these is a client's, by chance."""
UDP_SOURCE = _table(65536, {**_EITHER_PORT, 4789: Kind.VXLAN_LIKELY})
"""Tunnels by source port, where the destination port names none."""
UDP_DESTINATION = _table(
    65536,
    {
        **_EITHER_PORT,
        4754: Kind.GRE,  # RFC 8086
        4789: Kind.VXLAN,  # RFC 7348
        4790: Kind.VXLAN_GPE,
        6635: Kind.MPLS_IN_IP,  # RFC 7510
        8472: Kind.VXLAN_LIKELY,  # Linux before the port was assigned; OTV has it too
    },
)

PPP_ETHERTYPE = np.zeros(65536, dtype=np.uint16)
"""The ethertype of what a PPP protocol number carries, 0 for control protocols (RFC 1332, 5072, 3032)."""
for _ppp, _ethertype in {0x0021: 0x0800, 0x0057: 0x86DD, 0x0281: 0x8847, 0x0283: 0x8848}.items():
    PPP_ETHERTYPE[_ppp] = _ethertype

LINKTYPE = {
    0: Kind.NULL,
    1: Kind.ETHERNET,
    6: Kind.TOKEN_RING,
    9: Kind.PPP,
    10: Kind.FDDI,
    12: Kind.RAW,
    14: Kind.RAW,
    50: Kind.PPP,
    51: Kind.PPPOE,
    100: Kind.RFC1483,
    101: Kind.RAW,
    104: Kind.CHDLC,
    107: Kind.FRAME_RELAY,
    108: Kind.LOOP,
    109: Kind.ENC,
    113: Kind.SLL,
    117: Kind.PFLOG,
    122: Kind.IP_OVER_FC,
    138: Kind.IEEE1394,
    219: Kind.MPLS,
    228: Kind.IPV4,
    229: Kind.IPV6,
    258: Kind.PKTAP,
    276: Kind.SLL2,
}
"""Kind of the first layer per LINKTYPE_*; any other goes to the fallback dissector."""
