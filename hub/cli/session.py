"""From the global options of a call to a client of the hub."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import click

from hub.cli.errors import USAGE, CliError

if TYPE_CHECKING:
    from hub.cli.client import Client

GRACE = 0.5
"""Seconds for which `unbroken` keeps Ctrl-C waiting."""


def connect(ctx: click.Context) -> Client:
    """A client with the global options of this call, of all hubs as one. Raises CliError where they are wrong."""
    from protocol.logs import configure

    options = ctx.find_root().obj
    configure(options["log_level"], options["log_format"])
    return client_of(options["hub_url"], options["token_file"], options["tls_ca"], options["hub_deadline"])


def client_of(urls: Sequence[str], files: Sequence[str], tls_ca: str | None, deadline: float) -> Client:
    """A client of these hubs, with a token file for all or one for each. Raises CliError where they do not fit."""
    from hub.cli.client import Client, Settings

    urls = list(dict.fromkeys(url.rstrip("/") for url in urls))
    if len(files) not in (0, 1, len(urls)):
        raise CliError(
            f"{len(files)} token files for {len(urls)} hubs: give one for all, or one for each in their order", USAGE
        )
    tokens = files if len(files) == len(urls) else (*files, None)[:1] * len(urls)
    clients = [Client(Settings(url, token, tls_ca)) for url, token in zip(urls, tokens, strict=True)]
    if len(clients) == 1:
        return clients[0]
    from hub.cli.regions.hubs import Regions

    return Regions(clients, deadline)


def only(ctx: click.Context, name: str) -> str | None:
    """A global option that may be repeated, where there is one of it. Raises CliError (usage) where there are more."""
    values = ctx.find_root().obj[name]
    if len(values) > 1:
        raise CliError(f"this is for one hub: give one --{name.replace('_', '-')}", USAGE)
    return values[0] if values else None


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
