"""Layers that few captures have: tags of switches, old link layers, tunnels in their rarer forms. Frames by hand."""

from __future__ import annotations

import struct

import pytest
from decode_frames import IP4, IP6, OUTER4, PAYLOADS, decode, ether, has, mapped, row_of, udp
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, UDP, fragment
from scapy.packet import Packet, Raw

from protocol.schema import Has

TCP4, UDP6 = bytes(PAYLOADS["tcp"]), bytes(PAYLOADS["udp6"])
FRAME = bytes(ether() / PAYLOADS["tcp"])
SNAP4, SNAP6 = b"\xaa\xaa\x03\0\0\0\x08\0", b"\xaa\xaa\x03\0\0\0\x86\xdd"


@pytest.mark.parametrize(
    ("ethertype", "shim"),
    [
        (0x8909, "0101000100070800"),  # Cisco metadata
        (0x8926, "000000050800"),  # VN-Tag
        (0x892F, "004000050800"),  # HSR
        (0x893F, "0000000500000800"),  # E-Tag
        (0xF1C1, "000000050800"),  # R-Tag
        (0x894F, "0fc6010500000700" + "00" * 16 + "00007140"),  # NSH, MPLS in it
    ],
)
def test_behind_a_shim_comes_what_it_names(ethertype: int, shim: str):
    row = row_of(bytes(ether(type=ethertype)) + bytes.fromhex(shim) + TCP4)
    assert (row["src"], row["src_port"], row["tcp_len"]) == (mapped("10.1.1.1"), 1000, 3)
    assert not has(row, Has.MALFORMED)


@pytest.mark.parametrize(
    ("tag", "open_"), [("000000000001", True), ("200000000001" + "00" * 8, True), ("0c0000000001", False)]
)
def test_macsec_without_encryption_is_read(tag: str, open_: bool):
    row = row_of(bytes(ether(type=0x88E5)) + bytes.fromhex(tag) + b"\x08\0" + TCP4 + bytes(16))
    assert has(row, Has.TCP) == open_
    assert (row["src_port"], row["tcp_len"]) == ((1000, 3) if open_ else (0, 0))
    assert not has(row, Has.MALFORMED)


@pytest.mark.parametrize(
    ("linktype", "head"),
    [
        (6, b"\x10\x40" + bytes(12) + SNAP4),
        (6, b"\x10\x40" + bytes(6) + b"\x80" + bytes(5) + b"\x06\0\0\0\0\0" + SNAP4),  # with routing information
        (10, b"\x50" + bytes(12) + SNAP4),
        (100, SNAP4),
        (100, b"\xaa\xaa\x03\0\x80\xc2\0\7\0\0" + FRAME[:14]),
        (107, b"\x18\x41\x03\xcc"),
        (107, b"\x18\x41\x03\0\xcc"),
        (107, b"\x18\x40\0\x01\x03\xcc"),
        (107, b"\x18\x41\x08\0"),
        (107, b"\x18\x41\x03\0\x80\0\0\0\x08\0"),
        (107, b"\x18\x41\x03\x80\0\x80\xc2\0\7" + FRAME[:14]),
        (109, struct.pack("<III", 2, 1, 2)),
        (109, struct.pack(">III", 2, 1, 2)),
        (122, bytes(16) + SNAP4),
        (138, bytes(16) + b"\x08\0"),
        (258, struct.pack("<III", 108, 1, 1) + bytes(96) + FRAME[:14]),
        (258, struct.pack("<III", 112, 1, 0) + bytes(100) + b"\2\0\0\0"),
    ],
)
def test_old_and_rare_link_layers(linktype: int, head: bytes):
    row = row_of(head + TCP4, linktype)
    assert (row["src"], row["src_port"], row["tcp_len"]) == (mapped("10.1.1.1"), 1000, 3)
    assert not has(row, Has.MALFORMED)
    for size in range(len(head) + 20):  # cut anywhere: a row, whatever it says
        assert len(decode([(head + TCP4)[:size]], linktype)["len"]) == 1


