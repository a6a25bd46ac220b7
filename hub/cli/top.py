"""`nodetap top`: the busiest flows of the last seconds, live in a terminal, one look elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from hub.cli import columns, options
from hub.cli.client import Client
from hub.cli.completeness import sentence
from hub.cli.errors import INCOMPLETE, HubLost
from hub.cli.flags import combined, flags
from hub.cli.rows import say
from hub.cli.screen import drawn, moving, note, print_table, wrapped
from hub.cli.session import connect, until_ctrl_c
from hub.cli.table import Column, Row
from hub.cli.talkers import ENDS, PROTOCOL, both_ways, sums, total

if TYPE_CHECKING:
    from rich.console import RenderableType

GIVE_UP = 60.0
"""Seconds without a hub after which it ends."""
MOST_SAID = 4
"""Lines for how complete it is, or what is wrong with the hub."""
AROUND = 3
"""Lines of a frame that are no rows."""
_PREFIXES = ("", "k", "M", "G", "T")


def rate(value: float) -> str:
    """A rate in four figures or fewer: `0.3`, `12.5`, `999`, `1.20k`, `43.1M`."""
    for prefix in _PREFIXES:
        if value < 999.5 or prefix == _PREFIXES[-1]:
            break
        value /= 1000
    if prefix:
        return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{prefix}"
    return f"{value:.{1 if value < 99.95 else 0}f}"


@dataclass(frozen=True, slots=True)
class Frame:
    """One look: groups with the most, all there was, how complete that is; sums over `window` seconds."""

    rows: list[Row]
    flows: int
    packets: int
    bytes: int
    answer: dict[str, Any]
    window: int

    def head(self) -> str:
        """The line above the table."""
        sums = {"flows/s": self.flows, "packets/s": self.packets, "bit/s": self.bytes * 8}
        rates = "  ".join(f"{rate(value / self.window)} {unit}" for unit, value in sums.items())
        return f"{rates}  (mean of {self.window} s)"

    def columns(self, by: list[str]) -> list[Column]:
        """What is shown of a row; its ends and protocol where nothing else is asked for."""
        share, per = self.bytes or 1, self.window
        return [
            *(columns.of_fields(by, "flows") or columns.ENDS),
            Column("flows/s", lambda row: rate(row["flow.records"] / per), right=True, drop=1),
            Column("packets/s", lambda row: rate(both_ways(row, "flow.packets") / per), right=True, drop=2),
            Column("bit/s", lambda row: rate(both_ways(row, "flow.bytes") * 8 / per), right=True),
            Column("% bytes", lambda row: f"{both_ways(row, 'flow.bytes') / share:.1%}"[:-1], right=True, drop=3),
        ]


@click.command(epilog="Example: nodetap top --by nodetap.agent,tcp.dstport tcp")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@flags("flows")
@options.option("--by", metavar="A,B", help="Sum flows by these fields; their ends and protocol unless given.")
@options.option("--top", type=click.IntRange(min=1), metavar="N", help="So many groups; as many as fit, else 20.")
@options.option("--sort", metavar="A[:desc],B", help="Order by these, the largest first with :desc, not by bytes.")
@options.option("--window", type=click.IntRange(10, 3600), default=30, show_default=True, metavar="S",
                help="Seconds that rates are the mean of.")  # fmt: skip
@options.option("--interval", type=click.FloatRange(0.2, 60), default=2.0, show_default=True, metavar="S",
                help="Seconds between two looks.")  # fmt: skip
@options.option("--once", is_flag=True, help="Look once and end, as where stdout is no terminal.")
@options.strict
@click.pass_context
def top(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> int:
    """Show the busiest flows, live.

    FILTER is a display filter with Wireshark's names; its words are joined by spaces. A flow that goes on is told every
    10 seconds: rates are that late. Ctrl-C ends it.
    """
    live = moving() and not given["once"]
    by = [name.strip() for name in (given["by"] or "").split(",") if name.strip()]
    params = {
        "filter": combined(words, given, "flows"),
        "since": f"{given['window']}s",
        "by": ",".join(by or (*ENDS, *PROTOCOL)),
        "sort": given["sort"],
        "top": given["top"] or (_fitting() if live else 20),
    }
    with connect(ctx) as client:
        complete = _live(client, params, by, given) if live else _once(client, params, by, given)
    return INCOMPLETE if given["strict"] and not complete else 0


def _fitting() -> int:
    """Rows that the terminal has room for."""
    return max(shutil.get_terminal_size().lines - AROUND, 1)


def look(client: Client, params: dict[str, Any], window: int) -> Frame:
    """Ask the hub. Raises CliError."""
    rows, _ = sums(client, params)
    all_, answer = sums(client, {**params, "by": "nodetap.agent", "top": 0, "sort": None})
    flows = sum(row["flow.records"] for row in all_)
    return Frame(rows, flows, total(all_, "flow.packets"), total(all_, "flow.bytes"), answer, window)


def _once(client: Client, params: dict[str, Any], by: list[str], given: dict[str, Any]) -> bool:
    frame = look(client, params, given["window"])
    note(frame.head(), "bold")
    print_table(frame.columns(by), frame.rows)
    return say(frame.answer, "table")


def _live(client: Client, params: dict[str, Any], by: list[str], given: dict[str, Any]) -> bool:
    """Look again and again until Ctrl-C; whether the last look was complete. Raises CliError."""
    from rich.live import Live

    until_ctrl_c()
    frame = look(client, params, given["window"])
    answered = time.monotonic()
    trouble = ""
    with contextlib.suppress(KeyboardInterrupt), Live(auto_refresh=False, screen=True) as live:
        while True:
            live.update(draw(frame, by, trouble), refresh=True)
            time.sleep(given["interval"])
            try:
                frame, trouble = look(client, params, given["window"]), ""
                answered = time.monotonic()
            except HubLost as error:
                if time.monotonic() - answered > GIVE_UP:
                    raise
                trouble = str(error)
    return bool(frame.answer["complete"])


def draw(frame: Frame, by: list[str], trouble: str) -> RenderableType:
    """A frame for the terminal: head, table, how complete it is or what is wrong with the hub."""
    from rich.console import Group
    from rich.text import Text

    width = shutil.get_terminal_size().columns
    said = wrapped(trouble or sentence(frame.answer), width)[:MOST_SAID]
    style = "dim" if frame.answer["complete"] and not trouble else "bold red"
    lines = [
        Text(f"{datetime.now():%H:%M:%S}  {frame.head()}", "bold"),
        *drawn(frame.columns(by), frame.rows[: max(_fitting() + 1 - len(said), 1)], width),
        *(Text(line, style) for line in said),
    ]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Group(*lines)
