"""Filters: what they accept, how they print back, how they refuse."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.filter.errors import FilterError
from protocol.filter.grammar import MAX_DEPTH, MAX_LENGTH, MAX_TERMS, parse
from protocol.filter.tree import Node, Present


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("tcp", "tcp"),
        ("tcp.port==443", "tcp.port == 443"),
        ("tcp.port eq 0x1bb", "tcp.port == 443"),
        ("ip.src ne 10.1.2.3", "ip.src != 10.1.2.3"),
        ("ip.addr == 10.1.2.3/8", "ip.addr == 10.0.0.0/8"),
        ("ipv6.addr == 2001:DB8:0::/32", "ipv6.addr == 2001:db8::/32"),
        ("eth.src == AA-BB-CC-00-11-22", "eth.src == aa:bb:cc:00:11:22"),
        ("nodetap.agent == web-1", 'nodetap.agent == "web-1"'),
        ("nodetap.iface == and", 'nodetap.iface == "and"'),
        (r'nodetap.info contains "a\x41\n\"\\"', r'nodetap.info contains "aA\n\"\\"'),
        (r"nodetap.info matches '^\d+$'", r'nodetap.info matches "^\\d+$"'),
        (r'nodetap.info ~ r"\x41"', r'nodetap.info matches "\\x41"'),
        ("tcp.flags.syn == true && !tcp.flags.ack==1", "tcp.flags.syn == 1 and not tcp.flags.ack == 1"),
        ("frame.time_epoch >= 1.5", "frame.time_epoch >= 1.500000000"),
        ("frame.time_epoch < -0.000000001", "frame.time_epoch < -0.000000001"),
        ("frame.time_epoch == 18446744073709.551615999", "frame.time_epoch == -0.000000001"),
        ('frame.time_epoch < "1970-01-01T00:00:01Z"', "frame.time_epoch < 1.000000000"),
        ("tcp.port in {80,443, 8000..8010}", "tcp.port in {80, 443, 8000..8010}"),
        ("tcp.port in {80 .. 90}", "tcp.port in {80..90}"),
        ("udp.port not in {53}", "not udp.port in {53}"),
        ("any udp.port not in {53}", "not udp.port in {53}"),
        ("eth.dst & 01:00:00:00:00:00", "eth.dst[0:] & 01:00:00:00:00:00"),
        ("tcp or udp and not arp", "tcp or udp and not arp"),
        ("(tcp or udp) and arp", "(tcp or udp) and arp"),
        ("((tcp)||(udp))&&not(arp)", "(tcp or udp) and not arp"),
        ("nodetap.epoch == 00112233445566aa", "nodetap.epoch == 00112233445566aa"),
        ("vlan.id all_eq 3", "all vlan.id == 3"),
        ("vlan.id ~= 3", "any vlan.id != 3"),
        ("all vlan.id !== 3", "vlan.id != 3"),
        ("all tcp.port in {80, 443}", "all tcp.port in {80, 443}"),
        ("tcp or udp xor arp and dns", "tcp or udp xor arp and dns"),
        ("(tcp or udp) ^^ arp", "(tcp or udp) xor arp"),
        ("tcp.flags & 0x12 == 2", "tcp.flags & 18 == 2"),
        ("tcp.flags&2||udp", "tcp.flags & 2 or udp"),
        ("{tcp.len+1}*2 == 4", "{tcp.len + 1} * 2 == 4"),
        ("tcp.len + 1*2 - 3 < -4", "{tcp.len + 2} - 3 < -4"),
        ("udp.dstport >= udp.srcport + 1", "udp.dstport >= udp.srcport + 1"),
        ("tcp.len/2 == 3 and tcp.len-2 == 4", "tcp.len / 2 == 3 and tcp.len - 2 == 4"),
        ("tcp.srcport < tcp.dstport < 3000", "tcp.srcport < tcp.dstport and tcp.dstport < 3000"),
        ("ip.src == ip.dst", "ip.src == ip.dst"),
        ("ip.src < 10.0.0.0/8", "ip.src < 10.0.0.0/8"),
        ("eth.src[0:3] == 00-11-22", "eth.src[0:3] == 00:11:22"),
        ('http.host[-3:] == "com"', "http.host[-3:] == 63:6f:6d"),
        ("http.host[1,3-5,:2,7:][0] == 0x61", "http.host[1:1,3:3,0:2,7:][0:1] == 61"),
        ("eth.addr contains 1b:2c", "eth.addr[0:] contains 1b:2c"),
        ("len(http.host) > 012", "len(http.host) > 10"),
        ('lower(http.host) == "a"', 'lower(http.host) == "a"'),
        ("count(dns.a) == 0b11", "count(dns.a) == 3"),
        ("max(tcp.srcport,udp.srcport) > 5", "max(tcp.srcport, udp.srcport) > 5"),
        ('string(frame.number) matches "[13579]$"', 'string(frame.number) matches "[13579]$"'),
        ("tcp.port == 'P'", "tcp.port == 80"),
        ("http.host > a", 'http.host > "a"'),
        ("http.host in {'a'..'m'}", 'http.host in {"a".."m"}'),
        ("tcp.flags.syn == Set and tcp.flags.ack == False", "tcp.flags.syn == 1 and tcp.flags.ack == 0"),
        ("tls.handshake.type == 'Client Hello'", "tls.handshake.type == 1"),
        ("ip.proto == TCP", "ip.proto == 6"),
        ("dns.qry.type in {A, AAAA}", "dns.qry.type in {1, 28}"),
        ("dns.flags.response == true", "dns.flags.response == 1"),
        ("dns.a == 10.0.0.0/8", "dns.a == 10.0.0.0/8"),
        ('frame.time >= "Jan 1, 1970 00:00:01.5"', "frame.time >= 1.500000000"),
        ("frame.time < 1970-01-01T01:00:00+01:00", "frame.time < 0.000000000"),
        ("nodetap.agent == web-1/replay-0011", 'nodetap.agent == "web-1/replay-0011"'),
        ("http.request && !http.response", "http.request and not http.response"),
        ("http.request == 1", "count(http.request.method) > 0"),
        ("http.response == false", "count(http.response.code) < 0"),
        ("tcp.port==80&&ip", "tcp.port == 80 and ip"),
        ('http.host == "\\110i\\x41"', 'http.host == "HiA"'),
        ("dns and not tls or http2", "dns and not tls or http2"),
        ("dns.qry.name contains example", 'dns.qry.name contains "example"'),
        ("http.host in {a.example, 'b c'}", 'http.host in {"a.example", "b c"}'),
    ],
)
def test_accepted(text: str, printed: str) -> None:
    node = parse(text, "packets")
    assert str(node) == printed
    assert parse(printed, "packets") == node


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_empty(text: str) -> None:
    assert parse(text, "packets") is None


@pytest.mark.parametrize(
    ("text", "code", "column", "words"),
    [
        ("ip.srcc == 1.2.3.4", "unknown_field", 1, "did you mean ip.src?"),
        ("tcp and tpc", "unknown_field", 9, "did you mean tcp?"),
        ("flow.bytes > 3", "unknown_field", 1, "packets have no field"),
        ("tcp.port = 443", "syntax", 10, "did you mean ==?"),
        ("tcp.port == 70000", "bad_value", 13, "from 0 to 65535"),
        ("80 == tcp.port", "unknown_field", 1, "no field '80'"),
        ("tcp.port == ip.src", "bad_operator", 10, "cannot be compared"),
        ("tcp.port in {80, tcp.srcport}", "bad_value", 14, "a set holds values"),
        ("ip.src + 1 == 3", "bad_value", 10, "IP address"),
        ("http.host + 1 == 3", "bad_operator", 11, "takes numbers"),
        ("tcp.port[0] == 3", "bad_operator", 9, "no bytes"),
        ("eth.src[3-1] == 3", "syntax", 8, "before it begins"),
        ("eth.src[x] == 3", "syntax", 8, "[i:length]"),
        ("eth.src[0 == 3", "syntax", 8, "no ]"),
        ("ip.src#1 == 10.0.0.1", "syntax", 7, "innermost"),
        ("len(tcp.port) == 2", "bad_operator", 1, "takes texts and addresses"),
        ("len(http.host)", "syntax", 1, "compared"),
        ("count(dns.a, dns.aaaa) == 2", "bad_operator", 1, "one field"),
        ("lenn(http.host) == 2", "syntax", 1, "did you mean len?"),
        ('tcp contains "GET"', "bad_operator", 1, "bytes are not stored"),
        ('"tcp"', "syntax", 1, "a field is expected"),
        ("any tcp", "syntax", 8, "an operator"),
        ("-tcp.len == 3", "bad_operator", 1, "before a number"),
        ("ip.addr in {10.0.0.0/8 .. 11.0.0.0/8}", "bad_value", 13, "no networks"),
        ("tcp & udp", "bad_operator", 5, "did you mean &&?"),
        ("tcp | udp", "syntax", 5, "did you mean ||?"),
        ("tcp.port ==", "syntax", 12, "ends where a value is expected"),
        ("(tcp", "syntax", 5, "ends where ) is expected"),
        ("tcp)", "syntax", 4, "not ')'"),
        ("not", "syntax", 4, "ends where a field is expected"),
        ('nodetap.info == "abc', "syntax", 17, "no end"),
        ("nodetap.info contains Client Hello", "syntax", 30, "quote a text of several words"),
        ("tcp.port in {}", "syntax", 14, "a value is expected"),
        ("ip.src == ::1", "bad_value", 11, "IPv4"),
        ("ipv6.src == 1.2.3.4", "bad_value", 13, "IPv6"),
        ("ip.src == 1.2.3", "bad_value", 11, "IP address"),
        ("tcp.port == -1", "bad_value", 13, "a number from 0"),
        ("tcp.port == ٣", "bad_value", 13, "a number from 0"),
        ("tcp.port == 99999999999999999999999", "bad_value", 13, "a number from 0"),
        ("tcp.port in {5..1}", "bad_value", 14, "ends before it begins"),
        ("eth.src == 00:11:22", "bad_value", 12, "MAC"),
        ("tcp.flags.syn == maybe", "bad_value", 18, "true or false"),
        ("nodetap.info matches '('", "bad_value", 22, "regular expression"),
        ("nodetap.info matches '(?=a)'", "bad_value", 22, "RE2 (invalid perl operator: '(?='); it has no look-around"),
        ("nodetap.info matches '\\pL{1000}'", "bad_value", 22, "repeat less"),
        ("nodetap.info matches '(\n'", "bad_value", 22, "missing ): '( '"),
        ("nodetap.info matches '\ud800'", "bad_value", 22, "of characters that there are"),
        ("nodetap.info ~ '.{150}' and not (nodetap.info ~ '.{149}' or tcp)", "too_large", 1, "repeat too much"),
        ("nodetap.epoch > 1", "bad_operator", 15, "not >"),
        ("tcp.port contains 3", "bad_operator", 10, "not contains"),
        ("tcp == 3", "bad_operator", 1, "protocol"),
        ("frame.time_epoch == 0.0000000001", "bad_value", 21, "9 decimals"),
        ("frame.time_epoch == 99999999999999", "bad_value", 21, "9 decimals"),
        ("!" * (MAX_DEPTH + 1) + "tcp", "too_large", 1, "nested"),
        ("tcp or " * MAX_TERMS + "tcp", "too_large", 1, "comparisons"),
        ("tcp.port in {" + "1," * MAX_TERMS + "1}", "too_large", 1, "comparisons"),
        ("(" * MAX_LENGTH + "tcp", "too_large", 1, "longer"),
        ("ü" * MAX_LENGTH, "too_large", 1, "longer"),
    ],
)
def test_refused(text: str, code: str, column: int, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text, "packets")
    assert (caught.value.code, caught.value.column) == (code, column)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bounds_are_reached() -> None:
    assert parse("(" * 4000 + "tcp" + ")" * 4000, "packets") == Present("tcp", None)
    assert parse("!" * MAX_DEPTH + "tcp", "packets") is not None
    assert parse(" or ".join(["tcp"] * MAX_TERMS), "packets") is not None
    hosts = "|".join(f"shop-{number}[.]example[.]com" for number in range(300))
    assert parse(f"http.host matches '{hosts}' or nodetap.info ~ '.{{200}}'", "packets") is not None


@given(st.text(max_size=80) | st.text(alphabet="tcp.port=!<>&|(){},\"'\\ 01..:~ in not", max_size=60))
def test_nonsense_is_refused_and_nothing_else(text: str) -> None:
    node, error = attempt(text)
    if error is not None:
        assert 1 <= error.column <= len(text) + 1
        assert "\n" not in str(error)
    else:
        assert node is None or parse(str(node), "packets") == node


def attempt(text: str) -> tuple[Node | None, FilterError | None]:
    try:
        return parse(text, "packets"), None
    except FilterError as error:
        return None, error


def test_lark_is_imported_with_the_first_filter() -> None:
    code = "import sys, protocol.filter.grammar; sys.exit(not {'lark', 'numpy', 're2'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_key_of_a_map_is_a_field_of_its_own() -> None:
    assert str(parse('nodetap.fields.dns.srv.service == "sip"', "packets")) == 'nodetap.fields.dns.srv.service == "sip"'
    for text, table in (("nodetap.fields. == 1", "packets"), ("nodetap.fields.x == 1", "flows")):
        with pytest.raises(FilterError, match="have no field"):
            parse(text, table)