def test_what_those_carry_that_is_no_ip_is_a_row_without_addresses():
    for linktype, frame in [
        (6, b"\x10\0" + bytes(40)),
        (10, b"\x0f" + bytes(40)),
        (107, b"\x18\x41\x03\x81" + bytes(9)),
    ]:
        assert not has(row_of(frame, linktype), Has.IP)
    nested = struct.pack("<III", 108, 1, 258) + bytes(96)
    assert not has(row_of(nested * 3, 258), Has.IP)  # PKTAP in PKTAP is none


@pytest.mark.parametrize(
    ("name", "under"),
    [
        ("pim", IP(src="192.0.2.1", dst="192.0.2.2", proto=103) / (b"\x21" + bytes(7))),
        ("ethernet", IP(src="192.0.2.1", dst="192.0.2.2", proto=143) / FRAME[:14]),
        ("gre", OUTER4 / udp(4754) / b"\0\0\x08\0"),
        ("vxlan-gpe", OUTER4 / udp(4790) / (b"\x0c\0\0\5\0\0\7\0" + bytes(MPLS(label=5, s=1)))),
        ("gtpu", OUTER4 / udp(2152) / (b"\x30\xff\0\x45\0\0\0\7" + FRAME[:14])),  # an Ethernet session
    ],
)
def test_tunnels(name: str, under: Packet):
    row = row_of(bytes(ether() / under / PAYLOADS["tcp"]))
    assert (row["tunnel_type"], row["src_port"], row["src"]) == (name, 1000, mapped("10.1.1.1"))
    assert row["tunnel_src"] == mapped("192.0.2.1")


def test_a_gtp_session_that_carries_no_ip_is_sound():
    row = row_of(bytes(ether() / OUTER4 / udp(2152) / (b"\x30\xff\0\x0c\0\0\0\7" + bytes(12))))
    assert (row["tunnel_type"], row["dst_port"]) == ("gtpu", 2152)
    assert not has(row, Has.MALFORMED)


@pytest.mark.parametrize("kind", [b"\x20", b"\x22"])
def test_other_pim_messages_are_the_routers(kind: bytes):
    row = row_of(bytes(ether() / IP(src="192.0.2.1", dst="192.0.2.2", proto=103) / (kind + bytes(7)) / PAYLOADS["tcp"]))
    assert (row["proto"], row["src"]) == (103, mapped("192.0.2.1"))


SIGNED, ORIGIN = b"\0\1\2\3" + bytes(14), b"\0\0\1\2\3\4\5\6"


@pytest.mark.parametrize("indications", [SIGNED, ORIGIN, SIGNED + ORIGIN])
def test_teredo_behind_its_indications(indications: bytes):
    row = row_of(bytes(ether() / OUTER4 / udp(40000, 3544) / (indications + UDP6)))
    assert (row["tunnel_type"], row["src_port"]) == ("teredo", 41000)


@pytest.mark.parametrize(("flags", "whole"), [(b"\xc0", True), (b"\x80", False), (b"\x40", False)])
def test_ppp_multilink_is_read_where_a_packet_is_whole(flags: bytes, whole: bool):
    row = row_of(b"\xff\x03\x00\x3d" + flags + b"\0\0\1\0\x21" + TCP4, 9)
    assert has(row, Has.TCP) == whole


def test_the_first_fragment_of_a_tunnels_datagram_is_entered():
    inside = bytes(
        OUTER4
        / udp(4789)
        / (b"\x08" + bytes(6) + b"\0")
        / ether()
        / IP4
        / UDP(sport=1000, dport=2000)
        / Raw(bytes(600))
    )
    first, second = (bytes(ether() / part) for part in fragment(IP(inside), 400)[:2])
    assert (row_of(first)["tunnel_type"], row_of(first)["src_port"]) == ("vxlan", 1000)
    assert (row_of(second)["tunnel_type"], row_of(second)["src_port"]) == ("", 0)


def test_ipv6_behind_old_link_layers():
    for linktype, head in [(100, SNAP6), (107, b"\x18\x41\x03\x8e"), (109, struct.pack("<III", 24, 1, 2))]:
        row = row_of(head + UDP6, linktype)
        assert (row["src"], row["src_port"]) == (mapped(IP6.src), 41000)
