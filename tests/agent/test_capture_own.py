from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture import Block, Interface
from agent.capture.own import Endpoint, OwnTraffic, drop_own
from protocol.built import VARIABLE

HUB, HUB6, OTHER = "192.0.2.9", "2001:db8::9", "192.0.2.7"
INTERFACES = [Interface("eth0", 1), Interface("tun0", 101), Interface("any", 113)]


def block_of(*frames: bytes, iface: int = 0) -> Block:
    lengths = np.array([len(frame) for frame in frames], dtype=np.uint32)
    ends = np.cumsum(lengths, dtype=np.int64)
    zeros = np.zeros(len(frames), dtype=np.int64)
    data = np.frombuffer(b"".join(frames), dtype=np.uint8)
    return Block(data, ends - lengths, lengths, lengths, zeros, np.full(len(frames), iface, dtype=np.uint16))


def ip(
    source: str, target: str, sport: int, dport: int, protocol: int = 6, options: int = 0, fragment: int = 0
) -> bytes:
    addresses = b"".join(bytes(map(int, address.split("."))) for address in (source, target))
    head = struct.pack(">BBHHHBBH", 0x45 + options, 0, 40, 0, fragment, 64, protocol, 0)
    return head + addresses + bytes(4 * options) + struct.pack(">HH", sport, dport) + bytes(16)


def ip6(sport: int, dport: int, protocol: int = 6) -> bytes:
    addresses = bytes.fromhex("20010db8000000000000000000000009" + "20010db8000000000000000000000001")
    return struct.pack(">IHBB", 6 << 28, 20, protocol, 64) + addresses + struct.pack(">HH", sport, dport) + bytes(16)


def ether(payload: bytes, *tags: int) -> bytes:
    kind = b"\x86\xdd" if payload[0] >> 4 == 6 else b"\x08\x00"
    return bytes(12) + b"".join(struct.pack(">HH", tag, 5) for tag in tags) + kind + payload


@pytest.mark.parametrize(
    ("packet", "endpoints", "own"),
    [
        (ip(HUB, OTHER, 8470, 40000), [8470], True),
        (ip(OTHER, HUB, 40000, 8470), [8470], True),
        (ip(OTHER, HUB, 40000, 8470, options=3), [8470], True),
        (ip(OTHER, HUB, 40000, 8470), [(HUB, 8470)], True),
        (ip(HUB, OTHER, 8470, 40000), [(HUB, 8470)], True),
        (ip(HUB, OTHER, 40000, 8470), [(HUB, 8470)], False),
        (ip(OTHER, OTHER, 40000, 443), [(HUB, 443)], False),
        (ip(OTHER, HUB, 40000, 8471), [8470], False),
        (ip(OTHER, HUB, 40000, 8470, protocol=17), [8470], False),
        (ip(OTHER, HUB, 40000, 8470, fragment=100), [8470], False),
        (ip6(8470, 40000), [8470], True),
        (ip6(8470, 40000), [(HUB6, 8470)], True),
        (ip6(40000, 8470), [(HUB6, 8470)], False),
        (ip6(8470, 40000, protocol=17), [8470], False),
    ],
    ids=lambda value: value.hex()[:12] if isinstance(value, bytes) else None,
)
def test_what_is_own(packet: bytes, endpoints: list[Endpoint], own: bool) -> None:
    for frame, iface in (
        (ether(packet), 0),
        (ether(packet, 0x8100), 0),
        (ether(packet, 0x88A8, 0x8100), 0),
        (packet, 1),
    ):
        block = block_of(frame, frame, iface=iface)
        left, dropped = drop_own(block, INTERFACES, endpoints)
        assert (len(left), dropped) == ((0, 2) if own else (2, 0))
        assert own or left is block


def test_the_others_stay_as_they_are() -> None:
    frames = [ether(ip(OTHER, HUB, 1, port)) for port in (1, 8470, 2, 8470, 3)]
    own = OwnTraffic(INTERFACES, [8470])
    left = own.drop(block_of(*frames))
    assert [left.data[at : at + 54].tobytes() for at in left.offset] == [frames[0], frames[2], frames[4]]
    assert own.dropped == 2


@given(st.lists(st.binary(max_size=70), min_size=1, max_size=20), st.sampled_from([0, 1, 2]))
def test_garbage_and_short_frames(frames: list[bytes], iface: int) -> None:
    drop_own(block_of(*frames, iface=iface), INTERFACES, [0, 8470, (HUB, 0), (HUB6, 0)])


def test_a_frame_cut_anywhere_is_own_only_with_both_ports() -> None:
    for whole, ports_end in ((ether(ip(HUB, OTHER, 8470, 1)), 38), (ether(ip6(8470, 1)), 58)):
        for cut in range(len(whole) + 1):
            _, dropped = drop_own(block_of(whole[:cut]), INTERFACES, [8470])
            assert dropped == int(cut >= ports_end)


PACKETS = [
    ether(ip(source, target, *ports, options=options), *tags)
    for source, target, ports in ((HUB, OTHER, (8470, 1)), (OTHER, HUB, (1, 8470)), (OTHER, OTHER, (8470, 8470)))
    for options in (0, 2)
    for tags in ((), (0x8100,), (0x88A8, 0x8100))
] + [ether(ip6(8470, 1)), ether(ip6(1, 2)), ether(ip6(8470, 1), 0x8100), bytes(12) + b"\x08\x06" + bytes(40)]


@given(
    st.lists(st.sampled_from(PACKETS), min_size=1, max_size=20),
    st.sampled_from([[(HUB, 8470)], [(HUB6, 8470)], [(HUB, 8470), (HUB6, 8470)], [(OTHER, 1)], [(OTHER, 8470)], []]),
    st.integers(0, 60),
)
def test_the_quick_look_misses_nothing(frames: list[bytes], endpoints: list[Endpoint], last: int) -> None:
    block = block_of(*frames, bytes(last))
    thorough = OwnTraffic(INTERFACES, endpoints)  # not Ethernet alone: every frame is looked at
    left = thorough.drop(block).offset.tolist()
    for with_kernel in ("", "off"):
        quick = OwnTraffic(INTERFACES[:1], endpoints)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(VARIABLE, with_kernel)
            assert quick.drop(block).offset.tolist() == left
        assert thorough.dropped == quick.dropped
