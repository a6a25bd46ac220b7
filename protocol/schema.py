"""The columns of every table, declared once.

Wire format, ClickHouse DDL, JSON keys, filter fields, CLI columns and the reference page are derived from the two
kinds of rows below:

* a `Column` is what is stored: one numpy array on the wire, one ClickHouse column in the store;
* a `Field` is what people see: a public name over one column, present where the row's `layers` has all bits of `need`.

A column has a value in every row (zero or empty where it means nothing), so arrays stay plain; which of them mean
something is said once per row, by the bits of `layers`. `src` is the address of an IPv4, an IPv6 or an ARP packet:
three fields, one column, three bits.

This module imports neither numpy nor anything heavy: the command line reads it at every start.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

__all__ = [
    "CALLS",
    "EITHER",
    "FLOWS",
    "NAMES",
    "PACKETS",
    "PARTS",
    "TABLES",
    "WRAP_NS",
    "Column",
    "Field",
    "Has",
    "Table",
    "fields_of",
    "second",
]


class Has(IntFlag):
    """Bits of the column `layers`: what the decoder found in a frame. Fields name the bits they need."""

    TIME = 1 << 0  # a pcapng simple packet block has none
    ETH = 1 << 1  # MAC addresses and ethertype
    VLAN = 1 << 2
    MPLS = 1 << 3
    TUNNEL = 1 << 4  # the row describes a packet inside a tunnel
    ARP = 1 << 5  # opcode
    ARP_IPV4 = 1 << 6  # src and dst are ARP's protocol addresses
    IPV4 = 1 << 7  # src, dst, nxt, proto, ttl, ... of an IPv4 header
    IPV6 = 1 << 8  # the same of an IPv6 header
    FRAG = 1 << 9  # fragment fields: always for IPv4, with a fragment header for IPv6
    TCP = 1 << 10  # ports
    TCP_SEQ = 1 << 11
    TCP_ACK = 1 << 12
    TCP_FLAGS = 1 << 13
    TCP_WINDOW = 1 << 14
    TCP_LEN = 1 << 15
    UDP = 1 << 16  # ports
    UDP_LENGTH = 1 << 17
    SCTP = 1 << 18  # ports
    ICMP = 1 << 19  # type
    ICMP_CODE = 1 << 20
    ICMPV6 = 1 << 21  # type
    ICMPV6_CODE = 1 << 22
    MALFORMED = 1 << 23
    ETHERTYPE = 1 << 24  # an effective ethertype is known, whatever the link type
    SLOW = 1 << 25  # decoded by the fallback dissector
    SKIPPED = 1 << 26  # the fallback's budget was spent: the row has only what the fast path saw
    IFACE_ID = 1 << 27  # the capture file numbered its interfaces
    IP = 1 << 28  # IPv4 or IPv6, with addresses
    TUNNEL_IP = 1 << 29  # the outermost tunnel lies in an IP packet: MPLS and PPPoE may not
    DNS = 1 << 30  # application protocols whose columns mean something: DNS, mDNS, LLMNR
    TLS = 1 << 31
    DTLS = 1 << 32
    QUIC = 1 << 33
    HTTP = 1 << 34
    HTTP2 = 1 << 35
    SSH = 1 << 36


@dataclass(frozen=True, slots=True)
class Column:
    """One stored column.

    `wire` says how the values look in memory and on the wire:
    `u1 u2 u4 u8 i8` little-endian integers of that many bytes; `addr` 16 bytes a row (IPv4 mapped into IPv6);
    `dict` strings of few values (codes and a list); `text` strings of many values (lengths and bytes);
    `list_u2`, `list_u4` several integers a row (lengths and values); `list_text` several strings a row; `map` a string
    map (in both: counts, then the strings).
    `clickhouse` is the column's type there. `doc` is one line of meaning, with the unit.
    """

    name: str
    wire: str
    clickhouse: str
    doc: str
    shows: str = ""
    """An expression of the store over other columns: worked out when it is asked for, neither stored nor sent."""


@dataclass(frozen=True, slots=True)
class Field:
    """One public field over a column.

    `kind` says how a value is printed and compared: `uint`, `bool` (bit `shift` of the column), `time` (seconds since
    the epoch, 9 decimals), `seconds` (nanoseconds printed as seconds), `ip` (either family), `mac`, `text`, `epoch`
    (16 hex digits), `uints` and `texts` (always an array), `map` (an object of strings). `need` are the bits of
    `layers` that must all be set; 0 means that the field is always present (but an empty text, list or map is absent).

    A field of `uints` may show a part of each integer: those that have all bits of `only`, and of them `bits` bits
    from bit `shift` on.
    """

    name: str
    column: str
    kind: str
    need: int
    doc: str
    shift: int = 0
    bits: int = 0
    only: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """One stored table: its wire columns in order, its public fields in order of display, its sorting key."""

    name: str
    columns: tuple[Column, ...]
    fields: tuple[Field, ...]
    order_by: str
    time: str  # the column that `--since` and `--until` look at, nanoseconds
    until: str  # the column that ends the row's time, the same as `time` for an instant

    def column(self, name: str) -> Column:
        """The column `name`; KeyError where there is none."""
        return _columns(self.name)[name]


def second(column: str) -> str:
    """The second of a time, as tables are sorted: within it by agent, so that what is alike lies together."""
    return f"intDiv({column}, 1000000000)"


# Columns that the hub adds to every row: who sent it, and where it stands in the store.
ORIGIN = (
    Column("agent", "dict", "LowCardinality(String)", "name of the agent that captured the packet"),
    Column("epoch", "u8", "UInt64", "the agent's run, 64 random bits"),
    Column("seq", "u8", "UInt64", "the batch within the run, from 1"),
    Column("commit", "u8", "UInt64", "the hub's commit that stored the row; rises by one, never reused"),
    Column("ingest_day", "u2", "Date", "day on which the hub stored the row (UTC): partition and retention"),
)

_SIDES = (("src", "source"), ("dst", "destination"), ("iface", "behind the interface"))

# What the hub knows from Kubernetes of both sides of a row, and of the pod behind the interface it was captured on;
# empty where it does not watch a cluster.
NAMES = tuple(
    Column(f"k8s_{side}", "dict", "LowCardinality(String)", f"{of}: namespace/pod/workload/service/node/reason")
    for side, of in _SIDES
)

_PARTS = (
    ("namespace", "namespace of the pod or service"),
    ("pod", "pod that had the address then"),
    ("workload", "what was deployed to get the pod: Deployment, StatefulSet, DaemonSet, CronJob, Job, ..."),
    ("service", "service whose address it is"),
    ("node", "node of the pod, or whose address it is"),
    ("reason", "why there are no names: external, special, unassigned, ambiguous, unwatched, stale"),
)
PARTS = tuple(
    Column(f"k8s_{side}_{part}", "text", "String", doc, f"splitByChar('/', k8s_{side})[{number}]")
    for side, _ in _SIDES
    for number, (part, doc) in enumerate(_PARTS, 1)
)
"""The parts of `NAMES`."""

_KEY = (  # what packets and flows share
    Column("layers", "u8", "UInt64", "bit set of what the decoder found (Has)"),
    Column("iface", "dict", "LowCardinality(String)", "interface the frame was captured on"),
    Column("ethertype", "u2", "UInt16", "ethertype after all VLAN tags; of the packet described"),
    Column("eth_src", "u8", "UInt64", "source MAC address, the 48 low bits"),
    Column("eth_dst", "u8", "UInt64", "destination MAC address, the 48 low bits"),
    Column("src", "addr", "IPv6", "source address; IPv4 mapped"),
    Column("dst", "addr", "IPv6", "destination address; IPv4 mapped"),
    Column("proto", "u1", "UInt8", "upper-layer protocol after all extension headers"),
    Column("src_port", "u2", "UInt16", "source port"),
    Column("dst_port", "u2", "UInt16", "destination port"),
)

_PACKET_COLUMNS = (
    Column("frame_number", "u8", "UInt64", "frames of one agent run, from 1"),
    Column("time", "i8", "Int64", "capture time, nanoseconds since 1970-01-01 UTC"),
    Column("len", "u4", "UInt32", "length on the wire, bytes"),
    Column("cap_len", "u4", "UInt32", "length captured, bytes"),
    Column("iface_id", "u4", "UInt32", "number of the interface in the capture file"),
    Column("encap_type", "u2", "UInt16", "link type as Wireshark numbers encapsulations"),
    *_KEY,
    Column("vlan_id", "list_u2", "Array(UInt16)", "VLAN ids, outermost first"),
    Column("mpls_label", "list_u4", "Array(UInt32)", "MPLS labels, outermost first"),
    Column("eth_type", "u2", "UInt16", "type in the Ethernet header, before VLAN tags"),
    Column("tunnel_type", "dict", "LowCardinality(String)", "outermost tunnel: vxlan, geneve, gre, ipip, 6in4, ..."),
    Column("tunnel_src", "addr", "IPv6", "source address of the outermost IP header of a tunnel"),
    Column("tunnel_dst", "addr", "IPv6", "destination address of the outermost IP header of a tunnel"),
    Column("tunnel_id", "u4", "UInt32", "VNI, GRE key, TEID or PPPoE session of the outermost tunnel"),
    Column("arp_opcode", "u2", "UInt16", "ARP operation"),
    Column("nxt", "u1", "UInt8", "protocol or next header in the IP header itself"),
    Column("ttl", "u1", "UInt8", "time to live or hop limit"),
    Column("dsfield", "u1", "UInt8", "differentiated services field or traffic class"),
    Column("ip_len", "u4", "UInt32", "IPv4 total length or IPv6 payload length, bytes"),
    Column("ip_id", "u4", "UInt32", "IPv4 identification or IPv6 fragment identification"),
    Column("frag_offset", "u2", "UInt16", "fragment offset, units of 8 bytes"),
    Column("frag_more", "u1", "UInt8", "1 where more fragments follow"),
    Column("tcp_flags", "u2", "UInt16", "TCP flags, 12 bits with the reserved ones"),
    Column("tcp_seq", "u4", "UInt32", "TCP sequence number, raw"),
    Column("tcp_ack", "u4", "UInt32", "TCP acknowledgement number, raw"),
    Column("tcp_window", "u2", "UInt16", "TCP window field, not scaled"),
    Column("tcp_len", "u4", "UInt32", "TCP payload, bytes"),
    Column("udp_length", "u2", "UInt16", "UDP length field, header included, bytes"),
    Column("icmp_type", "u1", "UInt8", "ICMP or ICMPv6 type"),
    Column("icmp_code", "u1", "UInt8", "ICMP or ICMPv6 code"),
    Column("l7", "dict", "LowCardinality(String)", "application protocol"),
    Column("info", "text", "String", "one line about the frame"),
    Column("dns_id", "list_u2", "Array(UInt16)", "DNS transaction ids"),
    Column("dns_flags", "list_u2", "Array(UInt16)", "flags word of each DNS message"),
    Column("dns_qry_name", "list_text", "Array(String)", "names asked for"),
    Column("dns_qry_type", "list_u2", "Array(UInt16)", "types asked for"),
    Column("dns_count_answers", "list_u2", "Array(UInt16)", "answers of each DNS message"),
    Column("dns_resp_name", "list_text", "Array(String)", "owners of the records answered"),
    Column("dns_resp_type", "list_u2", "Array(UInt16)", "types of the records answered"),
    Column("dns_a", "list_text", "Array(String)", "IPv4 addresses answered"),
    Column("dns_aaaa", "list_text", "Array(String)", "IPv6 addresses answered"),
    Column("dns_cname", "list_text", "Array(String)", "canonical names answered"),
    Column("dns_ptr", "list_text", "Array(String)", "names answered for addresses"),
    Column("tls_record_type", "list_u2", "Array(UInt16)", "content type of each TLS record"),
    Column("tls_handshake_type", "list_u2", "Array(UInt16)", "TLS or DTLS handshake messages"),
    Column("tls_version", "list_u2", "Array(UInt16)", "legacy version of each hello"),
    Column("tls_supported_version", "list_u2", "Array(UInt16)", "versions in the extension of the hellos"),
    Column("tls_sni", "list_text", "Array(String)", "server names asked for"),
    Column("tls_alpn", "list_text", "Array(String)", "application protocols offered or chosen"),
    Column("tls_cipher", "list_u2", "Array(UInt16)", "cipher suite chosen by a server hello"),
    Column("tls_ja4", "list_text", "Array(String)", "JA4 fingerprint of each client hello"),
    Column("quic_version", "list_u4", "Array(UInt32)", "version of each long-header QUIC packet"),
    Column("http_method", "list_text", "Array(String)", "HTTP request methods"),
    Column("http_host", "list_text", "Array(String)", "HTTP hosts or authorities"),
    Column("http_uri", "list_text", "Array(String)", "HTTP request targets, without query strings unless told"),
    Column("http_status", "list_u2", "Array(UInt16)", "HTTP response codes"),
    Column("http_user_agent", "list_text", "Array(String)", "HTTP user agents"),
    Column("http_content_type", "list_text", "Array(String)", "HTTP content types"),
    Column("http2_streamid", "list_u4", "Array(UInt32)", "stream of each HTTP/2 frame"),
    Column("http2_type", "list_u2", "Array(UInt16)", "type of each HTTP/2 frame"),
    Column("grpc_status", "list_u2", "Array(UInt16)", "gRPC status codes"),
    Column("ssh_protocol", "list_text", "Array(String)", "SSH version strings"),
    Column("l7_fields", "map", "Map(String, String)", "fields of the other application protocols, Wireshark's names"),
)

_FLOW_COLUMNS = (
    Column("start", "i8", "Int64", "time of the first packet, nanoseconds since 1970-01-01 UTC"),
    Column("end", "i8", "Int64", "time of the last packet, nanoseconds since 1970-01-01 UTC"),
    *_KEY,
    Column("packets", "u8", "UInt64", "packets from source to destination"),
    Column("bytes", "u8", "UInt64", "bytes on the wire from source to destination"),
    Column("packets_rev", "u8", "UInt64", "packets from destination to source"),
    Column("bytes_rev", "u8", "UInt64", "bytes on the wire from destination to source"),
    Column("flow_only", "u8", "UInt64", "packets of this flow record whose rows were not sent"),
    Column("tcp_flags", "u2", "UInt16", "TCP flags seen from source to destination, or-ed"),
    Column("tcp_flags_rev", "u2", "UInt16", "TCP flags seen from destination to source, or-ed"),
    Column("zero_windows", "u4", "UInt32", "TCP segments that announced window 0, both ways, without RST"),
    Column("resets", "u4", "UInt32", "TCP segments with RST, both ways"),
    Column("retransmissions", "u4", "UInt32", "TCP segments sent again from source to destination"),
    Column("retransmissions_rev", "u4", "UInt32", "TCP segments sent again from destination to source"),
    Column("out_of_order", "u4", "UInt32", "TCP segments out of order from source to destination"),
    Column("out_of_order_rev", "u4", "UInt32", "TCP segments out of order from destination to source"),
    Column("rtt", "i8", "Int64", "SYN to SYN-ACK of the conversation, nanoseconds; -1 where not seen"),
)

_CALL_COLUMNS = (
    Column("start", "i8", "Int64", "time of the request, nanoseconds since 1970-01-01 UTC"),
    Column(
        "end", "i8", "Int64", "time of the response, nanoseconds since 1970-01-01 UTC; the start where none was seen"
    ),
    Column("latency", "i8", "Int64", "request to response, nanoseconds; -1 where no response was seen"),
    *(column for column in _KEY if column.name not in ("ethertype", "eth_src", "eth_dst")),
    Column("l7", "dict", "LowCardinality(String)", "application protocol"),
    Column("operation", "text", "String", "what was asked for: verb, query type, method and path"),
    Column("status", "dict", "LowCardinality(String)", "what the response said; empty where none was seen"),
    Column("error", "u1", "UInt8", "1 where the response said that the call failed"),
    Column("request_bytes", "u8", "UInt64", "payload of the packet with the request, shared among its requests"),
    Column("response_bytes", "u8", "UInt64", "payload of the packet with the response, shared among its responses"),
)

_V4, _V6, _ARP4 = int(Has.IPV4), int(Has.IPV6), int(Has.ARP_IPV4)
_TCP, _UDP, _SCTP = int(Has.TCP), int(Has.UDP), int(Has.SCTP)


def _addresses() -> tuple[Field, ...]:
    return (
        Field("ip.src", "src", "ip", _V4, "IPv4 source"),
        Field("ip.dst", "dst", "ip", _V4, "IPv4 destination"),
        Field("ipv6.src", "src", "ip", _V6, "IPv6 source"),
        Field("ipv6.dst", "dst", "ip", _V6, "IPv6 destination"),
    )


def _names() -> tuple[Field, ...]:
    return tuple(
        Field(f"k8s.{side}.{part}", f"k8s_{side}_{part}", "text", 0, f"{of}: {doc}")
        for side, of in _SIDES
        for part, doc in _PARTS
    )


def _ports() -> tuple[Field, ...]:
    return tuple(
        Field(f"{proto}.{side}port", f"{side}_port", "uint", need, f"{proto.upper()} {name} port")
        for proto, need in (("tcp", _TCP), ("udp", _UDP), ("sctp", _SCTP))
        for side, name in (("src", "source"), ("dst", "destination"))
    )


def _flag_bits(need: int) -> tuple[Field, ...]:
    names = ("fin", "syn", "reset", "push", "ack", "urg", "ece", "cwr")
    return tuple(
        Field(f"tcp.flags.{name}", "tcp_flags", "bool", need, f"TCP flag {name.upper()}", shift)
        for shift, name in enumerate(names)
    )


_DNS, _TLS, _DTLS, _QUIC = int(Has.DNS), int(Has.TLS), int(Has.DTLS), int(Has.QUIC)
_HTTP, _HTTP2, _SSH = int(Has.HTTP), int(Has.HTTP2), int(Has.SSH)
_RESPONSE = 1 << 15  # QR (RFC 1035, 4.1.1)

L7_FIELDS = (
    Field("nodetap.l7", "l7", "text", 0, "application protocol"),
    Field("nodetap.info", "info", "text", 0, "one line about the frame"),
    Field("nodetap.fields", "l7_fields", "map", 0, "fields without a column; in filters one: nodetap.fields.NAME"),
    Field("dns.id", "dns_id", "uints", _DNS, "transaction id"),
    Field("dns.flags.response", "dns_flags", "uints", _DNS, "1 for a response", 15, 1),
    Field("dns.flags.opcode", "dns_flags", "uints", _DNS, "operation", 11, 4),
    Field("dns.flags.rcode", "dns_flags", "uints", _DNS, "response code; of responses only", 0, 4, _RESPONSE),
    Field("dns.qry.name", "dns_qry_name", "texts", _DNS, "name asked for"),
    Field("dns.qry.type", "dns_qry_type", "uints", _DNS, "type asked for"),
    Field("dns.count.answers", "dns_count_answers", "uints", _DNS, "answers in the message"),
    Field("dns.resp.name", "dns_resp_name", "texts", _DNS, "owner of a record"),
    Field("dns.resp.type", "dns_resp_type", "uints", _DNS, "type of a record"),
    Field("dns.a", "dns_a", "texts", _DNS, "IPv4 address answered"),
    Field("dns.aaaa", "dns_aaaa", "texts", _DNS, "IPv6 address answered"),
    Field("dns.cname", "dns_cname", "texts", _DNS, "canonical name answered"),
    Field("dns.ptr.domain_name", "dns_ptr", "texts", _DNS, "name answered for an address"),
    Field("tls.record.content_type", "tls_record_type", "uints", _TLS, "content type of a record"),
    Field("tls.handshake.type", "tls_handshake_type", "uints", _TLS, "handshake message"),
    Field("tls.handshake.version", "tls_version", "uints", _TLS, "legacy version of a hello"),
    Field(
        "tls.handshake.extensions.supported_version",
        "tls_supported_version",
        "uints",
        _TLS,
        "version in the supported_versions extension of a hello",
    ),
    Field("tls.handshake.extensions_server_name", "tls_sni", "texts", _TLS, "server name asked for"),
    Field("tls.handshake.extensions_alpn_str", "tls_alpn", "texts", _TLS, "application protocol offered or chosen"),
    Field("tls.handshake.ciphersuite", "tls_cipher", "uints", _TLS, "cipher suite; of a server hello only"),
    Field("tls.handshake.ja4", "tls_ja4", "texts", _TLS, "JA4 fingerprint of a client hello"),
    Field("dtls.handshake.type", "tls_handshake_type", "uints", _DTLS, "handshake message"),
    Field("dtls.handshake.extensions_server_name", "tls_sni", "texts", _DTLS, "server name asked for"),
    Field("quic.version", "quic_version", "uints", _QUIC, "version in a long header"),
    Field("http.request.method", "http_method", "texts", _HTTP, "method"),
    Field("http.host", "http_host", "texts", _HTTP, "host"),
    Field("http.request.uri", "http_uri", "texts", _HTTP, "request target; without its query string unless told"),
    Field("http.response.code", "http_status", "uints", _HTTP, "status code"),
    Field("http.user_agent", "http_user_agent", "texts", _HTTP, "user agent"),
    Field("http.content_type", "http_content_type", "texts", _HTTP, "content type"),
    Field("http2.streamid", "http2_streamid", "uints", _HTTP2, "stream of a frame"),
    Field("http2.type", "http2_type", "uints", _HTTP2, "type of a frame"),
    Field("http2.headers.method", "http_method", "texts", _HTTP2, "method"),
    Field("http2.headers.authority", "http_host", "texts", _HTTP2, "authority"),
    Field("http2.headers.path", "http_uri", "texts", _HTTP2, "path; without its query string unless told"),
    Field("http2.headers.status", "http_status", "uints", _HTTP2, "status code"),
    Field("http2.headers.user_agent", "http_user_agent", "texts", _HTTP2, "user agent"),
    Field("http2.headers.content_type", "http_content_type", "texts", _HTTP2, "content type"),
    Field("grpc.status_code", "grpc_status", "uints", _HTTP2, "gRPC status"),
    Field("ssh.protocol", "ssh_protocol", "texts", _SSH, "version string"),
)

_ORIGIN_FIELDS = (
    Field("nodetap.agent", "agent", "text", 0, "agent that captured the packet"),
    Field("nodetap.epoch", "epoch", "epoch", 0, "run of the agent, 16 hex digits"),
    Field("nodetap.iface", "iface", "text", 0, "interface"),
)

_PACKET_FIELDS = (
    Field("frame.number", "frame_number", "uint", 0, "frames of one agent run, from 1"),
    Field("frame.time_epoch", "time", "time", int(Has.TIME), "capture time, seconds since the epoch"),
    Field("frame.len", "len", "uint", 0, "length on the wire, bytes"),
    Field("frame.cap_len", "cap_len", "uint", 0, "length captured, bytes"),
    Field("frame.interface_id", "iface_id", "uint", int(Has.IFACE_ID), "interface number in a pcapng file"),
    Field("frame.encap_type", "encap_type", "uint", 0, "encapsulation, Wireshark's number"),
    *_ORIGIN_FIELDS,
    Field("eth.src", "eth_src", "mac", int(Has.ETH), "source MAC address"),
    Field("eth.dst", "eth_dst", "mac", int(Has.ETH), "destination MAC address"),
    Field("eth.type", "eth_type", "uint", int(Has.ETH), "ethertype in the Ethernet header; a length below 1536"),
    Field("nodetap.ethertype", "ethertype", "uint", int(Has.ETHERTYPE), "ethertype after all VLAN tags"),
    Field("vlan.id", "vlan_id", "uints", int(Has.VLAN), "VLAN ids, outermost first"),
    Field("mpls.label", "mpls_label", "uints", int(Has.MPLS), "MPLS labels, outermost first"),
    Field("tunnel.type", "tunnel_type", "text", int(Has.TUNNEL), "outermost tunnel"),
    Field("tunnel.src", "tunnel_src", "ip", int(Has.TUNNEL_IP), "source of the outermost tunnel"),
    Field("tunnel.dst", "tunnel_dst", "ip", int(Has.TUNNEL_IP), "destination of the outermost tunnel"),
    Field("tunnel.id", "tunnel_id", "uint", int(Has.TUNNEL), "VNI, GRE key, TEID or session of the outermost tunnel"),
    Field("arp.opcode", "arp_opcode", "uint", int(Has.ARP), "ARP operation"),
    Field("arp.src.proto_ipv4", "src", "ip", _ARP4, "ARP sender address"),
    Field("arp.dst.proto_ipv4", "dst", "ip", _ARP4, "ARP target address"),
    *_addresses(),
    Field("nodetap.proto", "proto", "uint", int(Has.IP), "upper-layer protocol after all extension headers"),
    Field("ip.proto", "nxt", "uint", _V4, "protocol field of the IPv4 header"),
    Field("ip.ttl", "ttl", "uint", _V4, "time to live"),
    Field("ip.dsfield", "dsfield", "uint", _V4, "differentiated services field"),
    Field("ip.len", "ip_len", "uint", _V4, "total length, bytes"),
    Field("ip.id", "ip_id", "uint", _V4, "identification"),
    Field("ip.flags.mf", "frag_more", "uint", _V4 | int(Has.FRAG), "more fragments"),
    Field("ip.frag_offset", "frag_offset", "uint", _V4 | int(Has.FRAG), "fragment offset, units of 8 bytes"),
    Field("ipv6.nxt", "nxt", "uint", _V6, "next header field of the IPv6 header"),
    Field("ipv6.hlim", "ttl", "uint", _V6, "hop limit"),
    Field("ipv6.tclass", "dsfield", "uint", _V6, "traffic class"),
    Field("ipv6.plen", "ip_len", "uint", _V6, "payload length, bytes"),
    Field("ipv6.fraghdr.ident", "ip_id", "uint", _V6 | int(Has.FRAG), "fragment identification"),
    Field("ipv6.fraghdr.more", "frag_more", "uint", _V6 | int(Has.FRAG), "more fragments"),
    Field("ipv6.fraghdr.offset", "frag_offset", "uint", _V6 | int(Has.FRAG), "fragment offset, units of 8 bytes"),
    *_ports(),
    Field("tcp.flags", "tcp_flags", "uint", int(Has.TCP_FLAGS), "TCP flags, 12 bits"),
    *_flag_bits(int(Has.TCP_FLAGS)),
    Field("tcp.seq_raw", "tcp_seq", "uint", int(Has.TCP_SEQ), "sequence number, raw"),
    Field("tcp.ack_raw", "tcp_ack", "uint", int(Has.TCP_ACK), "acknowledgement number, raw"),
    Field("tcp.window_size_value", "tcp_window", "uint", int(Has.TCP_WINDOW), "window, not scaled"),
    Field("tcp.len", "tcp_len", "uint", int(Has.TCP_LEN), "TCP payload, bytes"),
    Field("udp.length", "udp_length", "uint", int(Has.UDP_LENGTH), "UDP length, header included, bytes"),
    Field("icmp.type", "icmp_type", "uint", int(Has.ICMP), "ICMP type"),
    Field("icmp.code", "icmp_code", "uint", int(Has.ICMP_CODE), "ICMP code"),
    Field("icmpv6.type", "icmp_type", "uint", int(Has.ICMPV6), "ICMPv6 type"),
    Field("icmpv6.code", "icmp_code", "uint", int(Has.ICMPV6_CODE), "ICMPv6 code"),
    *L7_FIELDS,
    *_names(),
    Field("nodetap.malformed", "layers", "bool", int(Has.MALFORMED), "1 where a header was cut or wrong", 23),
)

_FLOW_FIELDS = (
    Field("flow.start", "start", "time", 0, "first packet, seconds since the epoch"),
    Field("flow.end", "end", "time", 0, "last packet, seconds since the epoch"),
    *_ORIGIN_FIELDS,
    Field("eth.src", "eth_src", "mac", int(Has.ETH), "source MAC address (flows without IP)"),
    Field("eth.dst", "eth_dst", "mac", int(Has.ETH), "destination MAC address (flows without IP)"),
    Field("nodetap.ethertype", "ethertype", "uint", int(Has.ETHERTYPE), "ethertype after all VLAN tags"),
    *_addresses(),
    Field("nodetap.proto", "proto", "uint", int(Has.IP), "upper-layer protocol"),
    *_ports(),
    Field("flow.packets", "packets", "uint", 0, "packets from source to destination"),
    Field("flow.bytes", "bytes", "uint", 0, "bytes from source to destination"),
    Field("flow.packets_rev", "packets_rev", "uint", 0, "packets from destination to source"),
    Field("flow.bytes_rev", "bytes_rev", "uint", 0, "bytes from destination to source"),
    Field("flow.flow_only", "flow_only", "uint", 0, "packets of the flow whose rows were not sent"),
    Field("tcp.flags", "tcp_flags", "uint", int(Has.TCP_FLAGS), "TCP flags from source to destination, or-ed"),
    Field("flow.tcp_flags_rev", "tcp_flags_rev", "uint", int(Has.TCP_FLAGS), "TCP flags of the other way, or-ed"),
    Field("flow.zero_windows", "zero_windows", "uint", int(Has.TCP_FLAGS), "segments that announced window 0"),
    Field("flow.resets", "resets", "uint", int(Has.TCP_FLAGS), "segments with RST"),
    Field("flow.retransmissions", "retransmissions", "uint", int(Has.TCP_FLAGS), "segments sent again"),
    Field("flow.retransmissions_rev", "retransmissions_rev", "uint", int(Has.TCP_FLAGS), "the same, the other way"),
    Field("flow.out_of_order", "out_of_order", "uint", int(Has.TCP_FLAGS), "segments out of order"),
    Field("flow.out_of_order_rev", "out_of_order_rev", "uint", int(Has.TCP_FLAGS), "the same, the other way"),
    Field("flow.rtt", "rtt", "seconds", int(Has.TCP_FLAGS), "SYN to SYN-ACK, seconds; absent where not seen"),
    *_names(),
)

_CALL_FIELDS = (
    Field("call.start", "start", "time", 0, "request, seconds since the epoch"),
    Field("call.end", "end", "time", 0, "response, seconds since the epoch; the start where none was seen"),
    *_ORIGIN_FIELDS,
    *_addresses(),
    Field("nodetap.proto", "proto", "uint", int(Has.IP), "upper-layer protocol"),
    *_ports(),
    Field("nodetap.l7", "l7", "text", 0, "application protocol"),
    Field("call.operation", "operation", "text", 0, "what was asked for"),
    Field("call.status", "status", "text", 0, "what the response said"),
    Field("call.error", "error", "uint", 0, "1 where the response said that the call failed"),
    Field("call.latency", "latency", "seconds", 0, "request to response, seconds; absent where none was seen"),
    Field("call.request_bytes", "request_bytes", "uint", 0, "payload bytes of the request's packet"),
    Field("call.response_bytes", "response_bytes", "uint", 0, "payload bytes of the response's packet"),
    *_names(),
)

PACKETS = Table(
    "packets", _PACKET_COLUMNS, _PACKET_FIELDS, f"{second('time')}, agent, epoch, frame_number", "time", "time"
)
FLOWS = Table("flows", _FLOW_COLUMNS, _FLOW_FIELDS, f"{second('start')}, agent, epoch, start", "start", "end")
CALLS = Table("calls", _CALL_COLUMNS, _CALL_FIELDS, f"{second('start')}, agent, epoch, start", "start", "end")
TABLES = {table.name: table for table in (PACKETS, FLOWS, CALLS)}

WRAP_NS = (1 << 64) * 1000
"""What is added to a time below zero where it is printed. Capture files count unsigned microseconds in 64 bits, of
which signed nanoseconds hold the years 1678 to 2262; a time beyond them is kept modulo 2^64 microseconds, so that it
comes out again as the file had it, and as tshark prints it."""

EITHER = {
    "ip.addr": ("ip.src", "ip.dst"),
    "ipv6.addr": ("ipv6.src", "ipv6.dst"),
    "eth.addr": ("eth.src", "eth.dst"),
    "tcp.port": ("tcp.srcport", "tcp.dstport"),
    "udp.port": ("udp.srcport", "udp.dstport"),
    "sctp.port": ("sctp.srcport", "sctp.dstport"),
    **{f"k8s.{part}": (f"k8s.src.{part}", f"k8s.dst.{part}") for part, _ in _PARTS},
}
"""Filter fields that stand for either of two fields."""

_BY_NAME = {name: {c.name: c for c in (*ORIGIN, *NAMES, *PARTS, *table.columns)} for name, table in TABLES.items()}
_FIELDS = {name: {f.name: f for f in table.fields} for name, table in TABLES.items()}


def _columns(table: str) -> dict[str, Column]:
    return _BY_NAME[table]


def fields_of(table: str) -> dict[str, Field]:
    """The public fields of a table by name, in order of display."""
    return _FIELDS[table]
