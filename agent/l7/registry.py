"""The parsers there are, in the order in which they are asked.

A user's own come first, then those that know their protocol by its content alone, then those that a port helps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Any

from agent.l7 import Parser

GROUP = "nodetap.l7"
"""Entry point group of users' parsers: each names a parser, or a function without arguments that makes one."""

BUILT_IN = (
    "tls",
    "ssh",
    "http1",
    "http2",
    "quic",
    "dtls",
    "amqp",
    "mongodb",
    "kafka",
    "mqtt",
    "postgresql",
    "mysql",
    "redis",
    "memcached",
    "dns",
    "dns_tcp",
    "dhcp",
    "ntp",
)
"""Modules of `agent.l7`, each with its `PARSER`."""

OnProblem = Callable[[str, Exception], None]


def parsers(on_problem: OnProblem = lambda name, error: None) -> list[Parser]:
    """All parsers in order. One that cannot be had is left out: `on_problem` is told its name and why."""
    found: list[Parser] = []
    for name, load in (*_users(), *((name, _loader(name)) for name in BUILT_IN)):
        try:
            found.append(_checked(load()))
        except Exception as error:  # what a user's module raises is not ours to know
            on_problem(name, error)
    return found


def _users() -> Iterable[tuple[str, Callable[[], Any]]]:
    return [(point.name, point.load) for point in entry_points(group=GROUP)]


def _loader(name: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(f"agent.l7.{name}").PARSER


def _checked(given: Any) -> Parser:
    """A parser from what an entry point names. Raises TypeError where it is none."""
    parser = given() if callable(given) else given
    for attribute in ("name", "transports", "stateful", "probe", "feed"):
        if not hasattr(parser, attribute):
            raise TypeError(f"{parser!r} is no parser: it has no {attribute}")
    found: Parser = parser
    return found
