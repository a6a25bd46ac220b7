"""`nodetap agents`: who sends, in which state, and what the hub thinks of it; `agents forget NAME`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from hub.cli import options
from hub.cli.errors import INCOMPLETE, HubLost
from hub.cli.screen import describe, note, print_table
from hub.cli.session import connect, until_ctrl_c
from hub.cli.table import Column, Row, field_column, value

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hub.cli.client import Client

PERIOD = 1.0
"""Seconds between two looks with --watch."""
GIVE_UP = 60.0
"""Seconds without a hub after which --watch ends."""
GOOD = ("healthy", "quiet")
STYLES = {"healthy": "green", "quiet": "green", "left": "dim", "lagging": "yellow", "degraded": "yellow"}


def _seen(row: Row) -> str:
    return str(row.get("last_seen") or "")[:19].replace("T", " ")


COLUMNS = (
    Column("agent", lambda row: value(row.get("agent")), style="magenta"),
    Column("state", lambda row: value(row.get("state")), drop=2),
    Column("verdict", lambda row: value(row.get("verdict")), style="bold"),
    Column("last seen (UTC)", _seen, drop=3),
    Column("epoch", lambda row: value(row.get("epoch")), drop=6),
    Column("session", lambda row: value(row.get("session")), right=True, drop=7),
    Column("evidence", lambda row: value(row.get("evidence")), flexible=True),
)


@click.group(invoke_without_command=True)
@options.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
@options.output("table", "wide", "json", "ndjson")
@options.strict
@click.pass_context
def agents(ctx: click.Context, watch: bool, output: str, strict: bool) -> int:
    """Show the agents, their states and verdicts."""
    if ctx.invoked_subcommand is not None:
        return 0
    with connect(ctx) as client:
        if watch:
            return _watch(client, output)
        found = client.get("/v1/agents")["agents"]
        _print(found, output)
        return INCOMPLETE if strict and not all(agent.get("verdict") in GOOD for agent in found) else 0


@agents.command()
@click.argument("name")
@click.pass_context
def forget(ctx: click.Context, name: str) -> int:
    """Remove an agent that has left or is gone from the list."""
    with connect(ctx) as client:
        client.delete(f"/v1/agents/{quote(name, safe='')}")
    click.echo(f"forgot {name}")
    return 0


def _print(found: Sequence[Row], output: str) -> None:
    if output == "json":
        click.echo("[\n" + ",\n".join(map(describe, found)) + "\n]" if found else "[]")
    elif output == "ndjson":
        click.echo("".join(describe(agent) + "\n" for agent in found), nl=False)
    elif not found:
        note("no agent has ever said hello to this hub")
    else:
        print_table(COLUMNS if output == "table" else _every_column(found), found)


def _every_column(found: Sequence[Row]) -> list[Column]:
    """A column for each plain value that the hub tells of its agents."""
    names = dict.fromkeys(name for agent in found for name, item in agent.items() if not isinstance(item, dict))
    return [field_column(name) for name in names]


def live_table(found: Sequence[Row]) -> RenderableType:
    """The agents as a table of rich, for a live display."""
    from rich.table import Table
    from rich.text import Text

    from hub.cli.table import clean

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(column.header, justify="right" if column.right else "left", no_wrap=not column.flexible)
    for agent in found:
        style = STYLES.get(str(agent.get("verdict")), "bold red")
        table.add_row(*(Text(clean(c.cell(agent)), style if c.header == "verdict" else c.style) for c in COLUMNS))
    return table


def _watch(client: Client, output: str) -> int:
    """Look again and again until Ctrl-C. Raises HubLost where the hub stays away."""
    until_ctrl_c()
    show = _live() if sys.stdout.isatty() and output == "table" else contextlib.nullcontext(None)
    last_answer = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), show as live:
        while True:
            try:
                found = client.get("/v1/agents")["agents"]
                last_answer = time.monotonic()
                if live is None:
                    _print(found, output)
                    sys.stdout.flush()
                else:
                    live.update(live_table(found), refresh=True)
            except HubLost as error:
                if time.monotonic() - last_answer > GIVE_UP:
                    raise
                if live is None:
                    click.echo(f"nodetap: {error}", err=True)
                else:
                    live.update(str(error), refresh=True)
            time.sleep(PERIOD)
    return 0


def _live() -> Any:
    from rich.live import Live

    return Live(auto_refresh=False, screen=False, redirect_stdout=False, redirect_stderr=False)
