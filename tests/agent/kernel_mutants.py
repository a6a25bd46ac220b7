"""Frames for the kernel's tests: sound ones of every kind, and the same ones damaged; and both ways to decode them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from decode_frames import IP4, IP6, OUTER4, ether, stacks, udp
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from agent.capture import Block, CaptureError, Interface
from agent.capture.file import FileSource
from agent.decode.decoder import Decoder
from agent.decode.kinds import ETHERTYPE, LINKTYPE, UDP_DESTINATION, UDP_SOURCE
from protocol.columns import Columns

LINKTYPES = sorted(LINKTYPE)
_PROTOCOLS = (4, 6, 1, 17, 41, 47, 51, 58, 97, 132, 136, 137, 103, 143, 0, 43, 44, 60)
_WORDS = (*(int(number) for number in np.flatnonzero(ETHERTYPE)), 0xFF03)
_PORTS = tuple(int(port) for port in np.flatnonzero((UDP_DESTINATION > 0) | (UDP_SOURCE > 0)))


_IP = bytes(IP4 / udp(9) / b"data")
_IP6 = bytes(IP6 / udp(9) / b"data")
_ETHER = bytes(ether() / IP4 / udp(9))


def seeds() -> list[bytes]:
    """A sound frame of every stack, and of the layers that no stack has."""
    return [*stacks().values(), *_typed(), *_carried()]


def _typed() -> list[bytes]:
    """By ethertype or length."""
    payloads = {
        8 + len(_IP): b"\xaa\xaa\x03\0\0\0\x08\0" + _IP,
        3 + len(_IP): b"\x06\x06\x03" + _IP,
        0x8870: b"\xaa\xaa\x03\0\0\xf8\x86\xdd" + _IP6,
        0x8847: b"\0\0\x71\xff" + b"\0\0\0\1" + _ETHER,
        0x88E7: b"\0\0\0\7" + _ETHER,
        0x880B: b"\xff\x03\x00\x21" + _IP,
        0x8909: b"\1\1\1\0\0\7\x08\0" + _IP,
        0x8926: b"\0\0\0\5\x86\xdd" + _IP6,
        0x88E5: b"\x20\0\0\0\0\1" + bytes(8) + b"\x08\0" + _IP + bytes(16),
        0x8864: b"\x11\0\0\7\0\x40\0\x3d\xc0\0\0\1\0\x21" + _IP,
        0x894F: b"\x0f\xc6\x01\x02" + b"\0\0\7\xff" + bytes(16) + _IP6,
    }
    return [bytes(12) + number.to_bytes(2, "big") + payload for number, payload in payloads.items()]


def _carried() -> list[bytes]:
    """By IP protocol, GRE type and UDP port."""
    over_ip = {
        97: b"\x30\0" + _ETHER,
        51: b"\x11\4" + bytes(22) + bytes(udp(9)),
        136: bytes(udp(9)),
        103: b"\x21" + bytes(7) + _IP6,
        143: _ETHER,
        137: b"\0\0\x71\xff" + _IP6,
    }
    over_gre = {
        0x88BE: b"\x10\0\x88\xbe" + bytes(4) + b"\x10\7" + bytes(6) + _ETHER,
        0x22EB: b"\x10\0\x22\xeb" + bytes(4) + b"\x20\7" + bytes(9) + b"\1" + bytes(8) + _ETHER,
        0x883E: b"\0\0\x88\x3e" + bytes(4) + _IP,
        0x880B: b"\x30\x81\x88\x0b" + b"\0\x40\0\7" + bytes(8) + b"\x21" + _IP,
    }
    over_udp = {
        1701: b"\x4a\2\0\x40" + b"\0\1\0\2" + bytes(4) + b"\0\2\0\0" + b"\xff\3\0\x21" + _IP,
        2152: b"\x34\xff\0\x60" + b"\0\0\0\7" + b"\0\0\0\x85" + b"\1\0\0\0" + _IP,
        3544: bytes(8) + _IP6,
        4341: b"\x08\0\0\0" + b"\0\0\7\0" + _IP,
        4790: b"\x0c\0\0\4" + b"\0\0\7\0" + b"\x0f\xc2\1\3" + b"\0\0\7\xff" + _ETHER,
        6635: b"\0\0\x71\xff" + _IP,
        8472: b"\x08\0\0\0" + b"\0\0\7\0" + _ETHER,
    }
    chain = b"\x33\0" + bytes(6) + b"\x2c\4" + bytes(22) + b"\x11\0\0\1" + bytes(4) + bytes(udp(9))
    return [
        *(bytes(ether() / IP(proto=number) / payload) for number, payload in over_ip.items()),
        *(bytes(ether() / IP(proto=47) / payload) for payload in over_gre.values()),
        *(bytes(ether() / OUTER4 / udp(port) / payload) for port, payload in over_udp.items()),
        bytes(ether() / IPv6(nh=0) / chain),
    ]


def mutant(frame: bytes, random: np.random.Generator) -> bytes:
    """`frame` with a few bytes changed, most to numbers that lead to another layer, and maybe cut."""
    data = bytearray(frame)
    for _ in range(random.integers(0, 5)):
        at = int(random.integers(0, len(data) - 1)) if len(data) > 1 else 0
        choice = random.integers(0, 4)
        if choice == 0:
            data[at : at + 2] = int(random.choice(_WORDS)).to_bytes(2, "big")
        elif choice == 1:
            data[at : at + 2] = int(random.choice(_PORTS)).to_bytes(2, "big")
        elif choice == 2:
            data[at : at + 1] = bytes([int(random.choice(_PROTOCOLS))])
        else:
            data[at : at + 1] = bytes([int(random.integers(0, 256))])
    return bytes(data[: random.integers(0, len(data) + 1)]) if random.integers(0, 3) == 0 else bytes(data)


def block_of_files(paths: Iterable[Path]) -> Iterable[tuple[Block, list[Interface]]]:
    """The blocks of captures, each with its source's interfaces; a damaged one as far as it is sound."""
    for path in paths:
        source = FileSource([path])
        try:
            source.open()
            while not source.done:
                block = source.next_block(1.0)
                if block is not None:
                    yield block, source.interfaces
        except CaptureError:
            pass
        finally:
            source.close()


def both(block: Block, interfaces: Sequence[Interface]) -> tuple[Decoder, Decoder]:
    """A decoder with the kernel and one without."""
    with_kernel, without = Decoder(list(interfaces)), Decoder(list(interfaces))
    assert with_kernel._compiled is not None
    without._compiled = None
    return with_kernel, without


def differences(block: Block, interfaces: Sequence[Interface]) -> list[str]:
    """What the two ways to decode a block do not agree on: columns and payloads, by name and first row."""
    answers = [decoder.with_payloads(block, 1) for decoder in both(block, interfaces)]
    (theirs, their_payloads), (ours, our_payloads) = answers
    assert list(theirs) == list(ours)
    found = [name for name in ours if not _same(theirs, ours, name)]
    if not np.array_equal(their_payloads.length, our_payloads.length):
        found.append("payload length")
    there = our_payloads.length > 0
    if not np.array_equal(their_payloads.start[there], our_payloads.start[there]):
        found.append("payload start")
    return found


def _same(left: Columns, right: Columns, name: str) -> bool:
    one, two = left[name], right[name]
    if isinstance(two, np.ndarray):
        return isinstance(one, np.ndarray) and one.dtype == two.dtype and np.array_equal(one, two)
    for field in dataclasses.fields(two):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(b, np.ndarray) and not (a.dtype == b.dtype and np.array_equal(a, b)):
            return False
        if isinstance(b, tuple) and a != b:
            return False
    return True
