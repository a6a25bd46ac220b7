"""The law: for every frame the walk gives scapy's answer, but for the exceptions listed here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from captures import Frame, pcap
from decode_exceptions import EXCEPTIONS, FIRST_FRAGMENT
from decode_frames import (
    ARP_REQUEST,
    IP4,
    IP6,
    OUTER4,
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
    stacks,
)
from decode_scapy import COMPARED, answer, dissect
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.chdlc import CHDLC
from scapy.contrib.erspan import ERSPAN_I, ERSPAN_II, ERSPAN_III
from scapy.contrib.mpls import MPLS
from scapy.layers.dot11 import Dot11, RadioTap
from scapy.layers.igmp import IGMP
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
from scapy.layers.l2 import GRE, LLC, SNAP, CookedLinux, CookedLinuxV2, Loopback, LoopbackOpenBSD
from scapy.layers.ppp import HDLC, PPP, PPPoE
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from agent.capture import Interface
from agent.decode import slow
from agent.decode.decoder import Decoder
from protocol.schema import Has

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


igmp = st.builds(lambda kind: IGMP(type=kind, gaddr="224.0.0.9"), st.sampled_from([0x11, 0x12, 0x16, 0x17]))
groups = igmp.map(lambda body: IP(src="10.1.1.1", dst="224.0.0.9", ttl=1) / body)


def _mirror(version: int) -> Callable[[Packet], Packet]:
    head = {1: ERSPAN_I(), 2: ERSPAN_II(session_id=7), 3: ERSPAN_III(session_id=7)}[version]
    proto = 0x22EB if version == 3 else 0x88BE
    return lambda packet: OUTER4 / GRE(proto=proto, seqnum_present=int(version > 1)) / head.copy() / ether() / packet


NESTED = {name: wrap for name, wrap in TUNNELS.items() if name not in ("mpls", "pppoe")}
NESTED |= {f"erspan{version}": _mirror(version) for version in (1, 2, 3)}
NESTED |= {"nvgre": lambda packet: OUTER4 / GRE(proto=0x6558, key_present=1, key=0x700) / ether() / packet}
BEHIND = {"": lambda packet: packet, "mpls": TUNNELS["mpls"], "pppoe": TUNNELS["pppoe"]}


def _framed(packet: Packet) -> dict[int, bytes]:
    """A packet under every link type but Ethernet."""
    ethertype, protocol = (0x0800, 0x0021) if packet.version == 4 else (0x86DD, 0x0057)
    stacks = {
        **dict.fromkeys((12, 101, 228 if packet.version == 4 else 229), packet),
        9: PPP(proto=protocol) / packet,
        50: HDLC() / PPP(proto=protocol) / packet,
        51: PPPoE(sessionid=7) / PPP(proto=protocol) / packet,
        104: CHDLC(proto=ethertype) / packet,
        113: CookedLinux(proto=ethertype) / packet,
        219: MPLS(label=7, s=1) / packet,
        276: CookedLinuxV2(proto=ethertype) / packet,
    }
    if packet.version == 4:
        stacks |= {0: Loopback(type=2) / packet, 108: LoopbackOpenBSD(type=2) / packet}
    return {linktype: bytes(stack) for linktype, stack in stacks.items()}


@st.composite
def stack(draw: st.DrawFn) -> tuple[int, bytes]:
    """Link type and frame: tags, at most two tunnels, a packet."""
    packet = draw(st.one_of(v4, v6, fragment4, groups))
    for name in draw(st.lists(st.sampled_from(sorted(NESTED)), max_size=2)):
        packet = NESTED[name](packet) or packet
    if draw(st.booleans()):
        return draw(st.sampled_from(sorted(_framed(packet).items())))
    behind, tag = draw(st.sampled_from(sorted(BEHIND))), draw(st.sampled_from(sorted(TAGS)))
    return 1, bytes(TAGS[tag](BEHIND[behind](packet)))


LIES = (0, 1, 2, 7, 8, 19, 20, 21, 40, 41, 255, 0x8000, 0xFFFF)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[int, bytes]:
    """Such a frame with bits flipped, a byte or a length replaced, or cut."""
    linktype, frame = draw(stack())
    data, at = bytearray(frame), draw(st.integers(0, len(frame) - 2))
    what = draw(st.sampled_from(["flips", "byte", "word", "cut"]))
    if what == "flips":
        for place in (at, draw(st.integers(0, len(frame) - 1))):
            data[place] ^= 1 << draw(st.integers(0, 7))
    elif what == "byte":
        data[at] = draw(st.sampled_from([0, 1, 4, 6, 0x44, 0x45, 0x4F, 0xFF]))
    elif what == "word":
        data[at : at + 2] = draw(st.sampled_from(LIES)).to_bytes(2, "big")
    else:
        del data[at:]
    return linktype, bytes(data)


def differences(frame: bytes, linktype: int) -> tuple[dict[str, Any], list[Packet]]:
    """Cells of which we and scapy say two things: (ours, scapy's); and scapy's layers."""
    row, layers = row_of(frame, linktype), dissect(frame, linktype)
    cells = answer(layers)
    ours = row | {"layers": Has(row["layers"]) & COMPARED}
    return {name: (ours[name], value) for name, value in cells.items() if ours[name] != value}, layers


def excused(layers: Sequence[Packet]) -> list[str]:
    """The exceptions whose sign a frame has."""
    return [name for name, one in EXCEPTIONS.items() if one.sign(layers)]


@settings(max_examples=300)
@given(stack(), st.integers(0, 1))
def test_the_walk_gives_scapys_answer(made: tuple[int, bytes], padded: int):
    linktype, frame = made
    frame += bytes(20 * padded if linktype == 1 else 0)
    said, layers = differences(frame, linktype)
    if FIRST_FRAGMENT in excused(layers):
        said.pop("tcp_len", None)
    assert said == {}
    assert not has(row_of(frame, linktype), Has.MALFORMED)


@settings(max_examples=600, derandomize=True)  # the same frames each time: what is new is for `make fuzz`
@given(mutated())
def test_damaged_frames_are_scapys_too_or_an_exception(made: tuple[int, bytes]):
    linktype, frame = made
    assert row_of(frame, linktype)["cap_len"] == len(frame)
    if _scapy_reads(frame, linktype):
        said, layers = differences(frame, linktype)
        assert said == {} or excused(layers)


def _scapy_reads(frame: bytes, linktype: int) -> bool:
    """Whether scapy has an answer: of some headers that are cut it raises."""
    try:
        dissect(frame, linktype)
    except Exception:
        return False
    return True


def test_exceptions_are_few():
    """A sign that excuses everything would make the law worthless: whole frames have none."""
    for name, frame in stacks().items():
        _, layers = differences(frame, 1)
        assert excused(layers) == [], name


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_an_exception_is_one(name: str):
    linktype, frame = EXCEPTIONS[name].example
    said, layers = differences(frame, linktype)
    assert said
    assert name in excused(layers)


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_tshark_says_of_an_exception_what_we_say(name: str, corpus: Path, tshark: str, tmp_path: Path):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
    import fidelity

    linktype, frame = EXCEPTIONS[name].example
    path = tmp_path / "one.pcap"
    path.write_bytes(pcap([Frame(0, len(frame), frame)], linktype=linktype))
    differ = [cell for _, _, equal, cell in fidelity.compare(path) if not equal]
    assert bool(differ) != EXCEPTIONS[name].tshark


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
