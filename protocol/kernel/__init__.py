"""The compiled kernel of what is received: a look over messages, and the columns of a batch out of its body. Optional.

Lives here: C sources that need neither Python's headers nor a library, and what their functions take. May not live
here: I/O, memory (every buffer is numpy's), anything that has no counterpart in Python that it is tested against.
Except `alarm.c`, the clock of `protocol.alarm`: it is for when nothing of Python runs.

How what was built of them is found and checked is in `protocol.built`.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from protocol import built

FOLDER = Path(__file__).parent


def load() -> ctypes.CDLL | None:
    """The kernel, or None where it was not built, does not fit or is not wanted."""
    return built.load(FOLDER, _declare)


def _declare(library: ctypes.CDLL) -> None:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    unpack = (pointer, ctypes.c_char_p, number, number, pointer, number, pointer)
    library.nodetap_unpack.restype, library.nodetap_unpack.argtypes = number, unpack
    library.nodetap_words.restype = ctypes.c_char_p
    library.nodetap_alarm.restype, library.nodetap_alarm.argtypes = number, (ctypes.c_double,) * 2
    library.nodetap_beat.restype, library.nodetap_beat.argtypes = None, ()
    # What takes microseconds keeps the interpreter's lock: a busy thread gives it back after milliseconds.
    survey = (ctypes.c_char_p, *[number] * 5)
    for name, symbol, takes in (("nodetap_measure", "unpack", unpack), ("nodetap_survey", "survey", survey)):
        setattr(library, name, ctypes.PYFUNCTYPE(number, *takes)((f"nodetap_{symbol}", library)))
