"""The law: for every frame the walk gives scapy's answer, but for the exceptions listed here."""

from __future__ import annotations

from typing import Any

from decode_frames import (
    ARP_REQUEST,
    IP4,
    IP6,
    PAYLOADS,
    TAGS,
    TUNNELS,
    block_of,
    decode,
    ether,
    has,
    mapped,
    row_of,
    rows_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dot11 import Dot11, RadioTap
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import LLC, SNAP, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from agent.capture import Interface
from agent.decode import slow
from agent.decode.decoder import Decoder
from protocol.schema import Has

# Exceptions, each with who is right:
# - tcp_len of a first fragment: scapy's payload is the fragment's; ours is absent, the segment's length is not known
#   (RFC 791, tshark the same). Not compared.
# - the packet quoted by an ICMP error: scapy's IPerror and TCPerror; not described (DESIGN: not a tunnel).
_EXTENSIONS = ("IPv6ExtHdrHopByHop", "IPv6ExtHdrDestOpt", "IPv6ExtHdrRouting", "IPv6ExtHdrFragment")


def answer(frame: bytes) -> dict[str, Any]:
    """scapy's words for a frame in our columns: the innermost IP packet and all tags."""
    cells: dict[str, Any] = {"vlan_id": [], "mpls_label": []}
    for layer in Ether(frame).iterpayloads():
        name = type(layer).__name__
        if name == "Ether":
            cells |= {"eth_src": _mac(layer.src), "eth_dst": _mac(layer.dst), "eth_type": layer.type}
        elif name in ("Dot1Q", "Dot1AD"):
            cells["vlan_id"] = [*cells["vlan_id"], layer.vlan]
        elif name == "MPLS":
            cells["mpls_label"] = [*cells["mpls_label"], layer.label]
        elif name in ("IP", "IPv6"):
            cells = {key: value for key, value in cells.items() if key in _OF_FRAME} | _ip(layer)
        elif name in _EXTENSIONS:
            cells |= _extension(layer)
        elif name in _TRANSPORT:
            cells |= _TRANSPORT[name](layer)
        elif name.startswith("ICMP"):
            return cells | {"icmp_type": layer.type, "icmp_code": layer.code}
    return cells


_OF_FRAME = ("vlan_id", "mpls_label", "eth_src", "eth_dst", "eth_type")


def _mac(text: str) -> int:
    return int(text.replace(":", ""), 16)


def _ip(layer: Packet) -> dict[str, Any]:
    cells = {"src": mapped(layer.src), "dst": mapped(layer.dst)}
    if layer.version == 4:
        number = {"nxt": layer.proto, "proto": layer.proto, "ttl": layer.ttl, "dsfield": layer.tos, "ip_id": layer.id}
        return cells | number | {"ip_len": layer.len, "frag_offset": layer.frag, "frag_more": int(layer.flags.MF)}
    return cells | {
        "nxt": layer.nh,
        "proto": layer.nh,
        "ttl": layer.hlim,
        "dsfield": layer.tc,
        "ip_len": layer.plen,
    }


def _extension(layer: Packet) -> dict[str, Any]:
    if type(layer).__name__ == "IPv6ExtHdrFragment":
        return {"proto": layer.nh, "ip_id": layer.id, "frag_offset": layer.offset, "frag_more": layer.m}
    return {"proto": layer.nh}


def _ports(layer: Packet) -> dict[str, Any]:
    return {"src_port": layer.sport, "dst_port": layer.dport}


def _tcp(layer: Packet) -> dict[str, Any]:
    cells = {"tcp_seq": layer.seq, "tcp_ack": layer.ack, "tcp_window": layer.window}
    flags = int(layer.flags) | layer.reserved << 9
    return _ports(layer) | cells | {"tcp_flags": flags, "tcp_len": _payload(layer)}


def _payload(layer: Packet) -> int:
    """Bytes behind the header, Ethernet's padding left out."""
    return sum(len(p.original) for p in [layer.payload] if not isinstance(p, type(None)) and type(p).__name__ == "Raw")


_TRANSPORT = {"TCP": _tcp, "UDP": lambda layer: _ports(layer) | {"udp_length": layer.len}, "SCTP": _ports}

u8, u16, u32 = st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1)
ports = st.integers(10000, 29999)  # away from the ports of tunnels and of scapy's own protocols
payload = st.binary(max_size=40).map(Raw)
tcp = st.builds(
    lambda s, d, seq, ack, flags, window, options, data: (
        TCP(sport=s, dport=d, seq=seq, ack=ack, flags=flags, window=window, options=options) / data
    ),
    *(ports, ports, u32, u32, st.integers(0, 511), u16),
    st.lists(st.sampled_from([("NOP", None), ("MSS", 1460), ("Timestamp", (1, 2)), ("SAckOK", b"")]), max_size=3),
    payload,
)
datagram = st.builds(lambda s, d, data: UDP(sport=s, dport=d) / data, ports, ports, payload)
icmp = st.builds(lambda t, c, data: ICMP(type=t, code=c) / data, st.sampled_from([0, 3, 5, 8, 11, 13]), u8, payload)
error = st.just(ICMP(type=3, code=1) / IP4 / UDP(sport=1, dport=2) / b"quoted")
icmpv6 = st.sampled_from([ICMPv6EchoRequest(), ICMPv6ND_NS(tgt="fd00::9"), ICMPv6DestUnreach() / IP6 / UDP()])
sctp = st.builds(lambda s, d: SCTP(sport=s, dport=d), ports, ports)
v4 = st.builds(
    lambda tos, ttl, ident, options, upper: (
        IP(src="10.1.1.1", dst="10.2.2.2", tos=tos, ttl=ttl, id=ident, options=options) / upper
    ),
    *(u8, u8, u16, st.lists(st.sampled_from([IPOption_NOP(), IPOption_RR(routers=["1.2.3.4"])]), max_size=2)),
    st.one_of(tcp, datagram, icmp, error, sctp),
)
fragment4 = st.builds(
    lambda more, offset, data: IP(src="10.1.1.1", dst="10.2.2.2", flags=more, frag=offset, proto=17) / data,
    *(st.sampled_from([0, 1]), st.integers(1, 8191), payload),
)
extension = st.sampled_from(
    [
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrDestOpt(),
        IPv6ExtHdrRouting(addresses=["fd00::7"]),
        IPv6ExtHdrFragment(id=9),
    ]
)


