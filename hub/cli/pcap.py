"""`nodetap pcap`: the raw frames that agents recorded, as one capture file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from hub.cli import options
from hub.cli.client import explain
from hub.cli.completeness import plural
from hub.cli.errors import INCOMPLETE, USAGE, CliError, HubLost
from hub.cli.flags import combined, flags
from hub.cli.screen import progress
from hub.cli.session import connect, until_ctrl_c
from hub.cli.target import target
from hub.cli.times import parse
from protocol import ending

STDOUT = "-"


@click.command(epilog="Example: nodetap pcap --since 10m ip.addr == 10.0.0.7 and tcp.port == 443 -w web.pcapng")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@flags("packets", raw=True)
@options.option("-w", "--write", "path", required=True, metavar="FILE", help="Where to write it (pcapng); - is stdout.")
@options.option("--max-bytes", type=click.IntRange(min=0), default=1 << 30, show_default=True, metavar="N",
                help="Cut the answer after so many bytes of frames; 0 = never.")  # fmt: skip
@options.option("--max-seconds", type=click.IntRange(1, 99_999), default=300, show_default=True, metavar="S",
                help="Cut the answer after so many seconds.")  # fmt: skip
@options.limit(0, "Cut the answer after N frames; 0 = never.")
@options.option("--deadline", type=click.FloatRange(0.1, 60), default=5.0, show_default=True, metavar="S",
                help="Seconds that an agent has for each part of its answer.")  # fmt: skip
@options.strict
@options.until
@options.since
@click.pass_context
def pcap(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> int:
    """Fetch the raw frames that agents recorded.

    FILTER is a display filter with Wireshark's names; its words are joined by spaces. Agents record frames with
    `nodetap-agent run --recorder DIR`. The file is there once it is whole.
    """
    until_ctrl_c()
    now = datetime.now()
    params = {
        "filter": combined(words, given, "packets"),
        "since": parse(given["since"], now),
        "until": None if given["until"] is None else parse(given["until"], now),
        "limit": given["limit"],
        "bytes": given["max_bytes"],
        "seconds": given["max_seconds"],
        "deadline": f"{given['deadline']:.3f}",
    }
    path = not_on_a_terminal(given["path"])
    with connect(ctx) as client, target(path, private=True) as write:
        with client.stream("/v1/pcap", params) as (_, chunks), progress(True) as advance:
            said = copied(_shown(chunks, advance), write)
        if "nodetap.error" in said:
            raise explain(said["nodetap.error"], str(params["filter"] or ""), client.url)
    answer = said["nodetap.completeness"]
    click.echo(sentence(answer), err=True)
    return INCOMPLETE if given["strict"] and not answer["complete"] else 0


def not_on_a_terminal(path: str) -> str | None:
    """Where a capture goes, None for stdout. Raises CliError where that is a terminal."""
    if path == STDOUT and sys.stdout.isatty():
        raise CliError("a capture is no text: write it to a file (-w FILE) or a pipe", USAGE)
    return None if path == STDOUT else path


def _shown(chunks: Iterable[bytes], advance: Callable[[bytes], None]) -> Iterator[bytes]:
    for chunk in chunks:
        advance(chunk)
        yield chunk


def copied(chunks: Iterable[bytes], write: Callable[[bytes], None]) -> dict[str, Any]:
    """Write an answer but for its last block, which says how complete it is. Raises HubLost where there is none."""
    kept = b""
    for chunk in chunks:
        kept += chunk
        if len(kept) > 2 * ending.MOST:
            write(kept[: -ending.MOST])
            kept = kept[-ending.MOST :]
    found = ending.find(kept)
    if found is None:
        raise HubLost("the hub's answer was cut off before its end; ask again")
    said, begin = found
    write(kept[:begin])
    return said


# -- what it says --------------------------------------------------------------------------------------------------

_CUTS = {
    "frames": "cut after {frames:,} frames (--limit)",
    "bytes": "cut after {bytes:,} bytes (--max-bytes)",
    "seconds": "cut for taking too long (--max-seconds)",
    "hub_stopped": "the hub was stopped",
}


def sentence(answer: dict[str, Any], lost: str = "not recorded") -> str:
    """How complete a capture is: `complete: 12 frames, 3 agents`, or `INCOMPLETE: ` and what is not there, and why.

    `lost` is what frames are that should be there.
    """
    what = f"{plural(answer['frames'], 'frame')}, {plural(len(answer['agents']), 'agent')}"
    if "hubs" in answer:
        what += f" of {plural(sum('reason' not in hub for hub in answer['hubs']), 'hub')}"
    if answer["complete"]:
        return f"complete: {what}{'' if answer['agents'] else ': none is connected'}"
    troubles = [_CUTS[answer["cut"]].format(**answer)] if answer["cut"] else []
    away = {who(hub): f" for {hub['away']:,.1f} s" for hub in answer.get("hubs", ()) if "away" in hub}
    troubles += [f"{who(part)} missing{away.pop(who(part), '')} ({why(part)})" for part in answer["missing"]]
    troubles += [f"{name} was away{span}" for name, span in away.items()]
    troubles += [f"{agent} has frames from {time} on only" for agent, time in answer["begins"].items()]
    troubles += _gaps(answer, lost)
    return f"INCOMPLETE: {'; '.join(troubles)} ({what})"


def who(part: Mapping[str, Any]) -> str:
    """Who is missing: an agent, or a hub of several."""
    return str(part["agent"]) if "agent" in part else f"hub {part['hub']}"


def why(part: Mapping[str, Any]) -> str:
    """And for what reason."""
    return f"{part['reason']}: {part['detail']}" if "detail" in part else str(part["reason"])


def _gaps(answer: dict[str, Any], lost: str) -> list[str]:
    """What is missing inside, by agent and reason."""
    counts: dict[tuple[str, str], int] = {}
    for gap in answer["gaps"]:
        key = gap["agent"], gap["reason"]
        counts[key] = counts.get(key, 0) + (gap["frames"] or 0)
    return [
        f"{plural(frames, 'frame') if frames else 'frames'} of {agent} {lost} ({reason})"
        for (agent, reason), frames in counts.items()
    ]
