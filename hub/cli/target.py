"""Where an answer goes: stdout, or a file that has its name only once it is whole."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from hub.cli.errors import NEGATIVE, CliError

Write = Callable[[bytes], None]


@contextlib.contextmanager
def target(path: str | None, *, private: bool = False) -> Iterator[Write]:
    """What writes to `path`, to stdout where that is None.

    A file is written beside its place, as `.NAME.*.partial`, and takes it when the block ends; where the block raises,
    nothing is left of it. A `private` one is for its owner only. Raises CliError where it cannot be written.
    """
    if path is None:
        yield _stdout
        sys.stdout.flush()
    elif _is_special(path):
        with _told(path), open(path, "wb") as file:
            yield _writer(file, path)
    else:
        with _new_file(Path(path), 0o600 if private else 0o666) as write:
            yield write


def _stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _is_special(path: str) -> bool:
    """Whether there is a pipe or a device of that name, which nothing can take the place of."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def _new_file(path: Path, mode: int) -> Iterator[Write]:
    with _told(path):
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            os.fchmod(file.fileno(), mode & ~_umask())
            yield _writer(file, path)
        with _told(path):
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def _umask() -> int:
    os.umask(mask := os.umask(0o077))
    return mask


def _writer(file: BinaryIO, path: str | Path) -> Write:
    def write(data: bytes) -> None:
        with _told(path):
            file.write(data)
            file.flush()

    return write


@contextlib.contextmanager
def _told(path: str | Path) -> Iterator[None]:
    """Errors of the disk as one line; a pipe that nobody reads any more is no error of ours."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror or error}; choose another place", NEGATIVE) from None
