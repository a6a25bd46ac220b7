"""The command `nodetap`: global options, the table of commands, and how every one of them ends.

Lives here: what all commands share. May not live here: imports that make `nodetap --help` slow; a command's module is
imported when the command is called, and heavy libraries inside its functions.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from io import TextIOWrapper
from typing import Any

import click

from hub.cli.errors import NEGATIVE, USAGE, CliError
from hub.cli.options import DEFAULT_HUB_URL, option
from protocol import VERSION
from protocol.options import misused

COMMANDS = {
    "up": ("hub.cli.up:up", "Run a hub and an agent on this machine."),
    "agents": ("hub.cli.agents:agents", "Show the agents, their states and verdicts."),
    "packets": ("hub.cli.rows:packets", "Show stored packets."),
    "flows": ("hub.cli.rows:flows", "Show stored flows, or sums of them."),
    "calls": ("hub.cli.calls:calls", "Show stored calls, or figures of them."),
    "map": ("hub.cli.map:map_", "Show who talks to whom."),
    "top": ("hub.cli.top:top", "Show the busiest flows, live."),
    "follow": ("hub.cli.follow:follow", "Print packets as they are stored."),
    "capture": ("hub.cli.capture:capture", "Capture raw frames from all agents, live."),
    "pcap": ("hub.cli.pcap:pcap", "Fetch the raw frames that agents recorded."),
    "extcap": ("hub.cli.extcap:extcap", "Show the agents as interfaces in Wireshark."),
    "ledger": ("hub.cli.ledger:ledger", "Show where every captured packet is."),
    "doctor": (
        "hub.cli.doctor:doctor",
        "Check this machine, the hub and every agent; say what to do.",
    ),
    "configure": ("hub.cli.configure:configure", "Show and change the settings of running agents."),
    "fields": ("hub.cli.fields:fields", "List the fields to show and filter by."),
    "completion": ("hub.cli.completion:completion", "Print the completion script of a shell."),
}
"""Command -> where it is, and its line in the help (checked against its docstring by a test)."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of writing that are not ours to explain."""


class ClosedPipe(Exception):
    """Whoever read our output has enough."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a closed pipe is told to `run` in words that click does not take for its own."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise ClosedPipe from None
        return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@option("--hub-url", multiple=True, default=(DEFAULT_HUB_URL,), show_default=True, metavar="URL",
        help="The hub's API. Of several hubs: repeat it, and they are asked as one.")  # fmt: skip
@option("--hub-deadline", type=click.FloatRange(0.1, 3600), default=30.0, show_default=True, metavar="S",
        help="With several hubs: seconds that each has to begin its answer, and to go on.")  # fmt: skip
@option("--token-file", type=click.Path(dir_okay=False), multiple=True,
        help="File that holds the bearer token: one for all hubs, or one for each.")  # fmt: skip
@option("--tls-ca", type=click.Path(dir_okay=False), help="Certificates that may sign the hub's.")
@option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning", show_default=True)
@option("--log-format", type=click.Choice(["auto", "console", "json"]), default="auto", show_default=True)
@click.version_option(VERSION, prog_name="nodetap", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, **settings: Any) -> None:
    """Ask a nodetap hub about packets, flows and agents, or run one on this machine.

    Every option is also read from the environment: NODETAP_ and its name (NODETAP_HUB_URL, NODETAP_SINCE).

    \b
    Exit codes: 0 fine, 1 a negative finding, 2 usage, 3 cannot reach the hub,
    4 incomplete answer (with --strict).
    """
    ctx.obj = settings


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run `nodetap ARGUMENTS`; the exit code. Errors are one line on stderr, a closed pipe ends it quietly."""
    if sys.stdout is None:  # closed by whoever called: what is not to be seen is not to be missed
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal that knows less than we say
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _called(arguments)
        sys.stdout.flush()
        return code
    except (ClosedPipe, BrokenPipeError):
        _silence()
        return 0
    except OSError as error:
        if error.errno not in _DISK or error.filename:
            raise
        _silence()
        click.echo(f"nodetap: cannot write: {error.strerror}; what is written so far is not whole", err=True)
        return NEGATIVE


def _silence() -> None:
    """Let nobody, the interpreter at its exit least of all, try to write the rest of stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _called(arguments: list[str]) -> int:
    try:
        code = cli.main(arguments, prog_name="nodetap", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        click.echo(misused(error, "nodetap"), err=True)
        return error.exit_code
    except CliError as error:
        click.echo(f"nodetap: {error}", err=True)
        return error.code
    except UnicodeEncodeError as error:  # bytes of the command line or the environment, as Python passes them on
        if error.reason != "surrogates not allowed":
            raise
        click.echo("nodetap: only names of files may be other than UTF-8 text: write it as UTF-8", err=True)
        return USAGE
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED


if __name__ == "__main__":
    main()
