"""Where tests make a live agent hang. Each failpoint is a file, `name=PATH`, that does something while it is there.

capture_hang   the capture thread sleeps as long as the file exists
loop_block     the event loop sleeps for the seconds that the file holds, once: the file is removed first
loop_gil       the same, in a call that does not let go of the interpreter's lock
ask_sleep      the thread that prepares an answer sleeps as long as the file exists

`unwatched` needs no file: no watchdog, no pings, no echoes, to see what they cost.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from protocol.failpoints import VARIABLE, parse

_NAMED = parse(os.environ.get(VARIABLE, ""))


def unwatched() -> bool:
    """Whether nothing looks after the link."""
    return "unwatched" in _NAMED


def capture() -> None:
    """In the capture thread, before it waits for frames."""
    _sleep_beside("capture_hang")


def ask() -> None:
    """In the thread that prepares an answer, before it does."""
    _sleep_beside("ask_sleep")


def loop() -> None:
    """In the event loop, at each beat."""
    for name, sleep in (("loop_block", time.sleep), ("loop_gil", _sleep_with_lock)):
        path = Path(_NAMED.get(name, ""))
        if name in _NAMED and path.exists():
            seconds = float(path.read_text() or 0)
            path.unlink()
            sleep(seconds)


def _sleep_beside(name: str) -> None:
    while name in _NAMED and Path(_NAMED[name]).exists():
        time.sleep(0.02)


def _sleep_with_lock(seconds: float) -> None:
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
