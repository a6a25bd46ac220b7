"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress


def give_back() -> None:
    """Return the free pages of all of glibc's arenas (malloc_trim(3)), under a millisecond for ten megabytes; nothing
    where there is another libc."""
    if os.name == "posix":
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
