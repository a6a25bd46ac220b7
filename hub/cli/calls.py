"""`nodetap calls`: requests with their responses, how long they took, and what failed."""

from __future__ import annotations

from typing import Any

import click

from hub.cli import options
from hub.cli.flags import flags
from hub.cli.rows import ask_grouped


@click.command(epilog="Example: nodetap calls --since 1h --by nodetap.l7,call.operation --top 5")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@options.option("--by", metavar="A,B", help="Count, error rate, latencies and bytes by these fields.")
@options.option("--top", type=click.IntRange(min=0), metavar="N", help="With --by: this many groups; 0 = all.  [10]")
@flags("calls")
@options.rows
@click.pass_context
def calls(ctx: click.Context, /, words: tuple[str, ...], by: str | None, top: int | None, **given: Any) -> int:
    """Show stored calls, or figures of them.

    FILTER is a display filter with Wireshark's names; its words are joined by spaces. `nodetap fields` lists the names.
    """
    return ask_grouped(ctx, "calls", words, by, top, given)
