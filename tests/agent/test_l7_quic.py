"""QUIC: Initials by the RFCs' examples, hellos in pieces, what is known of a connection; against tshark."""

from __future__ import annotations

import struct
from hmac import digest
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st
from l7_fuzz import payloads, survives
from l7_hellos import alpn, client_hello, server_hello, signatures, sni, versions
from l7_payloads import claims, heads, summaries, tshark_columns, write_pcap

from agent.l7 import Conn, Summary, quic_keys
from agent.l7.quic import CRYPTO_BYTES, CRYPTO_PARTS, OPENINGS, PARSER, QuicState
from agent.l7.quic_keys import V1, V2, initial_keys

CID = bytes.fromhex("8394c8f03e515708")  # of RFC 9001, appendix A, and RFC 9369, appendix A
SERVER_V1 = bytes.fromhex(
    "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf7"
    "3c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f"
    "58891850abbdca3d20398c276456cbc42158407dd074ee"
)
SERVER_V2 = bytes.fromhex(
    "dc6b3343cf0008f067a5502a4262b5004075d92faaf16f05d8a4398c47089698baeea26b91eb761d9b89237bbf87263017915358230035f7"
    "fd3945d88965cf17f9af6e16886c61bfc703106fbaf3cb4cfa52382dd16a393e42757507698075b2c984c707f0a0812d8cd5a6881eaf21ce"
    "da98f4bd23f6fe1a3e2c43edd9ce7ca84bed8521e2e140"
)
SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
HELLO = client_hello([sni("quic.example.com"), alpn(b"h3"), versions(0x0304), signatures(), (57, bytes(60))])
ANSWER = server_hello(0x1301, [(43, b"\x03\x04")])
HANDSHAKE = b"\xe0\0\0\0\1\0\x04abcd\x40\x20" + bytes(32)
SHORT = b"\x41" + bytes(40)
COLUMNS = {
    "quic_version": "quic.version",
    "tls_handshake_type": "tls.handshake.type",
    "tls_version": "tls.handshake.version",
    "tls_supported_version": "tls.handshake.extensions.supported_version",
    "tls_sni": "tls.handshake.extensions_server_name",
    "tls_alpn": "tls.handshake.extensions_alpn_str",
}


def expand(secret: bytes, label: str, size: int) -> bytes:
    name = b"tls13 " + label.encode()
    return digest(secret, struct.pack(">HB", size, len(name)) + name + b"\0\1", "sha256")[:size]


def initial(frames: bytes, number: int, client: bool = True, token: bytes = b"", keyed: bytes = CID) -> bytes:
    """An Initial of version 1, protected (RFC 9001, 5); its packet number takes two bytes."""
    frames = frames.ljust(20, b"\0")
    secret = expand(digest(SALT, keyed, "sha256"), "client in" if client else "server in", 32)
    ids = (bytes((len(keyed),)) + keyed + b"\0") if client else b"\0\x04abcd"
    first = 0xC1
    head = bytes((first,)) + struct.pack(">I", V1) + ids + (bytes((len(token),)) + token)
    head += struct.pack(">H", 0x4000 | len(frames) + 18) + struct.pack(">H", number)
    nonce = (int.from_bytes(expand(secret, "quic iv", 12)) ^ number).to_bytes(12)
    sealed = AESGCM(expand(secret, "quic key", 16)).encrypt(nonce, frames, head)
    mask = Cipher(AES(expand(secret, "quic hp", 16)), ECB()).encryptor().update(sealed[2:18])
    hidden = bytes((head[0] ^ mask[0] & 0x0F,)) + head[1:-2] + bytes((head[-2] ^ mask[1], head[-1] ^ mask[2]))
    return hidden + sealed


def crypto(offset: int, data: bytes) -> bytes:
    return b"\6" + struct.pack(">HH", 0x4000 | offset, 0x4000 | len(data)) + data


def say(payload: bytes, conn: Conn, side: int = 0) -> Summary:
    said = PARSER.feed(payload, side, 40000, 443, conn)
    assert said is not None
    return said


