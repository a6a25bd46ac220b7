"""What frames become: layers, presence, tunnels, tags, damage."""

from __future__ import annotations

import numpy as np
import pytest
from decode_frames import (
    IP4,
    IP6,
    OUTER4,
    PAYLOADS,
    TUNNELS,
    block_of,
    decode,
    ether,
    has,
    mapped,
    row_of,
    rows_of,
    stacks,
    udp,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, GRE, LLC, SNAP, Dot1Q, Dot3
from scapy.layers.ppp import PPP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from agent.capture import Interface
from agent.decode.decoder import Decoder
from agent.decode.handlers import HANDLERS
from agent.decode.kinds import Kind
from protocol.packing import pack_columns, unpack_columns
from protocol.schema import PACKETS, Has

TCP4 = bytes(ether() / PAYLOADS["tcp"])
UDP4 = bytes(ether() / IP4 / UDP(sport=1000, dport=2000) / b"xyz")
STACKS = stacks()


def test_every_kind_but_none_has_a_handler():
    assert set(HANDLERS) == set(Kind) - {Kind.NONE}


def test_a_block_without_frames_is_no_rows():
    assert rows_of(decode([])) == []


def test_tcp_in_full():
    row = row_of(TCP4)
    assert (row["src"], row["dst"]) == (mapped("10.1.1.1"), mapped("10.2.2.2"))
    assert (row["src_port"], row["dst_port"], row["proto"], row["ttl"]) == (1000, 2000, 6, 64)
    assert (row["tcp_seq"], row["tcp_ack"], row["tcp_flags"], row["tcp_window"]) == (5, 6, 0x18, 77)
    assert row["tcp_len"] == 3
    assert (row["eth_src"], row["eth_dst"]) == (0x000102030405, 0x000A0B0C0D0E)
    assert (row["eth_type"], row["ethertype"]) == (0x0800, 0x0800)
    assert not has(row, Has.MALFORMED)


@pytest.mark.parametrize(
    ("kept", "present"),
    [
        (0, Has(0)),
        (3, Has(0)),
        (4, Has.TCP),
        (15, Has.TCP),
        (16, Has.TCP | Has.TCP_SEQ | Has.TCP_ACK | Has.TCP_FLAGS | Has.TCP_WINDOW),
        (24, Has.TCP | Has.TCP_SEQ | Has.TCP_ACK | Has.TCP_FLAGS | Has.TCP_WINDOW | Has.TCP_LEN),
    ],
)
def test_a_cut_tcp_header_has_what_tshark_gives(kept: int, present: Has):
    row = row_of(TCP4[: 34 + kept])
    every = Has.TCP | Has.TCP_SEQ | Has.TCP_ACK | Has.TCP_FLAGS | Has.TCP_WINDOW | Has.TCP_LEN
    assert Has(row["layers"]) & every == present
    assert has(row, Has.IPV4 | Has.MALFORMED)


def test_a_frame_cut_by_the_snap_length_keeps_its_payload_length():
    row = row_of(TCP4[:50], wire=[len(TCP4)])
    assert has(row, Has.TCP_LEN | Has.MALFORMED)
    assert (row["tcp_len"], row["len"], row["cap_len"]) == (3, len(TCP4), 50)


@pytest.mark.parametrize(("kept", "present"), [(3, Has(0)), (4, Has.UDP), (6, Has.UDP | Has.UDP_LENGTH)])
def test_a_cut_udp_header_has_what_is_there(kept: int, present: Has):
    row = row_of(UDP4[: 34 + kept])
    assert Has(row["layers"]) & (Has.UDP | Has.UDP_LENGTH) == present


def test_a_data_offset_below_five_leaves_ports_sequence_and_length():
    frame = bytearray(TCP4)
    frame[34 + 12] = 0x40
    row = row_of(bytes(frame))
    assert has(row, Has.TCP | Has.TCP_SEQ | Has.TCP_LEN | Has.MALFORMED)
    assert not row["layers"] & (Has.TCP_ACK | Has.TCP_FLAGS | Has.TCP_WINDOW)
    assert row["tcp_ack"] == row["tcp_flags"] == row["tcp_window"] == 0


def test_padding_is_not_payload():
    row = row_of(TCP4 + bytes(20))
    assert row["tcp_len"] == 3


@pytest.mark.parametrize(
    ("at", "value"),
    [(14, b"\x55"), (14, b"\x44"), (16, b"\x00\x13")],
    ids=["version", "header length", "total length"],
)
def test_a_wrong_ipv4_header_gives_no_addresses(at: int, value: bytes):
    row = row_of(TCP4[:at] + value + TCP4[at + len(value) :])
    assert not has(row, Has.IP)
    assert has(row, Has.ETH | Has.MALFORMED)


def test_a_total_length_of_zero_reaches_to_the_end():
    frame = bytearray(TCP4)
    frame[16:18] = b"\0\0"
    assert row_of(bytes(frame))["tcp_len"] == 3


def test_fragments():
    first = row_of(bytes(ether() / IP(src="10.1.1.1", dst="10.2.2.2", flags="MF") / TCP(sport=1, dport=2)))
    assert has(first, Has.TCP | Has.TCP_SEQ | Has.FRAG)
    assert not has(first, Has.TCP_LEN)
    assert (first["frag_more"], first["frag_offset"]) == (1, 0)
    later = row_of(bytes(ether() / IP(src="10.1.1.1", dst="10.2.2.2", frag=9, proto=6) / bytes(40)))
    assert not has(later, Has.TCP)
    assert (later["frag_more"], later["frag_offset"], later["proto"]) == (0, 9, 6)


def test_extension_headers_lead_to_the_upper_layer():
    stack = IP6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(id=77, m=1) / UDP(sport=1, dport=2)
    row = row_of(bytes(ether() / stack))
    assert (row["nxt"], row["proto"], row["src_port"], row["ip_id"], row["frag_more"]) == (0, 17, 1, 77, 1)
    row = row_of(bytes(ether() / IP6 / IPv6ExtHdrFragment(id=77, offset=3, nh=17) / b"12345678"))
    assert (row["proto"], row["frag_offset"]) == (17, 3)
    assert not has(row, Has.UDP)


def test_a_packet_quoted_by_an_icmp_error_is_not_described():
    row = row_of(bytes(ether() / OUTER4 / ICMP(type=3, code=1) / PAYLOADS["tcp"]))
    assert row["src"] == mapped("192.0.2.1")
    assert (row["icmp_type"], row["icmp_code"]) == (3, 1)
    assert not row["layers"] & (Has.TCP | Has.TUNNEL)


def test_arp():
    row = row_of(bytes(ether() / ARP(op=2, psrc="10.1.1.1", pdst="10.2.2.2")))
    assert has(row, Has.ARP | Has.ARP_IPV4)
    assert (row["arp_opcode"], row["src"], row["dst"]) == (2, mapped("10.1.1.1"), mapped("10.2.2.2"))
    assert not has(row, Has.IP)


@pytest.mark.parametrize("name", sorted(TUNNELS))
def test_a_tunnel_names_itself_and_describes_the_inner_packet(name: str):
    for inner in (IP4 / TCP(sport=1, dport=2), IP6 / ICMPv6EchoRequest()):
        stack = TUNNELS[name](inner)
        if stack is None:
            continue
        row = row_of(bytes(ether() / stack))
        assert has(row, Has.TUNNEL)
        assert row["tunnel_type"] == name
        assert (row["src"], row["dst"]) == (mapped(inner.src), mapped(inner.dst))
        outer = None if name in ("mpls", "pppoe") else stack.src
        assert row["tunnel_src"] == (mapped(outer) if outer else bytes(16))
        assert row["tunnel_id"] == (0 if name in ("ipip", "6in4", "4in6", "6in6", "mpls") else 7)
        if inner.version == 6:  # nothing of the outer UDP is left
            assert not row["layers"] & (Has.UDP | Has.UDP_LENGTH | Has.IPV4)
            assert row["src_port"] == row["udp_length"] == 0


def test_the_outermost_tunnel_is_named():
    inner = ether() / IP6 / UDP(sport=3, dport=4)
    row = row_of(bytes(ether() / OUTER4 / udp(4789) / VXLAN(vni=7, flags=8) / ether() / IP4 / GRE() / inner.payload))
    assert (row["tunnel_type"], row["tunnel_id"], row["src_port"]) == ("vxlan", 7, 3)
    assert row["tunnel_dst"] == mapped("192.0.2.2")


def test_a_tunnel_without_ip_inside_leaves_its_own_packet_described():
    row = row_of(bytes(ether() / OUTER4 / udp(4789) / VXLAN(vni=7, flags=8) / ether() / ARP(op=1)))
    assert has(row, Has.TUNNEL | Has.ARP | Has.IPV4 | Has.UDP)
    assert (row["src"], row["dst_port"], row["arp_opcode"]) == (mapped("192.0.2.1"), 4789, 1)
    assert not has(row, Has.ARP_IPV4)


def test_port_8472_is_vxlan_only_where_it_looks_like_it():
    good = ether() / OUTER4 / udp(8472) / VXLAN(vni=7, flags=8) / ether() / PAYLOADS["tcp"]
    assert row_of(bytes(good))["tunnel_type"] == "vxlan"
    other = ether() / OUTER4 / udp(8472) / VXLAN(vni=7, flags=0x0C) / ether() / PAYLOADS["tcp"]
    assert row_of(bytes(other))["dst_port"] == 8472


@pytest.mark.parametrize("ports", [(53, 4789), (4789, 53), (443, 6081), (2152, 443)])
def test_a_tunnels_port_opposite_a_servers_is_a_clients(ports: tuple[int, int]):
    source, destination = ports
    body = VXLAN(vni=7, flags=8) / ether() / PAYLOADS["tcp"]
    row = row_of(bytes(ether() / OUTER4 / udp(destination, source) / body))
    assert (row["src_port"], row["dst_port"]) == ports
    assert not has(row, Has.TUNNEL)


@pytest.mark.parametrize(
    ("name", "under"),
    [
        ("lisp", OUTER4 / udp(4341) / (b"\x88" + bytes(5) + b"\x07\x00")),
        ("gre", OUTER4 / GRE(proto=0x883E) / bytes(4)),
        ("gre", OUTER4 / GRE(proto=0x883E)),
        ("pptp", OUTER4 / GRE(bytes.fromhex("3081880b002b000700000001000000020021"))),
        ("l2tp", OUTER4 / udp(1701, 1701) / bytes.fromhex("000200000007ff030021")),
        ("etherip", IP(src="192.0.2.1", dst="192.0.2.2", proto=97) / (b"\x30\x00" + TCP4[:14])),
        ("erspan", OUTER4 / GRE(proto=0x88BE, seqnum_present=1) / (b"\x10" + bytes(7) + TCP4[:14])),
        ("erspan", OUTER4 / GRE(proto=0x22EB, seqnum_present=1) / (b"\x20" + bytes(10) + b"\1" + bytes(8) + TCP4[:14])),
    ],
)
def test_tunnels_that_scapy_does_not_build(name: str, under: Packet):
    row = row_of(bytes(ether() / under / PAYLOADS["tcp"]))
    assert (row["tunnel_type"], row["src_port"], row["src"]) == (name, 1000, mapped("10.1.1.1"))
    assert row["tunnel_src"] == mapped("192.0.2.1")
    assert row["tunnel_id"] == (7 if name in ("lisp", "pptp", "l2tp") else 0)


def test_teredo_and_backbone_bridging():
    row = row_of(bytes(ether() / OUTER4 / udp(3544) / PAYLOADS["udp6"]))
    assert (row["tunnel_type"], row["src_port"]) == ("teredo", 41000)
    row = row_of(bytes(ether(type=0x88E7) / (b"\0\0\0\7" + TCP4)))
    assert (row["tunnel_type"], row["tunnel_id"], row["src_port"]) == ("pbb", 7, 1000)


def test_a_tag_cut_behind_its_id_has_the_id():
    frame = bytes(ether() / Dot1Q(vlan=5) / PAYLOADS["tcp"])
    assert row_of(frame[:16])["vlan_id"] == [5]


def test_tags_in_order_with_the_one_the_kernel_took_off():
    frame = bytes(ether() / Dot1Q(vlan=5) / Dot1Q(vlan=6) / PAYLOADS["tcp"])
    rows = rows_of(decode([frame, TCP4, frame], vlan=[0x8100E004, 0x81000009, -1]))
    assert [row["vlan_id"] for row in rows] == [[4, 5, 6], [9], [5, 6]]
    assert all(has(row, Has.VLAN) for row in rows)


def test_labels_in_order():
    row = row_of(bytes(ether() / MPLS(label=7, s=0) / MPLS(label=8, s=1) / PAYLOADS["udp6"]))
    assert row["mpls_label"] == [7, 8]


@pytest.mark.parametrize("control", [b"", bytes(4)])
def test_a_pseudowire_with_and_without_control_word(control: bytes):
    row = row_of(bytes(ether() / MPLS(label=7, s=1) / (control + TCP4)))
    assert row["src_port"] == 1000


def test_snap_and_lengths():
    frame = Dot3(src="00:01:02:03:04:05") / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0, code=0x800)
    row = row_of(bytes(frame / PAYLOADS["tcp"]))
    assert (row["ethertype"], row["src_port"]) == (0x0800, 1000)
    assert row["eth_type"] < 1500


