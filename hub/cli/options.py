"""Options as click knows them, each also read from the environment as NODETAP_ and its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = ("table", "wide", "json", "ndjson", "csv", "parquet", "arrow")
DEFAULT_HUB_URL = "http://127.0.0.1:8480"


class Option(click.Option):
    """An option with an environment variable named after its long form; lists are split at commas."""

    def __init__(self, param_decls: Any = None, **attrs: Any) -> None:
        longest = max(param_decls, key=len)
        attrs.setdefault("envvar", "NODETAP_" + longest.lstrip("-").replace("-", "_").upper())
        super().__init__(param_decls, **attrs)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """The variable's value, as a list where the option may be repeated."""
        text = self.resolve_envvar_value(ctx)
        if text is None or not self.multiple:
            return super().value_from_envvar(ctx)
        return [part.strip() for part in text.split(",") if part.strip()]


def option(*names: str, **attrs: Any) -> Callable[[Command], Command]:
    """`click.option` with the class above."""
    return click.option(*names, cls=Option, **attrs)


def output(*formats: str) -> Callable[[Command], Command]:
    """The option `-o`, with the formats that a command has."""
    return option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="How rows are printed.",
    )


strict = option("--strict", is_flag=True, help="Exit with 4 where the answer is incomplete.")
explain = option("--explain", is_flag=True, help="Show the SQL that the filter becomes, and its parameters; no rows.")
fields = option("--fields", metavar="A,B,C", help="Fields to show, by their public names, in this order.")
sort = option(
    "--sort", metavar="A[:desc],B", help="Order by these fields, the largest first with :desc; --limit are the first N."
)
write = option(
    "-w",
    "--write",
    metavar="FILE",
    callback=lambda ctx, parameter, path: None if path == "-" else path,
    help="Write to this file, which is there once it is whole; - is stdout.",
)
since = option(
    "--since",
    "--last",
    default="15m",
    show_default=True,
    metavar="TIME",
    help="Begin: 90s, 5m, 2h, 1d, a date and time, or all.",
)
until = option("--until", metavar="TIME", help="End, exclusive; the same forms as --since.")


def limit(default: int, text: str) -> Callable[[Command], Command]:
    """The option `--limit`."""
    return option("--limit", type=click.IntRange(min=0), default=default, show_default=True, metavar="N", help=text)


def rows_in(*formats: str) -> Callable[[Command], Command]:
    """What every command that asks for stored rows has in common; the formats it prints."""

    def decorate(command: Command) -> Command:
        for each in (
            strict,
            explain,
            sort,
            fields,
            write,
            output(*formats),
            limit(100, "The newest N rows, printed oldest first; 0 = all."),
            until,
            since,
        ):
            command = each(command)
        return command

    return decorate


rows = rows_in(*FORMATS)
