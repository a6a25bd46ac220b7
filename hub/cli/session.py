"""From the global options of a call to a client of the hub."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hub.cli.client import Client

GRACE = 0.5
"""Seconds for which `unbroken` keeps Ctrl-C waiting."""


def connect(ctx: click.Context) -> Client:
    """A client with the global options of this call. Raises CliError where they are wrong."""
    from hub.cli.client import Client, Settings
    from protocol.logs import configure

    options = ctx.find_root().obj
    configure(options["log_level"], options["log_format"])
    return Client(Settings(options["hub_url"], options["token_file"], options["tls_ca"]))


def until_ctrl_c() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt; a shell starts background jobs with SIGINT ignored."""
    with contextlib.suppress(ValueError):  # not in the main thread: the caller's signals are its own
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """The block is not left in its middle by Ctrl-C: it comes at its end, after GRACE seconds, or with the second."""
    asked = False

    def later(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked or number == signal.SIGALRM:
            raise KeyboardInterrupt
        asked = True
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    try:
        before = {number: signal.signal(number, later) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    except ValueError:  # not in the main thread
        before = {}
    try:
        yield
    finally:
        if asked:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt
