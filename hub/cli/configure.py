"""`nodetap configure`: the capture filter and the level of detail of running agents, shown, changed and taken back."""

from __future__ import annotations

from typing import Any

import click

from hub.cli import options
from hub.cli.completeness import warn_of_hubs
from hub.cli.errors import NEGATIVE
from hub.cli.screen import describe, note, print_table
from hub.cli.session import connect
from hub.cli.table import Column, Row, value

SETTINGS = {"bpf": "filter", "detail": "detail", "l7_mode": "l7"}
"""Option -> setting: `nodetap` means other things by --l7, and by filters."""

COLUMNS = (
    Column("agent", lambda row: value(row["agent"]), style="magenta"),
    Column("hub", lambda row: value(row.get("hub")), flexible=True, least=12),
    Column("filter", lambda row: _cell(row, "filter"), flexible=True, least=12),
    Column("detail", lambda row: _cell(row, "detail")),
    Column("l7", lambda row: _cell(row, "l7")),
    Column("refused", lambda row: value(row["refused"]), flexible=True, least=12, style="red"),
)


def _cell(row: Row, name: str) -> str:
    """A setting, with a star where it is not what the agent was started with."""
    return value(row["settings"].get(name)) + ("*" if name in row["wanted"] else "")


@click.command(epilog="Example: nodetap configure --agent node-7 --bpf 'tcp port 443' --l7-mode fast")
@options.option("--agent", default="*", metavar="NAME", help="An agent or a node; all without it.")
@options.option("--bpf", metavar="FILTER", help="Capture filter, pcap-filter(7); '' for none.")
@options.option("--detail", type=click.Choice(["packets", "flows"]), help="Rows for packets, or flows alone.")
@options.option("--l7-mode", type=click.Choice(["off", "fast", "all"]), help="How much to look into protocols.")
@options.option("--reset", is_flag=True, help="Take back what was changed for that name.")
@options.output("table", "json")
@click.pass_context
def configure(ctx: click.Context, /, agent: str, reset: bool, output: str, **given: str | None) -> int:
    """Show and change the settings of running agents.

    The hub keeps changes, and tells agents when they come back; what is not changed is as they were started, and so is
    everything after --reset. What any agent refuses is changed nowhere. A star marks what was changed.

    Of several hubs those are asked that have the agent, one after the other up to the first that refuses.
    """
    changes = {SETTINGS[name]: text for name, text in given.items() if text is not None}
    if reset and changes:
        raise click.UsageError("--reset takes back everything: leave the other options out")
    with connect(ctx) as client:
        if not (reset or changes):
            told = client.get("/v1/configure")
        else:
            told = client.change("DELETE" if reset else "PUT", "/v1/configure", {"agent": agent, **changes})
    _print(told, output)
    if "failed" not in told:
        warn_of_hubs(each for each in told.get("hubs", ()) if "reason" in each)
    return NEGATIVE if told.get("failed") or any(row["refused"] for row in told["agents"]) else 0


def _print(told: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(describe(told))
        return
    empty = {name for name in ("hub", "refused") if not any(row.get(name) for row in told["agents"])}
    if not print_table([column for column in COLUMNS if column.header not in empty], told["agents"]):
        note("no agent that can be configured is connected")
    connected = {name for row in told["agents"] for name in (row["agent"], row["node"], "*")}
    for name in sorted(told["wishes"].keys() - connected):
        note(f"kept for {name}, which is not connected")
    for each in told.get("failed", ()):
        changed, todo = ("changed or not", "; see `nodetap configure`") if each["doubtful"] else ("not changed", "")
        note(f"{changed} at the hub {each['hub']}: {each['reason']}{todo}")
    if waiting := told.get("waiting"):
        note(f"no answer yet from {', '.join(waiting)}")
