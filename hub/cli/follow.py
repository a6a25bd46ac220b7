"""`nodetap follow`: rows as they are stored, through restarts of the hub, each once and in order."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from hub.cli import columns, options
from hub.cli.client import Client, explain
from hub.cli.errors import INCOMPLETE, HubLost
from hub.cli.flags import combined, flags
from hub.cli.screen import print_table
from hub.cli.session import connect, until_ctrl_c
from hub.cli.stream import lines
from hub.cli.times import parse

HEARTBEAT = 2
"""Seconds between heartbeats asked for; three of them missed, the hub is taken for lost."""
BACKOFF_BASE, BACKOFF_MAX = 0.2, 3.0
_CONTROL = (b'{"nodetap.heartbeat"', b'{"nodetap.lost"', b'{"nodetap.error"')

_END = {"src": "255.255.255.255", "dst": "255.255.255.255", "srcport": 65535, "dstport": 65535}
SAMPLE = {
    "packets": {
        "frame.time_epoch": "0.0", "nodetap.agent": "x" * 12, "frame.number": 10**6, "frame.len": 65535,
        "ip.src": _END["src"], "ip.dst": _END["dst"], "tcp.srcport": 65535, "tcp.dstport": 65535, "nodetap.proto": 58,
        "nodetap.info": "x" * 72,
    },
    "flows": {
        "flow.start": "0.0", "flow.end": "10.0", "nodetap.agent": "x" * 12, "ip.src": _END["src"],
        "ip.dst": _END["dst"], "tcp.srcport": 65535, "tcp.dstport": 65535, "nodetap.proto": 58,
        "flow.packets": 10**6, "flow.bytes": 10**9,
    },
}  # fmt: skip
"""A row as wide as they come: rows arrive one by one and cannot be measured beforehand."""


class Follower:
    """One following: rows out, the position kept, connections made anew.

    `position` holds the last row printed or the last heartbeat; its cursor is where the next connection goes on.
    """

    def __init__(self, client: Client, params: dict[str, Any], give_up: float) -> None:
        self._client = client
        self._params = params
        self._give_up = give_up
        self._failures = 0
        self._lost_at: float | None = None
        self._last = b""
        self.rows_lost = False

    @property
    def cursor(self) -> str | None:
        """Where to go on; None before the first line."""
        if not self._last:
            return self._params.get("cursor")
        line = json.loads(self._last)
        cursor = line.get("nodetap.cursor") or line.get("nodetap.heartbeat", {}).get("cursor")
        return cursor or self._params.get("cursor")

    def rows(self) -> Iterator[bytes]:
        """Rows as NDJSON lines, without end. Raises CliError where the hub refuses, or is gone for too long."""
        while True:
            try:
                yield from self._connection()
                raise HubLost(f"the hub at {self._client.url} ended the stream")
            except HubLost as error:
                self._judge(error)
            time.sleep(random.uniform(0, min(BACKOFF_MAX, BACKOFF_BASE * 2**self._failures)))

    def _connection(self) -> Iterator[bytes]:
        cursor = self.cursor
        params = {**self._params, "heartbeat": HEARTBEAT, "cursor": cursor}
        if cursor is not None:
            params["since"] = None
            self._params["cursor"] = cursor
        with self._client.stream("/v1/follow", params, silence=3 * HEARTBEAT) as (_, chunks):
            for line in lines(chunks):
                if not line.startswith(_CONTROL):
                    yield line
                    self._last = line
                else:
                    self._control(line)
                self._failures, self._lost_at = 0, None

    def _control(self, line: bytes) -> None:
        told = json.loads(line)
        if "nodetap.error" in told:
            raise explain(told["nodetap.error"], str(self._params.get("filter") or ""), self._client.url)
        if "nodetap.lost" in told:
            self.rows_lost = True
            lost = told["nodetap.lost"]
            rows = "rows" if lost.get("rows") is None else f"{lost['rows']:,} rows"
            click.echo(f"nodetap: {rows} were removed before they were followed: {lost.get('detail')}", err=True)
        else:
            self._last = line

    def _judge(self, error: HubLost) -> None:
        """Whether to try again; raises where the hub was never there or is gone for too long."""
        now = time.monotonic()
        if self._lost_at is None:
            if not self._last:
                raise error
            self._lost_at = now
            click.echo(f"nodetap: {error}; trying again for {self._give_up:g} s", err=True)
        if now - self._lost_at >= self._give_up:
            raise HubLost(f"{error}; gave up after {self._give_up:g} s: go on later with --cursor {self.cursor}")
        self._failures += 1


@click.command(epilog="Example: nodetap follow udp.port == 53")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@flags("packets", "flows")
@options.option("--cursor", metavar="C", help="Go on after the row that carried this nodetap.cursor.")
@options.option(
    "--since", "--last", metavar="TIME", help="Begin with what is stored since then; without it, with what comes."
)
@options.limit(0, "End after N rows; 0 = never.")
@options.option("--table", type=click.Choice(["packets", "flows"]), default="packets", show_default=True)
@options.output("table", "wide", "ndjson")
@options.fields
@options.option("--give-up", type=float, default=60.0, show_default=True, metavar="S", help="Seconds without a hub.")
@options.strict
@click.pass_context
def follow(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> int:
    """Print packets as they are stored.

    It goes on by itself after the hub was away, and with --cursor after you were. Ctrl-C ends it.
    """
    until_ctrl_c()
    params = {
        "table": given["table"],
        "filter": combined(words, given, given["table"]),
        "fields": given["fields"],
        "since": parse(given["since"], datetime.now()) if given["since"] else None,
        "cursor": given["cursor"],
    }
    with connect(ctx) as client:
        follower = Follower(client, params, given["give_up"])
        try:
            _print(follower, given)
        except KeyboardInterrupt:
            sys.stdout.flush()
        return INCOMPLETE if given["strict"] and follower.rows_lost else 0


def _print(follower: Follower, given: dict[str, Any]) -> None:
    rows: Iterator[bytes] = follower.rows()
    if given["limit"]:
        rows = (row for _, row in zip(range(given["limit"]), rows, strict=False))
    if given["output"] == "ndjson":
        for row in rows:
            sys.stdout.buffer.write(row)
            sys.stdout.buffer.flush()
        return
    names = [name.strip() for name in (given["fields"] or "").split(",") if name.strip()]
    table = given["table"]
    wanted = columns.of_fields(names, table) or columns.DEFAULT[table, given["output"]]
    print_table(wanted, map(json.loads, rows), sample=[SAMPLE[table]])