@pytest.mark.parametrize(("version", "packet"), [(V1, SERVER_V1), (V2, SERVER_V2)])
def test_the_rfcs_server_initial(version: int, packet: bytes) -> None:
    keys = initial_keys(version, CID)
    assert keys is not None
    opened = keys[1].open(packet, 18)
    assert opened is not None
    assert opened.number == 1
    assert opened.frames.startswith(bytes.fromhex("02000000000600405a020000560303eefce7f7b37ba1d1632e9667"))
    assert keys[0].open(packet, 18) is None


def test_both_hellos() -> None:
    conn = Conn()
    asked = say(initial(crypto(0, HELLO) + bytes(900), 0), conn)
    assert asked.fields["quic_version"] == [1]
    assert asked.fields["tls_sni"] == ["quic.example.com"]
    assert asked.fields["tls_alpn"] == ["h3"]
    assert asked.fields["tls_ja4"][0].startswith("q13d0205h3_")  # type: ignore[index]
    assert asked.info == "Initial, DCID=8394c8f03e515708, PKN: 0, Client Hello (SNI=quic.example.com)"
    answered = say(initial(b"\2\0\0\0\0" + crypto(0, ANSWER), 0, client=False) + HANDSHAKE + SHORT, conn, 1)
    assert answered.fields["quic_version"] == [1, 1]
    assert answered.fields["tls_cipher"] == [0x1301]
    assert answered.info.endswith("Server Hello; Handshake, SCID=61626364; Protected Payload")


@given(st.lists(st.integers(1, len(HELLO) - 1), max_size=8), st.integers(1, 3), st.randoms(use_true_random=False))
def test_pieces_out_of_order_over_several_initials(cuts: list[int], packets: int, random: object) -> None:
    ends = [0, *sorted(set(cuts)), len(HELLO)]
    pieces = [crypto(a, HELLO[a:b]) + b"\1\0\0" for a, b in pairwise(ends)]
    random.shuffle(pieces)  # type: ignore[attr-defined]
    conn = Conn()
    datagrams = [initial(b"".join(pieces[number::packets]), number) for number in range(packets)]
    told = [say(datagram, conn).fields.get("tls_sni") for datagram in datagrams]
    full = [index for index, sni in enumerate(told) if sni]
    assert [told[index] for index in full] == [["quic.example.com"]]
    last = max(index % packets for index in range(len(pieces)))
    assert full == [last]


def test_a_hello_sent_again_is_told_again() -> None:
    conn, first = Conn(), initial(crypto(0, HELLO), 0)
    assert say(first, conn).fields == say(first, conn).fields


def test_after_a_retry_the_keys_are_new() -> None:
    conn = Conn()
    say(initial(crypto(0, HELLO), 0), conn)
    retry = b"\xf0\0\0\0\1\0\x04wxyz" + bytes(40)
    assert say(retry, conn, 1).info == "Retry, SCID=7778797a"
    again = say(initial(crypto(0, HELLO), 1, token=b"token", keyed=b"wxyz"), conn)
    assert again.fields["tls_sni"] == ["quic.example.com"]


def test_without_the_library_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quic_keys, "_library", lambda: None)
    said = say(initial(crypto(0, HELLO), 0), Conn())
    assert said.fields == {"quic_version": [1]}


def test_a_refusal_tells_its_code() -> None:
    conn = Conn()
    say(initial(crypto(0, HELLO), 0), conn)
    said = say(initial(b"\x1c\x41\x28\0\0", 0, client=False), conn, 1)
    assert said.rest == {"quic.cc.error_code": "296"}


def test_short_headers_only_on_known_connections() -> None:
    conn = Conn()
    assert PARSER.feed(SHORT, 0, 40000, 443, conn) is None
    say(HANDSHAKE, conn)
    assert say(SHORT, conn).info == "Protected Payload"
    assert PARSER.feed(bytes(40), 0, 40000, 443, conn) is None