@pytest.mark.parametrize("value", [24, 28, 30])
@pytest.mark.parametrize("order", ["little", "big"])
def test_bsd_loopback_in_both_byte_orders(value: int, order):
    row = row_of(value.to_bytes(4, order) + bytes(PAYLOADS["udp6"]), 0)
    assert (row["src_port"], row["encap_type"]) == (41000, 15)


def test_ppp_compressed_and_not():
    for head in (b"\xff\x03\x00\x21", b"\x00\x21", b"\x21", b"\xff\x03\x21"):
        assert row_of(head + bytes(PAYLOADS["tcp"]), 9)["src_port"] == 1000
    assert row_of(bytes(PPP(proto=0xC021)) + b"\1\1\0\4", 9)["layers"] == Has.TIME


def test_endless_layers_end():
    tags = TCP4[:12] + b"\x81\x00\x00\x05" * 5000
    labels = TCP4[:12] + b"\x88\x47" + bytes(4) * 20000
    for row in rows_of(decode([tags, labels, TCP4])):
        assert has(row, Has.MALFORMED) or row["src_port"] == 1000


def test_frame_columns():
    decoder = Decoder([Interface("a", 1, 0), Interface("b", 1, 1)])
    block = block_of([TCP4, UDP4])
    block.iface[:] = [1, 0]
    rows = rows_of(decoder.block(block, 10))
    assert [row["frame_number"] for row in rows] == [10, 11]
    assert [(row["iface"], row["iface_id"], row["encap_type"]) for row in rows] == [("b", 1, 1), ("a", 0, 1)]
    assert all(has(row, Has.TIME | Has.IFACE_ID) for row in rows)
    assert (decoder.decoded.fast, decoder.decoded.slow, decoder.decoded.skipped) == (2, 0, 0)


