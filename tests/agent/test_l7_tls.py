"""TLS and DTLS: records, hellos, split hellos; against tshark and scapy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from l7_fuzz import payloads, survives
from l7_hellos import (
    alpn,
    client_body,
    client_hello,
    dtls_message,
    dtls_record,
    message,
    record,
    server_hello,
    signatures,
    sni,
    versions,
)
from l7_payloads import claims, heads, summaries, tshark_columns, write_pcap
from scapy.layers.tls.extensions import ServerName, TLS_Ext_ServerName
from scapy.layers.tls.handshake import TLSClientHello
from scapy.layers.tls.record import TLS

from agent.l7 import PENDING, Conn, Summary
from agent.l7.dtls import PARSER as DTLS_PARSER
from agent.l7.tls import PARSER

COLUMNS = {
    "tls_record_type": "tls.record.content_type",
    "tls_handshake_type": "tls.handshake.type",
    "tls_version": "tls.handshake.version",
    "tls_supported_version": "tls.handshake.extensions.supported_version",
    "tls_sni": "tls.handshake.extensions_server_name",
    "tls_alpn": "tls.handshake.extensions_alpn_str",
}
HELLO = client_hello(
    [(0x0A0A, b""), sni("example.com"), alpn(b"h2", b"http/1.1"), versions(0x0A0A, 0x0304, 0x0303), signatures()]
)
BIG = client_hello([sni("big.example.com"), (51, bytes(1500)), versions(0x0304), signatures()])
DATA = record(23, bytes(40))
ENCRYPTED = record(22, bytes(range(40)))


def say(payload: bytes, conn: Conn | None = None, side: int = 0) -> Summary:
    said = PARSER.feed(payload, side, 40000, 443, conn or Conn())
    assert said is not None
    return said


def cells(said: Summary | None, columns: dict[str, str], row: dict[str, list[str]]) -> list[tuple[str, object, object]]:
    """The cells where we differ from tshark."""
    found = []
    for column, name in columns.items():
        ours = [str(v) for v in said.fields.get(column, [])] if said is not None else []  # type: ignore[union-attr]
        theirs = [str(int(v, 0)) if v[:2] == "0x" else v for v in row[name]]
        if ours != theirs:
            found.append((name, ours, theirs))
    return found


EXPLAINED = {
    # A hello over two segments: tshark opens nothing without reassembly, we report it in the second.
    ("tls-split-client-hello.pcap", 5): set(COLUMNS.values()),
}


@pytest.mark.parametrize(
    "capture",
    ["mixed-web-4600.pcap", "null-tls12-alpn-h2.pcap", "pcapng-2if-sll-eth-snaplen.pcapng", "rawip-v4v6-mixed.pcap",
     "tls-split-client-hello.pcap", "tls13-ipv6.pcap"],
)  # fmt: skip
def test_every_cell_is_tsharks(corpus: Path, tshark: str, capture: str) -> None:
    ours = summaries(PARSER, corpus / capture)
    rows = tshark_columns(tshark, corpus / capture, list(COLUMNS.values()), "-o", "tls.desegment_ssl_records:FALSE")
    found = {(frame, name) for frame, row in enumerate(rows, 1) for name, _, _ in cells(ours.get(frame), COLUMNS, row)}
    allowed = {(frame, name) for (file, frame), names in EXPLAINED.items() if file == capture for name in names}
    assert ours
    assert found == allowed


def test_a_client_hello() -> None:
    said = say(record(22, HELLO, 0x0301))
    assert said.info == "Client Hello (SNI=example.com)"
    ja4 = said.fields.pop("tls_ja4")
    assert said.fields == {
        "tls_record_type": [22],
        "tls_handshake_type": [1],
        "tls_version": [0x0303],
        "tls_supported_version": [0x0A0A, 0x0304, 0x0303],
        "tls_sni": ["example.com"],
        "tls_alpn": ["h2", "http/1.1"],
    }
    assert ja4[0].startswith("t13d0204h2_")  # type: ignore[index]


def test_the_split_hellos_fingerprint_is_chromes(corpus: Path) -> None:
    said = summaries(PARSER, corpus / "tls-split-client-hello.pcap")[5]
    assert said.fields["tls_ja4"] == ["t13d1516h2_8daaf6152771_02713d6af862"]
    assert said.fields["tls_sni"] == ["clients2.google.com"]


@given(st.lists(st.integers(6, 1600), max_size=5))
def test_a_split_hello_is_told_where_it_is_complete(cuts: list[int]) -> None:
    stream, conn = record(22, BIG, 0x0301), Conn()
    ends = [*sorted(cut for cut in set(cuts) if cut < len(stream)), len(stream)]
    said, begin = [], 0
    for end in ends:
        said.append(PARSER.feed(stream[begin:end], 0, 40000, 443, conn))
        begin = end
    assert all(one is not None and not one.fields for one in said[:-1])
    assert said[-1] is not None
    assert said[-1].fields["tls_sni"] == ["big.example.com"]
    assert not conn.pending[0]


def test_a_split_hello_is_kept_within_bounds() -> None:
    conn = Conn()
    say(record(22, bytes((1, 0, 0x3F, 0)) + bytes(16_000))[:5000], conn)
    for _ in range(20):
        PARSER.feed(b"\0" * 1400, 0, 40000, 443, conn)
        assert len(conn.pending[0]) <= PENDING


def test_application_data_of_tls_13_has_no_content_type() -> None:
    conn = Conn()
    say(record(22, HELLO), conn)
    answer = say(record(22, server_hello(0x1301, [(43, b"\x03\x04")])) + record(20, b"\1") + DATA, conn, 1)
    assert answer.fields == {
        "tls_record_type": [22, 20],
        "tls_handshake_type": [2],
        "tls_version": [0x0303],
        "tls_supported_version": [0x0304],
        "tls_cipher": [0x1301],
    }
    assert say(DATA, conn).fields == {}
    assert say(DATA).fields == {"tls_record_type": [23]}


def test_what_follows_change_cipher_spec_is_encrypted() -> None:
    said = say(record(22, message(16, bytes(34))) + record(20, b"\1") + ENCRYPTED)
    assert said.fields == {"tls_record_type": [22, 20, 22], "tls_handshake_type": [16]}
    assert said.info == "Client Key Exchange, Change Cipher Spec, Encrypted Handshake Message"


def test_several_messages_in_a_record_and_an_unfinished_record() -> None:
    flight = server_hello(0xC02F) + message(11, bytes(90)) + message(14, b"")
    assert say(record(22, flight)).fields["tls_handshake_type"] == [2, 11, 14]
    cut = say(record(22, flight)[:-1])
    assert cut.fields == {"tls_cipher": [0xC02F]}


@pytest.mark.parametrize("kind", [22, 23])
def test_a_record_whose_end_was_not_captured_has_its_type(kind: int) -> None:
    whole = record(20, b"\1") + record(kind, HELLO)
    said = PARSER.feed(whole[:40], 0, 40000, 443, Conn(missing=len(whole) - 40))
    assert said is not None
    assert said.fields == {"tls_record_type": [20, kind]}
    said = PARSER.feed(whole[:40], 0, 40000, 443, Conn(missing=10))  # it goes on in the next segment
    assert said is not None
    assert said.fields == {"tls_record_type": [20]}


def test_heartbeats_are_told() -> None:
    beat = record(24, b"\1\0\3abc" + bytes(16))
    assert claims(PARSER, beat)
    assert say(beat).fields == {"tls_record_type": [24]}


def test_an_alert_in_the_clear_says_why() -> None:
    said = say(record(21, b"\x02\x28"))
    assert said.info == "Alert (Level: Fatal, Description: Handshake Failure)"
    assert said.rest == {"tls.alert_message.desc": "40"}
    assert say(record(21, bytes(26))).info == "Encrypted Alert"


def test_the_middle_of_a_record_says_nothing() -> None:
    assert PARSER.feed(b"\x99" * 1400, 0, 40000, 443, Conn()) is None
    assert PARSER.feed(b"\x17\x99" * 700, 0, 40000, 443, Conn()) is None


def test_probe_goes_by_content() -> None:
    ours = [record(22, HELLO, 0x0301), DATA, record(20, b"\1"), record(21, b"\2\x28"), ENCRYPTED]
    assert PARSER.probe(heads(ours, 40000, 8081)).all()
    others = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff\x01" + bytes(99), b"\x17\x03\x03", bytes(64)]
    assert not PARSER.probe(heads(others, 40000, 443)).any()


@given(
    st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20}){0,3}", fullmatch=True),
    st.lists(st.integers(0, 0xFFFF), min_size=1),
)
def test_equals_scapy(name: str, ciphers: list[int]) -> None:
    built = TLSClientHello(ciphers=ciphers, ext=[TLS_Ext_ServerName(servernames=[ServerName(servername=name)])])
    payload = bytes(TLS(msg=[built]))
    hello = TLS(payload).msg[0]
    said = say(payload)
    assert said.fields["tls_version"] == [hello.version]
    assert said.fields["tls_sni"] == [hello.ext[0].servernames[0].servername.decode()]


DTLS = {"tls_handshake_type": "dtls.handshake.type", "tls_sni": "dtls.handshake.extensions_server_name"}
DTLS_HELLO = client_body([sni("dtls.example.com")], legacy=0xFEFD, cookie=b"\x04abcd")
DATAGRAMS = [
    dtls_record(22, dtls_message(1, DTLS_HELLO)),
    dtls_record(22, dtls_message(3, b"\xfe\xff\x04abcd")),
    dtls_record(22, dtls_message(1, DTLS_HELLO, 0, 50)),
    dtls_record(22, dtls_message(14, b"")) + dtls_record(20, b"\1") + dtls_record(22, bytes(range(48)), epoch=1),
    dtls_record(23, bytes(50), epoch=1),
]


def test_dtls_is_tsharks(tshark: str, tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "dtls.pcap", [(True, data) for data in DATAGRAMS], 4433, udp=True)
    rows = tshark_columns(tshark, path, list(DTLS.values()), "-d", "udp.port==4433,dtls")
    ours = summaries(DTLS_PARSER, path)
    assert len(ours) == len(DATAGRAMS)
    assert [cells(ours[frame], DTLS, row) for frame, row in enumerate(rows, 1)] == [[]] * len(rows)
    assert ours[1].fields["tls_ja4"][0].startswith("dd2d0201")  # type: ignore[index]


def test_dtls_probe() -> None:
    assert all(claims(DTLS_PARSER, data) for data in DATAGRAMS)
    assert not claims(DTLS_PARSER, record(22, HELLO))
    assert not claims(DTLS_PARSER, DATAGRAMS[0][:20])


SAMPLES = [record(22, HELLO, 0x0301), record(22, BIG)[:900], record(22, server_hello(1)), record(20, b"\1"), DATA]


@given(payloads(SAMPLES))
def test_tls_never_raises(data: list[bytes]) -> None:
    survives(PARSER, data, 40000, 443)


@given(payloads(DATAGRAMS))
def test_dtls_never_raises(data: list[bytes]) -> None:
    survives(DTLS_PARSER, data, 40000, 4433)
