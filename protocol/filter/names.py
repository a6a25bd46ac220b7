"""The names that a filter may use beside the fields of the schema, and the words that stand for numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

from protocol.schema import EITHER, TABLES, Field, Has, fields_of


@dataclass(frozen=True, slots=True)
class Protocol:
    """A bare protocol name: true where all bits of `need` are set and `column`, if one is named, has a value listed.

    With `others` the column must have none of the values; in tables without the column the bits alone decide then.
    """

    need: int
    doc: str
    column: str = ""
    values: tuple[str | int, ...] = ()
    others: bool = False


def _bit(bit: Has) -> Protocol:
    return Protocol(int(bit), str(bit.name))


def _l7(*words: str) -> Protocol:
    return Protocol(0, words[0], "l7", words)


PROTOCOLS: dict[str, Protocol] = {
    "frame": Protocol(0, "a frame"),
    **{name: _bit(Has[name.upper()]) for name in ("eth", "vlan", "mpls", "tunnel", "arp")},
    "ieee8021ad": Protocol(int(Has.VLAN), "an 802.1ad tag", "eth_type", (0x88A8,)),
    "ip": _bit(Has.IPV4),
    **{name: _bit(Has[name.upper()]) for name in ("ipv6", "tcp", "udp", "sctp", "icmp", "icmpv6")},
    "dns": Protocol(int(Has.DNS), "DNS", "l7", ("MDNS", "LLMNR"), others=True),
    "mdns": _l7("MDNS"),
    "llmnr": _l7("LLMNR"),
    **{name: _bit(Has[name.upper()]) for name in ("tls", "dtls", "quic", "http", "http2", "ssh")},
    "grpc": _l7("gRPC"),
    "amqp": _l7("AMQP"),
    "dhcp": _l7("DHCP"),
    "kafka": _l7("Kafka"),
    "memcache": _l7("Memcached"),
    "mongo": _l7("MongoDB"),
    "mqtt": _l7("MQTT"),
    "mysql": _l7("MySQL"),
    "ntp": _l7("NTP"),
    "pgsql": _l7("PostgreSQL"),
    "resp": _l7("Redis"),
    "sll": Protocol(0, "a Linux cooked capture", "encap_type", (25, 210)),
    "null": Protocol(0, "a BSD loopback header", "encap_type", (15,)),
    "raw": Protocol(0, "a packet without a link layer", "encap_type", (7,)),
    "vxlan": Protocol(int(Has.TUNNEL), "VXLAN outermost", "tunnel_type", ("vxlan",)),
    "geneve": Protocol(int(Has.TUNNEL), "Geneve outermost", "tunnel_type", ("geneve",)),
    "gre": Protocol(int(Has.TUNNEL), "GRE outermost", "tunnel_type", ("gre", "gretap", "erspan", "pptp")),
    "pppoes": Protocol(int(Has.TUNNEL), "PPPoE outermost", "tunnel_type", ("pppoe",)),
    "gtp": Protocol(int(Has.TUNNEL), "GTP-U outermost", "tunnel_type", ("gtpu",)),
    "ipv6.fraghdr": Protocol(int(Has.IPV6 | Has.FRAG), "a fragment header"),
    "ipv6.hopopts": Protocol(int(Has.IPV6), "hop-by-hop options", "nxt", (0,)),
    "ah": Protocol(int(Has.IP), "an authentication header right behind IP's", "nxt", (51,)),
    "esp": Protocol(int(Has.IP), "an encrypted payload", "proto", (50,)),
    "igmp": Protocol(int(Has.IPV4), "IGMP", "proto", (2,)),
    "_ws.malformed": Protocol(int(Has.MALFORMED), "a header that is cut or wrong"),
}
"""Bare protocol names, Wireshark's."""

SAME = {"frame.time": "frame.time_epoch"}
"""Further names of a field."""

