"""From the global options of a call to a client of the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hub.cli.client import Client


def connect(ctx: click.Context) -> Client:
    """A client with the global options of this call. Raises CliError where they are wrong."""
    from hub.cli.client import Client, Settings
    from protocol.logs import configure

    options = ctx.find_root().obj
    configure(options["log_level"], options["log_format"])
    return Client(Settings(options["hub_url"], options["token_file"], options["tls_ca"]))
