"""What scapy says of a frame, in the columns of the packets table: the innermost IP packet, all tags and labels."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from decode_frames import mapped
from scapy.config import conf
from scapy.packet import Packet

from protocol.schema import Has

MODULES = (
    *("layers.inet", "layers.igmp", "layers.inet6", "layers.l2", "layers.ppp", "layers.sctp", "layers.vxlan"),
    *("contrib.chdlc", "contrib.erspan", "contrib.etherip", "contrib.geneve", "contrib.gtp"),
    *("contrib.mpls", "contrib.nsh"),
)
LINKTYPES = (0, 1, 9, 12, 50, 51, 101, 104, 108, 113, 219, 228, 229, 276)
"""Those that both sides know; 14 and 117 are ours alone."""

Cells = dict[str, Any]

EXTENSIONS = ("IPv6ExtHdrHopByHop", "IPv6ExtHdrDestOpt", "IPv6ExtHdrRouting", "IPv6ExtHdrFragment")
_OF_FRAME = ("vlan_id", "mpls_label", "eth_src", "eth_dst", "eth_type", "layers")
_FRAME_BITS = Has.ETH | Has.VLAN | Has.MPLS
COMPARED = _FRAME_BITS | Has.IP | Has.IPV4 | Has.IPV6 | Has.TCP | Has.UDP | Has.SCTP | Has.ICMP | Has.ICMPV6 | Has.ARP
"""Bits of `layers` that scapy has a word for."""


@cache
def _root(linktype: int) -> type[Packet]:
    for module in MODULES:
        importlib.import_module(f"scapy.{module}")
    if linktype == 219:
        from scapy.contrib.mpls import MPLS

        return MPLS
    return conf.l2types.num2layer[linktype]


def dissect(frame: bytes, linktype: int = 1) -> list[Packet]:
    """scapy's layers of a frame, outermost first; raises whatever scapy raises."""
    return list(_root(linktype)(frame).iterpayloads()) if frame else []


def answer(layers: Iterable[Packet]) -> Cells:
    """Cells by column name; `layers` holds the bits of COMPARED. The packet that ICMP quotes is not described."""
    cells: Cells = {"vlan_id": [], "mpls_label": [], "layers": Has(0)}
    for layer in layers:
        name = type(layer).__name__
        if name in ("IP", "IPv6"):
            cells = {key: value for key, value in cells.items() if key in _OF_FRAME}
            cells["layers"] &= _FRAME_BITS
        said = _LAYERS.get(name, _icmp if name.startswith("ICMP") else _nothing)(layer)
        for tags in ("vlan_id", "mpls_label"):
            if tags in said:
                said[tags] = [*cells[tags], said[tags]]
        cells |= said | {"layers": cells["layers"] | said.get("layers", 0)}
        if name.startswith("ICMP"):
            break
    return cells


def _nothing(layer: Packet) -> Cells:
    return {}


def _mac(text: str) -> int:
    return int(text.replace(":", ""), 16)


def _ether(layer: Packet) -> Cells:
    kind = layer.len if type(layer).__name__ == "Dot3" else layer.type
    return {"eth_src": _mac(layer.src), "eth_dst": _mac(layer.dst), "eth_type": kind, "layers": Has.ETH}


def _ip(layer: Packet) -> Cells:
    cells = {"src": mapped(layer.src), "dst": mapped(layer.dst), "nxt": layer.proto, "proto": layer.proto}
    cells |= {"ttl": layer.ttl, "dsfield": layer.tos, "ip_id": layer.id, "ip_len": layer.len}
    return cells | {"frag_offset": layer.frag, "frag_more": int(layer.flags.MF), "layers": Has.IP | Has.IPV4}


def _ipv6(layer: Packet) -> Cells:
    cells = {"src": mapped(layer.src), "dst": mapped(layer.dst), "nxt": layer.nh, "proto": layer.nh}
    return cells | {"ttl": layer.hlim, "dsfield": layer.tc, "ip_len": layer.plen, "layers": Has.IP | Has.IPV6}


def _fragment(layer: Packet) -> Cells:
    return {"proto": layer.nh, "ip_id": layer.id, "frag_offset": layer.offset, "frag_more": layer.m}


def _ports(layer: Packet, bit: Has) -> Cells:
    return {"src_port": layer.sport, "dst_port": layer.dport, "layers": bit}


def _tcp(layer: Packet) -> Cells:
    cells = {"tcp_seq": layer.seq, "tcp_ack": layer.ack, "tcp_window": layer.window}
    length = len(layer.original) - 4 * layer.dataofs  # scapy takes Ethernet's padding off
    return _ports(layer, Has.TCP) | cells | {"tcp_flags": int(layer.flags) | layer.reserved << 9, "tcp_len": length}


def _icmp(layer: Packet) -> Cells:
    bit = Has.ICMP if type(layer).__name__ == "ICMP" else Has.ICMPV6
    return {"icmp_type": layer.type, "icmp_code": layer.code, "layers": bit}


_LAYERS: dict[str, Callable[[Packet], Cells]] = {
    "Ether": _ether,
    "Dot3": _ether,
    "Dot1Q": lambda layer: {"vlan_id": layer.vlan, "layers": Has.VLAN},
    "Dot1AD": lambda layer: {"vlan_id": layer.vlan, "layers": Has.VLAN},
    "MPLS": lambda layer: {"mpls_label": layer.label, "layers": Has.MPLS},
    "ARP": lambda layer: {"arp_opcode": layer.op, "layers": Has.ARP},
    "IP": _ip,
    "IPv6": _ipv6,
    "IPv6ExtHdrFragment": _fragment,
    **{name: lambda layer: {"proto": layer.nh} for name in EXTENSIONS if name != "IPv6ExtHdrFragment"},
    "TCP": _tcp,
    "UDP": lambda layer: _ports(layer, Has.UDP) | {"udp_length": layer.len},
    "SCTP": lambda layer: _ports(layer, Has.SCTP),
}
