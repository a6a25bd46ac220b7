"""`nodetap capture`: raw frames from all agents as they are captured, into a file or a pipe."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from hub.cli import options
from hub.cli.blocks import Blocks
from hub.cli.client import explain
from hub.cli.completeness import plural
from hub.cli.errors import INCOMPLETE, UNREACHABLE, CliError, HubLost
from hub.cli.flags import combined, flags
from hub.cli.pcap import STDOUT, not_on_a_terminal, sentence, who, why
from hub.cli.session import connect, unbroken, until_ctrl_c
from hub.cli.target import target

if TYPE_CHECKING:
    from hub.cli.client import Client

SILENCE = 10.0
"""Seconds without a word after which the hub is unresponsive; it says something every second."""


@click.command(epilog="Example: nodetap capture tcp.port == 443 and not ip.addr == 10.0.0.7 -w - | wireshark -k -i -")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@flags("packets", raw=True)
@options.option("-w", "--write", "path", default=STDOUT, show_default=True, metavar="FILE",
                help="Where to write it (pcapng); - is stdout.")  # fmt: skip
@options.option("--max-bytes", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                help="End after so many bytes of frames; 0 = never.")  # fmt: skip
@options.option("--max-seconds", type=click.IntRange(min=0), default=0, show_default=True, metavar="S",
                help="End after so many seconds; 0 = never.")  # fmt: skip
@options.limit(0, "End after N frames; 0 = never.")
@options.option("--deadline", type=click.FloatRange(0.1, 60), default=5.0, show_default=True, metavar="S",
                help="Seconds that an agent may say nothing before it is named.")  # fmt: skip
@options.strict
@click.pass_context
def capture(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> int:
    """Capture raw frames from all agents, live.

    FILTER is a display filter with Wireshark's names; its words are joined by spaces. Agents give frames away with
    `nodetap-agent run --allow-capture` or `--recorder DIR`. Ctrl-C ends it; a file is there once it has ended.
    """
    until_ctrl_c()
    params = {
        "filter": combined(words, given, "packets"),
        "limit": given["limit"],
        "bytes": given["max_bytes"],
        "seconds": given["max_seconds"],
        "deadline": f"{given['deadline']:.3f}",
    }
    path = not_on_a_terminal(given["path"])
    with connect(ctx) as client, target(path, private=True) as write:
        recording = Recording(write, News(_tell).heed, None if path else sys.stdout.fileno())
        recording.run(client, params)
    return told(recording, path, bool(given["strict"]))


def told(recording: Recording, path: str | None, strict: bool) -> int:
    """Say how it ended; the exit code. Raises CliError where the hub broke off."""
    if recording.trouble is not None:
        kept = f"; {path} has the {plural(recording.frames, 'frame')} that came before" if path else ""
        raise CliError(f"{recording.trouble}{kept}", recording.trouble.code)
    answer = {"begins": {}, **recording.said, "frames": recording.frames}
    cut = answer["cut"]
    _tell(sentence({**answer, "cut": cut if cut in _BROKEN else None}, "not here") + _ENDS.get(cut or "", ""), "")
    if cut in _BROKEN:
        return UNREACHABLE
    return INCOMPLETE if strict and not answer["complete"] else 0


_BROKEN = ("hub_stopped",)
"""Ends that nobody asked for."""
_ENDS = {"frames": "; ended by --limit", "bytes": "; ended by --max-bytes", "seconds": "; ended by --max-seconds"}


def _tell(line: str, prefix: str = "nodetap: ") -> None:
    click.echo(f"{prefix}{line}", err=True)


class Recording:
    """A live capture on its way into `write`, in whole blocks. `heed` is told what the hub says of it, once a second.

    It also ends where `pipe`, the descriptor of one, has no reader any more: without frames nobody would notice.
    `trouble` is why it broke off, None where it ended as it should: by a bound, or by Ctrl-C.
    """

    def __init__(
        self, write: Callable[[bytes], None], heed: Callable[[Mapping[str, Any]], None], pipe: int | None = None
    ) -> None:
        self.said: dict[str, Any] = {"complete": True, "agents": [], "missing": [], "gaps": [], "cut": None}
        self.trouble: CliError | None = None
        self._write, self._heed, self._pipe = write, heed, pipe
        self._blocks = Blocks()
        self._begun = self._over = False

    @property
    def frames(self) -> int:
        """Frames written so far."""
        return self._blocks.frames

    def run(self, client: Client, params: Mapping[str, Any]) -> None:
        """Write until the end. Raises BrokenPipeError, and before the first byte CliError and KeyboardInterrupt."""
        try:
            with client.stream("/v1/capture", params, silence=SILENCE) as (_, chunks):
                for chunk in chunks:
                    with unbroken():
                        self._enter(chunk)
            if not self._over:
                raise HubLost(f"the hub at {client.url} broke off its answer")
            if "code" in self.said:
                raise explain(self.said, str(params.get("filter") or ""), client.url)
        except KeyboardInterrupt:
            if not self._begun:
                raise
        except CliError as error:
            if not self._begun:
                raise
            self.trouble = error

    def _enter(self, chunk: bytes) -> None:
        data, said = self._blocks.feed(chunk)
        if data:
            self._write(data)
            self._begun = True
        for each in said:
            ((kind, self.said),) = each.items()
            self._over = self._over or kind != "nodetap.progress"
            if kind != "nodetap.error":
                self._heed(self.said)
        if said and self._pipe is not None and _unread(self._pipe):
            raise BrokenPipeError


def _unread(pipe: int) -> bool:
    """Whether nobody will ever read what is written to a pipe (poll(2): POLLERR at the end that writes)."""
    poll = select.poll()
    poll.register(pipe, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


class News:
    """Lines about agents that are missing and that take part, as that changes."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._agents: set[str] | None = None
        self._missing: set[str] = set()

    def heed(self, said: Mapping[str, Any]) -> None:
        """The hub said how it goes."""
        agents, missing = set(said["agents"]), {who(each): each for each in said["missing"]}
        first = self._agents is None
        if first and said["waiting"]:
            return  # it has not begun everywhere
        before = agents if self._agents is None else self._agents
        if first:
            self._tell(f"capturing from {plural(len(agents), 'agent')}; Ctrl-C ends it")
        for name in sorted(missing.keys() - self._missing):
            self._tell(f"{name} missing ({why(missing[name])})")
        for name in sorted({who(hub) for hub in said.get("hubs", ())} & self._missing - missing.keys()):
            self._tell(f"{name} is back")
        for name in sorted(agents - before):
            self._tell(f"{name} takes part")
        for name in sorted(before - agents - missing.keys() - set(said["waiting"])):
            self._tell(f"{name} left")
        self._agents, self._missing = agents, set(missing)