def test_probe_goes_by_content() -> None:
    ours = [initial(crypto(0, HELLO), 0), HANDSHAKE, SERVER_V1, SERVER_V2]
    assert PARSER.probe(heads(ours, 40000, 8443)).all()
    others = [SHORT, bytes(60), b"\xc0\0\0\0\1\x15" + bytes(60), b"\xc0\0\0\0\2\x08" + bytes(60), b"\xc0\0\0\0\1\0\0"]
    assert not PARSER.probe(heads(others, 40000, 443)).any()
    assert not claims(PARSER, b"\x16\x03\x01\2\0\1" + bytes(60))


def test_what_is_kept_and_opened_is_bounded() -> None:
    state = QuicState()
    for offset in range(4, CRYPTO_PARTS * 4):
        state.handshake(0, {offset * 3: b"ab", CRYPTO_BYTES: b"x"})
    assert len(state.parts[0]) <= CRYPTO_PARTS
    conn = Conn()
    for number in range(OPENINGS + 5):
        say(initial(b"\1", number), conn)
    assert "PKN" not in say(initial(crypto(0, HELLO), 99), conn).info


def rows(tshark: str, path: Path, reassembly: bool) -> list[dict[str, list[str]]]:
    """With reassembly a hello in pieces is put together, and one that is sent again is told once."""
    preference = f"quic.reassemble_crypto_out_of_order:{str(reassembly).upper()}"
    return tshark_columns(tshark, path, list(COLUMNS.values()), "-o", preference, "-d", "udp.port==443,quic")


def differences(ours: dict[int, Summary], theirs: list[dict[str, list[str]]]) -> set[tuple[int, str]]:
    found = set()
    for frame, row in enumerate(theirs, 1):
        fields = ours[frame].fields if frame in ours else {}
        for column, name in COLUMNS.items():
            said = [str(value) for value in fields.get(column, [])]  # type: ignore[union-attr]
            if said != [str(int(v, 0)) if v[:2] == "0x" else v for v in row[name]]:
                found.add((frame, name))
    return found


@pytest.mark.parametrize("capture", ["null-quic-handshake.pcap", "quic-crypto-fragmented-initials.pcap"])
def test_every_cell_is_tsharks_with_reassembly(corpus: Path, tshark: str, capture: str) -> None:
    ours = summaries(PARSER, corpus / capture)
    assert ours
    assert differences(ours, rows(tshark, corpus / capture, True)) == set()


def test_the_corpus_hello_in_pieces(corpus: Path) -> None:
    said = summaries(PARSER, corpus / "quic-crypto-fragmented-initials.pcap")
    assert [said[frame].fields.get("tls_sni") for frame in (1, 2, 3)] == [None, None, ["googleads.g.doubleclick.net"]]


def test_our_own_handshake_is_tsharks(tshark: str, tmp_path: Path) -> None:
    first = initial(crypto(0, HELLO) + bytes(900), 0)
    datagrams = [
        (True, first),
        (True, first),
        (False, initial(b"\2\0\0\0\0" + crypto(0, ANSWER), 0, client=False) + HANDSHAKE),
        (False, HANDSHAKE + HANDSHAKE + SHORT),
        (True, SHORT),
    ]
    path = write_pcap(tmp_path / "quic.pcap", datagrams, 443, udp=True)
    assert differences(summaries(PARSER, path), rows(tshark, path, False)) == set()


SAMPLES = [
    initial(crypto(0, HELLO), 0),
    initial(crypto(40, HELLO[40:]), 1),
    initial(crypto(0, ANSWER), 0, client=False),
    HANDSHAKE + SHORT,
    SHORT,
    SERVER_V2,
]


@given(payloads(SAMPLES))
def test_never_raises(data: list[bytes]) -> None:
    survives(PARSER, data, 40000, 443)


@given(st.binary(max_size=300))
def test_frames_that_are_none_are_survived(frames: bytes) -> None:
    survives(PARSER, [initial(frames, 0), initial(crypto(0, frames), 1)], 40000, 443)
