"""`nodetap-agent run`: capture live and stream to a hub until told to stop."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from agent.cli import CannotStart
from agent.cli.link_options import (
    Credentials,
    check_hubs,
    hub_endpoints,
    link_options,
    metrics_option,
    run_to_end,
)


@click.command()
@click.option(
    "--interface",
    "interfaces",
    multiple=True,
    envvar="NODETAP_INTERFACE",
    help="Interfaces to capture on, names or globs; repeat or separate by commas. All that are up by default.",
)
@click.option("--exclude", multiple=True, envvar="NODETAP_EXCLUDE", help="Interfaces to leave out, names or globs.")
@click.option(
    "--source",
    "kind",
    type=click.Choice(["ring", "scapy"]),
    default="ring",
    show_default=True,
    envvar="NODETAP_SOURCE",
    help="The kernel's ring (Linux), or scapy's sockets (elsewhere; slow).",
)
@click.option(
    "--snaplen",
    type=click.IntRange(64, 262144),
    default=262144,
    show_default=True,
    envvar="NODETAP_SNAPLEN",
    help="Bytes of each frame that are looked at.",
)
@click.option(
    "--ring-bytes",
    type=click.IntRange(1 << 20),
    default=64 << 20,
    show_default=True,
    envvar="NODETAP_RING_BYTES",
    help="Size of the kernel's ring.",
)
@click.option(
    "--capture-workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    envvar="NODETAP_CAPTURE_WORKERS",
    help="Processes that share the packets, each an agent of its own: NODE/w1, NODE/w2, ... with a ring of its own.",
)
@click.option("--promisc", is_flag=True, envvar="NODETAP_PROMISC", help="Take frames for other machines too.")
@click.option(
    "--include-self",
    is_flag=True,
    envvar="NODETAP_INCLUDE_SELF",
    help="Capture the agent's own traffic with the hub as well.",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(0.1, 3600),
    default=20.0,
    show_default=True,
    envvar="NODETAP_DRAIN_TIMEOUT",
    help="Seconds that a stop may take.",
)
@click.option(
    "--spool",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    envvar="NODETAP_SPOOL",
    help="Folder on disk for what the hub has not acknowledged: a restart does not lose it. None by default.",
)
@click.option(
    "--spool-bytes",
    type=click.IntRange(1 << 20),
    default=1 << 30,
    show_default=True,
    envvar="NODETAP_SPOOL_BYTES",
    help="Bound of the spool; of each capture worker's, where there are several.",
)
@click.option(
    "--recorder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    envvar="NODETAP_RECORDER",
    help="Folder on disk for raw frames, payload and all, for `nodetap pcap`. None by default: payload is sensitive.",
)
@click.option(
    "--recorder-bytes",
    type=click.IntRange(1 << 20),
    default=1 << 30,
    show_default=True,
    envvar="NODETAP_RECORDER_BYTES",
    help="Bound of the recorder: the oldest frames go; of each capture worker's, where there are several.",
)
@click.option(
    "--allow-capture",
    is_flag=True,
    envvar="NODETAP_ALLOW_CAPTURE",
    help="Give raw frames to `nodetap capture` while they are captured; with --recorder that is allowed anyway.",
)
@metrics_option("127.0.0.1:9470")
@link_options
@click.pass_context
def run(
    ctx: click.Context,
    /,
    interfaces: tuple[str, ...],
    exclude: tuple[str, ...],
    kind: str,
    hubs: tuple[str, ...],
    **options: Any,
) -> None:
    """Capture on this machine's interfaces and stream summaries to a hub.

    Needs the right to capture: root, or CAP_NET_RAW. Exits 0 after SIGTERM once everything captured is stored, 3 with
    packets left at the drain deadline (what is in the spool is sent at the next start), 1 when the capture failed, 2
    when it cannot start.
    """
    check_hubs(hubs, options["insecure"])
    options["worker"] = _worker(kind, options)
    credentials = Credentials(hubs, options["token_file"], options["tls_ca"], options["insecure"])
    node, worker = options["node"], options["worker"]
    name = f"{node}/w{worker}" if worker else node
    spool, recorder = _spool(options["spool"], name), _recorder(options["recorder"], name)
    source = _source(kind, _split(interfaces) or ["*"], _split(exclude), options)
    from agent.assemble import look_of, pipeline_of
    from agent.capture import CaptureError
    from agent.capture.own import OwnTraffic
    from agent.daemon import Agent, AgentConfig
    from agent.uplink.link import LinkConfig
    from agent.warm import warm_up
    from protocol.logs import logger

    epoch = secrets.randbits(64)
    link = LinkConfig(
        hubs=hubs, agent=name, node=node, epoch=epoch, credentials=credentials,
        stall_timeout=options["stall_timeout"], echo_interval=options["echo_interval"],
        backoff_max=options["backoff_max"], drain_timeout=options["drain_timeout"],
    )  # fmt: skip
    log = logger(program="nodetap-agent", agent=name, epoch=f"{epoch:016x}")
    warm_up(options["l7"], log)
    try:
        source.open()  # last: from here on packets wait in the ring
    except CaptureError as error:
        raise CannotStart(str(error)) from None
    names = [interface.name for interface in source.interfaces]
    log.info("capturing", interfaces=names, filter=options["bpf"] or "", hubs=list(hubs))
    source.on_change = lambda came, went: log.info("interfaces", came=came, went=went)
    own = None if options["include_self"] else OwnTraffic(source.interfaces, hub_endpoints(hubs))
    keep_query = options["url_query"] == "keep"
    asked_for = ctx.get_parameter_source("metrics") is not ParameterSource.DEFAULT
    config = AgentConfig(
        link, options["buffer_bytes"], options["metrics"], metrics_must=asked_for,
        spool=spool, spool_bytes=options["spool_bytes"],
        recorder=recorder, recorder_bytes=options["recorder_bytes"], allow_capture=options["allow_capture"],
        settings={"filter": options["bpf"] or "", "detail": "packets", "l7": options["l7"]},
        make_engine=lambda mode: look_of(source, log, mode, keep_query),
    )  # fmt: skip
    pipeline = pipeline_of(source, name, epoch, log, l7=options["l7"], keep_query=keep_query)
    agent = Agent(config, source, pipeline, own, log)
    code = run_to_end(agent)
    left = {"left_packets": agent.outbox.pending_packets, "spooled_packets": agent.outbox.spooled_packets}
    log.info("stopped", code=code, **left, ledger=agent.pipeline.report.to_map())
    if agent.worker.error:
        click.echo(f"nodetap-agent: {agent.worker.error}", err=True)
    sys.exit(code)


def _worker(kind: str, options: dict[str, Any]) -> int:
    """Where several processes capture, the number of this one, whose metrics get a port of their own; else 0."""
    if options["capture_workers"] == 1:
        return 0
    if kind != "ring":
        raise click.UsageError("--capture-workers needs --source ring")
    from agent.capture_workers import fork_workers

    options["fanout"] = os.getpid() & 0xFFFF
    number = fork_workers(options["capture_workers"])
    if options["metrics"]:
        host, port = options["metrics"]
        options["metrics"] = host, port + number - 1 if port else 0
    return number


def _spool(root: Path | None, agent: str) -> Any:
    """The agent's folder for its spool, locked; not yet where the disk does not let us, which is tried again."""
    if root is None:
        return None
    from agent.spool.folder import Folder

    return _locked(Folder(root, agent))


def _recorder(root: Path | None, agent: str) -> Any:
    """The same for its recorder."""
    if root is None:
        return None
    from agent.recorder.folder import RecorderFolder

    return _locked(RecorderFolder(root, agent))


def _locked(folder: Any) -> Any:
    from agent.spool.folder import Locked

    with contextlib.suppress(OSError):
        try:
            folder.open()
        except Locked as error:
            raise CannotStart(str(error)) from None
    return folder


def _split(values: tuple[str, ...]) -> list[str]:
    return [part for value in values for part in value.replace(",", " ").split()]


def _source(kind: str, include: list[str], exclude: list[str], options: dict[str, Any]) -> Any:
    from agent.capture import CaptureError

    try:
        if kind == "ring":
            from agent.capture.ring import RingSource

            return RingSource(
                include, exclude, bpf=options["bpf"], snaplen=options["snaplen"],
                ring_bytes=options["ring_bytes"], promisc=options["promisc"], fanout=options.get("fanout"),
            )  # fmt: skip
        from agent.capture.interfaces import choose
        from agent.capture.scapy_socket import ScapySource

        return ScapySource([found.name for found in choose(None, include, exclude)], options["bpf"])
    except CaptureError as error:
        raise CannotStart(str(error)) from None
