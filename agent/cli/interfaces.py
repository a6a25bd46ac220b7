"""`nodetap-agent interfaces`: where this machine can be listened to. Needs no rights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from agent.capture.netlink import Links

ARPHRD = {
    1: "ethernet",
    772: "loopback",
    0xFFFE: "none",
    512: "ppp",
    519: "raw IP",
    768: "IP in IP",
    769: "IPv6 tunnel",
}
ARPHRD |= {776: "6in4", 778: "GRE", 801: "802.11", 802: "802.11", 803: "802.11", 823: "GRE over IPv6", 280: "CAN"}
"""Kinds of interfaces by the kernel's number (linux/if_arp.h)."""

HEADER = ("index", "name", "state", "kind", "capture", "addresses", "behind")


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    envvar="NODETAP_OUTPUT",
    help="How the list is printed.",
)
def interfaces(output: str) -> int:
    """List the interfaces of this machine, whether nodetap can capture there, and whose address is behind them."""
    from agent.capture.interfaces import asking, interfaces_of

    with asking() as links:
        there, behind = interfaces_of(links), _behind(links)
    found = [{**_row(info), "behind": behind.get(info.name, "")} for info in there]
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return 0
    lines = [HEADER, *(_cells(row) for row in found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _behind(links: Links) -> dict[str, str]:
    """The addresses behind interfaces, by name; none, and a line that says so, where the kernel does not tell."""
    from agent.capture.behind import look

    try:
        return look(links)
    except OSError as error:  # some sandboxes know links, and no routes
        click.echo(f"nodetap-agent: cannot tell what is behind interfaces: {error.strerror or error}", err=True)
        return {}


def _row(info: Any) -> dict[str, Any]:
    return {
        "index": info.index,
        "name": info.name,
        "state": "up" if info.up else "down",
        "kind": ARPHRD.get(info.hatype, f"ARPHRD {info.hatype}"),
        "linktype": info.linktype,
        "capturable": info.up and info.linktype is not None,
        "addresses": list(info.addresses),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    capture = "yes" if row["capturable"] else "no: down" if row["state"] == "down" else "no: unknown kind"
    return str(row["index"]), row["name"], row["state"], row["kind"], capture, " ".join(row["addresses"]), row["behind"]
