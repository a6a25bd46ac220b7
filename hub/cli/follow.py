"""`nodetap follow`: rows as they are stored, through restarts of the hub, each once and in order."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from hub.cli import columns, options
from hub.cli.client import Client, explain
from hub.cli.errors import INCOMPLETE, CliError, HubLost
from hub.cli.flags import combined, flags
from hub.cli.rows import say
from hub.cli.screen import print_table
from hub.cli.session import connect, unbroken, until_ctrl_c
from hub.cli.stream import CONTROL, first, parsed, pieces
from hub.cli.times import parse

if TYPE_CHECKING:
    from hub.cli.regions.follow import Followers

HEARTBEAT = 2
"""Seconds between heartbeats asked for; three of them missed, the hub is taken for lost."""
BACKOFF_BASE, BACKOFF_MAX = 0.2, 3.0
MAX_LAG = {"person": 10.0, "program": 60.0}
"""Seconds by which a reader may be late before rows are skipped: people want to see what is now, programs all."""
PATIENCE = 3.0
"""Seconds that the hub has at the end to say how complete it was."""

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
    "calls": {
        "call.start": "0.0", "nodetap.agent": "x" * 12, "ip.src": _END["src"], "ip.dst": _END["dst"],
        "tcp.srcport": 65535, "tcp.dstport": 65535, "nodetap.l7": "MongoDB", "call.operation": "x" * 60,
        "call.status": "No such name", "call.latency": 10.0,
    },
}  # fmt: skip
"""A row as wide as they come: rows arrive one by one and cannot be measured beforehand."""


def pause(failures: int) -> float:
    """Seconds until a hub is tried again that was lost so many times in a row: full jitter below a bound."""
    return random.uniform(0, min(BACKOFF_MAX, BACKOFF_BASE * 2 ** min(failures, 10)))


class Follower:
    """One following: rows out, the position kept, connections made anew.

    `rows_lost` and `rows_skipped` say whether any were; `since` is the packet time from which on rows were asked for,
    nanoseconds or `all`, None before the hub has answered.
    """

    def __init__(self, client: Client, params: dict[str, Any], give_up: float, patient: bool = False) -> None:
        """A `patient` one waits for a hub that was never there, too.

        `beaten` is told cursors that come without rows; once it is `over` nobody takes rows any more.
        """
        self.beaten: Callable[[str], object] = str
        self.over = False
        self._patient = patient
        self._client = client
        self._params = params
        self._give_up = give_up
        self._failures = 0
        self._lost_at: float | None = None
        self._last = b""  # what came last and says where to go on: rows, or a heartbeat
        self.rows_lost = self.rows_skipped = False
        self.since: str | None = None

    @property
    def cursor(self) -> str | None:
        """Where to go on; None before the first line."""
        if not self._last:
            return self._params.get("cursor")
        line = json.loads(self._last[self._last.rfind(b"\n", 0, -1) + 1 :])
        cursor = line.get("nodetap.cursor") or line.get("nodetap.heartbeat", {}).get("cursor")
        return cursor or self._params.get("cursor")

    def rows(self) -> Iterator[bytes]:
        """Blocks of rows as NDJSON lines, without end. Raises CliError where the hub refuses, or is gone for too long.

        A block counts as printed once the next one is asked for.
        """
        while True:
            try:
                yield from self._connection()
                raise HubLost(f"the hub at {self._client.url} ended the stream")
            except HubLost as error:
                if self.over:
                    return
                self._judge(error)
            time.sleep(pause(self._failures))

    def _connection(self) -> Iterator[bytes]:
        cursor = self.cursor
        params = {**self._params, "heartbeat": HEARTBEAT, "cursor": cursor}
        if cursor is not None:
            params["since"] = None
            self._params["cursor"] = cursor
        with self._client.stream("/v1/follow", params, silence=3 * HEARTBEAT) as (_, chunks):
            for piece in pieces(chunks):
                if piece.startswith(CONTROL):
                    self._control(piece)
                else:
                    yield piece
                    self._last = piece
                self._failures, self._lost_at = 0, None

    def _control(self, line: bytes) -> None:
        ((name, told),) = json.loads(line).items()
        if name == "nodetap.error":
            raise explain(told, str(self._params.get("filter") or ""), self._client.url)
        if name == "nodetap.heartbeat":
            self._last = line
            self.beaten(told["cursor"])
            if self.since is None:
                self.since = "all" if told.get("since") is None else str(told["since"])
        elif name == "nodetap.lost":
            self.rows_lost = True
            rows = "rows" if told.get("rows") is None else f"{told['rows']:,} rows"
            click.echo(f"nodetap: {rows} were removed before they were followed: {told.get('detail')}", err=True)
        else:
            self.rows_skipped = True
            again = f"--cursor {told['cursor']} --limit {told['rows']} has them"
            late = f"{told['seconds']:.1f} s late"
            click.echo(f"nodetap: skipped {told['rows']:,} rows, {late}, and goes on from now: {again}", err=True)

    def _judge(self, error: HubLost) -> None:
        """Whether to try again; raises where the hub was never there or is gone for too long."""
        now = time.monotonic()
        if self._lost_at is None:
            if not self._last and not self._patient:
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
@options.option("--table", type=click.Choice(["packets", "flows", "calls"]), default="packets", show_default=True)
@options.output("table", "wide", "ndjson")
@options.fields
@options.option("--max-lag", type=click.FloatRange(0, 99_999), metavar="S",
                help="Skip what a slow reader left for so long, and say so; 0 = never.  [10; ndjson 60]")  # fmt: skip
@options.option("--give-up", type=float, default=60.0, show_default=True, metavar="S", help="Seconds without a hub.")
@options.strict
@click.pass_context
def follow(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> int:
    """Print packets as they are stored.

    It goes on by itself after the hub was away, and with --cursor after you were. Ctrl-C ends it. A terminal that is
    too slow gets what is new, and the number of rows that were skipped for it.
    """
    until_ctrl_c()
    table, ndjson = given["table"], given["output"] == "ndjson"
    reader = "program" if ndjson and not sys.stdout.isatty() else "person"
    params = {
        "table": table,
        "filter": combined(words, given, table),
        "fields": given["fields"] or (None if ndjson else ",".join(columns.READ[table])),
        "since": parse(given["since"], datetime.now()) if given["since"] is not None else None,
        "cursor": given["cursor"],
        "max_lag": f"{MAX_LAG[reader] if given['max_lag'] is None else given['max_lag']:.3f}",
    }
    with connect(ctx) as client:
        follower = _following(client, params, given["give_up"])
        try:
            (_write if ndjson else _print)(first(follower.rows(), given["limit"]), given)
        except KeyboardInterrupt:
            sys.stdout.flush()
        whole = _say(client, follower, params, given["output"])
        whole = whole and not follower.rows_lost and not follower.rows_skipped
    return INCOMPLETE if given["strict"] and not whole else 0


def _following(client: Client, params: dict[str, Any], give_up: float) -> Follower | Followers:
    if client.each == [client]:
        return Follower(client, params, give_up)
    from hub.cli.regions.follow import Followers
    from hub.cli.regions.hubs import Regions

    assert isinstance(client, Regions)
    return Followers(client, params, give_up)


def _write(blocks: Iterator[bytes], given: dict[str, Any]) -> None:
    """Rows as they are, no row in part: past Python's buffers, which nobody could empty for a reader that has gone."""
    handle = sys.stdout.fileno()
    for block in blocks:
        view = memoryview(block)
        with unbroken():
            while view:
                view = view[os.write(handle, view) :]


def _print(blocks: Iterator[bytes], given: dict[str, Any]) -> None:
    names = [name.strip() for name in (given["fields"] or "").split(",") if name.strip()]
    table = given["table"]
    wanted = columns.of_fields(names, table) or columns.DEFAULT[table, given["output"]]
    print_table(wanted, parsed(blocks), sample=[SAMPLE[table]])


def _say(client: Client, follower: Follower | Followers, params: dict[str, Any], output: str) -> bool:
    """How complete it was, as the hub's books say; whether it was."""
    if follower.since is None:
        return True
    asked = {"filter": params["filter"], "since": follower.since, "completeness": "only"}
    try:
        with client.stream(f"/v1/{params['table']}", asked, silence=PATIENCE) as (_, chunks):
            answer = json.loads(b"".join(chunks))
    except CliError as error:
        click.echo(f"nodetap: how complete this was cannot be said: {error}", err=True)
        return False
    return say(answer, output)
