from __future__ import annotations

import struct
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import kernel
from agent.capture.members import Known, sort_out
from agent.capture.tpacket import BLOCK_BYTES, Frames, count_ready, find_frames, read_blocks, read_frames
from protocol.built import VARIABLE

SECOND = 1_700_000_000


def ring_block(payloads: list[bytes], seconds: list[int]) -> tuple[np.ndarray, list[int]]:
    """A block as the kernel lays it out, and where its frames start."""
    body, starts = b"", []
    for number, payload in enumerate(payloads):
        size = -(-(48 + 20 + 14 + len(payload)) // 8) * 8
        last = number == len(payloads) - 1
        starts.append(48 + len(body))
        head = struct.pack(
            "=6I2H2I2H8x", 0 if last else size, seconds[number], 5, len(payload), len(payload) + 9, 0x51, 82, 96,
            0, 42, 0x88A8, 0,
        )  # fmt: skip
        link = struct.pack("=HHiHBB8x", 17, 8, 7, 1, 4, 6)
        body += (head + link + bytes(14) + payload).ljust(size, b"\0")
    times = (seconds[0], 0, seconds[-1], 0) if seconds else (0, 0, 0, 0)
    header = struct.pack("=6IQ4I", 2, 48, 1, len(payloads), 48, 48 + len(body), 1, *times)
    return np.frombuffer(header + body + bytes(64), dtype=np.uint8), starts


@given(
    st.lists(st.one_of(st.binary(max_size=300), st.just(struct.pack("=I", SECOND) * 30)), min_size=1, max_size=40),
    st.sampled_from([0, 1, -5]),
)
def test_frames_are_found_whatever_their_payload_looks_like(payloads: list[bytes], step: int) -> None:
    block, starts = ring_block(payloads, [SECOND + step * (number // 7) for number in range(len(payloads))])
    found = find_frames(block)
    assert found.tolist() == starts
    frames = read_frames(block, found)
    assert [block[at : at + n].tobytes() for at, n in zip(frames.offset, frames.cap_len, strict=True)] == payloads
    assert as_lists(read_blocks(block, [0])) == as_lists(frames)


def as_lists(frames: Frames) -> list[object]:
    values = [getattr(frames, field.name) for field in fields(frames)]
    return [None if value is None else (value.dtype, value.tolist()) for value in values]


@given(st.lists(st.tuples(st.binary(max_size=90), st.booleans(), st.booleans()), max_size=30), st.integers(0, 3))
def test_blocks_are_read_alike_with_the_kernel_and_without(frames: list[tuple[bytes, bool, bool]], more: int) -> None:
    one, starts = ring_block([payload for payload, *_ in frames], [SECOND] * len(frames))
    one = one.copy()
    for at, (_, tagged, tpid) in zip(starts, frames, strict=True):
        one[at + 20 : at + 24].view("=u4")[0] = tagged << 4 | tpid << 6 | 1
    data = np.concatenate([one, np.zeros(-len(one) % BLOCK_BYTES, np.uint8)] * (more + 1))
    places = [number * BLOCK_BYTES for number in range(more + 1)]
    found = as_lists(read_blocks(data, places))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "off")
        assert as_lists(read_blocks(data, places)) == found


@pytest.mark.skipif(kernel.load() is None, reason="the kernel is not built or not wanted")
def test_no_frame_is_looked_for_beyond_its_block() -> None:
    block, starts = ring_block([bytes(20)] * 3, [SECOND] * 3)
    block = block.copy()
    block[starts[1] : starts[1] + 4].view("=u4")[0] = len(block) - starts[1] - 63
    assert len(read_blocks(block, [0]).offset) == 2


@given(st.integers(1, 9), st.data())
def test_blocks_that_were_handed_over_are_counted(blocks: int, data: st.DataObject) -> None:
    first, ready = data.draw(st.integers(0, blocks - 1)), data.draw(st.integers(0, blocks))
    held = data.draw(st.integers(0, blocks - ready))
    words = memoryview(bytearray(blocks * BLOCK_BYTES)).cast("I")
    for number in range(first - held, first + ready):
        words[(number % blocks * BLOCK_BYTES + 8) // 4] = 1
    assert count_ready(words, first, blocks, held) == ready


def test_large_frames() -> None:
    block, starts = ring_block([bytes(1500)] * 9, [SECOND] * 9)
    assert find_frames(block).tolist() == starts


def test_what_a_frames_header_tells() -> None:
    block, starts = ring_block([b"abcd"], [SECOND])
    frames = read_frames(block, np.array(starts))
    assert frames.time.tolist() == [SECOND * 10**9 + 5]
    assert frames.wire_len.tolist() == [13 + 4], "with the tag that was taken off"
    assert frames.vlan.tolist() == [0x88A8 << 16 | 42]
    assert (frames.ifindex.tolist(), frames.pkttype.tolist()) == ([7], [4])


@pytest.mark.parametrize(
    ("loopback", "index", "kept", "discarded"),
    [
        (False, 7, 1, {}),
        (True, 7, 0, {"loopback_copy": 1}),
        (False, 8, 0, {"unselected_interface": 1}),
    ],
)
def test_what_is_discarded(loopback: bool, index: int, kept: int, discarded: dict[str, int]) -> None:
    block, starts = ring_block([b"abcd"], [SECOND])
    known = Known(np.array([3, index]), np.array([0, 1], dtype=np.uint16), np.array([False, loopback]))
    frames, place, lost = sort_out(read_frames(block, np.array(starts)), known)
    assert (len(frames.offset), place.tolist(), lost) == (kept, [1] * kept, discarded)
    assert place.dtype == np.uint16
