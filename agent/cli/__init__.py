"""The command `nodetap-agent`: global options, the table of commands, and how every one of them ends.

Lives here: what all commands share; one file per command. May not live here: imports that make the start slow. A
command's module is imported when the command is called, and heavy libraries inside its functions.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from protocol import VERSION
from protocol.options import misused

COMMANDS = {
    "run": ("agent.cli.run:run", "Capture on this machine's interfaces and stream summaries to a hub."),
    "replay": ("agent.cli.replay:replay", "Send the frames of capture files to a hub, each once."),
    "decode": ("agent.cli.decode:decode", "Print the summaries of capture files; needs no hub."),
    "interfaces": ("agent.cli.interfaces:interfaces", "List the interfaces of this machine."),
}
"""Command -> where it is, and its line in the help."""

_WITHOUT_LOG = ("decode", "interfaces")  # structlog costs them a third of their start
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""


class CannotStart(click.ClickException):
    """What was asked for cannot begin: one line, exit code 2."""

    exit_code = 2


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Where nobody reads our output any more, end quietly (click would exit with 1)."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # the interpreter must not try to flush the rest at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="NODETAP_LOG_LEVEL",
    help="Log lines from this level on.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    default="auto",
    show_default=True,
    envvar="NODETAP_LOG_FORMAT",
    help="How log lines look; auto: for people on a terminal, JSON elsewhere.",
)
@click.version_option(VERSION, prog_name="nodetap-agent", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, log_level: str, log_format: str) -> None:
    """Capture packets on this machine, turn them into summaries, stream them to a nodetap hub.

    Every option is also read from the environment: NODETAP_ and its name (NODETAP_HUB, NODETAP_INTERFACE).

    \b
    Exit codes: 0 fine, 1 a negative finding, 2 usage or cannot start, 3 cannot reach the hub.
    """
    if ctx.invoked_subcommand not in _WITHOUT_LOG:
        from protocol.logs import configure

        configure(log_level, log_format)


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run `nodetap-agent ARGUMENTS`; the exit code. Errors are one line on stderr, a closed pipe ends it quietly."""
    try:
        code = cli.main(arguments, prog_name="nodetap-agent", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        click.echo(misused(error, "nodetap-agent"), err=True)
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"nodetap-agent: {error.format_message()}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
