"""`nodetap map`: who talks to whom."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import click

from hub.cli import options
from hub.cli.columns import ENDS as COLUMNS
from hub.cli.columns import endpoint
from hub.cli.completeness import sentence
from hub.cli.errors import INCOMPLETE
from hub.cli.flags import combined, flags
from hub.cli.graph import DRAWINGS, Edge
from hub.cli.info import protocol
from hub.cli.rows import say
from hub.cli.screen import note, print_table
from hub.cli.session import connect
from hub.cli.table import Column, Row
from hub.cli.talkers import ENDS, PROTOCOL, SERVER_PORTS, both_ways, sums
from hub.cli.times import parse
from hub.doctor.finding import size

PARTS = ("namespace", "workload", "pod", "service", "node", "reason")
BY = {"address": ENDS} | {
    name: tuple(f"k8s.{side}.{part}" for side in ("src", "dst") for part in parts)
    for name, parts in (
        ("workload", ("namespace", "workload", "service", "reason")),
        ("pod", ("namespace", "pod", "service", "reason")),
        ("namespace", ("namespace", "reason")),
        ("node", ("node", "reason")),
    )
}
"""What the ends are: the fields that flows are summed by."""

FIGURES = (
    Column("flows", lambda row: str(row["flow.records"]), right=True),
    Column("packets", lambda row: str(both_ways(row, "flow.packets")), right=True),
    Column("bytes", lambda row: str(both_ways(row, "flow.bytes")), right=True),
)
"""Both ways: an arrow points from who opened the conversation, where that was seen, to who answered."""


@click.command(name="map", epilog="Example: nodetap map --since 1h --port 443 -o dot | dot -Tsvg > map.svg")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@flags("flows")
@options.option("--by", type=click.Choice(tuple(BY)), default="address", show_default=True,
                help="What the ends are. All but addresses are Kubernetes' names.")  # fmt: skip
@options.option("--ports", is_flag=True, help="Tell the services of a host apart, by protocol and port.")
@options.option("--top", type=click.IntRange(min=0), default=50, show_default=True, metavar="N",
                help="The pairs with the most bytes; 0 = all.")  # fmt: skip
@options.since
@options.until
@options.output("table", *DRAWINGS)
@options.strict
@click.pass_context
def map_(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> int:
    """Show who talks to whom.

    FILTER is a display filter with Wireshark's names; its words are joined by spaces. `nodetap fields` lists the names.
    """
    now, top = datetime.now(), given["top"]
    params = {
        "filter": combined(words, given, "flows"),
        "since": parse(given["since"], now),
        "until": parse(given["until"], now) if given["until"] is not None else None,
        "by": ",".join((*BY[given["by"]], *PROTOCOL, *SERVER_PORTS) if given["ports"] else BY[given["by"]]),
        "top": top + 1 if top else 0,
    }
    with connect(ctx) as client:
        rows, answer = sums(client, params)
    more = bool(top) and len(rows) > top
    _print(rows[: top or None], answer, more, given)
    return INCOMPLETE if given["strict"] and not answer["complete"] else 0


def _print(rows: Sequence[Row], answer: dict[str, Any], more: bool, given: dict[str, Any]) -> None:
    left_out = f"only the {given['top']} with the most bytes: --top 0 shows all"
    if given["output"] == "table":
        print_table((*_columns(given["by"], given["ports"]), *FIGURES), rows)
        if more:
            note(left_out, "dim")
        say(answer, "table")
        return
    notes = [left_out] * more + [sentence(answer)]
    sys.stdout.write(DRAWINGS[given["output"]]([_edge(row, given["by"], given["ports"]) for row in rows], notes))


def _columns(by: str, ports: bool) -> Sequence[Column]:
    """The columns of both ends and what is between them."""
    if by == "address":
        return COLUMNS if ports else COLUMNS[:3]
    ends = [replace(COLUMNS[place], cell=partial(named, side=side)) for place, side in ((0, "src"), (2, "dst"))]
    port = Column("port", lambda row: next((str(row[name]) for name in SERVER_PORTS if name in row), ""))
    return (ends[0], COLUMNS[1], ends[1], *((COLUMNS[3], port) if ports else ()))


def named(row: Row, side: str) -> str:
    """An end by its names: `shop/web`, `service kube-system/dns`, `node n1`, or why it has none."""
    parts = {part: str(row[name]) for part in PARTS if (name := f"k8s.{side}.{part}") in row}
    if "reason" in parts:
        return f"({parts['reason']})"
    inside = f"{parts['namespace']}/" if "namespace" in parts else ""
    for part in ("workload", "pod"):
        if part in parts:
            return inside + parts[part]
    if "service" in parts:
        return f"service {inside}{parts['service']}"
    return f"node {parts['node']}" if "node" in parts else parts.get("namespace", "(nodes, or no names)")


def _edge(row: Row, by: str, ports: bool) -> Edge:
    figures = f"{row['flow.records']:,} flow{'s' * (row['flow.records'] != 1)}, {size(both_ways(row, 'flow.bytes'))}"
    service = next((f" {row[name]}" for name in SERVER_PORTS if name in row), "")
    ends = {name: row[name] for name in ENDS if name in row}
    src, dst = (endpoint(ends, side) if by == "address" else named(row, side) for side in ("src", "dst"))
    return Edge(src, dst, f"{protocol(row)}{service}" if ports else "", figures)
