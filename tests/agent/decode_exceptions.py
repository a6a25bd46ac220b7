"""Where scapy may say something else than we do of a frame, and who is right: the exceptions to the law.

An exception holds for frames in which scapy's layers show its sign; what scapy says from there on is not compared. Each
has an example, of which we say something else than scapy and, unless `tshark` is False, the same as tshark
(`test_decode_scapy.py` asks both). Those of which tshark says something else again stand in docs/fidelity.md, "Where we
differ from tshark on purpose".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from decode_frames import IP4, IP6, OUTER4, PAYLOADS, ether, udp
from decode_scapy import EXTENSIONS
from scapy.contrib.erspan import ERSPAN_II
from scapy.contrib.geneve import GENEVE
from scapy.contrib.gtp import GTP_U_Header
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrRouting
from scapy.layers.l2 import GRE, CookedLinux
from scapy.layers.ppp import HDLC, PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

Sign = Callable[[Sequence[Packet]], bool]


class Exempt(NamedTuple):
    """`sign` looks at scapy's layers; `reason` says who is right and by what; `example` is link type and frame."""

    sign: Sign
    reason: str
    example: tuple[int, bytes]
    tshark: bool = True


def _on(name: str, holds: Callable[[Any], bool]) -> Sign:
    """Whether a layer of that name has the sign."""
    return lambda layers: any(type(layer).__name__ == name and holds(layer) for layer in layers)


def _ended(layer: Packet, size: int) -> bool:
    """Whether a layer's payload is no layer and shorter than a header of `size` bytes."""
    kind = type(layer.payload).__name__
    return kind in ("NoPayload", "Padding") or (kind == "Raw" and len(layer.payload.load) < size)


_LEAST = {6: 20, 17: 8, 132: 12, 1: 8, 58: 8, 4: 20, 41: 40, 47: 4, 0: 8, 43: 8, 44: 8, 60: 8, 137: 4}
"""Bytes of a header that scapy wants before it reads any of it, by IP protocol."""


def _cut(layers: Sequence[Packet]) -> bool:
    for layer in layers:
        name = type(layer).__name__
        following = {"IP": "proto", "IPv6": "nh", **dict.fromkeys(EXTENSIONS, "nh")}.get(name)
        if following and _ended(layer, _LEAST.get(getattr(layer, following), 0)):
            return True
        if name in ("Ether", "Dot1Q", "Dot1AD", "CookedLinux", "CookedLinuxV2") and _ended(layer, 4):
            return True
    return False


def _padded(layer: Any) -> int:
    """Bytes from the layer's header to the end of what was handed to it."""
    return len(layer.original)


def _no_family(layers: Sequence[Packet]) -> bool:
    said = layers[0].original[:4]
    family = min(int.from_bytes(said, order) for order in ("big", "little"))
    return type(layers[0]).__name__.startswith("Loopback") and family != 2


_NAMING = ("Ether", "Dot1Q", "Dot1AD", "CookedLinux", "CookedLinuxV2", "CHDLC", "GRE", "IP", "IPv6", *EXTENSIONS)


def _dropped(layers: Sequence[Packet]) -> bool:
    """Whether scapy names a layer and then gives its bytes alone, because it raised in it."""
    raw = [one for one in layers if type(one).__name__ in _NAMING and type(one.payload).__name__ == "Raw"]
    meant = (one.guess_payload_class(one.payload.load) for one in raw)
    return any(layer is not None and layer.__name__ not in ("Raw", "Padding") for layer in meant)


def _mirrored(layers: Sequence[Packet]) -> bool:
    pairs = [(one, type(one.payload).__name__) for one in layers if type(one).__name__ == "GRE"]
    versions = {"ERSPAN_II": 1, "ERSPAN_III": 2}
    return any(
        name.startswith("ERSPAN")
        and (
            (gre.proto == 0x88BE and bool(gre.seqnum_present) != (name == "ERSPAN_II"))
            or (name in versions and (gre.payload.ver != versions[name] or getattr(gre.payload, "ft", 0)))
        )
        for gre, name in pairs
    )


_IP_BEGINS = {bytes([nibble << 4 | low]) for nibble in (4, 6) for low in range(16)}

TUNNEL_LAYERS = ("VXLAN", "GENEVE", "GTP_U_Header", "GTPHeader", "MPLS")


def _tunnel_of(layer: Any) -> bool:
    return type(layer.payload).__name__ in TUNNEL_LAYERS


_BAD4 = bytes(ether() / IP4)[:14] + b"\x44" + bytes(ether() / PAYLOADS["tcp"])[15:]
_TCP = bytes(ether() / PAYLOADS["tcp"])
_ETHER = ether() / PAYLOADS["tcp"]
_ROUTED = bytes(ether() / IP6 / IPv6ExtHdrRouting(addresses=["fd00::7"]) / UDP(sport=1000, dport=2000))
_UDP6 = bytes(PAYLOADS["udp6"])

