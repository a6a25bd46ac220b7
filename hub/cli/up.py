"""`nodetap up`: a hub and an agent on this machine, watched until Ctrl-C, then drained and accounted for.

The agent is a program of its own: nothing of it is imported here. Order of the end: the agent drains, the books are
read, the hub stops.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hub.cli import options
from hub.cli.children import Child, program
from hub.cli.errors import NEGATIVE, UNREACHABLE, USAGE, CliError, HubLost
from hub.cli.ledger import print_books
from hub.cli.screen import moving, note
from hub.cli.session import only, until_ctrl_c
from protocol.options import host_port

if TYPE_CHECKING:
    from hub.cli.client import Client

READY = 60.0
"""Seconds that the hub has to open its store and listen."""
DRAIN = 30.0
"""Seconds that the agent has to send what it holds; its own drain deadline is shorter."""
CLOSE = 30.0
"""Seconds that the hub has to stop."""
STARTS = 0.8
"""Seconds within which an agent that cannot work has said so."""
PERIOD = 1.0
"""Seconds between two looks of the live table."""
LOGS = HUB_LOG, AGENT_LOG = "hub.log", "agent.log"


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` was asked for."""

    interface: tuple[str, ...]
    exclude: tuple[str, ...]
    read: tuple[str, ...]
    filter: str | None
    node: str | None
    speed: str | None
    store: str | None
    agents: str
    api: str
    retain_days: int | None
    log_level: str
    token_file: str | None

    @property
    def state(self) -> Path:
        """The folder of the logs, and of the store where none is named."""
        base = os.environ.get("XDG_STATE_HOME")
        return Path(base) / "nodetap" if base else Path(".nodetap").absolute()

    @property
    def store_url(self) -> str:
        """The store for the hub: a URL, or a folder for the embedded one."""
        if self.store is None:
            return f"chdb://{self.state / 'store'}"
        return self.store if "://" in self.store else f"chdb://{Path(self.store).absolute()}"

    def hub(self) -> list[str]:
        """The hub's command line."""
        retain = [] if self.retain_days is None else ["--retain-days", str(self.retain_days)]
        listeners = ["--agents", self.agents, "--api", self.api]
        return [program("nodetap-hub"), "serve", *listeners, "--store", self.store_url, *retain]

    def agent(self) -> list[str]:
        """The agent's command line: a live capture, or the replay of files."""
        hub = ["--hub", f"ws://{self.agents}"]
        named = ["--l7", "fast", *_repeat("--node", self.node), *_repeat("--filter", self.filter)]
        if self.read:
            speed = _repeat("--speed", self.speed)
            return [program("nodetap-agent"), "replay", *hub, *named, *speed, "--", *self.read]
        chosen = [*_repeat("--interface", *(self.interface or ("*",))), *_repeat("--exclude", *self.exclude)]
        return [program("nodetap-agent"), "run", *hub, *named, *chosen]


def _repeat(name: str, *values: str | None) -> list[str]:
    return [part for value in values if value is not None for part in (name, value)]


@click.command(epilog="Examples: nodetap up --interface 'eth*'    nodetap up --read file.pcap")
@options.option("--interface", multiple=True, metavar="GLOB", help="Interfaces to capture on.  [all]")
@options.option("--exclude", multiple=True, metavar="GLOB", help="Interfaces to leave out.")
@options.option("--read", multiple=True, metavar="FILE", help="Replay this capture instead, - is stdin.")
@options.option("--filter", metavar="BPF", help="Capture only what this filter of libpcap lets pass.")
@options.option("--node", metavar="NAME", help="Name of this machine.  [its host name]")
@options.option("--speed", metavar="max|original|N", help="How fast files are replayed.")
@options.option(
    "--store", metavar="DIR", help="Where rows are kept.  [$XDG_STATE_HOME/nodetap/store or .nodetap/store]"
)
@options.option("--agents", default="127.0.0.1:8470", show_default=True, metavar="ADDR", help="Listener for agents.")
@options.option("--api", default="127.0.0.1:8480", show_default=True, metavar="ADDR", help="Listener for questions.")
@options.option("--retain-days", type=click.IntRange(min=1), metavar="N", help="Days that rows are kept.")
@click.pass_context
def up(ctx: click.Context, /, **given: Any) -> int:
    """Run a hub and an agent on this machine.

    Shows packets, flows and agents until Ctrl-C, then drains and prints the ledger. With --read and no terminal it
    ends as soon as all is stored.
    """
    shared = ctx.find_root().obj
    plan = Plan(**given, log_level=shared["log_level"], token_file=only(ctx, "token_file"))
    if plan.read and (plan.interface or plan.exclude):
        raise CliError("up reads files or captures: give --read or --interface, not both", USAGE)
    for file in plan.read:
        if file != "-" and not os.access(file, os.R_OK):
            raise CliError(f"cannot read {file}: check the name and its permissions", USAGE)
    until_ctrl_c()
    return Up(plan).run()


