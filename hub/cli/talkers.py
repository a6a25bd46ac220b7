"""Flows summed by their two ends, whatever these are: IPv4, IPv6 or MAC addresses. What `top` and `map` ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hub.cli.client import Client, explain
from hub.cli.stream import Rows, parsed
from hub.cli.table import Row

ENDS = ("ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "eth.src", "eth.dst")
PROTOCOL = ("nodetap.proto", "nodetap.ethertype")
SERVER_PORTS = ("tcp.dstport", "udp.dstport", "sctp.dstport")


def sums(client: Client, params: Mapping[str, Any]) -> tuple[list[Row], dict[str, Any]]:
    """Rows of `flows` with these parameters, and their completeness. Raises CliError."""
    with client.stream("/v1/flows", {**params, "format": "ndjson"}) as (_, chunks):
        rows = Rows(chunks)
        found: list[Row] = list(parsed(rows))
    if "nodetap.error" in rows.end:
        raise explain(rows.end["nodetap.error"], str(params.get("filter") or ""), client.url)
    return found, rows.end["nodetap.completeness"]


def both_ways(row: Row, name: str) -> int:
    """Packets or bytes (`flow.packets`, `flow.bytes`) of a row, there and back."""
    return int(row.get(name, 0)) + int(row.get(f"{name}_rev", 0))


def total(rows: Iterable[Row], name: str) -> int:
    """The same of all rows."""
    return sum(both_ways(row, name) for row in rows)
