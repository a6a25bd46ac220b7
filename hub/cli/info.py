"""One line about a packet, as Wireshark's Info column would put it, from the fields of its row. Pure.

Ports are left out: the columns beside it show them. Names of types: RFC 792, RFC 4443, RFC 4861, RFC 2710, RFC 826 and
the IANA registries of protocol numbers and ethertypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]

PROTOCOLS = {
    0: "HOPOPT", 1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 17: "UDP", 41: "IPv6", 46: "RSVP", 47: "GRE", 50: "ESP",
    51: "AH", 58: "ICMPv6", 88: "EIGRP", 89: "OSPF", 103: "PIM", 112: "VRRP", 115: "L2TP", 132: "SCTP",
}  # fmt: skip
ETHERTYPES = {
    0x0800: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6", 0x8100: "VLAN", 0x8847: "MPLS", 0x8863: "PPPoED", 0x8864: "PPPoE",
    0x888E: "EAPOL", 0x88A8: "QinQ", 0x88CC: "LLDP", 0x88F7: "PTP", 0x8899: "Realtek",
}  # fmt: skip
ICMP = {
    0: "Echo (ping) reply", 3: "Destination unreachable", 4: "Source quench", 5: "Redirect",
    8: "Echo (ping) request", 9: "Router advertisement", 10: "Router solicitation", 11: "Time-to-live exceeded",
    12: "Parameter problem", 13: "Timestamp request", 14: "Timestamp reply", 17: "Address mask request",
    18: "Address mask reply",
}  # fmt: skip
UNREACHABLE = {
    0: "Network unreachable", 1: "Host unreachable", 2: "Protocol unreachable", 3: "Port unreachable",
    4: "Fragmentation needed", 13: "Communication administratively filtered",
}  # fmt: skip
ICMPV6 = {
    1: "Destination Unreachable", 2: "Packet Too Big", 3: "Time Exceeded", 4: "Parameter Problem",
    128: "Echo (ping) request", 129: "Echo (ping) reply", 130: "Multicast Listener Query",
    131: "Multicast Listener Report", 132: "Multicast Listener Done", 133: "Router Solicitation",
    134: "Router Advertisement", 135: "Neighbor Solicitation", 136: "Neighbor Advertisement", 137: "Redirect",
    143: "Multicast Listener Report Message v2",
}  # fmt: skip
FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE")


def protocol(row: Row) -> str:
    """The name for the column Protocol: the application's, else the upper layer's, else the ethertype's."""
    if row.get("nodetap.l7"):
        return str(row["nodetap.l7"]).upper()
    if "arp.opcode" in row:
        return "ARP"
    if "nodetap.proto" in row:
        number = row["nodetap.proto"]
        return PROTOCOLS.get(number, f"IP {number}")
    kind = row.get("nodetap.ethertype")
    return "?" if kind is None else ETHERTYPES.get(kind, f"0x{kind:04x}")


def tcp_flags(flags: int) -> str:
    """TCP flags by name, lowest bit first: `SYN, ACK`."""
    return ", ".join(name for bit, name in enumerate(FLAGS) if flags >> bit & 1)


def info(row: Row) -> str:
    """One line about the packet of `row` (public field names to values)."""
    text = row.get("nodetap.info") or next((line for line in (make(row) for make in _MAKERS) if line), "")
    notes = [note for note in (_fragment(row), "malformed" if row.get("nodetap.malformed") else "") if note]
    return f"{text} [{', '.join(notes)}]".lstrip() if notes else str(text)


def _fragment(row: Row) -> str:
    offset = row.get("ip.frag_offset", row.get("ipv6.fraghdr.offset", 0))
    more = row.get("ip.flags.mf", row.get("ipv6.fraghdr.more", 0))
    return f"fragment at {offset * 8}" if offset or more else ""


def _tcp(row: Row) -> str:
    if "tcp.srcport" not in row:
        return ""
    flags = row.get("tcp.flags")
    parts = [f"[{tcp_flags(flags) or 'none'}]"] if flags is not None else []
    parts += [
        f"{name}={row[field]}"
        for name, field in (
            ("Seq", "tcp.seq_raw"),
            ("Ack", "tcp.ack_raw"),
            ("Win", "tcp.window_size_value"),
            ("Len", "tcp.len"),
        )
        if field in row and (name != "Ack" or flags is None or flags & 0x10)
    ]
    return " ".join(parts)


def _udp(row: Row) -> str:
    return f"Len={max(row['udp.length'] - 8, 0)}" if "udp.length" in row else ""


def _icmp(row: Row) -> str:
    if "icmp.type" not in row:
        return ""
    kind, code = row["icmp.type"], row.get("icmp.code")
    name = ICMP.get(kind, f"Type {kind}")
    if kind == 3 and code is not None:
        return f"{name} ({UNREACHABLE.get(code, f'code {code}')})"
    return name if not code else f"{name} (code {code})"


def _icmpv6(row: Row) -> str:
    if "icmpv6.type" not in row:
        return ""
    kind, code = row["icmpv6.type"], row.get("icmpv6.code")
    name = ICMPV6.get(kind, f"Type {kind}")
    return name if not code else f"{name} (code {code})"


def _arp(row: Row) -> str:
    if "arp.opcode" not in row:
        return ""
    sender, target = row.get("arp.src.proto_ipv4", "?"), row.get("arp.dst.proto_ipv4", "?")
    if row["arp.opcode"] == 1:
        return f"Who has {target}? Tell {sender}"
    if row["arp.opcode"] == 2:
        return f"{sender} is at {row.get('eth.src', '?')}"
    return f"Opcode {row['arp.opcode']}"


def _other(row: Row) -> str:
    if "nodetap.ethertype" in row and "nodetap.proto" not in row:
        return f"Ethertype 0x{row['nodetap.ethertype']:04x}"
    return ""


_MAKERS = (_tcp, _udp, _icmp, _icmpv6, _arp, _other)
