"""Ctrl-C and what must not be left in its middle."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hub.cli.session import unbroken


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_block_is_ended_first(number: int) -> None:
    before, ended = signal.getsignal(number), False
    with pytest.raises(KeyboardInterrupt), unbroken():  # noqa: PT012
        os.kill(os.getpid(), number)
        ended = True
    assert ended
    assert signal.getsignal(number) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_block_that_does_not_end_is_left_after_a_while() -> None:
    with pytest.raises(KeyboardInterrupt), unbroken():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(60)
        raise AssertionError("nothing ended it")


def test_the_second_time_counts_at_once() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(KeyboardInterrupt), unbroken():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            os.read(read, 1)
    finally:
        os.close(read)
        os.close(write)


def test_signals_are_left_to_the_main_thread() -> None:
    entered: list[bool] = []

    def elsewhere() -> None:
        with unbroken():
            entered.append(True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(10)
    assert entered == [True]
