"""`nodetap extcap`: let Wireshark list the agents as interfaces."""

from __future__ import annotations

from pathlib import Path

import click

from hub.cli import options
from hub.cli.errors import NEGATIVE, CliError
from hub.cli.options import DEFAULT_HUB_URL
from hub.cli.session import only

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

    The hub, the token file and the certificates that are given to `nodetap` are kept in it as defaults.
    """
    from hub.extcap import launcher

    settings = {
        f"NODETAP_{name.upper()}": value if name == "hub_url" else str(Path(value).absolute())
        for name in ("hub_url", "token_file", "tls_ca")
        if (value := _one(ctx, name)) and value != DEFAULT_HUB_URL
    }
    place = where or launcher.folder()
    try:
        path = launcher.install(place, settings)
    except OSError as error:
        raise CliError(
            f"cannot write into {place}: {error.strerror}; choose another place with --dir", NEGATIVE
        ) from None
    click.echo(f"{path}\nWireshark shows the agents as interfaces when it is started again.")
    return 0


def _one(ctx: click.Context, name: str) -> str | None:
    """A global option, which Wireshark's one interface list has one of."""
    return only(ctx, name) if name != "tls_ca" else ctx.find_root().obj[name]


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
