"""The options that `run` and `replay` share: where the hub is, how we show who we are, how we trust it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from protocol.options import host_port, is_loopback, own_token


def link_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says where the hub is and who we are, and how frames are read, to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option("--hub", "hubs", multiple=True, envvar="NODETAP_HUB", callback=lambda c, p, v: _hubs(v),
                 help="The hub's agents' listener, ws://HOST:PORT or wss://HOST:PORT; repeat for several hubs."),
    click.option("--node", default=socket.gethostname, show_default="the host's name", envvar="NODETAP_NODE",
                 help="Name of this node."),
    click.option("--filter", "bpf", envvar="NODETAP_FILTER", help="Capture filter, pcap-filter(7) syntax."),
    click.option("--l7", type=click.Choice(["off", "fast", "all"]), default="off", show_default=True,
                 envvar="NODETAP_L7", help="How much to look into application protocols."),
    click.option("--url-query", type=click.Choice(["drop", "keep"]), default="drop", show_default=True,
                 envvar="NODETAP_URL_QUERY", help="Whether query strings of URLs are kept."),
    click.option("--buffer-bytes", type=click.IntRange(1 << 20), default=64 << 20, show_default=True,
                 envvar="NODETAP_BUFFER_BYTES", help="Bound of the outbox: what may wait for the hub in memory."),
    click.option("--stall-timeout", type=click.FloatRange(0.5, 3600), default=10.0, show_default=True,
                 envvar="NODETAP_STALL_TIMEOUT", help="Seconds without an acknowledgement that make a stall."),
    click.option("--echo-interval", type=click.FloatRange(0.5, 3600), default=10.0, show_default=True,
                 envvar="NODETAP_ECHO_INTERVAL", help="Seconds between two echoes through the hub's queue."),
    click.option("--backoff-max", type=click.FloatRange(0.1, 3600), default=30.0, show_default=True,
                 envvar="NODETAP_BACKOFF_MAX", help="Longest wait between two connections, seconds."),
    click.option("--token-file", envvar="NODETAP_TOKEN_FILE", help="File with the hub's token."),
    click.option("--tls-ca", envvar="NODETAP_TLS_CA", help="CA certificates (PEM) to trust for wss://."),
    click.option("--insecure", is_flag=True, envvar="NODETAP_INSECURE",
                 help="Allow ws:// beyond loopback, and wss:// without checking the certificate."),
)  # fmt: skip


def metrics_option(default: str | None) -> Callable[[Any], Any]:
    """The option --metrics, an address as (host, port) or None."""
    return click.option(
        "--metrics",
        default=default,
        show_default=default or "off",
        callback=lambda c, p, v: _address(v),
        envvar="NODETAP_METRICS",
        help="Where to show /metrics, /healthz and /readyz, HOST:PORT.",
    )


def _hubs(values: tuple[str, ...]) -> tuple[str, ...]:
    hubs = tuple(hub for value in values for hub in value.replace(",", " ").split())
    for hub in hubs:
        parts = urlsplit(hub)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise click.BadParameter(f"{hub!r} is no ws://HOST:PORT or wss://HOST:PORT")
    return hubs or ("ws://127.0.0.1:8470",)


def _address(value: str | None) -> tuple[str, int] | None:
    try:
        return None if value is None else host_port(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def read_token(path: str | None) -> str | None:
    """The token in a file, without surrounding white space. Raises click.UsageError."""
    try:
        return None if path is None else own_token(path, lambda path: Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def check_hubs(hubs: tuple[str, ...], insecure: bool) -> None:
    """Refuse to send in clear text beyond this machine. Raises click.UsageError."""
    for hub in hubs:
        parts = urlsplit(hub)
        if parts.scheme == "ws" and not insecure and not is_loopback(parts.hostname or ""):
            raise click.UsageError(f"{hub} is not encrypted: use wss:// (or --insecure, on a trusted net)")


def tls_context(hubs: tuple[str, ...], ca: str | None, insecure: bool) -> ssl.SSLContext | None:
    """How to trust wss:// hubs; None where there are none. Raises click.UsageError."""
    if not any(hub.startswith("wss:") for hub in hubs):
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise click.UsageError(f"cannot use the CA file {ca}: {error}") from None
    if insecure and ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Credentials:
    """Token and TLS as their files are now, asked for before each attempt to connect.

    Whoever renews them (Kubernetes does, by writing new files) need not start the agent again. What cannot be used
    leaves the last that could.
    """

    def __init__(self, hubs: tuple[str, ...], token_file: str | None, ca: str | None, insecure: bool) -> None:
        """Raises click.UsageError where they cannot be read."""
        self._hubs, self._token_file, self._ca, self._insecure = hubs, token_file, ca, insecure
        self._ca_text = _text(ca)
        self.token = read_token(token_file)
        self.tls = tls_context(hubs, ca, insecure)

    def __call__(self) -> tuple[str | None, ssl.SSLContext | None]:
        """The token and how to trust wss:// hubs."""
        with contextlib.suppress(click.UsageError):
            self.token = read_token(self._token_file)
        text = _text(self._ca)
        if text and text != self._ca_text:
            with contextlib.suppress(click.UsageError):
                self.tls = tls_context(self._hubs, self._ca, self._insecure)
                self._ca_text = text
        return self.token, self.tls


def _text(path: str | None) -> bytes:
    with contextlib.suppress(OSError):
        return b"" if path is None else Path(path).read_bytes()
    return b""


def hub_endpoints(hubs: tuple[str, ...]) -> list[tuple[str, int]]:
    """Addresses and ports of the hubs, as far as their names resolve now: the agent's own traffic goes there."""
    found = []
    for hub in hubs:
        parts = urlsplit(hub)
        port = parts.port or (443 if hub.startswith("wss:") else 80)
        with contextlib.suppress(OSError):
            found += [info[4][:2] for info in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)]
    return [(str(address), int(port)) for address, port in dict.fromkeys(found)]


def run_to_end(agent: Any) -> int:
    """Run an agent; its exit code, 2 where its metrics cannot be shown."""
    from protocol.built import complaints

    for complaint in complaints:
        agent.log.warning("slower than need be", reason=complaint)
    try:
        return int(agent.run())
    except OSError as error:
        click.echo(f"nodetap-agent: cannot show metrics: {error}; choose another --metrics", err=True)
        return 2
