"""The watchdog: an OS thread outside the event loop that judges whether the agent still gets somewhere.

`judge` is pure: numbers in, a verdict with its evidence out. The thread looks twice a second, tells the loop to abort
a stalled link, writes the stacks of a loop that hangs, and ends a process whose loop is dead. A call that holds the GIL
starves this thread too: `protocol.alarm`, which hears of each look, does the same without the GIL.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from time import monotonic, process_time
from typing import Any

from protocol.alarm import Alarm
from protocol.logs import dump_stacks

TICK = 0.5
"""Seconds between two looks."""
LOOP_LATE = 1.5
"""Seconds without a sign of the loop from which its lateness is logged, and no peer is blamed for anything."""
LOOP_DEAD = 90.0
"""Seconds without a sign of the loop after which the process ends."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which each detector speaks."""

    progress: float
    echo: float
    ping: float
    capture: float


@dataclass(frozen=True, slots=True)
class Signs:
    """What the watchdog sees at one moment. Ages and times in seconds."""

    streaming: bool
    limits: Limits
    loop_age: float  # since the loop's last beat
    waiting: float  # without an acknowledgement while something is outstanding
    echo_age: float  # of the unanswered echo, 0 where none is
    pong_age: float  # since the last pong of this connection
    capture_age: float  # since the capture thread's last beat; 0 where there is none to expect
    outstanding: int
    oldest_age: float
    acked_age: float = inf  # since the last acknowledgement


@dataclass(frozen=True, slots=True)
class Verdict:
    """Something has stalled: which detector says so, and why."""

    detector: str  # of REASONS
    evidence: dict[str, Any]


REASONS = {
    "progress": "the hub takes what is sent and acknowledges nothing: see its log and /readyz",
    "echo": "the hub's queue does not answer: see its log and /readyz",
    "ping": "the hub, or the line to it, is dead",
    "loop": "the agent itself did not get on: the stacks above say where",
    "capture": "the capture gives no sign and is started again",
}
"""Detector -> what it means, for people."""


def judge(signs: Signs) -> Verdict | None:
    """The verdict on these signs.

    A late loop is suspected before its peer: whoever does not read sees no answers. While something is outstanding,
    its acknowledgement is what counts: a busy hub may be late with everything else, also when it has just acknowledged
    the last of it.
    """
    limits = signs.limits
    evidence = {
        "unacknowledged": signs.outstanding,
        "oldest_s": round(signs.oldest_age, 3),
        "waiting_s": round(signs.waiting, 3),
        "pong_age_s": round(signs.pong_age, 3),
    }
    if signs.loop_age > LOOP_LATE:
        return Verdict("loop", {"loop_age_s": round(signs.loop_age, 3)})
    if signs.streaming:
        idle = (("echo", signs.echo_age, limits.echo), ("ping", signs.pong_age, limits.ping))
        for detector, age, limit in (("progress", signs.waiting, limits.progress),) if signs.outstanding else idle:
            if min(age, signs.acked_age) > limit:
                return Verdict(detector, {**evidence, "deadline_s": round(limit, 3)})
    if signs.capture_age > limits.capture:
        return Verdict("capture", {"capture_age_s": round(signs.capture_age, 3)})
    return None


class Watchdog(threading.Thread):
    """Looks every TICK until `stop`. Calls `on_stall`, from its own thread, once per stall, and with None after it.

    `on_pause` is told for how many seconds no thread ran, and how many of the processor the process used meanwhile.
    """

    def __init__(
        self,
        look: Callable[[], Signs],
        on_stall: Callable[[Verdict | None], None],
        on_pause: Callable[[float, float], None] = lambda seconds, cpu: None,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._look, self._on_stall, self._on_pause = look, on_stall, on_pause
        self._halt = threading.Event()
        self._told = ""
        self._looked, self._used = monotonic(), process_time()
        self._woke = self._grace_until = -inf

    def run(self) -> None:
        """Look until told to stop."""
        self._looked, self._used = monotonic(), process_time()
        alarm = Alarm()
        alarm.set(LOOP_LATE + TICK, LOOP_DEAD)
        while not self._halt.wait(TICK):
            alarm.beat()
            self._tick(self._look(), monotonic())
        alarm.set(0, 0)

    def stop(self) -> None:
        """No more looks."""
        self._halt.set()

    def _tick(self, signs: Signs, now: float) -> None:
        asleep, self._looked = now - self._looked - TICK, now
        used, self._used = process_time() - self._used, process_time()
        if asleep > LOOP_LATE:  # the process did not run: what the peer said meanwhile may be unread
            self._on_pause(asleep, used)
            self._woke, self._grace_until = now, now + min(asleep, signs.limits.progress) + TICK
        ran = now - self._woke  # nobody of ours is late for a time in which none could run
        signs = replace(signs, loop_age=min(signs.loop_age, ran), capture_age=min(signs.capture_age, ran))
        verdict = judge(signs)
        if verdict is not None and verdict.detector == "loop":
            self._loop_late(signs, now)
        elif now < self._grace_until:
            return
        detector = verdict.detector if verdict else ""
        if detector != self._told:
            self._told = detector
            self._on_stall(verdict)

    def _loop_late(self, signs: Signs, now: float) -> None:
        """Dump stacks once; give the peer a full deadline after we came back."""
        if self._told != "loop":
            dump_stacks()
        self._grace_until = now + min(signs.loop_age, signs.limits.progress) + TICK
        if signs.loop_age > LOOP_DEAD:
            dump_stacks()
            os._exit(70)
