"""The files of one agent's recorder: DIR/AGENT.recorder/ with a lock and numbered pcapng files, their owner's alone."""

from __future__ import annotations

import os
from contextlib import suppress

from agent.spool.folder import Folder

PAGE = 4096
"""Bytes that file systems give out at once: what a file takes is counted in these."""


def room_of(size: int) -> int:
    """What a file of so many bytes takes on disk."""
    return -(-size // PAGE) * PAGE


class RecorderFolder(Folder):
    """Not synced: frames survive the end of the process, but not a loss of power. All errors are OSErrors."""

    kind = "recorder"
    suffix = ".pcapng"
    synced = False

    def size(self, number: int) -> int:
        """Bytes of a file; 0 where it is gone."""
        try:
            return self._path(number).stat().st_size
        except FileNotFoundError:
            return 0

    def read_part(self, number: int, begin: int, end: int) -> bytes:
        """Some bytes of a file, fewer where it is shorter. The file is closed again: what is deleted makes room."""
        file = os.open(self._path(number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while begin < end and (part := os.pread(file, end - begin, begin)):
                parts.append(part)
                begin += len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(file)

    def mend(self, number: int, end: int, tail: bytes) -> None:
        """Cut a file that is not open for appending at `end`, and put `tail` behind."""
        file = os.open(self._path(number), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(file, end)
            with suppress(OSError):  # then it is found out again at the next start
                os.pwrite(file, tail, end)
        finally:
            os.close(file)
