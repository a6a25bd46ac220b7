"""Libraries of C: found beside the sources that they were built of, checked, or left out. Optional: numpy does it too.

`setup.py` builds them where there is a compiler. What was built of other sources than those that lie in the folder is
never used. Imports neither numpy nor anything heavy: `setup.py` asks here for the checksum.
"""

from __future__ import annotations

import ctypes
import os
import zlib
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, TypeAlias

VARIABLE = "NODETAP_KERNEL"
"""Environment variable; `off` leaves the libraries out."""
complaints: list[str] = []
"""Why a library that was built is not used, one line each: for whoever may write them to people."""

Declare: TypeAlias = Callable[[ctypes.CDLL], None]


def sources(folder: Path) -> list[Path]:
    """The C files of a folder, headers included, in a fixed order."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".c", ".h"))


def digest(folder: Path) -> int:
    """32 bits that differ where the sources differ."""
    total = 0
    for path in sources(folder):
        total = zlib.crc32(path.read_bytes(), total)
    return total


@cache
def place(folder: Path) -> Path:
    """Where what is built of a folder's sources lies."""
    return folder / f"_kernel{EXTENSION_SUFFIXES[0]}"


def load(folder: Path, declare: Declare) -> ctypes.CDLL | None:
    """What was built of a folder's sources, or None where it was not, does not fit or is not wanted."""
    return None if os.environ.get(VARIABLE) == "off" else library(place(folder), declare)


def complain(text: str) -> None:
    """Add to `complaints`, once."""
    if text not in complaints:
        complaints.append(text)


def address(array: Any) -> int:
    """Where the first item of a numpy array lies, for a library: several times faster than `ctypes.data`."""
    at: int = array.__array_interface__["data"][0]
    return at


@cache
def library(path: Path, declare: Declare) -> ctypes.CDLL | None:
    """What lies at `path`, its functions declared. None where nothing does; with a complaint where it does not fit."""
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.nodetap_source.restype = ctypes.c_uint32
        if library.nodetap_source() != digest(path.parent):
            raise OSError("it was built of other sources")
        declare(library)
    except (OSError, AttributeError) as error:
        complain(f"{path.parent.parent.name}/{path.name} is not used ({error}); install nodetap again to build it anew")
        return None
    return library
