"""`nodetap packets` and `nodetap flows`: stored rows in a window of time, and how complete they are."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import click
from click.core import ParameterSource

from hub.cli import columns, options
from hub.cli.client import Client, Head, explain
from hub.cli.completeness import sentence, warn_of_clocks
from hub.cli.errors import INCOMPLETE, USAGE, CliError
from hub.cli.flags import combined, flags
from hub.cli.screen import describe, note, print_table, progress
from hub.cli.session import connect, until_ctrl_c
from hub.cli.stream import Rows, array, parsed
from hub.cli.table import Column
from hub.cli.target import Write, target
from hub.cli.times import parse

Options = dict[str, Any]

TABLES, LINES, COPIED = ("table", "wide"), ("json", "ndjson"), ("csv", "parquet", "arrow")
"""Formats: laid out here, made of NDJSON here, passed on as the hub makes them."""
BINARY = ("parquet", "arrow")
FRAMES = "pcapng"
"""Not of what is stored: the frames that agents recorded."""
_LARGEST = {"flows": "flow.bytes", "calls": "call.latency"}
"""What whoever wants the first rows, and not groups, may mean."""


@click.command(epilog="Example: nodetap packets --since 5m tcp.port == 443 and ip.addr == 10.0.0.7")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@flags("packets")
@options.rows_in(*options.FORMATS, FRAMES)
@click.pass_context
def packets(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> int:
    """Show stored packets.

    FILTER is a display filter with Wireshark's names; its words are joined by spaces. `nodetap fields` lists the names.
    With -o pcapng come the frames themselves, as `nodetap pcap` fetches them from agents that record.
    """
    if given["output"] == FRAMES and not given["explain"]:
        return _frames(ctx, words, given)
    wanted = columns.of_fields(_names(given["fields"]), "packets") or columns.DEFAULT.get(
        ("packets", given["output"]), ()
    )
    with connect(ctx) as client:
        return _ask(client, "packets", wanted, _params(words, given, "packets"), given)


def _frames(ctx: click.Context, words: tuple[str, ...], given: Options) -> int:
    """What `nodetap pcap` does: all frames in the window, the first N where --limit is given."""
    from hub.cli.pcap import pcap

    if given["fields"] or given["sort"]:
        raise CliError("frames have no fields and one order: leave --fields and --sort out, or -o pcapng", USAGE)
    default = ctx.get_parameter_source("limit") is ParameterSource.DEFAULT
    text = combined(words, given, "packets")
    asked = {name: given[name] for name in ("since", "until", "strict")}
    code: int = ctx.invoke(
        pcap, words=(text,) if text else (), path=given["write"] or "-", limit=0 if default else given["limit"], **asked
    )
    return code


@click.command(epilog="Example: nodetap flows --since 1h --by ip.src,ip.dst --top 5")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@options.option("--by", metavar="A,B", help="Sum flows by these fields, most bytes first unless --sort says.")
@options.option("--top", type=click.IntRange(min=0), metavar="N", help="With --by: this many groups; 0 = all.  [10]")
@flags("flows")
@options.rows
@click.pass_context
def flows(ctx: click.Context, /, words: tuple[str, ...], by: str | None, top: int | None, **given: Any) -> int:
    """Show stored flows, or sums of them.

    FILTER is a display filter with Wireshark's names; its words are joined by spaces. `nodetap fields` lists the names.
    """
    return ask_grouped(ctx, "flows", words, by, top, given)


def ask_grouped(
    ctx: click.Context, table: str, words: tuple[str, ...], by: str | None, top: int | None, given: Options
) -> int:
    """Ask for rows of a table, or with `by` for figures of groups of them; the exit code."""
    said = {name for name in ("top", "limit") if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if by is None and "top" in said:
        rows = f"--sort {_LARGEST[table]}:desc --limit {top}"
        raise CliError(f"--top is for groups: name them with --by, or write {rows} for rows", USAGE)
    params = _params(words, given, table)
    if by is None:
        wanted = columns.of_fields(_names(given["fields"]), table) or columns.DEFAULT.get((table, given["output"]), ())
    else:
        wanted = columns.of_groups(_names(by), table)
        most = given["limit"] if said == {"limit"} else top  # of what is shown, and that is groups
        params |= {"by": ",".join(_names(by)), "top": most, "fields": given["fields"]}
    with connect(ctx) as client:
        return _ask(client, table, wanted, params, given)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _params(words: Iterable[str], given: Options, table: str) -> Options:
    """The API's parameters for what was given; unknown fields and filters are the hub's to refuse."""
    now = datetime.now()
    return {
        "filter": combined(words, given, table),
        "since": parse(given["since"], now),
        "until": parse(given["until"], now) if given["until"] is not None else None,
        "limit": given["limit"],
        "sort": given["sort"],
        "fields": ",".join(_names(given["fields"]) or (columns.READ[table] if given["output"] in TABLES else ()))
        or None,
    }


def _ask(client: Client, table: str, wanted: Iterable[Column], params: Options, given: Options) -> int:
    """Ask, print, say how complete it is; the exit code."""
    if given["explain"]:
        return _explain(client.get(f"/v1/{table}", {**params, "explain": "yes"}), given["output"])
    output = given["output"]
    if output in TABLES and given["write"]:
        raise CliError(f"a table goes to the terminal: write a file with -o {'|'.join((*LINES, *COPIED))}", USAGE)
    if given["write"]:
        until_ctrl_c()  # SIGTERM too leaves nothing of a file
    with target(given["write"]) as write:
        if output in TABLES:
            answer = _show(client, table, list(wanted), params, given)
        elif output in LINES:
            answer = _lines(client, table, params, given, write)
        else:
            answer = _copy(client, table, params, given, write)
    return INCOMPLETE if not say(answer, output) and given["strict"] else 0


def _explain(answer: Options, output: str) -> int:
    """Print what the store is asked: the filter for people, all of it for programs."""
    if output in LINES:
        click.echo(json.dumps(answer, indent=1 if output == "json" else None))
        return 0
    if len(tables := answer["query"].get("tables", ())) > 1:
        click.echo(f"FROM {', '.join(tables)}")
    click.echo(f"WHERE {answer['filter']['sql']}")
    for name, value in answer["filter"]["params"].items():
        click.echo(f"  {name} = {value!r}")
    note("with the window of time, the order and what is shown: --explain -o json", "dim")
    return 0


@contextlib.contextmanager
def _rows(client: Client, table: str, params: Options) -> Iterator[tuple[Head, Rows]]:
    """An answer's head and rows; raises CliError at the end where it says that it broke off."""
    with client.stream(f"/v1/{table}", {**params, "format": "ndjson"}) as (head, chunks):
        rows = Rows(chunks)
        yield head, rows
    if "nodetap.error" in rows.end:
        raise explain(rows.end["nodetap.error"], str(params["filter"] or ""), client.url)


