"""The files of one agent's spool: DIR/AGENT.spool/ with a lock and numbered segments, appended to and never changed.

A name of its own for each agent: those that share a machine or a volume may share DIR. All errors are OSErrors.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

SUFFIX = ".segment"


class Locked(Exception):
    """Another agent uses this spool."""


class Folder:
    """One agent's folder. One file at a time is open for appending: the one that was created last."""

    kind = "spool"  # names the folder, and the option for people
    suffix = SUFFIX
    synced = True  # an append is on the disk when it returns, and survives a loss of power

    def __init__(self, root: Path, agent: str) -> None:
        self.root = root
        self.path = root / f"{quote(agent, safe='')}.{self.kind}"
        self._lock: int | None = None
        self._file: int | None = None
        self._size = 0

    @property
    def opened(self) -> bool:
        """Whether the lock is ours."""
        return self._lock is not None

    def open(self) -> None:
        """Make the folder where there is none, and lock it for as long as this process lives. Raises Locked."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_folder(self.root)
        file = os.open(self.path / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise Locked(
                f"the {self.kind} {self.path} is used by another agent: give each its own --{self.kind} or --node"
            ) from None
        except OSError:
            os.close(file)
            raise
        self._lock = file

    def close(self) -> None:
        """Give up the lock."""
        self.finish()
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def others(self) -> list[str]:
        """Folders beside ours in which other agents left something, by name."""
        return sorted(
            p.name for p in self.root.glob(f"*.{self.kind}") if p != self.path and any(p.glob(f"*{self.suffix}"))
        )

    def numbers(self) -> list[int]:
        """The numbers of the segments, in order."""
        stems = (path.stem for path in self.path.glob(f"*{self.suffix}"))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def read(self, number: int) -> bytes:
        """The whole of a segment."""
        return self._path(number).read_bytes()

    def create(self, number: int, header: bytes) -> None:
        """Begin a new segment; from now on `append` writes there."""
        self.finish()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file, self._size = os.open(self._path(number), flags, 0o600), 0
        try:
            self._write(header)
            _sync_folder(self.path)
        except OSError:
            self.finish()
            with suppress(OSError):
                self._path(number).unlink()
            raise

    def append(self, parts: list[bytes]) -> int:
        """Write to the segment that was created last, all or nothing, and have it on the disk; the bytes written."""
        data = b"".join(parts)
        before = self._size
        try:
            self._write(data)
            if self.synced:
                self._sync()
        except OSError:
            with suppress(OSError):  # else the reader finds that it is no whole record
                os.ftruncate(self._file or -1, before)
            self.finish()
            raise
        return len(data)

    def _sync(self) -> None:
        assert self._file is not None
        os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        while view:
            count = os.write(self._file, view)
            view, self._size = view[count:], self._size + count

    def finish(self) -> None:
        """Nothing more is appended to the segment that was created last."""
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
        self._file = None

    def delete(self, number: int) -> None:
        """A segment is not needed any more."""
        self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.path / f"{number:010d}{self.suffix}"


def _sync_folder(path: Path) -> None:
    """A new name in a folder is there after a loss of power."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
