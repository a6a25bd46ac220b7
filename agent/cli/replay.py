"""`nodetap-agent replay`: send capture files to a hub, each frame once."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from agent.cli import CannotStart
from agent.cli.link_options import Credentials, check_hubs, link_options, metrics_option, run_to_end


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--speed",
    default="max",
    show_default=True,
    envvar="NODETAP_SPEED",
    help="max, original (as captured), or packets per second.",
)
@click.option(
    "--connect-timeout",
    type=click.FloatRange(0.1),
    default=60.0,
    show_default=True,
    envvar="NODETAP_CONNECT_TIMEOUT",
    help="Seconds without any progress after which to give up.",
)
@metrics_option(None)
@link_options
def replay(files: tuple[str, ...], speed: str, connect_timeout: float, hubs: tuple[str, ...], **options: Any) -> None:
    """Send the frames of capture files (pcap, pcapng, gzip; - for standard input) to a hub.

    Exits 0 once everything is acknowledged, 3 after --connect-timeout without progress or five seconds after a signal,
    1 when a file is damaged. A file that is cut short gives its whole frames; a line says so.
    """
    check_hubs(hubs, options["insecure"])
    credentials = Credentials(hubs, options["token_file"], options["tls_ca"], options["insecure"])
    from agent.assemble import pipeline_of
    from agent.capture import CaptureError
    from agent.capture.file import FileSource
    from agent.capture.paced import paced
    from agent.daemon import Agent, AgentConfig
    from agent.uplink.link import LinkConfig
    from protocol.logs import logger

    try:
        source = FileSource(files, bpf=options["bpf"])
        source.open()
        frames = paced(source, speed)
    except (CaptureError, ValueError) as error:
        raise CannotStart(str(error)) from None
    epoch = secrets.randbits(64)
    node = options["node"]
    name = f"{node}/replay-{epoch:016x}"
    link = LinkConfig(
        hubs=hubs, agent=name, node=node, epoch=epoch, source="replay", credentials=credentials,
        stall_timeout=options["stall_timeout"], echo_interval=options["echo_interval"],
        backoff_max=options["backoff_max"], drain_timeout=None, progress_timeout=connect_timeout,
    )  # fmt: skip
    log = logger(program="nodetap-agent", agent=name, epoch=f"{epoch:016x}")
    with _progress(source) as on_beat:
        config = AgentConfig(link, options["buffer_bytes"], options["metrics"], on_beat=on_beat)
        pipeline = pipeline_of(frames, name, epoch, log, l7=options["l7"], keep_query=options["url_query"] == "keep")
        agent = Agent(config, frames, pipeline, None, log)
        code = run_to_end(agent)
    sys.exit(_finish(agent, code, source))


def _finish(agent: Any, code: int, source: Any) -> int:
    captured = agent.pipeline.report.captured
    if code == 3:
        left, reason = agent.outbox.pending_packets, agent.uplink.view.last_error
        click.echo(
            f"nodetap-agent: gave up with {left} of the {captured} packets read not acknowledged"
            f" (cannot go on: {reason}); the acknowledged ones are stored",
            err=True,
        )
    elif code == 0:
        click.echo(f"{captured} packets stored as {agent.config.link.agent}", err=True)
    for said in filter(None, (agent.worker.error, source.truncated)):
        click.echo(f"nodetap-agent: {said}", err=True)
    return code


@contextlib.contextmanager
def _progress(source: Any) -> Iterator[Callable[[], None] | None]:
    """A bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=None)

        def on_beat() -> None:
            read, total = source.progress()
            bar.update(task, completed=read, total=total)

        yield on_beat
