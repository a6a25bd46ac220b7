"""The recorder with real files: the bound, what a kill leaves at any byte, full and broken disks."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import numpy as np
import pytest

from agent.capture import Block, Interface
from agent.recorder import recorder as module
from agent.recorder.folder import RecorderFolder, room_of
from agent.recorder.recorder import BEHIND, FAILED, RETRY, Recorder
from agent.recorder.segment import Gap, scan
from tests.agent.test_spool import Log

FACES = [Interface("eth0", 1), Interface("wg0", 101)]
T0 = 1_700_000_000_000_000_000
BOUND = 1 << 20


def block_of(first: int, count: int, size: int = 400, face: int = 0) -> Block:
    """`count` frames, numbered from `first` in their first bytes and their times."""
    raw = [
        number.to_bytes(4, "big") + random.Random(number).randbytes(size - 4) for number in range(first, first + count)
    ]
    return Block(
        np.frombuffer(b"".join(raw), dtype=np.uint8), np.arange(count, dtype=np.int64) * size,
        np.full(count, size, dtype=np.uint32), np.full(count, size, dtype=np.uint32),
        T0 + np.arange(first, first + count, dtype=np.int64), np.full(count, face, dtype=np.uint16),
    )  # fmt: skip


class Node:
    """A recorder whose steps are made by hand."""

    def __init__(self, root: Path, bound: int = BOUND, run: str = "00000000000000aa") -> None:
        self.root, self.log, self.folder = root, Log(), RecorderFolder(root, "n1")
        self.recorder = Recorder(self.folder, bound, FACES, run, self.log)
        self.late = 0.0

    def put(self, block: Block) -> None:
        self.recorder.put(block)
        self.step()

    def step(self, ending: bool = False) -> None:
        self.late += RETRY
        self.recorder.turn(monotonic() + self.late, ending)

    def die(self) -> None:
        self.folder.close()

    def files(self) -> list[Path]:
        return sorted(self.folder.path.glob("*.pcapng"))

    def disk(self) -> int:
        return sum(room_of(path.stat().st_size) for path in self.files())

    def numbers(self) -> list[int]:
        """The frames that can be read, by the numbers in them."""
        return [number for segment in self.recorder.segments for number in numbers_in(self.recorder.read(segment))]


def numbers_in(raw: bytes) -> list[int]:
    block = scan(raw).block
    return [int.from_bytes(block.data[at : at + 4].tobytes(), "big") for at in block.offset]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.die()


def test_what_is_put_is_read_and_tshark_reads_it_too(node: Node) -> None:
    node.put(block_of(0, 10))
    node.put(block_of(10, 5, face=1))
    node.step(ending=True)
    assert node.numbers() == list(range(15))
    (segment,) = node.recorder.segments
    assert (segment.extent.frames, segment.extent.first, segment.extent.last) == (15, T0, T0 + 14)
    assert segment.extent.interfaces == {"eth0", "wg0"}
    (path,) = node.files()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    done = subprocess.run(
        ["tshark", "-r", path, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.interface_name"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[9:11] == ["1700000000.000000009\teth0", "1700000000.000000010\twg0"]
    assert node.recorder.look().recorded == 15


def test_the_disk_never_holds_more_than_the_bound(node: Node) -> None:
    number, random_ = 0, random.Random(7)
    for _ in range(150):
        count, size = random_.randint(1, 60), random_.choice([60, 1500, 9000, 60_000])
        node.put(block_of(number, count, size))
        number += count
        assert node.disk() <= BOUND
        assert node.recorder.look().bytes == node.disk()
    kept = node.numbers()
    assert kept == list(range(kept[0], number))
    assert kept[0] > 0
    assert node.recorder.overwritten == T0 + kept[0] - 1
    assert node.disk() > BOUND // 2


def test_a_frame_larger_than_a_file_fits(node: Node) -> None:
    node.put(block_of(0, 2, 262_144))
    assert node.numbers() == [0, 1]
    assert node.disk() <= BOUND


def test_a_smaller_bound_holds_from_the_start(tmp_path: Path) -> None:
    node = Node(tmp_path, 4 << 20)
    for number in range(0, 6000, 100):
        node.put(block_of(number, 100, 1000))
    node.die()
    again = Node(tmp_path, BOUND)
    again.step()
    assert again.disk() <= BOUND
    assert again.numbers()[-1] == 5999
    again.die()


def test_a_kill_at_any_byte_leaves_whole_frames(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(block_of(0, 6, 50))
    node.put(block_of(6, 3, 61, face=1))
    node.die()
    (path,) = node.files()
    whole = path.read_bytes()
    seen = set()
    for cut in range(0, len(whole) + 1, 4):
        path.write_bytes(whole[:cut])
        again = Node(tmp_path)
        again.step()
        kept = again.numbers()
        assert kept == list(range(len(kept)))
        for segment in again.recorder.segments:
            assert segment.extent.frames == len(kept)
            assert not again.log.said("bug in the recorder")
        seen.add(len(kept))
        again.put(block_of(9, 1))  # and it goes on
        assert again.numbers() == [*kept, 9]
        again.die()
        for file in again.files():
            file.unlink()
    assert seen == set(range(10))


def test_a_damaged_or_foreign_file_costs_only_itself(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(block_of(0, 10, 60))
    node.step(ending=True)
    node.die()
    random_ = random.Random(3)
    (path,) = node.files()
    whole = bytearray(path.read_bytes())
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(random_.randint(1, 4)):
            damaged[random_.randrange(len(damaged))] = random_.randrange(256)
        path.write_bytes(damaged)
        (path.parent / "0000000002.pcapng").write_bytes(random_.randbytes(100))
        again = Node(tmp_path)
        again.step()
        again.put(block_of(50, 1))
        assert again.numbers()[-1] == 50
        assert not again.recorder.look().failing
        again.die()
        for file in again.files():
            file.unlink()


def test_what_an_earlier_run_left_is_known_by_its_ends(tmp_path: Path) -> None:
    node = Node(tmp_path)
    for number in range(0, 1000, 10):
        node.put(block_of(number, 10, 500, face=number % 20 // 10))
    before = {segment.number: segment.extent for segment in node.recorder.segments[:-1]}
    assert before
    node.die()
    again = Node(tmp_path, run="00000000000000bb")
    again.step()
    after = {segment.number: segment.extent for segment in again.recorder.segments}
    assert {number: after[number] for number in before} == before
    assert [said["number"] for said in again.log.said("recorder's file was cut")] == [max(after)]
    again.put(block_of(1000, 1))
    assert [s.extent.run for s in again.recorder.segments][-2:] == ["00000000000000aa", "00000000000000bb"]
    again.die()
    third = Node(tmp_path)  # what was mended is whole now
    third.step()
    assert [said["number"] for said in third.log.said("recorder's file was cut")] == [max(after) + 1]
    third.die()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_nothing_is_counted_and_tried_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    node.put(block_of(0, 5))

    def broken(file: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("agent.spool.folder.os", SimpleNamespace(**{**vars(os), "write": broken}))
        node.put(block_of(5, 3))
        node.recorder.put(block_of(8, 2))  # is not even queued: the disk is not tried at every block
        view = node.recorder.look()
        assert view.failing == os.strerror(code)
        assert view.lost[FAILED] == 5
        assert view.waiting_bytes == 0
        assert view.errors[errno.errorcode[code]] == 1
        assert len(node.log.said("recorder failed; capture goes on")) == 1
    node.step()
    node.put(block_of(10, 4))
    assert node.numbers() == [0, 1, 2, 3, 4, 10, 11, 12, 13]
    assert node.recorder.look().failing == ""
    assert node.log.said("recorder works again")
    gaps = scan(node.recorder.read(node.recorder.segments[-1])).gaps
    assert gaps == [Gap(T0 + 5, T0 + 10, 5, FAILED)]


def test_a_torn_write_leaves_no_half_frame(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.put(block_of(0, 2))
    real = os.write

    def torn(file: int, data: bytes) -> int:
        real(file, bytes(data)[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("agent.spool.folder.os", SimpleNamespace(**{**vars(os), "write": torn}))
        node.put(block_of(2, 2))
    assert node.numbers() == [0, 1]
    assert all(
        path.stat().st_size == segment.size for path, segment in zip(node.files(), node.recorder.segments, strict=True)
    )


def test_a_slow_disk_costs_frames_and_not_the_capture(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 5000)
    for number in range(0, 30, 10):
        node.recorder.put(block_of(number, 10))  # 4,320 bytes each; nobody writes
    assert node.recorder.look().lost == {BEHIND: 20, FAILED: 0}
    node.step()
    node.put(block_of(30, 1))
    assert node.numbers() == [*range(10), 30]
    assert scan(node.recorder.read(node.recorder.segments[0])).gaps == [Gap(T0 + 10, T0 + 30, 20, BEHIND)]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    node = Node(tmp_path / "file")
    node.put(block_of(0, 1))
    view = node.recorder.look()
    assert view.failing
    assert view.lost[FAILED] == 1
    assert view.errors["other"] == 1
    assert not node.log.said("bug in the recorder")


def test_the_thread_writes_and_ends(node: Node) -> None:
    node.recorder.start()
    for number in range(0, 100, 10):
        node.recorder.put(block_of(number, 10))
    node.recorder.finish(10)
    assert not node.recorder.is_alive()
    assert node.numbers() == list(range(100))


def test_the_block_may_change_after_put(node: Node) -> None:
    block = block_of(0, 3)
    data = block.data.copy()
    block = replace(block, data=data)
    node.recorder.put(block)
    data[:] = 0
    block.time[:] = 0
    node.step()
    assert node.numbers() == [0, 1, 2]
    assert node.recorder.segments[0].extent.first == T0


def test_frames_that_lie_far_apart_are_copied_alone(node: Node) -> None:
    block = block_of(0, 4, 100)
    data = np.zeros(1 << 20, dtype=np.uint8)
    offset = np.array([3 << 18, 5, 1 << 18, 1 << 19])
    for at, place in zip(offset, block.offset, strict=True):
        data[at : at + 100] = block.data[place : place + 100]
    node.put(replace(block, data=data, offset=offset))
    assert node.numbers() == [0, 1, 2, 3]
