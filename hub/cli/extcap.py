"""`nodetap extcap`: let Wireshark list the agents as interfaces."""

from __future__ import annotations

from pathlib import Path

import click

from hub.cli import options
from hub.cli.errors import NEGATIVE, CliError
from hub.cli.options import DEFAULT_HUB_URL

_WHERE = options.option("--dir", "where", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                        help="Wireshark's folder for such programs.  [what tshark says]")  # fmt: skip


@click.group()
def extcap() -> None:
    """Show the agents as interfaces in Wireshark."""


@extcap.command(epilog="Example: nodetap --hub-url https://hub.example:8480 --token-file token extcap install")
@_WHERE
@click.pass_context
def install(ctx: click.Context, /, where: Path | None) -> int:
    """Put the launcher into Wireshark's folder.

    The hubs, the token files and the certificates that are given to `nodetap` are kept in it as defaults.
    """
    from hub.extcap import launcher

    given = ctx.find_root().obj
    values = {
        "HUB_URL": ",".join(given["hub_url"]),
        "TOKEN_FILE": ",".join(str(Path(each).absolute()) for each in given["token_file"]),
        "TLS_CA": str(Path(given["tls_ca"]).absolute()) if given["tls_ca"] else "",
    }
    settings = {f"NODETAP_{name}": value for name, value in values.items() if value not in ("", DEFAULT_HUB_URL)}
    place = where or launcher.folder()
    try:
        path = launcher.install(place, settings)
    except OSError as error:
        raise CliError(
            f"cannot write into {place}: {error.strerror}; choose another place with --dir", NEGATIVE
        ) from None
    click.echo(f"{path}\nWireshark shows the agents as interfaces when it is started again.")
    return 0


@extcap.command()
@_WHERE
def uninstall(where: Path | None) -> int:
    """Remove the launcher again."""
    from hub.extcap import launcher

    place = where or launcher.folder()
    try:
        path = launcher.uninstall(place)
    except OSError as error:
        raise CliError(f"cannot remove it from {place}: {error.strerror}", NEGATIVE) from None
    click.echo(f"{path} is removed" if path else f"there is none in {place}")
    return 0
