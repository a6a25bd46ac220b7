"""The bytes of one capture file, a window at a time: of a plain file, or streamed where it is compressed or a pipe.

Readers look at `data` from `place` on, move `place` forward, and ask for `more` when what they need is not there yet.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import stat
import time
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.capture import CaptureError

GZIP_MAGIC = b"\x1f\x8b"
CHUNK = 8 << 20
"""Bytes of a window."""
READ = 256 << 10


class File:
    """A plain file, a window of it at a time, in one buffer that is used again and again.

    Copied and not mapped: the processor reads ahead of a copy and not of a walk from record to record, each in a cache
    line of its own, and the copied window is still in the cache when frames are decoded (measured: 0.1 against 0.6 us
    a frame of 670 bytes). A file that somebody shortens meanwhile is an early end, where a map would kill the process.
    """

    cut = ""

    def __init__(self, name: str, fd: int, size: int) -> None:
        self.name = name
        self.raw: mmap.mmap | bytes = b""
        self.data: NDArray[np.uint8] = np.frombuffer(b"", dtype=np.uint8)
        self.eof = False
        self.total: int | None = size
        self.place = 0
        self._fd = fd
        self._poll = select.poll()  # select(2) knows no file descriptor above 1023
        self._poll.register(fd, select.POLLIN)
        self._read = 0
        self._buffer = _buffer_of(CHUNK)

    def more(self, timeout: float) -> bool:
        """Forget what lies before `place` and fill up behind. False at the end of the file."""
        left = len(self.data) - self.place
        if left == len(self._buffer):  # something larger than the buffer has begun
            self._buffer = _grown(self._buffer)
        elif left:
            self._buffer.move(0, self.place, left)
        filled = self._fill(left)
        self.raw = self._buffer if filled == len(self._buffer) else self._buffer[:filled]
        self.data, self.place = np.frombuffer(self.raw, dtype=np.uint8), 0
        return filled > left

    def _fill(self, filled: int) -> int:
        with memoryview(self._buffer) as view:
            while filled < len(view) and not self.eof:
                read = os.readv(self._fd, [view[filled:]])
                self.eof = read == 0
                filled += read
                self._read += read
        return filled

    def progress(self) -> int:
        """Bytes of the file read so far."""
        return self._read - len(self.data) + self.place

    def close(self) -> None:
        """Close the file; the buffer goes when the last block that looks into it goes."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self.data, self.raw = np.frombuffer(b"", dtype=np.uint8), b""


def _buffer_of(size: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


def _grown(buffer: mmap.mmap) -> mmap.mmap:
    larger = _buffer_of(2 * len(buffer))
    larger[: len(buffer)] = buffer[:]
    return larger


class Stream:
    """A pipe or a gzip file: a window of bytes that moves along. Raises CaptureError where gzip's data are damaged."""

    def __init__(self, name: str, fd: int, total: int | None) -> None:
        self.name = name
        self.raw = b""
        self.data: NDArray[np.uint8] = np.frombuffer(b"", dtype=np.uint8)
        self.eof = False
        self.cut = ""
        self.total = total
        self.place = 0
        self._fd = fd
        self._poll = select.poll()  # select(2) knows no file descriptor above 1023
        self._poll.register(fd, select.POLLIN)
        self._read = 0
        self._head = b""  # too few bytes to tell whether it is gzip
        self._known = False
        self._gunzip: zlib._Decompress | None = None
        self._packed = b""

    def more(self, timeout: float) -> bool:
        """Forget what lies before `place` and add bytes behind. False where none came within `timeout` seconds."""
        parts = [self.raw[self.place :]]
        added, deadline = 0, time.monotonic() + timeout
        while added < CHUNK and not self.eof:
            wait = 0.0 if added or self._packed else max(0.0, deadline - time.monotonic())
            if not self._packed and not self._poll.poll(wait * 1000):
                break
            parts.append(self._take())
            added += len(parts[-1])
        self.raw, self.place = b"".join(parts), 0
        self.data = np.frombuffer(self.raw, dtype=np.uint8)
        return added > 0

    def _take(self) -> bytes:
        """Some bytes of the file, decompressed; empty at its end or where gzip wants more input."""
        if not self._packed:
            read = os.read(self._fd, READ)
            self._read += len(read)
            if not read:
                return self._end()
            if not self._known:
                read = self._sniff(read)
            if self._gunzip is None:
                return read if self._known else b""
            self._packed = read
        return self._unpack()

    def _sniff(self, read: bytes) -> bytes:
        self._head += read
        if len(self._head) < len(GZIP_MAGIC):
            return b""
        self._known = True
        if self._head.startswith(GZIP_MAGIC):
            self._gunzip = zlib.decompressobj(31)
        return self._head

    def _end(self) -> bytes:
        self.eof = True
        if self._gunzip is not None and not self._gunzip.eof:
            self.cut = f"{self.name}: the compressed data are cut short"
        return b"" if self._known else self._head

    def _unpack(self) -> bytes:
        assert self._gunzip is not None
        try:
            if self._gunzip.eof:  # several members one after the other; what is not gzip after the last is padding
                if not self._packed.startswith(GZIP_MAGIC):
                    self._packed = b""
                    return b""
                self._gunzip = zlib.decompressobj(31)
            out = self._gunzip.decompress(self._packed, CHUNK)
        except zlib.error as error:
            raise CaptureError(f"{self.name}: the compressed data are damaged ({error})") from None
        self._packed = self._gunzip.unused_data if self._gunzip.eof else self._gunzip.unconsumed_tail
        return out

    def progress(self) -> int:
        """Bytes of the file read so far, as they lie on disk."""
        return self._read

    def close(self) -> None:
        """Close the file (not standard input) and forget the window."""
        if self._fd > 2:
            os.close(self._fd)
        self._fd = -1
        self.raw = b""
        self.data = np.frombuffer(b"", dtype=np.uint8)


def open_input(path: str | Path) -> File | Stream:
    """The bytes of `path`; `-` is standard input. Raises CaptureError where it cannot be opened."""
    name = str(path)
    if name == "-":
        return Stream("standard input", 0, None)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        about = os.fstat(fd)
        if stat.S_ISDIR(about.st_mode):
            os.close(fd)
            raise CaptureError(f"cannot read {name}: it is a directory")
        if not stat.S_ISREG(about.st_mode):
            return Stream(name, fd, None)
        if os.pread(fd, len(GZIP_MAGIC), 0) == GZIP_MAGIC:
            return Stream(name, fd, about.st_size)
        return File(name, fd, about.st_size)
    except OSError as error:
        raise CaptureError(f"cannot read {name}: {error.strerror or error}") from None
