"""The alarm clock of a process: where nobody gives a sign it writes the stacks of all threads, and ends the process.

It goes off also where a call keeps the interpreter's lock, so that no thread of Python gets to run. What it counts is
time in which the process ran (`kernel/alarm.c`): stacks are walked without that lock, which is safe while nobody runs,
and was a crash at two resumes of a hundred while it was a timer of the system that was over by then.
"""

from __future__ import annotations

import faulthandler
import signal

from protocol import kernel


class Alarm:
    """One in a process. Without the compiled kernel it only ends the process, by SIGALRM, and counts stops as well."""

    def __init__(self) -> None:
        self._kernel = kernel.load()
        self._end = 0.0
        faulthandler.register(signal.SIGALRM, all_threads=True, chain=self._kernel is None)

    def set(self, stacks: float, end: float) -> None:
        """Seconds without a beat after which the stacks are written, and after which the process ends with 70. 0 is
        never. Raises OSError where no thread can be had."""
        self._end = end
        if self._kernel is None:
            self.beat()
        elif error := self._kernel.nodetap_alarm(stacks, end):
            raise OSError(error, "no thread for the alarm clock")

    def beat(self) -> None:
        """A sign of life."""
        if self._kernel is None:
            signal.setitimer(signal.ITIMER_REAL, self._end)
        else:
            self._kernel.nodetap_beat()
