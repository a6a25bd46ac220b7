"""`nodetap fields`: the names to show and filter by."""

from __future__ import annotations

import click

from hub.cli import options
from hub.cli.screen import describe, print_table
from hub.cli.session import connect
from hub.cli.table import Column, value

COLUMNS = (
    Column("field", lambda row: value(row.get("name")), style="cyan"),
    Column("kind", lambda row: value(row.get("kind")) + (" list" if row.get("multiple") else ""), style="green"),
    Column("in", lambda row: value(row.get("tables")) + ("" if row.get("shown", True) else " (filters only)"), drop=2),
    Column("meaning", lambda row: value(row.get("doc")), flexible=True, least=20),
)


@click.command()
@options.output("table", "wide", "json", "ndjson")
@click.pass_context
def fields(ctx: click.Context, output: str) -> int:
    """List the fields to show and filter by."""
    with connect(ctx) as client:
        found = client.get("/v1/fields")["fields"]
    if output == "json":
        click.echo("[\n" + ",\n".join(map(describe, found)) + "\n]")
    elif output == "ndjson":
        click.echo("".join(describe(field) + "\n" for field in found), nl=False)
    else:
        print_table(COLUMNS, found)
    return 0
