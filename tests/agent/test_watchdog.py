"""What the watchdog concludes from what it sees, and that its thread says it once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from procs import until

from agent.watchdog import TICK, Limits, Signs, Verdict, Watchdog, judge

FINE = Signs(
    streaming=True,
    limits=Limits(3.0, 3.0, 3.0, 3.0),
    loop_age=0.1,
    waiting=0.0,
    echo_age=0.0,
    pong_age=0.5,
    capture_age=0.1,
    outstanding=0,
    oldest_age=0.0,
)


def test_nothing_is_wrong_with_a_healthy_or_slow_link() -> None:
    assert judge(FINE) is None
    busy = replace(FINE, waiting=2.9, oldest_age=500.0, outstanding=60, echo_age=9.0, pong_age=9.0)
    assert judge(busy) is None  # acknowledgements count, while something is outstanding
    assert judge(replace(FINE, echo_age=9.0, pong_age=9.0, acked_age=0.5)) is None  # and when nothing is any more


@pytest.mark.parametrize(
    ("signs", "detector"),
    [
        (replace(FINE, waiting=3.1, outstanding=5), "progress"),
        (replace(FINE, echo_age=3.1), "echo"),
        (replace(FINE, echo_age=9.0, acked_age=3.1), "echo"),
        (replace(FINE, pong_age=3.1), "ping"),
        (replace(FINE, capture_age=3.1), "capture"),
        (replace(FINE, loop_age=2.0, waiting=60.0, pong_age=60.0), "loop"),  # ourselves before the peer
        (replace(FINE, waiting=4.0, outstanding=1, echo_age=4.0, pong_age=4.0), "progress"),
    ],
)
def test_each_detector_speaks_past_the_deadline(signs: Signs, detector: str) -> None:
    verdict = judge(signs)
    assert verdict is not None
    assert verdict.detector == detector


def test_a_link_that_is_not_streaming_cannot_stall() -> None:
    assert judge(replace(FINE, streaming=False, waiting=99.0, echo_age=99.0, pong_age=99.0)) is None


def test_the_thread_says_a_stall_once_and_again_after_recovery() -> None:
    signs = [FINE]
    said: list[Verdict | None] = []
    watchdog = Watchdog(lambda: signs[0], said.append)
    watchdog.start()
    try:
        signs[0] = replace(FINE, waiting=5.0, outstanding=1)
        until("a verdict", lambda: len(said) == 1)
        signs[0] = FINE
        until("all is well", lambda: watchdog._told == "")
        signs[0] = replace(FINE, waiting=5.0, outstanding=1)
        until("a second verdict", lambda: len(said) == 3)
    finally:
        watchdog.stop()
        watchdog.join(5)
    assert [v.detector if v else "" for v in said] == ["progress", "", "progress"]


def test_a_process_that_did_not_run_blames_nobody_else() -> None:
    """After SIGCONT the loop may beat before the watchdog looks; what the peer said meanwhile is still unread."""
    said: list[Verdict | None] = []
    pauses: list[float] = []
    watchdog = Watchdog(lambda: FINE, said.append, lambda seconds, cpu: pauses.append(seconds))
    stopped = watchdog._looked + 20.0
    silent = replace(FINE, pong_age=20.0)
    for tick in range(6):
        watchdog._tick(silent, stopped + tick * TICK)
        assert said == []
    for tick in range(6, 12):  # but not for ever
        watchdog._tick(silent, stopped + tick * TICK)
    assert [v.detector for v in said if v] == ["ping"]
    assert pauses == [pytest.approx(20.0 - TICK)]


def test_stacks_that_the_alarm_has_written_are_not_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    dumps: list[float] = []
    monkeypatch.setattr("agent.watchdog.dump_stacks", lambda: dumps.append(1.0))
    late = replace(FINE, loop_age=4.0)
    for pause, expected in ((4.0, 0), (TICK, 1)):
        watchdog = Watchdog(lambda: late, lambda verdict: None)
        watchdog._tick(late, watchdog._looked + pause)
        assert len(dumps) == expected
