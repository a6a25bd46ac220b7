"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
import os


def give_back() -> None:
    """Return the free pages of all of glibc's arenas (malloc_trim(3)), under a millisecond for ten megabytes; nothing
    where there is another libc."""
    if os.name == "posix":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:
            return