_OURS_ALONE = (0x8848, 0x8870, 0x880B, 0x883E, 0x9100)  # ethertypes

FIRST_FRAGMENT = "the first fragment's payload"
EXCEPTIONS: dict[str, Exempt] = {
    "a cut header": Exempt(_cut, "the ports, or the type, are there: RFC 9293, 768, 9260, 792", (1, _TCP[:40])),
    "a fragment behind the first": Exempt(
        _on("IP", lambda ip: ip.frag > 0 and type(ip.payload).__name__ not in ("Raw", "NoPayload", "Padding")),
        "its first bytes are no header: RFC 791, 3.2",
        (1, bytes(ether() / IP(src="10.1.1.1", dst="10.2.2.2", frag=9, proto=132) / bytes(40))),
    ),
    "no IPv4 header": Exempt(
        _on("IP", lambda ip: ip.version != 4 or ip.ihl < 5 or 0 < ip.len < 4 * ip.ihl or len(ip.original) < 4 * ip.ihl),
        "version 4, at least 5 words, a total length that holds them: RFC 791, 3.1",
        (1, _BAD4),
    ),
    "no IPv6 header": Exempt(
        _on("IPv6", lambda ip: ip.version != 6),
        "version 6: RFC 8200, 3",
        (1, bytes(ether() / IP6)[:14] + b"\x50" + _UDP6[1:]),
    ),
    "a data offset that is wrong": Exempt(
        _on("TCP", lambda tcp: tcp.dataofs < 5 or 4 * tcp.dataofs > _padded(tcp)),
        "below 5 words there is no header to trust, beyond the segment no payload: RFC 9293, 3.1",
        (1, _TCP[:46] + b"\x40" + _TCP[47:]),
    ),
    FIRST_FRAGMENT: Exempt(
        lambda layers: (
            any(
                getattr(layer, "frag", 1) == 0 and "MF" in str(layer.flags)
                for layer in layers
                if type(layer).__name__ == "IP"
            )
            or any(type(layer).__name__ == "IPv6ExtHdrFragment" and layer.m for layer in layers)
        ),
        "the length of the segment is not known: RFC 791, 3.2",
        (1, bytes(ether() / IP(src="10.1.1.1", dst="10.2.2.2", flags="MF") / TCP(sport=1, dport=2) / b"12345678")),
    ),
    "an ICMPv6 type of which scapy knows nothing": Exempt(
        lambda layers: any(getattr(layer, "nh", 0) == 58 and type(layer.payload).__name__ == "Raw" for layer in layers),
        "type and code are there for every type: RFC 4443, 2.1",
        (1, bytes(ether() / IPv6(src="fd00::1", dst="fd00::2", nh=58) / (b"\xc8\x05" + bytes(8)))),
    ),
    "a UDP length below 8": Exempt(
        _on("UDP", lambda layer: layer.len is not None and layer.len < 8 and _tunnel_of(layer)),
        "there is no payload: RFC 768",
        (1, bytes(ether() / OUTER4 / UDP(sport=50000, dport=4789, len=3) / VXLAN(vni=7, flags=8) / _ETHER)),
    ),
    "a tunnel's port opposite a server's": Exempt(
        _on("UDP", lambda layer: min(layer.sport, layer.dport) < 1024 and _tunnel_of(layer)),
        "tunnels have ephemeral source ports: RFC 7348, 5; RFC 8926, 3.3",
        (1, bytes(ether() / OUTER4 / udp(4789, 443) / VXLAN(vni=7, flags=8) / ether() / PAYLOADS["tcp"])),
        tshark=False,
    ),
    "VXLAN with other flags than I": Exempt(
        _on("VXLAN", lambda layer: int(layer.flags) != 8),
        "I must be 1 for a valid VNI, the others are reserved and ignored: RFC 7348, 5",
        (1, bytes(ether() / OUTER4 / udp(4789) / VXLAN(flags=0) / ether() / PAYLOADS["tcp"])),
        tshark=False,
    ),
    "ICMP behind IPv6": Exempt(
        _on("IPv6", lambda ip: ip.nh == 1),
        "protocol numbers mean the same behind both: RFC 8200, 3",
        (1, bytes(ether() / IPv6(src="fd00::1", dst="fd00::2", nh=1) / bytes(ICMP()))),
    ),
    "PPPoE that is none, or shorter than its frame": Exempt(
        _on("PPPoE", lambda one: (one.version, one.type, one.code) != (1, 1, 0) or one.len < len(one.original) - 6),
        "version and type 1, code 0, the length said: RFC 2516, 4",
        (1, bytes(ether() / PPPoE(version=2, sessionid=7) / PPP() / PAYLOADS["tcp"])),
        tshark=False,
    ),
    "PPP without its address and control": Exempt(
        _on("HDLC", lambda one: (one.address, one.control) != (0xFF, 3)),
        "FF 03, or compressed away: RFC 1662, 3.1",
        (50, bytes(HDLC(address=0xFB) / PPP() / PAYLOADS["tcp"])),
    ),
    "ERSPAN of another version than GRE says": Exempt(
        _mirrored,
        "without a sequence number type I, which has no header; versions 1 and 2: draft-foschiano-erspan-03, 4",
        (1, bytes(ether() / OUTER4 / GRE(proto=0x88BE, seqnum_present=1) / ERSPAN_II(ver=4) / _ETHER)),
    ),
    "GTP-U that is none, or shorter than its datagram": Exempt(
        _on(
            "GTP_U_Header",
            lambda one: (
                (one.version, one.PT, one.gtp_type) != (1, 1, 255) or one.E or one.length < len(one.original) - 8
            ),
        ),
        "version 1, a G-PDU, the length said: 3GPP TS 29.281, 5.1",
        (1, bytes(ether() / OUTER4 / udp(2152) / GTP_U_Header(version=3, teid=7) / PAYLOADS["tcp"])),
    ),
    "Geneve of another version": Exempt(
        _on("GENEVE", lambda one: one.version != 0),
        "an unknown version is dropped: RFC 8926, 3.4",
        (1, bytes(ether() / OUTER4 / udp(6081) / GENEVE(version=1) / _ETHER)),
        tshark=False,
    ),
    "GRE with routing, or of a version above 1": Exempt(
        lambda layers: any(
            type(one).__name__.startswith("GRE") and (one.version > 1 or getattr(one, "routing_present", 0))
            for one in layers
        ),
        "is discarded: RFC 2784, 2.3",
        (1, bytes(ether() / OUTER4 / GRE(version=4) / PAYLOADS["tcp"])),
        tshark=False,
    ),
    "an address family of no system": Exempt(
        _no_family,
        "2, and 24, 28, 30 for IPv6, in either byte order: LINKTYPE_NULL, LINKTYPE_LOOP",
        (0, b"\x1e\0\0\0" + _UDP6),
    ),
    "MPLS behind PPP": Exempt(
        _on("PPP", lambda ppp: ppp.proto in (0x281, 0x283)),
        "protocol 0281: RFC 3032, 4.3",
        (9, b"\x02\x81" + bytes(MPLS(label=7, s=1) / PAYLOADS["tcp"])),
    ),
    "what stands behind labels": Exempt(
        _on("MPLS", lambda mpls: mpls.s == 1 and bytes(mpls.payload.original)[:1] not in _IP_BEGINS),
        "nothing names it: 4 and 6 are IP, 1 is a channel, the rest a guess: RFC 4928, 3; RFC 4385, 5",
        (1, bytes(ether() / MPLS(label=7, s=1) / (b"\x10\0\0\x21" + bytes(_ETHER)))),
    ),
    "a cooked frame without ethertype": Exempt(
        lambda layers: type(layers[0]).__name__.startswith("CookedLinux") and layers[0].proto < 1536,
        "1 is Novell's raw 802.3, 4 is LLC: LINKTYPE_LINUX_SLL",
        (113, bytes(CookedLinux(proto=1) / _ETHER)),
    ),
    "an ethertype of which scapy knows nothing": Exempt(
        lambda layers: any(
            getattr(layer, "type", 0) in _OURS_ALONE and type(layer.payload).__name__ == "Raw" for layer in layers
        ),
        "9100 is a tag, 8848 MPLS: IEEE 802 Numbers; RFC 5332",
        (1, bytes(ether(type=0x9100) / (b"\0\5\x08\0" + bytes(PAYLOADS["tcp"])))),
    ),
    "an extension header longer than the packet": Exempt(
        lambda layers: any(
            type(layer).__name__ in EXTENSIONS and hasattr(layer, "len") and 8 * (layer.len + 1) > len(layer.original)
            for layer in layers
        ),
        "what follows is behind its end: RFC 8200, 4.3",
        (1, bytes(ether() / IP6 / IPv6ExtHdrRouting(addresses=["fd00::7"], len=99) / UDP(sport=1000, dport=2000))),
    ),
    "a layer in which scapy raised": Exempt(
        _dropped,
        "the layer is there, as far as its header goes: RFC 8200, 3",
        (1, _ROUTED[:19] + b"\2" + _ROUTED[20:]),
    ),
}
