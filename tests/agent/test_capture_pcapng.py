from __future__ import annotations

import subprocess
from pathlib import Path

import captures as make
import numpy as np
import pytest
from captures import Frame, read
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.file import FileSource
from agent.capture.pcapng import Port

TICKS = 1_700_000_000_123_456
DATA = bytes(range(60))


def written(tmp_path: Path, *parts: bytes) -> FileSource:
    path = tmp_path / "a.pcapng"
    path.write_bytes(b"".join(parts))
    return FileSource([path])


def every_kind(order: str) -> list[bytes]:
    """A section with two interfaces and every kind of block."""
    named = make.option(order, 2, b"eth7") + make.option(order, 9, b"\x09") + make.option(order, 0, b"")
    return [
        make.section(order),
        make.interface(order, 1, snaplen=40),
        make.packet(order, TICKS, 90, DATA),
        make.block(order, 0x0BAD, make.option(order, 2988, b"custom")),
        make.block(order, 0xDEAD, b"unknown"),
        make.simple(order, 60, DATA[:40]),
        make.interface(order, 101, options=named),
        make.packet(order, TICKS * 1000 + 7, 60, DATA, number=1),
        make.block(order, 4, bytes(4)),
        make.packet(order, TICKS, 60, DATA[:33], number=0, old=True),
        make.block(order, 5, bytes(12)),
    ]


def expected() -> list[Frame]:
    return [
        Frame(TICKS * 1000, 90, DATA, 0),
        Frame(None, 60, DATA[:40], 0),
        Frame(TICKS * 1000 + 7, 60, DATA, 1),
        Frame(TICKS * 1000, 60, DATA[:33], 0),
    ]


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_kind_of_block(tmp_path: Path, order: str) -> None:
    source = written(tmp_path, *every_kind(order))
    assert read(source) == (expected(), "")
    assert [(i.name, i.linktype, i.id) for i in source.interfaces] == [("a.pcapng", 1, 0), ("eth7", 101, 1)]


def test_sections_of_both_byte_orders(tmp_path: Path) -> None:
    source = written(tmp_path, *every_kind("<"), *every_kind(">"), *every_kind("<"))
    assert read(source) == (expected() * 3, "")
    assert len(source.interfaces) == 6


def test_interfaces_of_several_sections_are_numbered_as_tshark_does(tmp_path: Path, tshark: str) -> None:
    parts = [make.section("<"), make.interface("<"), make.interface("<"), make.packet("<", TICKS, 60, DATA, number=1)]
    source = written(tmp_path, *parts, *parts)
    frames, _ = read(source)
    said = subprocess.run(
        [tshark, "-n", "-r", str(tmp_path / "a.pcapng"), "-T", "fields", "-e", "frame.interface_id"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [frame.interface for frame in frames] == [int(line) for line in said.stdout.split()]


@pytest.mark.parametrize(
    ("resolution", "offset", "ticks", "time"),
    [
        (0, 0, 17, 17_000_000_000),
        (3, 0, 1_700_000_000_123, 1_700_000_000_123_000_000),
        (6, -3600, TICKS, (TICKS - 3600 * 10**6) * 1000),
        (9, 5, 123, 5_000_000_123),
        (12, 0, 1_700_000_000_123_456_789, 1_700_000_000_123_456),
        (40, 0, 1 << 63, 0),
        (0x80, 2, 17, 19_000_000_000),
        (0x80 | 10, 0, (5 << 10) | 512, 5_500_000_000),
        (0x80 | 32, 0, (5 << 32) | (1 << 31), 5_500_000_000),
        (0x80 | 63, 0, (1 << 63) | (1 << 62), 1_500_000_000),
        (0x80 | 64, 0, 1 << 63, 500_000_000),
    ],
)
def test_resolutions_and_offsets(resolution: int, offset: int, ticks: int, time: int) -> None:
    port = Port(0, 0, resolution, offset)
    assert port.nanoseconds(np.array([ticks], dtype=np.uint64)).tolist() == [time]


@given(st.integers(0, 127), st.booleans(), st.integers(0, (1 << 64) - 1))
def test_time_is_exact_wherever_it_fits(exponent: int, binary: bool, ticks: int) -> None:
    units = (2 if binary else 10) ** exponent
    exact = ticks * 10**9 // units
    got = int(Port(0, 0, exponent | binary << 7).nanoseconds(np.array([ticks], dtype=np.uint64))[0])
    if exact < 1 << 63:
        assert got == exact


def test_resolution_and_offset_options_are_read(tmp_path: Path) -> None:
    for order in "<>":
        seconds = (-2).to_bytes(8, "little" if order == "<" else "big", signed=True)
        options = make.option(order, 9, b"\x83") + make.option(order, 14, seconds)
        parts = [make.section(order), make.interface(order, options=options), make.packet(order, 84, 60, DATA)]
        frames, _ = read(written(tmp_path, *parts))
        assert frames == [Frame(8_500_000_000, 60, DATA, 0)]


def test_block_lengths_that_leave_out_the_padding(tmp_path: Path) -> None:
    odd = bytearray(make.packet("<", TICKS, 5, b"abcde"))
    odd[4:8] = odd[-4:] = (len(odd) - 3).to_bytes(4, "little")
    source = written(tmp_path, make.section(), make.interface(), bytes(odd), make.packet("<", TICKS, 60, DATA))
    frames, error = read(source)
    assert (len(frames), error) == (2, "")


GOOD = [make.section(), make.interface(), make.packet("<", TICKS, 60, DATA)]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (make.packet("<", TICKS, 60, DATA, number=1), "a frame on an interface that was not described"),
        (make.block("<", 6, bytes(12) + b"\xff\0\0\0" + bytes(68)), "a frame longer than its block"),
        (make.block("<", 6, bytes(8)), "a block of type 6 and 20 bytes, 20 at its end"),
        (make.block("<", 99, bytes(8))[:-4] + b"\x63\0\0\0", "a block of type 99 and 20 bytes, 100 at its end"),
        (b"\x06\0\0\0\xff\xff\xff\x7f" + bytes(64), "a block of type 6 and 2147483648 bytes"),
        (b"\x06\0\0\0" + bytes(64), "a block of type 6 and 0 bytes"),
        (b"\x0a\x0d\x0d\x0a\x1c\0\0\0nope" + bytes(16), "a section without byte order"),
    ],
)
def test_damage_stops_after_the_good_frames(tmp_path: Path, damage: bytes, said: str) -> None:
    frames, error = read(written(tmp_path, *GOOD, damage, make.packet("<", TICKS, 60, DATA)))
    assert frames == [Frame(TICKS * 1000, 60, DATA, 0)]
    assert f"damaged at byte {sum(map(len, GOOD))}: {said}" in error


def test_an_interface_described_too_late_does_not_count(tmp_path: Path) -> None:
    source = written(tmp_path, make.section(), make.packet("<", TICKS, 60, DATA), make.interface())
    frames, error = read(source)
    assert frames == []
    assert "a frame on an interface that was not described" in error
