"""DNS over UDP and TCP: names, records, what is no DNS; against tshark and scapy."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from l7_fuzz import payloads, survives
from l7_payloads import claims, heads, summaries, tshark_columns, write_pcap
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRRMX, DNSRROPT, DNSRRSOA, DNSRRSRV

from agent.l7 import Conn, Summary
from agent.l7.dns import PARSER, RECORDS
from agent.l7.dns_tcp import PARSER as TCP_PARSER

COLUMNS = {
    "dns_id": "dns.id",
    "dns_qry_name": "dns.qry.name",
    "dns_qry_type": "dns.qry.type",
    "dns_count_answers": "dns.count.answers",
    "dns_resp_name": "dns.resp.name",
    "dns_resp_type": "dns.resp.type",
    "dns_a": "dns.a",
    "dns_aaaa": "dns.aaaa",
    "dns_cname": "dns.cname",
    "dns_ptr": "dns.ptr.domain_name",
}
CAPTURES = [
    "dns-compression-depth.pcap",
    "dns-mdns-llmnr.pcap",
    "dns-record-types.pcap",
    "dns-tcp-multi.pcap",
    "ipv6-fragmented-dns.pcap",
    "mixed-web-4600.pcap",
    "ntp-sync.pcap",
    "rawip-v4v6-mixed.pcap",
]
QUESTION = b"\x03www\x07example\x03com\x00\x00\x01\x00\x01"
QUERY = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + QUESTION
ANSWER = (
    struct.pack(">6H", 7, 0x8180, 1, 2, 0, 1)
    + QUESTION
    + b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\x06\x03cdn\xc0\x10"
    + b"\xc0\x2d\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
    + b"\0\0\x29\x02\0\0\0\0\0\0\0"
)


def say(payload: bytes, sport: int = 40000, dport: int = 53) -> Summary | None:
    return PARSER.feed(payload, 0, sport, dport, Conn())


def query(name: bytes) -> bytes:
    return struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + name + b"\0\1\0\1"


def as_tshark(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def from_tshark(name: str, values: list[str]) -> list[str]:
    return [str(int(value, 0)) for value in values] if name not in TEXTS else values


TEXTS = {"dns.qry.name", "dns.resp.name", "dns.a", "dns.aaaa", "dns.cname", "dns.ptr.domain_name"}


def differences(parser_says: dict[int, Summary], rows: list[dict[str, list[str]]]) -> list[tuple[int, str, object]]:
    found = []
    for frame, row in enumerate(rows, 1):
        fields = parser_says[frame].fields if frame in parser_says else {}
        for column, name in COLUMNS.items():
            ours, theirs = as_tshark(fields.get(column)), from_tshark(name, row[name])
            if ours != theirs:
                found.append((frame, name, (ours, theirs)))
    return found


@pytest.mark.parametrize("capture", CAPTURES)
def test_every_cell_is_tsharks(corpus: Path, tshark: str, capture: str) -> None:
    ours = summaries(PARSER, corpus / capture) | summaries(TCP_PARSER, corpus / capture)
    assert ours
    rows = tshark_columns(tshark, corpus / capture, list(COLUMNS.values()), "-o", "dns.desegment_dns_messages:FALSE")
    assert differences(ours, rows) == []


def test_names_are_printed_as_tshark_prints_them(tshark: str, tmp_path: Path) -> None:
    names = [
        b"\x03a.b\x03com\0", b"\x04a\\bc\0", b"\x05a\0b\x01c\x03com\0", b"\x04\xff\xc3\xa9x\0",
        "\x06你好\x02cn\0".encode(), b"\x05a b\tc\0", b"\x02a\"\0", b"\0", b"\x05a\x7fb\x1b\r\0", b"\x03\xc2\x85a\0",
        b"\x3f" + b"a" * 63 + (b"\x3f" + b"b" * 63) * 4 + b"\0", b"\xc0\x0c", b"\x01a\xc0\x0c", b"\x01a\x65bc\0",
    ]  # fmt: skip
    path = write_pcap(tmp_path / "names.pcap", [(True, query(name)) for name in names], 53, udp=True)
    rows = tshark_columns(tshark, path, ["dns.qry.name"])
    ours = [(say(query(name)) or Summary("")).fields.get("dns_qry_name") for name in names]
    assert ours == [row["dns.qry.name"] for row in rows]


def test_an_answer() -> None:
    said = say(ANSWER, 53, 40000)
    assert said is not None
    assert said.info == ("Standard query response 0x0007 A www.example.com CNAME cdn.example.com A 192.0.2.1 OPT")
    assert said.fields == {
        "dns_id": [7],
        "dns_flags": [0x8180],
        "dns_count_answers": [2],
        "dns_qry_name": ["www.example.com"],
        "dns_qry_type": [1],
        "dns_resp_name": ["www.example.com", "cdn.example.com", "<Root>"],
        "dns_resp_type": [5, 1, 41],
        "dns_a": ["192.0.2.1"],
        "dns_cname": ["cdn.example.com"],
    }
    turn = said.turns[0]
    assert (turn.request, turn.status, turn.error, turn.key) == (False, "NOERROR", False, 7)


def test_records_as_scapy_builds_them() -> None:
    records = [
        DNSRRSRV(rrname="_sip._tcp.example.com", priority=1, weight=2, port=5060, target="sip.example.com"),
        DNSRRMX(rrname="example.com", preference=10, exchange="mx.example.com"),
        DNSRR(rrname="example.com", type="TXT", rdata=["v=spf1 secret"]),
        DNSRR(rrname="example.com", type="NS", rdata="ns1.example.com"),
        DNSRR(rrname="1.2.0.192.in-addr.arpa", type="PTR", rdata="www.example.com"),
        DNSRR(rrname="www.example.com", type="AAAA", rdata="2001:db8::1"),
    ]
    message = DNS(
        id=9, qr=1, rcode=3, qd=[DNSQR(qname="example.com", qtype=255)], an=records,
        ns=[DNSRRSOA(rrname="example.com", mname="ns1.example.com")], ar=[DNSRROPT(extrcode=1)],
    )  # fmt: skip
    said = say(bytes(message), 53, 40000)
    assert said is not None
    assert said.fields["dns_resp_type"] == [33, 15, 16, 2, 12, 28, 6, 41]
    assert said.fields["dns_ptr"] == ["www.example.com"]
    assert said.fields["dns_aaaa"] == ["2001:db8::1"]
    assert said.rest == {
        "dns.srv.target": "sip.example.com",
        "dns.srv.service": "_sip",
        "dns.srv.proto": "_tcp",
        "dns.srv.name": "example.com",
        "dns.mx.mail_exchange": "mx.example.com",
        "dns.ns": "ns1.example.com",
        "dns.soa.mname": "ns1.example.com",
        "dns.resp.ext_rcode": "1",
    }
    assert "secret" not in repr(said)
    assert said.turns[0].status == "NXDOMAIN"


def test_owner_of_srv_bitmap_of_nsec3_and_counts_of_updates_are_tsharks(tshark: str, tmp_path: Path) -> None:
    nsec3 = b"\1\0\0\x0c\4\xaa\xbb\xcc\xdd\x14" + bytes(range(20)) + b"\0\6\x40\0\0\0\0\2"
    records = [
        DNSRRSRV(rrname="_sip._tcp.example.com", port=5060, target="sip.example.com"),
        DNSRRSRV(rrname="My Printer._ipp._tcp.local", port=631, target="printer.local"),
        DNSRR(rrname="example.com", type=50, rdata=nsec3),
        DNSRR(rrname="example.com", type="A", rdata="192.0.2.1"),
    ]
    update = DNS(id=4, opcode=5, qd=[DNSQR(qname="example.com", qtype="SOA")], an=records[3])
    messages = [DNS(id=3, qr=1, qd=[DNSQR(qname="example.com", qtype=255)], an=records), update]
    path = write_pcap(tmp_path / "dns.pcap", [(True, bytes(message)) for message in messages], 53, udp=True)
    ours = summaries(PARSER, path)
    assert differences(ours, tshark_columns(tshark, path, list(COLUMNS.values()))) == []
    assert ours[1].fields["dns_resp_type"] == [33, 33, 50, 1, 46, 1]
    assert ours[1].fields["dns_resp_name"] == ["example.com", "example.com"]
    assert ours[1].rest["dns.srv.service"] == "_sip,My Printer"
    assert "dns_count_answers" not in ours[2].fields


@pytest.mark.parametrize("flags", [0x1900, 0x3000, 0x7900, 0x0140, 0x9980, 0xF98F])
def test_a_question_on_port_53_is_dns_whatever_the_other_bits_say(tshark: str, tmp_path: Path, flags: int) -> None:
    message = struct.pack(">6H", 7, flags, 1, 0, 0, 0) + QUESTION
    assert claims(PARSER, message, 40000, 53)
    assert not claims(PARSER, message, 40000, 40001)
    path = write_pcap(tmp_path / "dns.pcap", [(True, message)], 53, udp=True)
    assert differences(summaries(PARSER, path), tshark_columns(tshark, path, list(COLUMNS.values()))) == []
    path = write_pcap(tmp_path / "tcp.pcap", [(True, len(message).to_bytes(2) + message)], 53)
    assert differences(summaries(TCP_PARSER, path), tshark_columns(tshark, path, list(COLUMNS.values()))) == []


label = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12)
host = st.lists(label, min_size=1, max_size=5).map(".".join)


@given(host, st.lists(st.tuples(host, st.ip_addresses(v=4)), max_size=6), st.integers(0, 0xFFFF))
def test_equals_scapy(name: str, records: list[tuple[str, object]], ident: int) -> None:
    message = DNS(
        id=ident, qr=1, qd=[DNSQR(qname=name)], an=[DNSRR(rrname=n, type="A", rdata=str(a)) for n, a in records]
    ).compress()
    parsed = DNS(bytes(message))
    said = say(bytes(message), 53, 40000)
    assert said is not None
    assert said.fields["dns_id"] == [parsed.id]
    assert said.fields["dns_qry_name"] == [q.qname.decode().rstrip(".") for q in parsed.qd]
    assert said.fields.get("dns_resp_name", []) == [r.rrname.decode().rstrip(".") for r in parsed.an]
    assert said.fields.get("dns_a", []) == [r.rdata for r in parsed.an]


def test_a_message_that_breaks_off_keeps_what_came_before() -> None:
    said = say(ANSWER[:-12], 53, 40000)
    assert said is not None
    assert said.fields["dns_resp_type"] == [5]
    assert "dns_a" not in said.fields


def test_counts_that_lie_are_bounded() -> None:
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\1\2\3\4"
    said = say(struct.pack(">6H", 1, 0x8180, 1, 65535, 0, 0) + QUESTION + record * 4000, 53, 40000)
    assert said is not None
    assert len(said.fields["dns_a"]) == RECORDS  # type: ignore[arg-type]
    assert len(said.info) < 1000


def test_junk_on_port_53_is_not_dns() -> None:
    junk = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", bytes(40), b"\xff" * 40, b"\x00\x01\x02\x03" * 8, b"\x16\x03\x01" * 9]
    assert not PARSER.probe(heads(junk, 40000, 53)).any()
    assert say(struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\x80" * 20) is None


def test_dns_on_another_port_is_dns() -> None:
    assert claims(PARSER, QUERY)
    assert claims(PARSER, ANSWER)
    assert (say(QUERY, 40000, 8600) or Summary("")).l7 == "DNS"
    assert say(QUERY[:-2] + b"\x12\x34", 40000, 8600) is None


def test_netbios_names_are_no_dns() -> None:
    assert not claims(PARSER, QUERY, 137, 137)
    assert claims(PARSER, QUERY, 137, 53)


def test_the_bitmap_of_csync_is_told_as_that_of_nsec() -> None:
    csync = bytes.fromhex("c00c003e00010000003c000a0000000100030002" + "6008")
    said = say(QUERY[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + QUERY[12:] + csync)
    assert said is not None
    assert said.fields["dns_resp_type"] == [62, 1, 2, 12]


@pytest.mark.parametrize(("port", "l7", "turns"), [(53, "DNS", 1), (5353, "MDNS", 0), (5355, "LLMNR", 1)])
def test_the_port_names_the_kin(port: int, l7: str, turns: int) -> None:
    said = say(QUERY, 40000, port)
    assert said is not None
    assert (said.l7, len(said.turns)) == (l7, turns)


@given(st.lists(st.sampled_from([QUERY, ANSWER]), min_size=1, max_size=5), st.data())
def test_tcp_messages_are_whole_however_they_are_cut(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(m).to_bytes(2) + m for m in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    conn, ids, names = Conn(), 0, 0
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        said = TCP_PARSER.feed(stream[begin:end], 1, 53, 40000, conn)
        if said is not None:
            ids += len(said.fields.get("dns_id", []))  # type: ignore[arg-type]
            names += len(said.fields.get("dns_qry_name", []))  # type: ignore[arg-type]
    assert (ids, names) == (len(messages), len(messages))
    assert not any(conn.pending)


def test_a_tcp_message_longer_than_a_connection_keeps_is_passed_over() -> None:
    conn, long = Conn(), b"\0\7\x81\x80\0\1\0\0\0\0\0\0" + bytes(40_000)
    stream = len(long).to_bytes(2) + long + len(QUERY).to_bytes(2) + QUERY
    said = [TCP_PARSER.feed(stream[at : at + 33_000], 0, 40000, 53, conn) for at in range(0, len(stream), 33_000)]
    assert said[-1] is not None
    assert said[-1].fields["dns_qry_name"] == ["www.example.com"]


def test_after_lost_bytes_the_next_segment_begins_anew() -> None:
    conn, framed = Conn(), len(QUERY).to_bytes(2) + QUERY
    TCP_PARSER.feed(b"\xff\xff\0\7\1\0\0\1" + bytes(40_000), 0, 40000, 53, conn)
    assert TCP_PARSER.feed(framed, 0, 40000, 53, conn) is None
    TCP_PARSER.lost(conn, 0)
    said = TCP_PARSER.feed(framed, 0, 40000, 53, conn)
    assert said is not None
    assert said.fields["dns_id"] == [7]


def test_tcp_probe_wants_a_length() -> None:
    framed = len(QUERY).to_bytes(2) + QUERY
    assert claims(TCP_PARSER, framed, 40000, 53)
    assert claims(TCP_PARSER, framed)
    assert claims(TCP_PARSER, framed[:2], 40000, 53)
    assert not claims(TCP_PARSER, framed + b"x")
    assert not claims(TCP_PARSER, b"SSH-2.0-OpenSSH_9.6\r\n", 40000, 53)


@given(payloads([QUERY, ANSWER]), st.sampled_from([53, 5353, 8600]))
def test_udp_never_raises(data: list[bytes], port: int) -> None:
    survives(PARSER, data, 40000, port)


@given(payloads([len(QUERY).to_bytes(2) + QUERY, len(ANSWER).to_bytes(2) + ANSWER]))
def test_tcp_never_raises(data: list[bytes]) -> None:
    survives(TCP_PARSER, data, 40000, 53)
