"""`nodetap agents`: who sends, in which state, and what the hub thinks of it; `agents forget NAME`."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from hub.cli import options
from hub.cli.completeness import warn_of_clocks, warn_of_hubs
from hub.cli.errors import INCOMPLETE, HubLost
from hub.cli.screen import describe, drawn, moving, note, print_table
from hub.cli.session import connect, until_ctrl_c
from hub.cli.table import Column, Row, value, with_hub
from hub.doctor.finding import size
from hub.query.clocks import clocks_off

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hub.cli.client import Client

PERIOD = 1.0
"""Seconds between two looks with --watch."""
GIVE_UP = 60.0
"""Seconds without a hub after which --watch ends."""
GOOD = ("healthy", "quiet")
STYLES = {"healthy": "green", "quiet": "green", "left": "dim", "lagging": "yellow", "degraded": "yellow"}


def _plain(name: str) -> Callable[[Row], str]:
    return lambda row: value(row.get(name))


def _seconds(name: str) -> Callable[[Row], str]:
    """A cell with a time in seconds; empty where the agent does not tell."""
    return lambda row: "" if row.get(name) is None else _span(row[name])


def _span(seconds: float) -> str:
    """`0.4ms`, `2.5s`, `3601s`, signed where it is negative."""
    if abs(seconds) < 1:
        return f"{round(seconds * 1e3, 1) or 0.0:.1f}ms"  # no -0.0
    return f"{seconds:.1f}s" if abs(seconds) < 1000 else f"{seconds:.0f}s"


def _answered(asked: str, answered: str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(asked) is None else f"{row.get(answered, 0)}/{row[asked]}"


def _ended(row: Row) -> str:
    return " ".join(f"{reason}:{count}" for reason, count in (row.get("ended") or {}).items())


def _evidence(row: Row) -> str:
    """The detector, then what it saw: `silence silent_s=17.5`."""
    evidence = dict(row.get("evidence") or {})
    return " ".join(filter(None, (value(evidence.pop("detector", None)), value(evidence))))


def settings_cell(row: Row) -> str:
    """`l7=fast filter='udp'`: what differs from everything; with what the agent refuses."""
    told = [f"{name}={shlex.quote(value(text))}" for name, text in sorted((row.get("settings") or {}).items()) if text]
    return " ".join([*told, *(["(refused)"] if row.get("settings_refused") else [])])


def _time(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name) or "")[:19].replace("T", " ")


def _size(name: str) -> Callable[[Row], str]:
    return lambda row: size(row.get(name) or 0)


EVIDENCE = Column("evidence", _evidence, flexible=True, least=28)

COLUMNS = (
    Column("agent", _plain("agent"), style="magenta"),
    Column("state", _plain("state"), drop=2),
    Column("verdict", _plain("verdict"), style="bold"),
    Column("last seen (UTC)", _time("last_seen"), drop=3),
    Column("epoch", _plain("epoch"), drop=6),
    Column("session", _plain("session"), right=True, drop=7),
    EVIDENCE,
)

WIDE = (
    Column("agent", _plain("agent"), style="magenta"),
    Column("verdict", _plain("verdict"), style="bold"),
    Column("level", _plain("level"), drop=4),
    Column("since (UTC)", _time("level_since"), drop=11),
    Column("settings", settings_cell, drop=12),
    Column("rtt", _seconds("round_trip"), right=True, drop=1),
    Column("jitter", _seconds("jitter"), right=True, drop=3),
    Column("pings", _answered("pings", "pongs"), right=True, drop=6),
    Column("echoes", _answered("echoes", "echo_replies"), right=True, drop=7),
    Column("clock", _seconds("clock_offset"), right=True, drop=2),
    Column("oldest", _seconds("oldest_unacknowledged"), right=True, drop=5),
    Column("outbox", _size("outbox_bytes"), right=True, drop=9),
    Column("reconnects", _plain("reconnects"), right=True, drop=10),
    Column("links ended", _ended, drop=8),
    Column("version", _plain("software"), drop=12),
    Column("state", _plain("state"), drop=13),
    Column("captured", _plain("captured"), right=True, drop=14),
    Column("stored rows", _plain("stored_rows"), right=True, drop=15),
    Column("last seen (UTC)", _time("last_seen"), drop=16),
    Column("connected (UTC)", _time("since"), drop=17),
    Column("session", _plain("session"), right=True, drop=18),
    Column("node", _plain("node"), drop=19),
    Column("source", _plain("source"), drop=20),
    Column("epoch", _plain("epoch"), drop=21),
    Column("connection", _plain("connection"), drop=22),
    EVIDENCE,
)
"""Ranked by what tells most of a link: `rtt` and `clock` (the hub's minus the agent's) are the last to go."""


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
        answer = client.get("/v1/agents")
        found, missing = answer["agents"], answer.get("hubs_missing", ())
        print_agents(found, output)
        warn_of_clocks(clocks_off(found))
        warn_of_hubs(missing)
        return INCOMPLETE if strict and (missing or not all(agent.get("verdict") in GOOD for agent in found)) else 0


@agents.command()
@click.argument("name")
@click.pass_context
def forget(ctx: click.Context, name: str) -> int:
    """Remove an agent that has left or is gone from the list.

    Of several hubs those are asked that have it on theirs; each says what came of it.
    """
    path = f"/v1/agents/{quote(name, safe='')}"
    with connect(ctx) as client:
        if client.each != [client]:
            return _forget_everywhere(client, name, path)
        client.delete(path)
    click.echo(f"forgot {name}")
    return 0


def _forget_everywhere(client: Client, name: str, path: str) -> int:
    """A line for each hub that had it, or may have it. The exit code is the highest of those of single hubs."""
    from hub.cli.regions.forget import forget
    from hub.cli.regions.hubs import Regions, short

    assert isinstance(client, Regions)
    troubles = forget(client, name, path)
    for url, trouble in troubles.items():
        if trouble is None:
            click.echo(f"forgot {name} at the hub {url}")
        else:
            what = "forgotten or not" if trouble.doubtful else "not forgotten"
            click.echo(f"nodetap: {name} {what} at the hub {url}: {short(trouble, url)}", err=True)
    return max(trouble.code if trouble else 0 for trouble in troubles.values())


def print_agents(found: Sequence[Row], output: str) -> None:
    """The agents as a table, or as JSON."""
    if output == "json":
        click.echo("[\n" + ",\n".join(map(describe, found)) + "\n]" if found else "[]")
    elif output == "ndjson":
        click.echo("".join(describe(agent) + "\n" for agent in found), nl=False)
    elif not found:
        note("no agent has ever said hello to this hub")
    else:
        print_table(with_hub(COLUMNS if output == "table" else WIDE, found), found)


def live_table(found: Sequence[Row], width: int) -> RenderableType:
    """The agents as a table for a live display of that width."""
    from rich.console import Group

    return Group(*drawn(with_hub(COLUMNS, found), found, width, _style))


def _style(column: Column, row: Row) -> str:
    return STYLES.get(str(row.get("verdict")), "bold red") if column.header == "verdict" else column.style


def _watch(client: Client, output: str) -> int:
    """Look again and again until Ctrl-C. Raises HubLost where the hub stays away."""
    until_ctrl_c()
    show = _live() if moving() and output == "table" else contextlib.nullcontext(None)
    last_answer = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), show as live:
        while True:
            try:
                found = client.get("/v1/agents")["agents"]
                last_answer = time.monotonic()
                if live is None:
                    print_agents(found, output)
                    sys.stdout.flush()
                else:
                    live.update(live_table(found, live.console.width), refresh=True)
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
