"""Flags for what people filter by most: `--ip`, `--port`, `--agent`, ... as words of the filter language. Pure.

A flag is there for a table that has its fields. Values of one flag are alternatives; flags and FILTER must all hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import click
from click.core import ParameterSource

from hub.cli.errors import USAGE, CliError
from hub.cli.options import Command, option
from protocol.filter.values import quote
from protocol.schema import EITHER, fields_of


class _Bad(ValueError):
    """A value that a flag cannot take; the text says what it takes."""


def _address(text: str) -> dict[str, str]:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise _Bad("an address or a network such as 10.0.0.0/8") from None
    shown = str(network) if "/" in text else str(network.network_address)
    return {"ip.addr" if network.version == 4 else "ipv6.addr": shown}


def _port(text: str) -> dict[str, str]:
    first, dash, last = text.partition("-")
    numbers = [first, last] if dash else [first]
    if not all(n.isascii() and n.isdecimal() and int(n) < 65536 for n in numbers) or int(numbers[0]) > int(numbers[-1]):
        raise _Bad("a port such as 443, or a range such as 8000-8080")
    return dict.fromkeys(("tcp.port", "udp.port", "sctp.port"), "..".join(str(int(n)) for n in numbers))


def _text(*left: str) -> Callable[[str], dict[str, str]]:
    return lambda text: dict.fromkeys(left, quote(text))


def _protocol(text: str) -> dict[str, str]:
    return {"lower(nodetap.l7)": quote(text.lower())}


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: the fields that a table must have for it, and how a value becomes literals, by what is compared."""

    name: str
    metavar: str
    fields: tuple[str, ...]
    read: Callable[[str], dict[str, str]]
    doc: str


def _either(name: str, noun: str) -> Flag:
    fields = (f"k8s.src.{name}", f"k8s.dst.{name}")
    return Flag(f"--{name}", "NAME", fields, _text(*fields), f"Only what comes from or goes to this {noun}.")


FLAGS = (
    Flag("--ip", "ADDR", ("ip.addr", "ipv6.addr"), _address, "Only this address or network, either side."),
    Flag("--port", "PORT", ("tcp.port", "udp.port", "sctp.port"), _port, "Only this port or range, either side."),
    Flag("--agent", "NAME", ("nodetap.agent",), _text("nodetap.agent"), "Only what this agent captured."),
    Flag("--l7", "PROTO", ("nodetap.l7",), _protocol, "Only this application protocol, such as dns or http."),
    _either("pod", "pod"),
    _either("namespace", "namespace"),
    _either("workload", "workload, such as a Deployment"),
    _either("service", "service's address"),
)

NAMES = ("--pod", "--namespace", "--workload", "--service")
"""Flags of what the hub alone knows."""
AGENTS_L7 = ("off", "fast", "all")
"""What `nodetap-agent --l7` takes. Both read NODETAP_L7: these words in it are the agent's, and no protocols."""


def has(table: str, flag: Flag) -> bool:
    """Whether the table has the fields of a flag."""
    known = fields_of(table)
    return all(part in known for name in flag.fields for part in EITHER.get(name, (name,)))


def flags(*tables: str, raw: bool = False) -> Callable[[Command], Command]:
    """The flags that one of the tables can have, and `--not`; those for raw frames, whose agents know no names."""

    def decorate(command: Command) -> Command:
        command = option("--not", is_flag=True, help="Show what does not match FILTER and flags.")(command)
        for flag in reversed(FLAGS):
            if any(has(table, flag) for table in tables) and not (raw and flag.name in NAMES):
                mine = {"callback": _without_agents_words} if flag.name == "--l7" else {}
                decorated = option(flag.name, multiple=True, metavar=flag.metavar, help=flag.doc, **mine)
                command = decorated(command)
        return command

    return decorate


def _without_agents_words(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    if ctx.get_parameter_source(str(param.name)) is ParameterSource.ENVIRONMENT:
        return tuple(value for value in values if value not in AGENTS_L7)
    return values


def combined(words: Iterable[str], given: Mapping[str, Any], table: str) -> str | None:
    """FILTER and flags as one filter, None where nothing is asked for. Raises CliError (usage)."""
    text = " ".join(words).strip()
    tests = [_test(flag, given[name], table) for flag in FLAGS if given.get(name := flag.name.lstrip("-"))]
    negated = given.get("not", False)
    if negated and not (text or tests):
        raise CliError("--not needs a FILTER beside it, or a flag such as --ip", USAGE)
    if (tests or negated) and not _closed(text):
        return text  # the hub says what is wrong with it: with brackets around, `a) or (b` would be right
    parts = [f"({text})" if tests else text] if text else []
    joined = " and ".join([*parts, *tests])
    return f"not ({joined})" if negated else joined or None


_QUOTED = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'""", re.DOTALL)


def _closed(text: str) -> bool:
    """Whether every bracket outside quotes closes one that it opened before."""
    depth = 0
    for sign in re.findall("[()]", _QUOTED.sub("", text)):
        depth += 1 if sign == "(" else -1
        if depth < 0:
            return False
    return depth == 0


def _test(flag: Flag, values: Iterable[str], table: str) -> str:
    """That one of the values is there."""
    if not has(table, flag):
        raise CliError(f"{table} have no {flag.name}: their rows have no {flag.fields[0]}", USAGE)
    literals: dict[str, list[str]] = {}
    for value in values:
        try:
            for left, literal in flag.read(value).items():
                literals.setdefault(left, []).append(literal)
        except _Bad as error:
            raise CliError(f"{flag.name} takes {error}, not {value!r}", USAGE) from None
    tests = [_compared(left, found) for left, found in literals.items()]
    return tests[0] if len(tests) == 1 else f"({' or '.join(tests)})"


def _compared(left: str, literals: list[str]) -> str:
    if len(literals) == 1 and ".." not in literals[0]:
        return f"{left} == {literals[0]}"
    return f"{left} in {{{', '.join(literals)}}}"
