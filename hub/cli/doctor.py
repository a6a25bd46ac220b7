"""`nodetap doctor`: what is wrong here, with the hub and with every agent, and what to do about it."""

from __future__ import annotations

import socket
import ssl
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

import protocol
from hub.cli import options
from hub.cli.completeness import plural
from hub.cli.errors import INCOMPLETE, NEGATIVE, CliError
from hub.cli.screen import describe, note, terminal_width
from hub.cli.session import connect
from hub.cli.table import clean, fit
from hub.doctor.checks import HERE
from hub.doctor.finding import BAD, OK, WARN, Finding, examine
from hub.query.window import rfc3339_ns

if TYPE_CHECKING:
    from hub.cli.client import Client

STYLES = {OK: "green", WARN: "yellow", BAD: "bold red"}
NARROW = 40
"""Characters that a text is wrapped at, at least; a name has a third of the line at most, and what that leaves."""
LEAST_WHERE = 8
"""Characters of an agent's name that are shown in any case."""


@click.command()
@options.option(
    "--deadline",
    type=click.FloatRange(0.1, 60),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long agents have for their answer.",
)
@options.output("table", "wide", "json", "ndjson")
@options.strict
@click.pass_context
def doctor(ctx: click.Context, deadline: float, output: str, strict: bool) -> int:
    """Check this machine, the hub and every agent; say what to do.

    Looks at clocks, rights, kernel drops, chosen interfaces, versions, the certificate's end, disks, the ledger,
    memory and links. The table has a line for each thing that is not well and one for all that is; wide, a line for
    everything. Exits 1 where something is bad, 3 where the hub cannot be reached, with --strict 4 where an agent gave
    no answer.
    """  # fmt: skip
    with connect(ctx) as client:
        findings = list(_here(client, ctx.find_root().obj))
        answer = client.get("/v1/doctor", {"deadline": f"{deadline:.3f}"})
    findings += [Finding(**found) for found in answer["findings"]]
    _print(findings, answer, output)
    if strict and answer["missing"]:
        return INCOMPLETE
    return NEGATIVE if any(finding.level == BAD for finding in findings) else 0


def _here(client: Client, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """What is found from here of each hub. Raises CliError where there is one hub, and it does not answer."""
    for each in client.each:
        try:
            facts = _facts(each, settings)
        except CliError:
            if each is client:
                raise
            continue  # of several hubs one is missing: their answer says so
        yield from examine("here", facts, HERE)


def _facts(client: Client, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is seen from here. Raises CliError."""
    client.text("/healthz")  # the connection's making is not the answer's time
    before, begun = time.time(), time.monotonic()
    status = client.get("/v1/status")
    trip = time.monotonic() - begun
    offset = rfc3339_ns(status["time"]) / 1e9 - (before + trip / 2)
    return {
        "url": client.url,
        "round_trip": trip,
        "token": bool(settings["token_file"]),
        "software": protocol.VERSION,
        "hub_software": status["version"],
        "clock_offset": _beyond(offset, trip / 2),
        "certificate_ends": _certificate_ends(client.url, settings["tls_ca"]),
        "now": before,
    }


def _beyond(offset: float, doubt: float) -> float:
    """What is certain of an offset that is known to `doubt`."""
    return max(offset - doubt, 0.0) if offset > 0 else min(offset + doubt, 0.0)


def _certificate_ends(url: str, ca: str | None) -> str:
    """When the hub's certificate ends (as `ssl` prints it), empty without TLS. Raises nothing: the hub was reached."""
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.hostname is None:
        return ""
    try:
        context = ssl.create_default_context(cafile=ca)
        with (
            socket.create_connection((parts.hostname, parts.port or 443), 5.0) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as secured,
        ):
            return str((secured.getpeercert() or {}).get("notAfter", ""))
    except OSError:
        return ""


# -- printing ------------------------------------------------------------------------------------------------------


def _print(findings: Sequence[Finding], answer: Mapping[str, Any], output: str) -> None:
    rest = {name: answer[name] for name in ("agents", "missing", "facts")}
    if output == "json":
        click.echo(describe({"findings": [finding.to_map() for finding in findings], **rest}))
    elif output == "ndjson":
        click.echo("".join(describe(finding.to_map()) + "\n" for finding in findings), nl=False)
        click.echo(describe({name: rest[name] for name in ("agents", "missing")}), err=True)
    else:
        shown = findings if output == "wide" else list(folded(findings))
        for level, line in lines(shown, terminal_width()):
            note(line, STYLES[level])
        note(summary(findings, answer), "dim" if all(finding.level == OK for finding in findings) else "bold")


def folded(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings by place: those that are not well, then all that is well as one."""
    places: dict[str, list[Finding]] = {}
    for finding in findings:
        places.setdefault(finding.where, []).append(finding)
    for where, found in places.items():
        well = [finding for finding in found if finding.level == OK]
        yield from (finding for finding in found if finding.level != OK)
        if well:
            checks = dict.fromkeys(finding.check for finding in well)  # each once: `here` is looked at for every hub
            yield Finding(OK, where, f"{len(well)} fine", ", ".join(checks))


def lines(findings: Sequence[Finding], width: int | None) -> Iterator[tuple[str, str]]:
    """Level and text of each line, wrapped at `width` (None: not at all): what was found, and below it the advice."""
    where = max((len(finding.where) for finding in findings), default=0)
    check = max((len(finding.check) for finding in findings), default=0)
    if width is not None:
        where = min(where, max(LEAST_WHERE, min(width // 3, width - NARROW - check - 10)))
    for finding in findings:
        head = f"{finding.level:4}  {fit(clean(finding.where), where)}  {finding.check:{check}}  "
        texts = [clean(finding.what), f"-> {clean(finding.todo)}" if finding.todo else ""]
        for number, text in enumerate(_wrapped(texts, None if width is None else max(width - len(head), NARROW))):
            yield finding.level, (" " * len(head) if number else head) + text


def _wrapped(texts: Iterable[str], width: int | None) -> Iterator[str]:
    for text in texts:
        if text:
            yield from [text] if width is None else textwrap.wrap(text, width, subsequent_indent="   ")


def summary(findings: Iterable[Finding], answer: Mapping[str, Any]) -> str:
    """The last line: how many findings of each level, and who did not answer."""
    levels = Counter(finding.level for finding in findings)
    counts = f"{levels[BAD]} bad, {levels[WARN]} to look at, {levels[OK]} fine"
    missing = [f"{part['agent']} ({part['reason']})" for part in answer["missing"]]
    asked = len(answer["agents"]) + len(missing)
    told = f"{len(answer['agents'])} of {plural(asked, 'agent')} answered"
    return f"{counts}; {told}" + (f"; missing: {', '.join(missing)}" if missing else "")
