"""`nodetap ledger`: where every captured packet is, and whether the books balance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from hub.cli import options
from hub.cli.completeness import warn_of_hubs
from hub.cli.errors import INCOMPLETE, NEGATIVE
from hub.cli.screen import describe, note, print_table
from hub.cli.session import connect
from hub.cli.table import Column, Row, value, with_hub


def _count(name: str) -> Any:
    return lambda row: f"{row.get(name) or 0:,}"


def _lost(row: Row) -> str:
    return f"{sum((row.get('lost') or {}).values()):,}"


def _state(row: Row) -> str:
    """What is to be said of one epoch: nothing where all is well."""
    words = [] if row.get("balanced", True) else ["NOT BALANCED"]
    words += [f"{reason} {packets:,}" for reason, packets in (row.get("lost") or {}).items() if packets]
    if since := row.get("unreported_since"):
        words.append(f"unreported since {since[5:19].replace('T', ' ')}Z")
    elif row.get("complete") is False:
        words.append("not complete")
    return ", ".join(words)


COLUMNS = (
    Column("agent", lambda row: value(row.get("agent")), style="magenta"),
    Column("epoch", lambda row: value(row.get("epoch")), drop=2),
    Column("captured", _count("captured"), right=True),
    Column("row", _count("row"), right=True),
    Column("flow only", _count("flow_only"), right=True),
    Column("lost", _lost, right=True),
    Column("quarantined", _count("quarantined"), right=True),
    Column("pending", _count("pending"), right=True),
    Column("kernel dropped", _count("kernel_dropped"), right=True, drop=1),
    Column("", _state, flexible=True, least=len("unreported since 01-31 12:00:00Z"), style="red"),
)
EMPTY = {"lost": 3, "pending": 4, "flow only": 5, "kernel dropped": 6, "quarantined": 7}
"""Ranks of columns that a narrow terminal does without where they have nothing."""


@click.command()
@options.output("table", "wide", "json", "ndjson")
@options.strict
@click.pass_context
def ledger(ctx: click.Context, output: str, strict: bool) -> int:
    """Show where every captured packet is.

    Balanced: every packet known is in a row, in a flow, lost with a reason, quarantined or still on its way.
    Complete: no gaps and no run that ended without its last word. Exits 1 where the books do not balance.
    """
    with connect(ctx) as client:
        books = client.get("/v1/ledger")
    if output == "json":
        click.echo(describe(books))
    elif output == "ndjson":
        click.echo("".join(describe(row) + "\n" for row in books["agents"]), nl=False)
        click.echo(describe({name: item for name, item in books.items() if name != "agents"}), err=True)
    else:
        print_books(books)
    warn_of_hubs(hub for hub in books.get("hubs", ()) if "reason" in hub)
    if not books["balanced"]:
        return NEGATIVE
    return INCOMPLETE if strict and not books["complete"] else 0


def print_books(books: Mapping[str, Any]) -> None:
    """The ledger as a table, its two words below."""
    rows: Sequence[Row] = books["agents"]
    columns = [
        replace(column, drop=EMPTY[column.header])
        if column.header in EMPTY and all(column.cell(row) == "0" for row in rows)
        else column
        for column in COLUMNS
    ]
    print_table(with_hub(columns, rows), rows)
    note(verdict(books), "dim" if books["balanced"] and books["complete"] else "bold red")
    for hub in books.get("hubs", (books,)):
        if reason := hub.get("not_storing"):
            who = f"the hub {hub['hub']}" if "hub" in hub else "the hub"
            note(f"{who} stores nothing now, and what its agents hold meanwhile is not in here: {reason}", "bold red")


def verdict(books: Mapping[str, Any]) -> str:
    """The two words: balanced or not, complete or not."""
    balanced = "balanced" if books["balanced"] else "NOT BALANCED: packets are unaccounted for, please report this"
    return f"{balanced}, {'complete' if books['complete'] else 'NOT complete'}"
