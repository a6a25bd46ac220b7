"""Where tests make a live agent hang. Each failpoint is a file, `name=PATH`, that does something while it is there.

capture_hang   the capture thread sleeps as long as the file exists
loop_block     the event loop sleeps for the seconds that the file holds, once: the file is removed first
loop_gil       the same, in a call that does not let go of the interpreter's lock
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from protocol.failpoints import VARIABLE, parse

_NAMED = parse(os.environ.get(VARIABLE, ""))


def capture() -> None:
    """In the capture thread, before it waits for frames."""
    if "capture_hang" in _NAMED:
        while Path(_NAMED["capture_hang"]).exists():
            time.sleep(0.02)


def loop() -> None:
    """In the event loop, at each beat."""
    for name, sleep in (("loop_block", time.sleep), ("loop_gil", _sleep_with_lock)):
        path = Path(_NAMED.get(name, ""))
        if name in _NAMED and path.exists():
            seconds = float(path.read_text() or 0)
            path.unlink()
            sleep(seconds)


def _sleep_with_lock(seconds: float) -> None:
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