class Up:
    """One call of `up`: two children and a client."""

    def __init__(self, plan: Plan) -> None:
        from hub.cli.client import Client, Settings

        self.plan = plan
        self.client: Client = Client(Settings(f"http://{plan.api}", plan.token_file))
        self.env = {"NODETAP_LOG_LEVEL": "info" if plan.log_level == "warning" else plan.log_level}
        self.env |= {"NODETAP_LOG_FORMAT": "json", "NODETAP_TLS_CERT": "", "NODETAP_TLS_KEY": "", "NODETAP_HUB": ""}
        self.env |= {"NODETAP_TOKEN_FILE": plan.token_file or ""}

    def run(self) -> int:
        """Start, watch, stop; the exit code."""
        _must_be_free(self.plan.agents, "--agents")
        _must_be_free(self.plan.api, "--api")
        _make(self.plan.state)
        with self.client, Child(self.plan.hub(), self.plan.state / HUB_LOG, self.env) as hub:
            try:
                self._wait_ready(hub)
                with Child(self.plan.agent(), self.plan.state / AGENT_LOG, self.env) as agent:
                    return self._watch_and_stop(hub, agent)
            except KeyboardInterrupt:  # before the agent ran, or a second Ctrl-C: stop at once
                return self._stop_hub(hub)

    def _wait_ready(self, hub: Child) -> None:
        """Wait for the hub. Raises CliError where it ends or takes too long."""
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline:
            if hub.code is not None:
                raise CliError(f"the hub ended: {_bare(hub.last_words())} (log: {hub.log})", hub.code or UNREACHABLE)
            with contextlib.suppress(CliError):
                self.client.get("/v1/status")
                return
            time.sleep(0.1)
        raise CliError(f"the hub was not ready within {READY:g} s: see {hub.log}")

    def _watch_and_stop(self, hub: Child, agent: Child) -> int:
        """The main part. A second Ctrl-C while draining ends the agent at once."""
        with contextlib.suppress(KeyboardInterrupt):
            self._watch(hub, agent)
        if hub.code is not None:
            raise CliError(f"the hub ended with {hub.code}: {_bare(hub.last_words())} (log: {hub.log})")
        if agent.code is None:
            click.echo(
                "draining: what was captured is sent and acknowledged first (Ctrl-C again cuts it short)", err=True
            )
            agent.terminate()
            if agent.wait(DRAIN) is None:
                click.echo(f"the agent did not stop within {DRAIN:g} s: see {agent.log}", err=True)
                agent.kill()
        code = self._judge(agent)
        balanced = self._print_ledger(agent.code == 0)
        self._stop_hub(hub)
        return code or (0 if balanced else NEGATIVE)

    def _watch(self, hub: Child, agent: Child) -> None:
        """Look on until Ctrl-C, or until the files are stored and nobody is there to ask about them."""
        stay = sys.stdout.isatty()
        if agent.wait(STARTS) == USAGE:
            return
        click.echo(f"hub at {self.client.url}, store {self.plan.store_url}, logs in {self.plan.state}", err=True)
        with _display(self) as show:
            while hub.code is None:
                if agent.code is not None and not (self.plan.read and agent.code == 0 and stay):
                    return
                show(agent)
                agent.wait(PERIOD) if agent.code is None else time.sleep(PERIOD)

    def _judge(self, agent: Child) -> int:
        """The exit code that the agent's end asks for. Raises CliError where it never could work."""
        if agent.code == USAGE:
            hint = "" if self.plan.read else " (`nodetap up --read file.pcap`, `make up READ=file.pcap`)"
            raise CliError(_bare(agent.last_words()) + hint, USAGE)
        if agent.code:
            click.echo(f"nodetap: the agent ended with {agent.code}: {agent.last_words()} (log: {agent.log})", err=True)
            return NEGATIVE if agent.code == NEGATIVE else UNREACHABLE
        return 0

    def _print_ledger(self, stored: bool) -> bool:
        books = self.client.get("/v1/ledger")
        if self.plan.read and stored:
            note(f"stored {', '.join(self.plan.read)} in {self.plan.store_url}; `nodetap packets --since all` shows it")
        print_books(books)
        return bool(books["balanced"])

    def _stop_hub(self, hub: Child) -> int:
        hub.terminate()
        if hub.wait(CLOSE) is None:
            click.echo(f"the hub did not stop within {CLOSE:g} s and was killed: see {hub.log}", err=True)
            return UNREACHABLE
        return 0


def _bare(line: str) -> str:
    """An error line of a child without its name in front: ours is put there again."""
    for prefix in (
        "nodetap-agent run: ",
        "nodetap-agent replay: ",
        "nodetap-agent: ",
        "nodetap-hub serve: ",
        "nodetap-hub: ",
    ):
        line = line.removeprefix(prefix)
    return line


def _must_be_free(address: str, name: str) -> None:
    """Raise CliError (usage) where somebody listens on `HOST:PORT` already."""
    try:
        host, port = host_port(address)
        host.encode("idna")
    except ValueError:
        host, port = "", 0
    if not port:
        raise CliError(f"{name} {address!r} is no address: write HOST:PORT", USAGE)
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        raise CliError(
            f"{address} is taken: a hub runs here already? Ask it with `nodetap agents`, or choose another {name}",
            USAGE,
        )


def _make(state: Path) -> None:
    """Make the folder of the logs. Raises CliError where nothing can be written there."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        for log in LOGS:
            (state / log).open("ab").close()
    except OSError as error:
        raise CliError(
            f"cannot write to {state}: {error.strerror or error}; set XDG_STATE_HOME to a folder of yours", NEGATIVE
        ) from None


@contextlib.contextmanager
def _display(up: Up) -> Iterator[Any]:
    """What shows the state: a live table on a terminal, nothing elsewhere."""
    if not moving():
        yield lambda agent: None
        return
    from rich.live import Live

    from hub.cli.dashboard import Dashboard

    dashboard = Dashboard(up.client.url, replay=bool(up.plan.read))
    with Live(auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:

        def show(agent: Child) -> None:
            try:
                seen = dashboard.look(up.client, time.monotonic(), agent.code, live.console.width)
            except HubLost as error:
                seen = str(error)
            live.update(seen, refresh=True)

        yield show
