"""pcapng as we write it, read by tshark and capinfos, and by the agent's own reader."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from protocol import pcapng

TAG = 0x8100 << 16 | 0x0064


def frames_of(raw: list[bytes], times: list[int], vlan: list[int] | None = None) -> pcapng.Frames:
    """Frames that lie one after the other, with odd bytes between them."""
    lengths = np.array([len(frame) for frame in raw], dtype=np.int64)
    data = np.frombuffer(b"".join(b"\xee" + frame for frame in raw), dtype=np.uint8)
    offset = np.cumsum(lengths + 1) - lengths
    return pcapng.Frames(
        data, offset, lengths.astype(np.uint32), (lengths + 4).astype(np.uint32), np.array(times, dtype=np.int64),
        np.zeros(len(raw), dtype=np.uint16), None if vlan is None else np.array(vlan, dtype=np.int64),
    )  # fmt: skip


def plain(frame: bytes, time: int) -> bytes:
    """A packet block, made one at a time."""
    return pcapng.packet(frame, len(frame) + 4, time, 0)


@given(st.lists(st.tuples(st.binary(max_size=300), st.integers(-(1 << 62), 1 << 62)), max_size=30))
def test_many_blocks_are_the_blocks_of_each(items: list[tuple[bytes, int]]) -> None:
    raw, times = [frame for frame, _ in items], [time for _, time in items]
    assert pcapng.packets(frames_of(raw, times)).tobytes() == b"".join(map(plain, raw, times))


@given(st.lists(st.tuples(st.binary(min_size=12, max_size=99), st.booleans()), min_size=1, max_size=9))
def test_a_stripped_tag_is_put_back(items: list[tuple[bytes, bool]]) -> None:
    raw, tags = [frame for frame, _ in items], [TAG if tagged else -1 for _, tagged in items]
    whole = [f[:12] + b"\x81\x00\x00\x64" + f[12:] if tag >= 0 else f for f, tag in zip(raw, tags, strict=True)]
    expected = b"".join(pcapng.packet(frame, len(short) + 4, 7, 0) for frame, short in zip(whole, raw, strict=True))
    assert pcapng.packets(frames_of(raw, [7] * len(raw), tags)).tobytes() == expected


@given(st.lists(st.integers(0, 700), max_size=20), st.data())
def test_pieces_are_copied_whole(lengths: list[int], data: st.DataObject) -> None:
    source = np.random.default_rng(1).integers(0, 256, 1000, dtype=np.uint8)
    places = np.array([data.draw(st.integers(0, 1000 - length)) for length in lengths], dtype=np.int64)
    sizes = np.array(lengths, dtype=np.int64)
    target = np.zeros(int(sizes.sum()), dtype=np.uint8)
    pcapng.copy(source, places, target, np.cumsum(sizes) - sizes, sizes)
    pieces = [source[a : a + b].tobytes() for a, b in zip(places.tolist(), lengths, strict=True)]
    assert target.tobytes() == b"".join(pieces)


def test_wireshark_reads_it(tmp_path: Path) -> None:
    frame = bytes(12) + b"\x08\x00" + bytes(46)
    now = 1_700_000_000_123_456_789
    blocks = [
        pcapng.section("nodetap 1", ["two agents"]),
        pcapng.interface("eth0", 1, description="eth0 of a", comments=["agent a", "ü"]),
        pcapng.packet(frame, 60, now, 0, dropped=3, comments=["3 frames are missing"]),
        pcapng.packets(frames_of([frame], [now + 1])).tobytes(),
        pcapng.statistics(0, now, now + 1, received=2, dropped=3, comments=["3 missing"]),
    ]
    path = tmp_path / "x.pcapng"
    path.write_bytes(b"".join(blocks))
    shown = run("tshark", "-r", path, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.comment",
                "-e", "frame.interface_name", "-e", "frame.interface_description")  # fmt: skip
    assert shown.splitlines() == [
        "1700000000.123456789\t3 frames are missing\teth0\teth0 of a",
        "1700000000.123456790\t\teth0\teth0 of a",
    ]
    about = run("capinfos", path)
    assert "Capture application: nodetap 1" in about
    assert "Capture comment:     two agents" in about
    assert "nanoseconds (9)" in about


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    said = [line for line in done.stderr.splitlines() if "Running as user" not in line and line.strip()]
    assert said == []
    return done.stdout
