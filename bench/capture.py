"""Cuts a capture: slow programs read the beginning of what fast ones read whole."""

from __future__ import annotations

import mmap
import shutil
from pathlib import Path

import numpy as np

HEADER, RECORD = 24, 16


class Capture:
    """A classic pcap file, little-endian. `ends` (n,) are the offsets behind its records, `round` is the number of
    frames after which it repeats (`make_pcap`), all of them where it does not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ends = _ends(path)
        self.frames = len(self.ends)
        self.round = _period(np.diff(self.ends, prepend=HEADER))

    def cut(self, frames: int, folder: Path) -> tuple[Path, int]:
        """A capture of about the first `frames` frames, at least one whole round, and how many those are."""
        wanted = max(1, round(frames / self.round)) * self.round
        if wanted >= self.frames:
            return self.path, self.frames
        target = folder / f"{wanted}.pcap"
        if not target.exists():
            shutil.copyfile(self.path, target)
            with target.open("r+b") as file:
                file.truncate(int(self.ends[wanted - 1]))
        return target, wanted


def _ends(path: Path) -> np.ndarray:
    ends, position = [], HEADER
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        while position + RECORD <= len(raw):
            position += RECORD + int.from_bytes(raw[position + 8 : position + 12], "little")
            ends.append(position)
    return np.array(ends, np.int64)


def _period(sizes: np.ndarray) -> int:
    """The smallest number of frames after which the sizes of all frames repeat."""
    for period in np.flatnonzero(sizes[1 : len(sizes) // 2 + 1] == sizes[0]) + 1:
        if np.array_equal(sizes[period : period + 64], sizes[:64]) and np.array_equal(sizes[period:], sizes[:-period]):
            return int(period)
    return len(sizes)
