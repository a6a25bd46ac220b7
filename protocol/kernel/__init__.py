"""The compiled kernel of what is received: a look over messages, and the columns of a batch out of its body. Optional.

Lives here: C sources that need neither Python's headers nor a library, and what their functions take. May not live
here: I/O, memory (every buffer is numpy's), anything that has no counterpart in Python that it is tested against.

How what was built of them is found and checked is in `protocol.built`.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from protocol import built

FOLDER = Path(__file__).parent

_BUILT = built.place(FOLDER)


def load() -> ctypes.CDLL | None:
    """The kernel, or None where it was not built, does not fit or is not wanted."""
    return built.load(_BUILT, _declare)


def _declare(library: ctypes.CDLL) -> None:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.nodetap_unpack.restype = number
    library.nodetap_unpack.argtypes = (pointer, ctypes.c_char_p, number, number, pointer, number, pointer)
    library.nodetap_survey.restype = number
    library.nodetap_survey.argtypes = (ctypes.c_char_p, *[number] * 5)
    library.nodetap_words.restype = ctypes.c_char_p