def _chain(hop: int, upper: Packet, between: list[Packet]) -> Packet:
    stack = IPv6(src="fd00::1", dst="fd00::2", hlim=hop, tc=3)
    for header in between:
        stack = stack / header.copy()
    return stack / upper


v6 = st.builds(_chain, u8, st.one_of(tcp, datagram, icmpv6, sctp), st.lists(extension, max_size=3))


@st.composite
def stack(draw: st.DrawFn) -> bytes:
    """A frame: tags, at most two tunnels, a packet."""
    packet = draw(st.one_of(v4, v6, fragment4))
    for name in draw(st.lists(st.sampled_from(sorted(set(TUNNELS) - {"mpls", "pppoe"})), max_size=2)):
        packet = TUNNELS[name](packet) or packet
    name = draw(st.sampled_from(["", "mpls", "pppoe"]))
    return bytes(TAGS[draw(st.sampled_from(sorted(TAGS)))](TUNNELS[name](packet) if name else packet))


@settings(max_examples=400, deadline=None)
@given(stack(), st.integers(0, 1))
def test_the_walk_gives_scapys_answer(frame: bytes, padded: int):
    frame = frame + bytes(20 * padded)
    row, expected = row_of(frame), answer(frame)
    if row["frag_more"]:
        expected.pop("tcp_len", None)
    assert {name: row[name] for name in expected} == expected
    assert not has(row, Has.MALFORMED)


def test_arp_is_scapys():
    row = row_of(bytes(ether() / ARP_REQUEST))
    assert (row["arp_opcode"], row["src"]) == (ARP_REQUEST.op, mapped(ARP_REQUEST.psrc))


# -- the fallback --------------------------------------------------------------------------------------------------

WIFI = 127
_DATA = RadioTap() / Dot11(type=2, FCfield=1, addr1="00:01:02:03:04:05", addr2="00:01:02:03:04:06")
_SNAP = LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0, code=0x0800)
WIFI_TCP = bytes(_DATA / _SNAP / PAYLOADS["tcp"])


def test_wireless_frames_go_through_scapy_to_the_same_columns():
    row = row_of(WIFI_TCP, WIFI)
    wired = row_of(bytes(ether() / PAYLOADS["tcp"]))
    assert has(row, Has.SLOW)
    names = ("src", "dst", "src_port", "dst_port", "tcp_seq", "tcp_len", "ttl", "proto", "ethertype")
    assert [row[name] for name in names] == [wired[name] for name in names]


def test_what_the_budget_does_not_cover_is_skipped_and_counted():
    ticks = iter(range(1000))
    decoder = Decoder([Interface("w", WIFI)], slow_budget=2.0, clock=lambda: float(next(ticks)))
    rows = rows_of(decoder.block(block_of([WIFI_TCP] * 8), 1))
    assert decoder.decoded.slow + decoder.decoded.skipped == 8
    assert decoder.decoded.slow == sum(has(row, Has.SLOW) for row in rows) > 0
    decoder = Decoder([Interface("w", WIFI)], slow_budget=0.0, clock=lambda: 0.0)
    rows = rows_of(decoder.block(block_of([WIFI_TCP] * 8), 1))
    assert decoder.decoded.skipped == 8
    assert all(has(row, Has.SKIPPED) and not has(row, Has.IP) for row in rows)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(slow.MODULES)), st.binary(max_size=80))
def test_the_fallback_never_raises(linktype: int, noise: bytes):
    assert len(rows_of(decode([noise, WIFI_TCP[: len(noise)]], linktype))) == 2