def _show(client: Client, table: str, wanted: list[Column], params: Options, given: Options) -> Options:
    """Print rows as a table; their completeness."""
    with _rows(client, table, params) as (head, rows):
        if not print_table(wanted, parsed(rows)) and params["since"] != "all":
            click.echo(_nothing(table, given, *_window(head)), err=True)
    return _completeness(rows)


def _window(head: Head) -> tuple[str | None, str | None]:
    """`since` and `until` as the hub understood them, nanoseconds; None is open."""
    return head.headers.get("nodetap-since") or None, head.headers.get("nodetap-until") or None


def _nothing(table: str, given: Options, since: str | None, until: str | None) -> str:
    """Why there may be no rows."""
    if since and until and int(since) >= int(until):
        return f"no {table}: --until {given['until']} is before --since {given['since']}, so the window is empty"
    return f"no {table} since {given['since']}; --since all looks at everything stored"


def _lines(client: Client, table: str, params: Options, given: Options, write: Write) -> Options:
    """Write rows as a JSON array or as lines; their completeness."""
    with _rows(client, table, params) as (_, rows):
        _write(array(rows) if given["output"] == "json" else rows, given, write)
    return _completeness(rows)


def _completeness(rows: Rows) -> Options:
    answer: Options = rows.end["nodetap.completeness"]
    return answer


def _write(blocks: Iterable[bytes], given: Options, write: Write) -> None:
    with progress(given["limit"] == 0) as advance:
        for block in blocks:
            write(block)
            advance(block)


def _copy(client: Client, table: str, params: Options, given: Options, write: Write) -> Options:
    """Copy what the hub makes, then ask for the completeness of the same window."""
    output = given["output"]
    if output in BINARY and not given["write"] and sys.stdout.isatty():
        raise CliError(f"{output} is no text: write it to a file, `-o {output} -w {table}.{output}`", USAGE)
    with client.stream(f"/v1/{table}", {**params, "format": output}) as (head, chunks):
        _write(chunks, given, write)
    since, until = _window(head)
    asked = {"filter": params["filter"], "since": since or "all", "until": until}
    grouped = {"by": params["by"]} if params.get("by") else {}
    answer: Options = client.get(f"/v1/{table}", {**asked, **grouped, "completeness": "only"})
    return answer


def say(answer: dict[str, Any], output: str) -> bool:
    """Print the completeness: below a table, on stderr beside anything that a program reads."""
    complete = bool(answer.get("complete"))
    if output in TABLES:
        note(sentence(answer), "dim" if complete else "bold red")
        warn_of_clocks(answer.get("clocks", ()))
    else:
        sys.stdout.flush()
        click.echo(describe(answer), err=True)
    return complete
