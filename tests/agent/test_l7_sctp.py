"""SCTP: the user message of a packet is its payload."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from l7_payloads import _ip
from test_l7_engine import block_of

from agent.capture import Interface
from agent.decode.decoder import Decoder
from agent.l7.engine import Engine
from agent.l7.http1 import PARSER
from agent.l7.sctp import narrow

REQUEST = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
SACK = b"\3\0\0\x10" + bytes(12)


def data(message: bytes, flags: int = 3) -> bytes:
    size = 16 + len(message)
    return bytes((0, flags)) + size.to_bytes(2, "big") + bytes(12) + message + bytes(-size % 4)


def packet(*chunks: bytes) -> bytes:
    return _ip(True, 132, b"\x9c\x40\0\x50" + bytes(8) + b"".join(chunks))


def message_of(*frames: bytes) -> list[bytes]:
    columns, payloads = Decoder([Interface("test0", 101)]).with_payloads(block_of(frames), 1)
    narrow(columns, payloads)
    ends = zip(payloads.start.tolist(), payloads.length.tolist(), strict=True)
    return [payloads.data[start : start + length].tobytes() for start, length in ends]


def test_the_first_message_that_begins_is_the_payload() -> None:
    packets = [data(REQUEST), SACK + data(b"odd") + data(b"more"), SACK, data(b"middle", 0) + data(b"next"), b""]
    assert message_of(*map(packet, packets)) == [REQUEST, b"odd", b"", b"next", b""]
    assert message_of(packet(data(REQUEST))[: 20 + 12 + 16 + 9]) == [b"GET /a HT"]


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_whatever_comes_stays_within_its_packet(chunks: list[bytes]) -> None:
    frames = [packet(chunk) for chunk in chunks]
    for frame, message in zip(frames, message_of(*frames), strict=True):
        assert message in frame


def test_http_is_read() -> None:
    columns, payloads = Decoder([Interface("test0", 101)]).with_payloads(block_of([packet(SACK + data(REQUEST))]), 1)
    Engine([PARSER]).add(columns, payloads)
    hosts: Any = columns["http_host"]
    assert hosts.counts.tolist() == [1]