_TUNNEL, _V6, _IP = int(Has.TUNNEL), int(Has.IPV6), int(Has.IP)
DERIVED = {
    field.name: field
    for field in (
        Field("ieee8021ad.id", "vlan_id", "uints", int(Has.VLAN), "VLAN id of the outer tag, where that is 802.1ad"),
        Field("vxlan.vni", "tunnel_id", "uint", _TUNNEL, "VXLAN network, where that is the outermost tunnel"),
        Field("geneve.vni", "tunnel_id", "uint", _TUNNEL, "Geneve network, where that is the outermost tunnel"),
        Field("gre.proto", "ethertype", "uint", _TUNNEL | int(Has.ETHERTYPE), "what GRE holds, the outermost tunnel"),
        Field("ipv6.hopopts.nxt", "proto", "uint", _V6, "what follows hop-by-hop options, the only extension header"),
        Field("ipv6.routing.nxt", "proto", "uint", _V6, "what follows a routing header, the only extension header"),
        Field("ipv6.dstopts.nxt", "proto", "uint", _V6, "what follows destination options, the only extension header"),
        Field("ipv6.fraghdr.nxt", "proto", "uint", _V6 | int(Has.FRAG), "what follows a fragment header, the last one"),
        Field("ah.next_header", "proto", "uint", _IP, "what follows an authentication header, right behind IP's"),
    )
}
"""Fields of packets that can be asked for only: they show a column where another one has a value (`WHEN`)."""

WHEN: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "ieee8021ad.id": ("eth_type", (0x88A8,)),
    "vxlan.vni": ("tunnel_type", ("vxlan",)),
    "geneve.vni": ("tunnel_type", ("geneve",)),
    "gre.proto": ("tunnel_type", ("gre", "pptp")),
    "ipv6.hopopts.nxt": ("nxt", (0,)),
    "ipv6.routing.nxt": ("nxt", (43,)),
    "ipv6.dstopts.nxt": ("nxt", (60,)),
    "ah.next_header": ("nxt", (51,)),
}
"""Field -> the column that must have one of those values."""

GIVEN = {"http.request": "http.request.method", "http.response": "http.response.code"}
"""Names that can stand alone only -> the field that has a value then."""

FIRST = frozenset({"ieee8021ad.id"})
"""Fields of lists that have the first item alone."""

ADDRESSES = frozenset({"dns.a", "dns.aaaa"})
"""Fields kept as texts and compared as addresses."""

FLAGS = frozenset({"dns.flags.response", "ip.flags.mf", "ipv6.fraghdr.more"})
"""Numbers that are 0 or 1, beside the fields of kind `bool`."""

_KEYED = re.compile(r"(nodetap\.fields)\.([A-Za-z0-9_.-]+)", re.ASCII)

_RR = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "NAPTR": 35,
    "DS": 43, "RRSIG": 46, "NSEC": 47, "DNSKEY": 48, "TLSA": 52, "SVCB": 64, "HTTPS": 65, "AXFR": 252, "ANY": 255,
    "CAA": 257,
}  # fmt: skip
_HANDSHAKE = {
    "Hello Request": 0, "Client Hello": 1, "Server Hello": 2, "New Session Ticket": 4, "End of Early Data": 5,
    "Encrypted Extensions": 8, "Certificate": 11, "Server Key Exchange": 12, "Certificate Request": 13,
    "Server Hello Done": 14, "Certificate Verify": 15, "Client Key Exchange": 16, "Finished": 20,
    "Certificate Status": 22, "Key Update": 24,
}  # fmt: skip
_IP_PROTO = {
    "ICMP": 1, "IGMP": 2, "TCP": 6, "UDP": 17, "IPv6": 41, "GRE": 47, "ESP": 50, "AH": 51, "ICMPv6": 58, "SCTP": 132,
}  # fmt: skip
_ETHERTYPE = {"IPv4": 0x0800, "ARP": 0x0806, "802.1Q Virtual LAN": 0x8100, "IPv6": 0x86DD}

