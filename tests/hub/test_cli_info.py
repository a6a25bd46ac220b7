"""One line about a packet, from its fields."""

from __future__ import annotations

from typing import Any

import pytest

from hub.cli.columns import clock, endpoint
from hub.cli.info import info, protocol

TCP = {"nodetap.proto": 6, "tcp.srcport": 40000, "tcp.dstport": 443}


@pytest.mark.parametrize(
    ("row", "name", "line"),
    [
        (
            {
                **TCP,
                "tcp.flags": 0x12,
                "tcp.seq_raw": 7,
                "tcp.ack_raw": 8,
                "tcp.window_size_value": 64240,
                "tcp.len": 0,
            },
            "TCP",
            "[SYN, ACK] Seq=7 Ack=8 Win=64240 Len=0",
        ),
        ({**TCP, "tcp.flags": 0x02, "tcp.seq_raw": 7, "tcp.ack_raw": 0}, "TCP", "[SYN] Seq=7"),
        ({**TCP, "tcp.flags": 0, "tcp.seq_raw": 7}, "TCP", "[none] Seq=7"),
        (TCP, "TCP", ""),
        ({"nodetap.proto": 17, "udp.srcport": 53, "udp.length": 40}, "UDP", "Len=32"),
        ({"nodetap.proto": 17, "udp.srcport": 53, "udp.length": 0}, "UDP", "Len=0"),
        ({"nodetap.proto": 1, "icmp.type": 8, "icmp.code": 0}, "ICMP", "Echo (ping) request"),
        ({"nodetap.proto": 1, "icmp.type": 3, "icmp.code": 3}, "ICMP", "Destination unreachable (Port unreachable)"),
        ({"nodetap.proto": 58, "icmpv6.type": 135, "icmpv6.code": 0}, "ICMPv6", "Neighbor Solicitation"),
        (
            {"arp.opcode": 1, "arp.src.proto_ipv4": "10.0.0.1", "arp.dst.proto_ipv4": "10.0.0.2"},
            "ARP",
            "Who has 10.0.0.2? Tell 10.0.0.1",
        ),
        (
            {"arp.opcode": 2, "arp.src.proto_ipv4": "10.0.0.1", "eth.src": "02:00:00:00:00:01"},
            "ARP",
            "10.0.0.1 is at 02:00:00:00:00:01",
        ),
        ({"nodetap.ethertype": 0x88CC}, "LLDP", "Ethertype 0x88cc"),
        ({"nodetap.proto": 17, "ip.frag_offset": 185, "ip.flags.mf": 0}, "UDP", "[fragment at 1480]"),
        ({**TCP, "nodetap.malformed": 1}, "TCP", "[malformed]"),
        ({**TCP, "nodetap.l7": "tls", "nodetap.info": "Client Hello"}, "TLS", "Client Hello"),
        ({"nodetap.proto": 250}, "IP 250", ""),
        ({}, "?", ""),
    ],
)
def test_info(row: dict[str, Any], name: str, line: str) -> None:
    assert (protocol(row), info(row)) == (name, line)


def test_endpoints() -> None:
    assert endpoint({"ip.src": "10.0.0.1", **TCP}, "src") == "10.0.0.1:40000"
    assert endpoint({"ipv6.dst": "2001:db8::1", **TCP}, "dst") == "[2001:db8::1]:443"
    assert endpoint({"ip.src": "10.0.0.1"}, "src") == "10.0.0.1"
    assert endpoint({"eth.dst": "ff:ff:ff:ff:ff:ff"}, "dst") == "ff:ff:ff:ff:ff:ff"
    assert endpoint({}, "src") == ""


def test_the_clock_keeps_nine_decimals() -> None:
    assert clock("1700000000.123456789", "%S", 9).endswith(".123456789")
    assert clock("1700000000.123456789", "%S", 3).endswith(".123")
    assert clock(None) == ""
