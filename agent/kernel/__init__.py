"""The compiled kernel: what numpy cannot do fast, in C. Optional: without it everything works, slower.

Lives here: C sources that need neither Python's headers nor a library, and finding what was built of them. May not live
here: I/O, memory (every buffer is numpy's), anything that has no numpy counterpart that it is tested against.

`setup.py` builds the sources where there is a compiler. What was built of other sources than those that lie here is
never used.
"""

from __future__ import annotations

import ctypes
import os
import zlib
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
VARIABLE = "NODETAP_KERNEL"
"""Environment variable; `off` leaves the kernel out."""
complaints: list[str] = []
"""Why a kernel that was built is not used, one line each: for whoever may write them to people."""

_BUILT = FOLDER / f"_kernel{EXTENSION_SUFFIXES[0]}"


def sources() -> list[Path]:
    """The C files, headers included, in a fixed order."""
    return sorted(path for path in FOLDER.iterdir() if path.suffix in (".c", ".h"))


def digest() -> int:
    """32 bits that differ where the sources differ."""
    total = 0
    for path in sources():
        total = zlib.crc32(path.read_bytes(), total)
    return total


def load() -> ctypes.CDLL | None:
    """The kernel, or None where it was not built, does not fit or is not wanted."""
    return None if os.environ.get(VARIABLE) == "off" else library(_BUILT)


def complain(text: str) -> None:
    """Add to `complaints`, once."""
    if text not in complaints:
        complaints.append(text)


def address(array: Any) -> int:
    """Where the first item of a numpy array lies, for the kernel: several times faster than `ctypes.data`."""
    at: int = array.__array_interface__["data"][0]
    return at


@cache
def library(path: Path) -> ctypes.CDLL | None:
    """What lies at `path`, its functions declared. None where nothing does; with a complaint where it does not fit."""
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.nodetap_source.restype = ctypes.c_uint32
        if library.nodetap_source() != digest():
            raise OSError("it was built of other sources")
    except (OSError, AttributeError) as error:
        complain(f"{path.name} is not used ({error}); install nodetap again to build it anew")
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.nodetap_chain.restype = library.nodetap_pcap.restype = library.nodetap_walk.restype = number
    library.nodetap_chain.argtypes = (pointer, number, number, pointer, pointer, number)
    library.nodetap_pcap.argtypes = (pointer, number, number, pointer, number, *[pointer] * 4)
    library.nodetap_walk.argtypes = (pointer, number)
    library.nodetap_ring.restype, library.nodetap_ring.argtypes = number, (pointer,)
    library.nodetap_own.restype = number
    library.nodetap_own.argtypes = (pointer, number, pointer, number, pointer, number, number, pointer)
    library.nodetap_flows.restype, library.nodetap_flows.argtypes = number, (pointer, number)
    library.nodetap_flows_index.restype, library.nodetap_flows_index.argtypes = None, (pointer,)
    library.nodetap_tables.restype = library.nodetap_flow_words.restype = ctypes.c_char_p
    return library
