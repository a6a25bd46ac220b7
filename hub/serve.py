"""The program `nodetap-hub`: wires store, ingest and API by hand, runs them in one loop, stops them in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, monotonic_ns, time_ns
from typing import Any

import click

import protocol
from hub.credentials import Credentials
from hub.k8s import options as kubernetes
from hub.store.retention import Keep
from hub.tokens import tokens_of
from protocol import memory
from protocol.logs import FORMATS, LEVELS, configure, logger
from protocol.options import host_port, is_loopback, misused

COMMIT_DEADLINE = 30.0
"""Seconds a commit may take before the hub calls itself not ready; after three of them it ends itself."""
DRAIN_TIMEOUT = 15.0
ROLL_INTERVAL = 60.0
RETAIN_INTERVAL = 600.0
RENEW_INTERVAL = 5.0
"""Seconds between two looks at the files of token and certificate."""
BEAT = 0.25
COLLECT = 20_000
"""New objects after which Python looks for cycles (of 700): a commit of a thousand small batches has 60,000 objects."""


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What `nodetap-hub serve` was told."""

    agents: tuple[str, int]
    api: tuple[str, int]
    store: str
    credentials: Credentials
    keep: Keep
    commit_deadline: float = COMMIT_DEADLINE
    advertise: str = ""
    limits: dict[str, Any] = field(default_factory=dict)
    """Of `hub.api.context.Limits`, by name."""
    kubernetes: dict[str, Any] = field(default_factory=dict)
    """Of `hub.k8s.options`."""


