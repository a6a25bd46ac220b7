"""`nodetap-agent decode`: what nodetap sees in capture files, without a hub."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from agent.capture.file import FileSource
    from protocol.schema import Field

OUTPUTS = ("table", "ndjson", "none")
POLL = 1.0
"""Seconds for which a pipe is waited for at once."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-o",
    "--output",
    type=click.Choice(OUTPUTS),
    default="table",
    show_default=True,
    envvar="NODETAP_OUTPUT",
    help="How frames are printed; none: decode and print nothing, for timing.",
)
@click.option(
    "--fields", envvar="NODETAP_FIELDS", metavar="A,B,C", help="Fields to show, by their public names, in this order."
)
@click.option("--filter", "bpf", envvar="NODETAP_FILTER", metavar="BPF", help="Frames to take, pcap-filter(7) syntax.")
@click.option(
    "--l7",
    type=click.Choice(["off", "fast", "all"]),
    show_default="fast where something shown comes from it, else off",
    envvar="NODETAP_L7",
    help="How much to look into application protocols.",
)
@click.option(
    "--url-query",
    type=click.Choice(["drop", "keep"]),
    default="drop",
    show_default=True,
    envvar="NODETAP_URL_QUERY",
    help="Whether query strings of URLs are shown.",
)
def decode(files: tuple[str, ...], output: str, fields: str | None, bpf: str | None, **options: Any) -> int:
    """Print one line per frame of capture files (pcap, pcapng, gzip; - for standard input).

    Exits 1 where a file is cut short or damaged, after the frames before that place; 2 where one cannot be read.
    """
    from agent.capture import CaptureError
    from agent.capture.file import FileSource

    printer = _printer(output, fields)
    source = FileSource(files, bpf=bpf)
    frames: Counter[int] = Counter()
    engine = _engine(options["l7"] or _depth(output, fields), options["url_query"] == "keep")
    try:
        source.open()
        _print_all(source, printer, engine, frames)
    except CaptureError as error:
        click.echo(f"nodetap-agent decode: {error}", err=True)
        return 1 if frames.total() else 2
    finally:
        source.close()
    for line in _unread(source, frames):
        click.echo(f"nodetap-agent decode: {line}", err=True)
    if source.truncated:
        click.echo(f"nodetap-agent decode: {source.truncated}", err=True)
    return 1 if source.truncated else 0


def _depth(output: str, names: str | None) -> str:
    """How far to look where nobody said: as far as what is shown needs."""
    from protocol.schema import L7_FIELDS

    if output == "none":
        return "off"
    shown = {field.name for field in (L7_FIELDS if names is None else _chosen(names))}
    return "fast" if shown & {field.name for field in L7_FIELDS} else "off"


def _engine(depth: str, keep_query: bool) -> Any:
    if depth == "off":
        return None
    from agent.assemble import engine_of

    def on_problem(name: str, error: Exception) -> None:
        click.echo(f"nodetap-agent decode: the L7 parser {name} is left out: {error!r}", err=True)

    return engine_of(depth, keep_query, live=False, on_problem=on_problem)


def _print_all(source: FileSource, printer: Any, engine: Any, frames: Counter[int]) -> None:
    """Decode and print until the source is done; `frames` counts them by interface."""
    import numpy as np

    from agent.decode.decoder import Decoder
    from protocol.built import complaints

    decoder = Decoder(source.interfaces)
    for complaint in complaints:
        click.echo(f"nodetap-agent decode: slower than need be: {complaint}", err=True)
    out, count = sys.stdout.buffer, 0
    while not source.done:
        block = source.next_block(POLL)
        if block is None:
            continue
        if engine is None:
            columns = decoder.block(block, count + 1)
        else:
            columns, payloads = decoder.with_payloads(block, count + 1)
            engine.add(columns, payloads)
        count += len(block)
        frames.update(dict(enumerate(np.bincount(block.iface).tolist())))
        if printer is not None:
            out.write(printer(columns).encode("utf-8", "backslashreplace"))
            out.flush()


def _unread(source: FileSource, frames: Counter[int]) -> list[str]:
    """A line for each interface whose frames nobody looks into."""
    from agent.decode.decoder import is_read

    return [
        f"{face.name}: {frames[number]:,} frames of link type {face.linktype}, which is not read: no addresses"
        for number, face in enumerate(source.interfaces)
        if frames[number] and not is_read(face.linktype)
    ]


def _printer(output: str, names: str | None) -> Any:
    """What turns columns into lines; None for no lines."""
    if output == "none":
        return None
    from agent.show import FIELDS, Ndjson, table

    fields = None if names is None else _chosen(names)
    return table(fields).lines if output == "table" else Ndjson(fields or list(FIELDS.values())).lines


def _chosen(names: str) -> list[Field]:
    from agent.show import FIELDS

    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in FIELDS]
    if unknown or not wanted:
        from difflib import get_close_matches

        near = get_close_matches(unknown[0], FIELDS, 3) if unknown else []
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise click.BadParameter(f"no field {', '.join(unknown) or 'is named'}.{hint}", param_hint="--fields")
    return [FIELDS[name] for name in dict.fromkeys(wanted)]
