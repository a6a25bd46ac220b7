"""What the decoder's tests share: frames as blocks, rows as plain values, stacks built by scapy."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import numpy as np
from scapy.contrib.geneve import GENEVE
from scapy.contrib.gtp import GTP_U_Header
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN

from agent.capture import Block, Interface
from agent.decode.decoder import Decoder
from protocol.columns import Columns, Dict, Lists, Maps, Text, Texts
from protocol.schema import PACKETS, Has

MACS = {"src": "00:01:02:03:04:05", "dst": "00:0a:0b:0c:0d:0e"}


def block_of(frames: Sequence[bytes], wire: Sequence[int] | None = None, vlan: Sequence[int] | None = None) -> Block:
    """Frames one after the other in one buffer; `wire` their lengths on the wire, by default the same."""
    sizes = np.array([len(frame) for frame in frames], dtype=np.uint32)
    n = len(frames)
    return Block(
        data=np.frombuffer(b"".join(frames), dtype=np.uint8),
        offset=np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.int64) if n else np.zeros(0, np.int64),
        cap_len=sizes,
        wire_len=sizes if wire is None else np.array(wire, dtype=np.uint32),
        time=np.arange(n, dtype=np.int64),
        iface=np.zeros(n, dtype=np.uint16),
        vlan=None if vlan is None else np.array(vlan, dtype=np.int64),
    )


def decode(frames: Sequence[bytes], linktype: int = 1, **how: Any) -> Columns:
    return Decoder([Interface("test0", linktype)]).block(block_of(frames, **how), 1)


def rows_of(columns: Columns) -> list[dict[str, Any]]:
    """Every row as plain values: lists as lists, addresses as bytes."""
    plain = {column.name: _values(columns[column.name]) for column in PACKETS.columns}
    return [dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)]


def _values(value: Any) -> list[Any]:
    if isinstance(value, Dict):
        return [value.values[code] for code in value.codes]
    if isinstance(value, (Lists, Text)):
        data = value.values if isinstance(value, Lists) else value.data
        return [part.tolist() for part in np.split(data, np.cumsum(value.lengths[:-1]))] if len(value) else []
    if isinstance(value, (Texts, Maps)):  # of the application: the decoder leaves them empty
        return [value.counts[row] for row in range(len(value))]
    return [one.tobytes() for one in value] if value.ndim == 2 else value.tolist()


def row_of(frame: bytes, linktype: int = 1, **how: Any) -> dict[str, Any]:
    (row,) = rows_of(decode([frame], linktype, **how))
    return row


def mapped(address: str) -> bytes:
    """An address as the columns hold it."""
    ip = ipaddress.ip_address(address)
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed


def has(row: dict[str, Any], bits: Has) -> bool:
    return row["layers"] & bits == bits


IP4, IP6 = IP(src="10.1.1.1", dst="10.2.2.2"), IPv6(src="fd00::1", dst="fd00::2")
OUTER4, OUTER6 = IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")


def udp(port: int, source: int = 50000) -> UDP:
    return UDP(sport=source, dport=port)


def ether(**fields: Any) -> Ether:
    return Ether(**MACS, **fields)


PAYLOADS = {
    "tcp": IP4 / TCP(sport=1000, dport=2000, seq=5, ack=6, flags="PA", window=77, options=[("NOP", None)] * 4) / b"xyz",
    "udp6": IP6 / UDP(sport=41000, dport=42000) / b"data",
    "icmp": IP4 / ICMP() / b"ping",
    "icmpv6": IP6 / ICMPv6EchoRequest(),
    "sctp": IP4 / SCTP(sport=3000, dport=4000),
}
TUNNELS = {
    "ipip": lambda x: OUTER4 / x if x.version == 4 else None,
    "6in4": lambda x: OUTER4 / x if x.version == 6 else None,
    "4in6": lambda x: OUTER6 / x if x.version == 4 else None,
    "6in6": lambda x: OUTER6 / x if x.version == 6 else None,
    "gre": lambda x: OUTER4 / GRE(key_present=1, key=7, chksum_present=1, seqnum_present=1) / x,
    "gretap": lambda x: OUTER6 / GRE(proto=0x6558, key_present=1, key=7) / ether() / x,
    "vxlan": lambda x: OUTER4 / udp(4789) / VXLAN(vni=7, flags=8) / ether() / x,
    "geneve": lambda x: OUTER6 / udp(6081) / GENEVE(vni=7) / ether() / x,
    "gtpu": lambda x: OUTER4 / udp(2152) / GTP_U_Header(teid=7) / x,
    "mpls": lambda x: MPLS(label=7, s=0) / MPLS(label=8, s=1) / x,
    "pppoe": lambda x: PPPoE(sessionid=7) / PPP() / x,
}
TAGS = {
    "": lambda x: ether() / x,
    "vlan": lambda x: ether() / Dot1Q(vlan=5) / x,
    "qinq": lambda x: ether() / Dot1AD(vlan=4) / Dot1Q(vlan=5) / x,
}
ARP_REQUEST = ARP(psrc="10.1.1.1", pdst="10.2.2.2", hwsrc=MACS["src"])


def stacks() -> dict[str, bytes]:
    """Frames by name: every payload, bare and in every tunnel, under every tagging."""
    found = {}
    for tag, under in TAGS.items():
        for name, packet in PAYLOADS.items():
            found[f"{tag}/{name}"] = bytes(under(packet))
            for tunnel, wrap in TUNNELS.items():
                if (inside := wrap(packet)) is not None:
                    found[f"{tag}/{tunnel}/{name}"] = bytes(under(inside))
        found[f"{tag}/arp"] = bytes(under(ARP_REQUEST))
    return found