def _address(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, int]:
    try:
        return host_port(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _url(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value and not value.startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r} is no URL: write http://HOST:8480")
    return value.rstrip("/") if value else None


def _advertised(api: tuple[str, int], tls: bool) -> str:
    """Where others reach the API: for one that listens everywhere by the address of this host's name."""
    host, port = api
    if host in ("0.0.0.0", "::"):
        try:
            host = socket.gethostbyname(socket.gethostname())
        except OSError:
            host = socket.gethostname()
    return f"http{'s' * tls}://{f'[{host}]' if ':' in host else host}:{port}"


class _OneLine(click.Group):
    """A group whose usage errors are one line on stderr that says what to do."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's."""
        try:
            return super().main(*args, **{"prog_name": "nodetap-hub", **extra, "standalone_mode": False})
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.UsageError as error:
            click.echo(misused(error, "nodetap-hub"), err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(130)


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(protocol.VERSION, prog_name="nodetap-hub")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, envvar="NODETAP_LOG_LEVEL")
@click.option(
    "--log-format", type=click.Choice(FORMATS), default="auto", show_default=True, envvar="NODETAP_LOG_FORMAT"
)
def main(log_level: str, log_format: str) -> None:
    """Take packet summaries from agents, store them, answer questions."""
    configure(log_level, log_format)


@main.command()
@click.option(
    "--agents",
    default="127.0.0.1:8470",
    show_default=True,
    callback=_address,
    envvar="NODETAP_AGENTS",
    help="Where agents connect (WebSocket).",
)
@click.option(
    "--api",
    default="127.0.0.1:8480",
    show_default=True,
    callback=_address,
    envvar="NODETAP_API",
    help="Where people ask (HTTP API, /metrics, /healthz, /readyz).",
)
@click.option("--advertise-api", metavar="URL", envvar="NODETAP_ADVERTISE_API", callback=_url,
              help="Where other hubs over the same store reach this one's API.  [--api]")  # fmt: skip
@click.option("--store", required=True, envvar="NODETAP_STORE",
              help="chdb:///DIR, the embedded store in that folder; or "
              "clickhouse://USER[:PASSWORD]@HOST[,HOST]/DATABASE?cluster=NAME, which several hubs may share "
              "(options: cluster, quorum, password_file, timeout, ca).")  # fmt: skip
@click.option(
    "--token-file",
    envvar="NODETAP_TOKEN_FILE",
    help="File with the token that agents and people must show, or with lines ROLE TOKEN [NAME].",
)
@click.option("--tls-cert", envvar="NODETAP_TLS_CERT", help="Certificate chain (PEM) of both listeners.")
@click.option("--tls-key", envvar="NODETAP_TLS_KEY", help="Its private key (PEM).")
@click.option(
    "--retain-days",
    type=click.IntRange(1),
    default=7,
    show_default=True,
    envvar="NODETAP_RETAIN_DAYS",
    help="Days after which rows are dropped, by the day they were stored.",
)
@click.option(
    "--retain-bytes",
    type=click.IntRange(1),
    envvar="NODETAP_RETAIN_BYTES",
    help="Size of the store above which the oldest rows are dropped.",
)
@click.option("--retain-rollups", type=click.IntRange(1), default=400, show_default=True,
              envvar="NODETAP_RETAIN_ROLLUPS",
              help="Days that sums of flows and calls by hour and day are kept; "
                   "by minute 30, or as long as rows.")  # fmt: skip
@click.option("--answer-rows", type=click.IntRange(1), default=100_000_000, show_default=True,
              envvar="NODETAP_ANSWER_ROWS", help="Rows of one answer; it says when they were cut.")  # fmt: skip
@click.option("--answer-bytes", type=click.IntRange(1), default=1 << 37, show_default=True,
              envvar="NODETAP_ANSWER_BYTES", help="Bytes of one answer; it says when they were cut.")  # fmt: skip
@click.option("--answer-seconds", type=click.FloatRange(1), default=300.0, show_default=True,
              envvar="NODETAP_ANSWER_SECONDS", help="Seconds that one answer may take.")  # fmt: skip
@click.option("--client-rate", type=click.FloatRange(0.1), default=50.0, show_default=True,
              envvar="NODETAP_CLIENT_RATE", help="Requests a second that each client may make.")  # fmt: skip
@kubernetes.kubernetes_options
@click.option("--commit-deadline", type=float, default=COMMIT_DEADLINE, envvar="NODETAP_COMMIT_DEADLINE", hidden=True)
@click.option("--insecure", is_flag=True, envvar="NODETAP_INSECURE",
              help="Listen beyond loopback without a token or without TLS.")  # fmt: skip
def serve(
    agents: tuple[str, int],
    api: tuple[str, int],
    advertise_api: str | None,
    store: str,
    token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    retain_days: int,
    retain_bytes: int | None,
    retain_rollups: int,
    answer_rows: int,
    answer_bytes: int,
    answer_seconds: float,
    client_rate: float,
    commit_deadline: float,
    insecure: bool,
    **given: Any,
) -> None:
    """Run the hub until SIGTERM or Ctrl-C."""
    kubernetes.check(given)
    credentials = Credentials(token_file, tls_cert, tls_key)
    exposed = [host for host, _ in (agents, api) if not is_loopback(host)]
    if exposed and not insecure and (credentials.token is None or credentials.tls is None):
        raise click.UsageError(
            f"listening on {exposed[0]} needs --token-file, --tls-cert and --tls-key (or --insecure, on a trusted net)"
        )
    limits = {"rows": answer_rows, "bytes": answer_bytes, "timeout": answer_seconds, "rate": client_rate}
    keep = Keep(retain_days, retain_bytes, retain_rollups)
    advertise = advertise_api or _advertised(api, credentials.tls is not None)
    config = ServeConfig(agents, api, store, credentials, keep, commit_deadline, advertise, limits, given)
    gc.set_threshold(COLLECT)
    sys.exit(asyncio.run(Hub(config).run()))


class Hub:
    """One hub process."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.log = logger(program="nodetap-hub")
        self.stopping = asyncio.Event()
        self.beat = monotonic()

    async def run(self) -> int:
        """Serve until told to stop. The exit code."""
        from hub.store.errors import StoreError
        from hub.store.opening import store_of

        config = self.config
        try:
            store = store_of(config.store, config.keep, api=config.advertise)
            await asyncio.to_thread(store.open, time_ns())
        except StoreError as error:
            click.echo(f"nodetap-hub: {error}", err=True)
            return 2
        try:
            return await self._serve(store)
        except OSError as error:
            click.echo(f"nodetap-hub: {error.strerror or error}; is a hub running already?", err=True)
            return 2
        finally:
            await asyncio.to_thread(store.close)

    async def _serve(self, store: Any) -> int:
        from hub.api.listener import bind
        from hub.ingest.agents import Register
        from hub.ingest.listener import Ingest
        from hub.watchdog import HubWatchdog

        listener = bind(*self.config.api)
        register = Register(store.epochs(), monotonic_ns, store.past())
        register.commit = store.committed()
        api_port = int(listener.getsockname()[1])
        tokens = tokens_of(self.config.credentials.token)
        names = await self._names()
        ingest = Ingest(
            store, register, self.log, tokens=tokens, api_port=api_port,
            names=names, accounts=kubernetes.accounts_of(self.config.kubernetes, self.log),
        )  # fmt: skip
        deadline = self.config.commit_deadline
        watchdog = HubWatchdog(ingest.writer.stuck_for, lambda: monotonic() - self.beat, deadline, self.log)
        ingest.metrics.show(partial(self._gauges, store))
        if names is not None:
            ingest.metrics.show(names.look)
        if store.directory is not None:
            ingest.configurer.open(store.directory / "agents.json")
        else:
            await asyncio.to_thread(ingest.configurer.share, store)
        port = await ingest.start(*self.config.agents, self.config.credentials.tls)
        people = self._people(store, register, ingest, watchdog)
        serving = asyncio.ensure_future(people.serve(sockets=[listener]))
        serving.add_done_callback(lambda _: self.stopping.set())
        watchdog.start()
        self._on_signals()
        self.log.info(
            "hub is up", agents=f"{self.config.agents[0]}:{port}", api="{}:{}".format(*listener.getsockname()[:2]),
            store=str(store), store_id=store.id, commit=store.committed(),
        )  # fmt: skip
        self._warn_of_open_files()
        self._warn_of_kernel()
        keepers = [
            asyncio.ensure_future(it) for it in (self._beat(), self._keep(store, register), self._renew(ingest, people))
        ]
        await self.stopping.wait()
        failed = serving.done()
        if failed:
            self.log.error("the API ended by itself; ending the hub", reason=repr(serving.exception()))
        self.log.info("hub drains")
        for keeper in keepers:
            keeper.cancel()
        await ingest.stop(DRAIN_TIMEOUT)
        if names is not None:
            names.stop()
        watchdog.stop()
        people.should_exit = True
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            await asyncio.wait_for(serving, 5.0)
        self.log.info("hub is down", commit=register.commit)
        return int(failed)

    async def _names(self) -> Any:
        """What names rows, once it knows the cluster, or has had time to; None where Kubernetes is off."""
        names = kubernetes.names_of(self.config.kubernetes, self.log)
        if names is not None:
            names.start()
            if not await asyncio.to_thread(names.listed):
                self.log.warning("does not know the cluster yet: rows are stale until it does")
        return names

    def _people(self, store: Any, register: Any, ingest: Any, watchdog: Any) -> Any:
        from hub.api.app import create_app
        from hub.api.context import Limits
        from hub.api.listener import Crowd, server
        from hub.doctor.facts import facts_of
        from hub.fanout.peers import Peers

        def ready() -> tuple[bool, str]:
            if ingest.draining:
                return False, "draining"
            if ingest.writer.failing:
                return False, ingest.writer.failing
            return (True, "ready") if watchdog.ready else (False, "the writer does not get on")

        def facts() -> dict[str, Any]:
            config = self.config
            return facts_of(store.directory, store, ingest.writer, config.keep.days, config.keep.most)

        app = create_app(
            store, register, tokens=ingest.tokens, ready=ready, metrics=ingest.metrics.text, version=protocol.VERSION,
            limits=Limits(**self.config.limits), asker=ingest.asker, facts=facts, fetcher=ingest.fetcher,
            configurer=ingest.configurer,
            peers=Peers(lambda: register.elsewhere, lambda: self.config.credentials.fingerprint, ingest.fetcher),
        )  # fmt: skip
        crowd = Crowd()
        ingest.metrics.show(lambda: {"nodetap_hub_people_connections": crowd.connections})
        return server(app, self.config.credentials.tls, crowd)

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)

    def _gauges(self, store: Any) -> dict[str, float]:
        """What metrics tell of the store, of its disk, where it is here, and of the certificate."""
        gauges = {"nodetap_hub_rollup_behind_seconds": store.behind(time_ns()) / 1e9}
        ends = self.config.credentials.ends
        if store.directory is not None:
            disk = shutil.disk_usage(store.directory)
            gauges["nodetap_hub_disk_free_bytes"] = float(disk.free)
            gauges["nodetap_hub_disk_size_bytes"] = float(disk.total)
        return gauges | ({"nodetap_hub_certificate_not_after_timestamp_seconds": ends} if ends else {})

    async def _beat(self) -> None:
        """Signs of life for the watchdog."""
        while True:
            self.beat = monotonic()
            await asyncio.sleep(BEAT)

    async def _keep(self, store: Any, register: Any) -> None:
        """Roll up and drop every now and then, one after the other."""
        due = monotonic()
        while True:
            await self._try("rolling up", store.roll)
            if monotonic() >= due:
                due = monotonic() + RETAIN_INTERVAL
                if dropped := await self._try("retention", store.retain):
                    self.log.info("dropped by retention", partitions=dropped)
                register.fold(store.old(time_ns()))
                register.dropped = await self._try("counting what was dropped", lambda _: store.dropped()) or {}
            await asyncio.to_thread(memory.give_back)  # answers and batches of many sizes leave holes
            await asyncio.sleep(ROLL_INTERVAL)

    async def _try(self, what: str, work: Callable[[int], Any]) -> Any:
        try:
            return await asyncio.to_thread(work, time_ns())
        except Exception as error:
            self.log.error(f"{what} failed", reason=str(error))
            return None

    async def _renew(self, ingest: Any, people: Any) -> None:
        """Take a new token and a new certificate when their files change; say once that the certificate ends."""
        told = ""
        while True:
            ending = self.config.credentials.ending(time_ns() / 1e9)
            if ending and ending != told:
                self.log.warning("certificate needs renewal", reason=ending)
            told = ending
            await asyncio.sleep(RENEW_INTERVAL)
            if said := self.config.credentials.look():
                ingest.tokens = people.config.app.state.hub.tokens = tokens_of(self.config.credentials.token)
                self.log.info("credentials changed", said=said)
                self._warn_of_open_files()

    def _warn_of_kernel(self) -> None:
        from protocol import built, compiled

        compiled.load()
        for complaint in built.complaints:
            self.log.warning("slower than need be", reason=complaint)

    def _warn_of_open_files(self) -> None:
        for path in self.config.credentials.open_files():
            self.log.warning("others may read or change this file of secrets: chmod 600 it", file=path)


if __name__ == "__main__":
    main()