# -- properties ----------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, int]:
    """A stack, cut and with bytes changed, and its length on the wire."""
    frame = bytearray(STACKS[draw(st.sampled_from(sorted(STACKS)))])
    wire = len(frame)
    for _ in range(draw(st.integers(0, 4))):
        frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    cut = bytes(frame[: draw(st.integers(0, len(frame)))]) if draw(st.booleans()) else bytes(frame)
    return cut, max(len(cut), wire if draw(st.booleans()) else 0)


LINKTYPES = (0, 1, 9, 50, 51, 101, 104, 108, 113, 117, 219, 228, 229, 276, 147)


@settings(max_examples=150, deadline=None)
@given(st.lists(damaged(), min_size=1, max_size=12), st.sampled_from(LINKTYPES))
def test_whatever_comes_is_one_row_each_the_same_alone_and_in_a_block(frames: list[tuple[bytes, int]], linktype: int):
    columns = decode([f for f, _ in frames], linktype, wire=[w for _, w in frames])
    rows = rows_of(columns)
    assert len(rows) == len(frames)
    for number, ((frame, wire), row) in enumerate(zip(frames, rows, strict=True)):
        alone = row_of(frame, linktype, wire=[wire])
        assert alone | {"frame_number": 0, "time": 0} == row | {"frame_number": 0, "time": 0}, number
    unpack_columns(PACKETS, pack_columns(PACKETS, columns), len(frames))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=120), max_size=20), st.sampled_from(LINKTYPES))