WORDS: dict[str, dict[str, int]] = {
    **dict.fromkeys(("ip.proto", "ipv6.nxt", "nodetap.proto", "ah.next_header"), _IP_PROTO),
    **dict.fromkeys((f"ipv6.{header}.nxt" for header in ("hopopts", "routing", "dstopts", "fraghdr")), _IP_PROTO),
    **dict.fromkeys(("eth.type", "nodetap.ethertype", "gre.proto"), _ETHERTYPE),
    "arp.opcode": {"request": 1, "reply": 2},
    "dns.qry.type": _RR,
    "dns.resp.type": _RR,
    "dns.flags.opcode": {"Standard query": 0, "Zone change notification": 4, "Dynamic update": 5},
    "dns.flags.rcode": {"No error": 0, "Format error": 1, "Server failure": 2, "No such name": 3, "Refused": 5},
    "tls.record.content_type": {"Change Cipher Spec": 20, "Alert": 21, "Handshake": 22, "Application Data": 23},
    "tls.handshake.type": _HANDSHAKE,
    "dtls.handshake.type": _HANDSHAKE,
    "http2.type": {"DATA": 0, "HEADERS": 1, "PRIORITY": 2, "RST_STREAM": 3, "SETTINGS": 4, "PUSH_PROMISE": 5, "PING": 6,
                   "GOAWAY": 7, "WINDOW_UPDATE": 8, "CONTINUATION": 9},
}  # fmt: skip
"""Words for the common values of a field: IANA's and Wireshark's. Case does not count."""


def word_value(name: str, text: str) -> int | None:
    """The number that a word stands for in that field, None where it is no such word."""
    return next((v for word, v in WORDS.get(name, {}).items() if word.lower() == text.lower()), None)


_KINDS = {"uints": "uint", "texts": "text", "map": "text"}


def kind_of(field: Field) -> str:
    """The kind of a field's values in a filter, a key of `protocol.filter.values.KINDS`."""
    return "ip" if field.name in ADDRESSES else _KINDS.get(field.kind, field.kind)


def protocol(name: str, table: str) -> Protocol | None:
    """The protocol of that name, None where `table` cannot tell."""
    found = PROTOCOLS.get(name)
    if found is None or not found.column or found.column in {c.name for c in TABLES[table].columns}:
        return found
    return Protocol(found.need, found.doc) if found.others else None


def fields_named(name: str, table: str) -> tuple[Field, ...]:
    """The fields that a name stands for: one, two of `EITHER`, or none."""
    fields = fields_of(table)
    name = SAME.get(name, name)
    if name in EITHER and EITHER[name][0] in fields:
        return tuple(fields[side] for side in EITHER[name])
    if table == "packets" and name in DERIVED:
        return (DERIVED[name],)
    if name not in fields and (keyed := _KEYED.fullmatch(name)) and keyed[1] in fields:
        return (replace(fields[keyed[1]], name=name, doc=f"what {keyed[1]} has under {keyed[2]}"),)
    return (fields[name],) if name in fields else ()


def key_of(field: Field) -> str:
    """The key of a map that a field names, empty where it is the whole map: letters, digits, `_`, `.` and `-`."""
    keyed = _KEYED.fullmatch(field.name) if field.kind == "map" else None
    return keyed[2] if keyed else ""


def names_of(table: str) -> tuple[str, ...]:
    """Every name a filter over `table` may use."""
    extra = (*EITHER, *SAME, *DERIVED)
    return (
        *fields_of(table),
        *(name for name in extra if fields_named(name, table)),
        *(name for name in PROTOCOLS if protocol(name, table)),
        *(name for name, field in GIVEN.items() if fields_named(field, table)),
    )


def described(name: str, table: str) -> tuple[str, str, bool]:
    """The kind of a name's values (`presence` where it has none), its meaning, whether it can have several."""
    if name in EITHER:
        return fields_named(name, table)[0].kind, " or ".join(EITHER[name]), True
    if found := fields_named(name, table):
        return found[0].kind, found[0].doc, found[0].kind in ("uints", "texts")
    if name in GIVEN:
        return "presence", f"true where {GIVEN[name]} has a value", False
    shown = protocol(name, table)
    return "presence", f"true where {shown.doc if shown else name} was found", False


def nearest(name: str, table: str) -> str | None:
    """The name most like one that is not there."""
    near = get_close_matches(name.lower(), names_of(table), n=1, cutoff=0.6)
    return near[0] if near else None
