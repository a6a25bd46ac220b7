"""The agent's compiled kernel: what numpy cannot do fast, in C. Optional: without it everything works, slower.

Lives here: C sources that need neither Python's headers nor a library, and what their functions take. May not live
here: I/O, memory (every buffer is numpy's), anything that has no numpy counterpart that it is tested against.

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
