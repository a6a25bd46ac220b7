"""The program `nodetap-extcap`: started by Wireshark, once for each question and once for each capture."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

import click

from hub.cli.errors import USAGE, CliError, FilterError
from hub.cli.options import DEFAULT_HUB_URL, option
from hub.cli.session import client_of, until_ctrl_c
from hub.extcap import sentences
from protocol import VERSION

PATIENCE = 2.0
"""Seconds that a hub has to list its agents: Wireshark starts no sooner."""
DEADLINE = 30.0
"""Seconds that each of several hubs has to begin its answer, and to go on."""
_FLAG: dict[str, Any] = {"is_flag": True, "envvar": None}
_TEXT: dict[str, Any] = {"envvar": None}


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@option("--extcap-interfaces", help="List the agents as interfaces.", **_FLAG)
@option("--extcap-interface", metavar="NAME", help="The interface that is meant: nodetap, or nodetap-AGENT.", **_TEXT)
@option("--extcap-dlts", help="List the link types of an interface.", **_FLAG)
@option("--extcap-config", help="List the options of an interface.", **_FLAG)
@option("--extcap-version", metavar="VERSION", help="The version of Wireshark.", is_flag=False, flag_value="", **_TEXT)
@option("--extcap-capture-filter", metavar="FILTER", help="A display filter, as --filter; both must hold. Without"
        " --capture: say what is wrong with it.", **_TEXT)  # fmt: skip
@option("--capture", help="Capture until nobody reads any more.", **_FLAG)
@option("--fifo", metavar="PATH", help="The pipe to write to.", **_TEXT)
@option("--filter", metavar="FILTER", help="A display filter: only frames that match leave their node.", **_TEXT)
@option("--max-bytes", type=click.IntRange(min=0), default=0, metavar="N", help="End after so many bytes.", **_TEXT)
@option("--hub-url", default=DEFAULT_HUB_URL, show_default=True, metavar="URL",
        help="The hub's API. Of several hubs: with commas between them, and they are asked as one.")  # fmt: skip
@option("--token-file", metavar="FILE",
        help="File that holds the bearer token: one for all hubs, or one for each, with commas.")  # fmt: skip
@option("--tls-ca", metavar="FILE", help="Certificates that may sign the hub's.")
@click.version_option(VERSION, prog_name="nodetap-extcap", message="%(prog)s %(version)s")
def cli(**given: Any) -> None:
    """Capture from nodetap's agents in Wireshark.

    Wireshark calls this program itself, as extcap(4) describes; `nodetap extcap install` puts it where Wireshark looks.
    """
    if given["extcap_interfaces"]:
        _print(sentences.interfaces(_agents(given)))
    elif given["extcap_dlts"]:
        _print(sentences.dlts())
    elif given["extcap_config"]:
        _print(sentences.config(given["hub_url"], given["token_file"], given["tls_ca"]))
    elif given["capture"]:
        _capture(given)
    elif given["extcap_capture_filter"] is not None:
        _check(given)
    else:
        raise CliError("Wireshark calls this program; to capture by hand there is `nodetap capture`", USAGE)


def _print(lines: list[str]) -> None:
    for line in lines:
        click.echo(line)


def _client(given: Mapping[str, Any]) -> Any:
    urls, files = ([part.strip() for part in (given[name] or "").split(",")] for name in ("hub_url", "token_file"))
    return client_of(urls, list(filter(None, files)), given["tls_ca"] or None, DEADLINE)


def _agents(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The agents of the hubs that list them at once."""
    try:
        with _client(given) as client, client.stream("/v1/agents", silence=PATIENCE) as (_, chunks):
            found = client.read("/v1/agents", b"".join(chunks))
    except CliError as error:
        click.echo(f"nodetap-extcap: {error}", err=True)
        return []
    for part in found.get("hubs_missing", ()):
        click.echo(f"nodetap-extcap: hub {part['hub']} missing ({part['reason']})", err=True)
    return list(found["agents"])


def _filter(given: Mapping[str, Any]) -> str | None:
    try:
        return sentences.filter_of(
            given["extcap_interface"] or sentences.ALL, given["filter"], given["extcap_capture_filter"]
        )
    except ValueError as error:
        raise CliError(str(error), USAGE) from None


def _check(given: Mapping[str, Any]) -> None:
    """Print what is wrong with a filter; nothing where it is right, or where nobody can say."""
    params = {"filter": given["extcap_capture_filter"] or None, "explain": "yes"}
    try:
        with _client(given) as client, client.stream("/v1/packets", params, silence=PATIENCE) as (_, chunks):
            b"".join(chunks)
    except FilterError as error:
        click.echo(str(error).splitlines()[0])
    except CliError:
        return


def _capture(given: Mapping[str, Any]) -> None:
    from hub.cli.capture import News, Recording

    if not given["fifo"]:
        raise CliError("--capture needs --fifo", USAGE)
    until_ctrl_c()
    params = {"filter": _filter(given), "limit": 0, "bytes": given["max_bytes"], "seconds": 0, "deadline": "5.000"}
    tell = News(lambda line: click.echo(f"nodetap-extcap: {line}", err=True))
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError), _client(given) as client, _pipe(given["fifo"]) as out:
        recording = Recording(lambda data: _write(out, data), tell.heed, out.fileno())
        recording.run(client, params)
        if recording.trouble is not None:
            raise recording.trouble


def _pipe(path: str) -> Any:
    try:
        return open(path, "wb", buffering=0)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}", USAGE) from None


def _write(out: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


def main() -> None:
    """Run the program and exit. Errors are one line on stderr, which Wireshark shows."""
    try:
        cli.main(prog_name="nodetap-extcap", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.UsageError as error:
        click.echo(f"nodetap-extcap: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except CliError as error:
        click.echo(f"nodetap-extcap: {error}", err=True)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
