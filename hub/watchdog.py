"""The hub's watchdog over itself: a wedged writer or loop must not stay wedged.

An OS thread. A writer that has work and finishes nothing makes `/readyz` say so; after three deadlines, or with a loop
that gives no sign, it writes all stacks and ends the process, so that a supervisor starts it again. What was not
acknowledged is still with the agents.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import monotonic, process_time
from typing import Any

from protocol.alarm import Alarm
from protocol.logs import dump_stacks
from protocol.trouble import pause

TICK = 0.5
PAUSE = 2.0
"""Seconds that a look may be late before the log says that the process did not run."""
LOOP_DEAD = 90.0
ENDING = 60.0
"""Seconds that a hub which is down may take to close its store, and everything, before the process ends anyway."""
EXIT_CODE = 70


class HubWatchdog(threading.Thread):
    """Looks every TICK. `stuck` and `loop_age` give seconds; past `3 * deadline` or LOOP_DEAD the process ends."""

    def __init__(self, stuck: Callable[[], float], loop_age: Callable[[], float], deadline: float, log: Any) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._stuck, self._loop_age, self._deadline, self._log = stuck, loop_age, deadline, log
        self._halt = threading.Event()
        self.ready = True

    def run(self) -> None:
        """Look until told to stop."""
        looked, used = monotonic(), process_time()
        woke = looked
        alarm = Alarm()
        alarm.set(0, LOOP_DEAD)
        while not self._halt.wait(TICK):
            asleep, looked, cpu, used = monotonic() - looked - TICK, monotonic(), process_time() - used, process_time()
            if asleep > PAUSE:
                self._log.warning("the process did not run", **pause(asleep, cpu))
                woke = looked
            alarm.beat()
            ran = looked - woke  # nobody is late for a time in which none could run
            stuck, loop_age = min(self._stuck(), ran), min(self._loop_age(), ran)
            self.ready = stuck < self._deadline and loop_age < self._deadline
            if stuck > 3 * self._deadline - 2 * TICK or loop_age > LOOP_DEAD:  # the next look would be late
                self._end(stuck, loop_age)
        alarm.set(0, ENDING)

    def stop(self) -> None:
        """No more looks; but the process ends within ENDING."""
        self._halt.set()

    def _end(self, stuck: float, loop_age: float) -> None:
        self._log.error("hub is wedged; ending it", writer_stuck_s=round(stuck, 1), loop_age_s=round(loop_age, 1))
        dump_stacks()
        os._exit(EXIT_CODE)
