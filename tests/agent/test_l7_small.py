"""SSH, NTP and DHCP: what their rows tell; against tshark and scapy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from l7_fuzz import payloads, survives
from l7_payloads import claims, heads, summaries, tshark_columns
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Solicit, DHCP6OptClientFQDN, DHCP6OptElapsedTime
from scapy.layers.ntp import NTPHeader

from agent.l7 import Conn, Parser, Summary
from agent.l7.dhcp import PARSER as DHCP_PARSER
from agent.l7.ntp import PARSER as NTP_PARSER
from agent.l7.ssh import PARSER as SSH_PARSER

BANNER = b"SSH-2.0-OpenSSH_9.6 Debian-3\r\n"
DISCOVER = bytes(
    BOOTP(chaddr=b"\x02\x00\x00\x00\x00\x01", xid=0x1234)
    / DHCP(options=[("message-type", "discover"), ("hostname", b"web-1"), ("requested_addr", "192.0.2.9"), "end"])
)
SOLICIT = bytes(DHCP6_Solicit(trid=0x123456) / DHCP6OptElapsedTime() / DHCP6OptClientFQDN(fqdn="web-1.example.com"))
ASK = bytes(NTPHeader(version=4, mode=3, stratum=0, sent=3_900_000_000))
TELL = bytes(NTPHeader(version=4, mode=4, stratum=2, orig=3_900_000_000))


def say(parser: Parser, payload: bytes, sport: int, dport: int) -> Summary:
    said = parser.feed(payload, 0, sport, dport, Conn())
    assert said is not None
    return said


@pytest.mark.parametrize(
    ("sport", "dport", "who"),
    [(40000, 22, "Client"), (22, 40000, "Server"), (2222, 40000, "Server"), (40000, 2222, "Client")],
)
def test_an_ssh_banner(sport: int, dport: int, who: str) -> None:
    said = say(SSH_PARSER, BANNER + b"\0\0\1\x2c\x07\x14", sport, dport)
    assert said.fields == {"ssh_protocol": ["SSH-2.0-OpenSSH_9.6 Debian-3"]}
    assert said.info == f"{who}: Protocol (SSH-2.0-OpenSSH_9.6 Debian-3)"


def test_ssh_is_known_by_content() -> None:
    assert claims(SSH_PARSER, BANNER)
    assert not SSH_PARSER.probe(heads([b"SSH-keys are here", b"SSH-", bytes(50)], 40000, 22)).any()


def test_an_ssh_line_is_bounded() -> None:
    assert len(say(SSH_PARSER, b"SSH-2.0-" + b"x" * 5000, 40000, 22).fields["ssh_protocol"][0]) == 255  # type: ignore[index]


def test_ssh_is_tsharks(corpus: Path, tshark: str) -> None:
    path = corpus / "ssh-kex-curve25519.pcap"
    ours = summaries(SSH_PARSER, path)
    for frame, row in enumerate(tshark_columns(tshark, path, ["ssh.protocol", "frame.number"]), 1):
        assert (ours[frame].fields["ssh_protocol"] if frame in ours else []) == row["ssh.protocol"]


REST = ["ntp.flags.vn", "ntp.flags.mode", "ntp.stratum"]


def test_ntp_is_tsharks(corpus: Path, tshark: str) -> None:
    path = corpus / "ntp-sync.pcap"
    ours = summaries(NTP_PARSER, path)
    assert ours
    for frame, row in enumerate(tshark_columns(tshark, path, [*REST, "_ws.col.Info"]), 1):
        said = ours.get(frame) or Summary("")
        assert [said.rest.get(name) for name in REST] == [row[name][0] if row[name] else None for name in REST]
        assert not said.l7 or said.info == row["_ws.col.Info"][0]


def test_an_ntp_reply_has_its_requests_key() -> None:
    asked, told = say(NTP_PARSER, ASK, 40000, 123), say(NTP_PARSER, TELL, 123, 40000)
    assert asked.rest == {"ntp.flags.vn": "4", "ntp.flags.mode": "3", "ntp.stratum": "0"}
    assert asked.turns[0].key == told.turns[0].key == 3_900_000_000 << 32
    assert (told.turns[0].status, told.turns[0].error) == ("ok", False)


def test_a_kiss_of_death_is_an_error() -> None:
    kiss = bytearray(TELL)
    kiss[1], kiss[12:16] = 0, b"RATE"
    turn = say(NTP_PARSER, bytes(kiss), 123, 40000).turns[0]
    assert (turn.status, turn.error) == ("RATE", True)


def test_junk_on_port_123_is_not_ntp() -> None:
    assert NTP_PARSER.probe(heads([ASK, TELL, b"\x16\x02\0\1" + bytes(8)], 40000, 123)).all()
    junk = [b"GET / HTTP/1.1\r\n", bytes(48), b"\x23\xff" + bytes(46), b"\x23" + bytes(20)]
    assert not NTP_PARSER.probe(heads(junk, 40000, 123)).any()
    assert not claims(NTP_PARSER, ASK)


def test_a_dhcp_message() -> None:
    said = say(DHCP_PARSER, DISCOVER, 68, 67)
    assert (said.l7, said.info) == ("DHCP", "DHCP Discover - Transaction ID 0x00001234")
    assert said.rest == {
        "dhcp.id": "0x00001234",
        "dhcp.hw.mac_addr": "02:00:00:00:00:01",
        "dhcp.option.dhcp": "1",
        "dhcp.option.hostname": "web-1",
        "dhcp.option.requested_ip_address": "192.0.2.9",
    }


def test_a_dhcpv6_message() -> None:
    said = say(DHCP_PARSER, SOLICIT, 546, 547)
    assert (said.l7, said.info) == ("DHCPv6", "Solicit XID: 0x123456")
    assert said.rest == {
        "dhcpv6.msgtype": "1",
        "dhcpv6.xid": "0x123456",
        "dhcpv6.client_domain": "web-1.example.com",
    }


def test_dhcp_is_tsharks(corpus: Path, tshark: str) -> None:
    path = corpus / "rawip-v4v6-mixed.pcap"
    ours, names = summaries(DHCP_PARSER, path), ["dhcp.option.dhcp", "dhcp.option.hostname", "dhcp.hw.mac_addr"]
    assert len(ours) == 2
    for frame, row in enumerate(tshark_columns(tshark, path, names), 1):
        rest = ours[frame].rest if frame in ours else {}
        assert [rest.get(name) for name in names] == [row[name][0] if row[name] else None for name in names]


def test_dhcp_probe() -> None:
    assert claims(DHCP_PARSER, DISCOVER, 68, 67)
    assert claims(DHCP_PARSER, SOLICIT, 546, 547)
    assert not claims(DHCP_PARSER, DISCOVER)
    assert not DHCP_PARSER.probe(heads([b"GET / HTTP/1.1" * 9, b"\1" * 10, bytes(300)], 68, 67)).any()


@given(payloads([BANNER, BANNER + bytes(40)]))
def test_ssh_never_raises(data: list[bytes]) -> None:
    survives(SSH_PARSER, data, 40000, 22)


@given(payloads([ASK, TELL]))
def test_ntp_never_raises(data: list[bytes]) -> None:
    survives(NTP_PARSER, data, 40000, 123)


@given(payloads([DISCOVER, SOLICIT]), st.sampled_from([(68, 67), (546, 547)]))
def test_dhcp_never_raises(data: list[bytes], ports: tuple[int, int]) -> None:
    survives(DHCP_PARSER, data, *ports)
