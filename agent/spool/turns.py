"""A thread that serves a disk, so that nobody else waits for one: a turn some times a second, sooner where asked."""

from __future__ import annotations

import errno
import threading
from time import monotonic

TICK = 0.25
NAMED = ("EDQUOT", "EFBIG", "EIO", "ENOSPC", "EROFS")
"""Errors of disks that a metric tells apart."""


def named(error: OSError) -> str:
    """The error's name in metrics, `other` for what is none of NAMED."""
    name = errno.errorcode.get(error.errno or 0, "")
    return name if name in NAMED else "other"


class Turns(threading.Thread):
    """Calls `turn` until `finish`."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._news = threading.Event()
        self._ending = False

    def run(self) -> None:
        """Take turns until told to end, then the last one."""
        ending = False
        while not ending:
            self._news.wait(TICK)
            self._news.clear()
            ending = self._ending
            self.turn(monotonic(), ending)

    def finish(self, timeout: float) -> None:
        """Take the last turn and end, within `timeout` seconds."""
        self._ending = True
        self._news.set()
        self.join(timeout)

    def turn(self, now: float, ending: bool = False) -> None:
        """Do once what there is to do, as far as the disk lets us."""
        raise NotImplementedError