def test_noise_is_one_row_each(frames: list[bytes], linktype: int):
    rows = rows_of(decode(frames, linktype))
    assert [row["cap_len"] for row in rows] == [len(frame) for frame in frames]


@settings(max_examples=50, deadline=None)
@given(damaged())
def test_absent_values_are_zero(damage: tuple[bytes, int]):
    frame, wire = damage
    row = row_of(frame, wire=[wire])
    groups = {
        Has.TCP_SEQ: ("tcp_seq",),
        Has.TCP_ACK: ("tcp_ack",),
        Has.TCP_FLAGS: ("tcp_flags",),
        Has.TCP_WINDOW: ("tcp_window",),
        Has.TCP_LEN: ("tcp_len",),
        Has.UDP_LENGTH: ("udp_length",),
        Has.TCP | Has.UDP | Has.SCTP: ("src_port", "dst_port"),
        Has.ICMP | Has.ICMPV6: ("icmp_type", "icmp_code"),
        Has.IP: ("proto", "nxt", "ttl", "dsfield", "ip_len", "ip_id", "frag_offset", "frag_more"),
        Has.ETH: ("eth_src", "eth_dst", "eth_type"),
    }
    for bits, names in groups.items():
        if not row["layers"] & bits:
            assert not any(row[name] for name in names), names
    assert np.any(row["layers"] & Has.IP) or np.any(row["layers"] & Has.ARP_IPV4) or row["src"] == bytes(16)
