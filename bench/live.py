#!/usr/bin/env python3
"""Measure the live agent against trafgen at full speed. Needs root, two cores, trafgen and ip.

    bench/live.py [--seconds 30] [--idle 30] [--payload BYTES] [--rate N] [--write] [-- AGENT OPTIONS]

Two network namespaces joined by a veth pair: trafgen sends on one core; the agent captures on the other end, on the
other core, and streams to a real hub with the embedded store, which runs on what is left of both. Everything is
bounded, and removed at the end. `--write` puts the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "live")]

from netns import Netns, pair  # noqa: E402
from procs import Agent, Hub, ending, until  # noqa: E402

from bench.table import Figure, machine, table, write_page  # noqa: E402
from bench.usage import cpu_of  # noqa: E402

MARKS = ("<!-- live: begin -->", "<!-- live: end -->")
SENDER, RECEIVER = 0, 1  # cores; trafgen's only child binds itself to the first
FIRST, LAST = -19, 19
"""Priorities: of the agent and trafgen, as if each had its core to itself; of the hub, which takes what is left."""
DRAIN = 120
"""Seconds for which the agent may take its time to send what the hub was too slow for."""
FLOWS = 512


def rss_anon(pid: int) -> int:
    """Anonymous memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise OSError(f"process {pid} has no RssAnon")


@dataclass
class Watch:
    """CPU and memory of a process over a time."""

    pid: int
    seconds: float = 0.0
    cpu: float = 0.0
    rss: list[int] = field(default_factory=list)

    def over(self, seconds: float, pause: float = 0.5) -> Watch:
        """Look for so long."""
        begin, before = time.monotonic(), cpu_of(self.pid)
        while time.monotonic() < begin + seconds:
            time.sleep(pause)
            self.rss.append(rss_anon(self.pid))
        self.seconds, self.cpu = time.monotonic() - begin, cpu_of(self.pid) - before
        return self

    @property
    def growth(self) -> int:
        """By how many bytes the last third's least is above the second's: rows come and go, a leak stays."""
        third = len(self.rss) // 3
        return min(self.rss[-third:]) - min(self.rss[third : 2 * third])


def frame(number: int, payload: int) -> bytes:
    """One of FLOWS frames: in turn UDP and TCP, IPv4, `payload` bytes."""
    tcp = number % 2
    body = bytes(payload)
    ports = struct.pack("!HH", 10_000 + number, 8000 + number % 7)
    if tcp:
        segment = ports + struct.pack("!IIBBHHH", number * 1000, 7, 0x50, 0x10, 512, 0, 0) + body
    else:
        segment = ports + struct.pack("!HH", 8 + payload, 0) + body
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), number, 0, 64, 6 if tcp else 17, 0,
        socket.inet_aton(f"10.99.1.{number % 200 + 1}"), socket.inet_aton("10.99.2.1"),
    )  # fmt: skip
    return bytes.fromhex("02000000000202000000000a0800") + head + segment


def configuration(folder: Path, payload: int) -> Path:
    """What trafgen shall send, in turn."""
    path = folder / "frames.cfg"
    frames = (", ".join(f"0x{byte:02x}" for byte in frame(number, payload)) for number in range(FLOWS))
    path.write_text("".join(f"{{ {text} }}\n" for text in frames))
    return path


@contextlib.contextmanager
def trafgen(netns: Netns, config: Path, rate: int = 0) -> Iterator[None]:
    """Send from a namespace, on one core: `rate` packets a second, at full speed without."""
    command = ["trafgen", "--dev", netns.device, "--conf", str(config), "--cpus", "1", "--no-cpu-stats"]
    command += ["--rate", f"{rate}pps"] if rate else []
    log = (config.parent / "trafgen.log").open("wb")
    process = subprocess.Popen(netns.command(*command), stdout=log, stderr=log, start_new_session=True)
    os.setpriority(os.PRIO_PROCESS, process.pid, FIRST)  # before it forks
    prefer_session(process.pid, FIRST)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def link_counter(netns: Netns, name: str) -> int:
    """A counter of a namespace's device, e.g. `rx.packets`."""
    (found,) = json.loads(netns.run("ip", "-s", "-j", "link", "show", "dev", netns.device))
    value: Any = found["stats64"]
    for part in name.split("."):
        value = value[part]
    return int(value)


def arrange(pid: int, priority: int, cores: set[int]) -> None:
    """Priority and cores of all threads of a process."""
    for thread in map(int, os.listdir(f"/proc/{pid}/task")):
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, thread, priority)
            os.sched_setaffinity(thread, cores)


def prefer_session(pid: int | str, priority: int) -> None:
    """Where the kernel shares time among sessions first (sched(7), autogroup): the priority of a process's session."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(priority))


def streaming(agent: Agent) -> bool:
    """Whether the agent streams; the program ends where the agent has."""
    if agent.popen.poll() is not None:
        sys.exit(f"the agent ended:\n{agent.text}")
    return agent.state == "streaming"


def books_of(hub: Hub) -> dict[str, Any]:
    """The books of the only agent."""
    found: dict[str, Any] = hub.ledger()["agents"][0]
    return found


def measure(given: argparse.Namespace, folder: Path) -> list[Figure]:
    """One run: idle, then under load."""
    config = configuration(folder, given.payload)
    with pair() as (left, right), right.entered():
        hub = Hub(folder).ready()
        agent = Agent(
            folder,
            "run",
            "--hub",
            hub.ws,
            "--interface",
            right.device,
            "--node",
            "bench",
            "--drain-timeout",
            str(DRAIN),
            *given.agent,
        )
        with ending(hub, agent):
            pid = agent.popen.pid
            until("streaming", lambda: streaming(agent))
            arrange(pid, FIRST, {RECEIVER})
            arrange(hub.popen.pid, LAST, {SENDER, RECEIVER})
            idle = Watch(pid).over(given.idle) if given.idle else None
            before = link_counter(right, "rx.packets")
            load = Watch(pid)
            with trafgen(left, config, given.rate):
                load.over(given.seconds)
            until("all is read", lambda: agent.metric("nodetap_agent_captured_packets_total")
                  + agent.metric("nodetap_agent_kernel_dropped_packets_total")
                  >= link_counter(right, "rx.packets") - before)  # fmt: skip
            sent = link_counter(left, "tx.packets")
            received = link_counter(right, "rx.packets") - before
            outbox = agent.metric("nodetap_agent_buffer_bytes")
            prefer_session("self", 0)
            arrange(hub.popen.pid, 0, {SENDER, RECEIVER})
            agent.send(signal.SIGTERM)
            code = agent.wait(DRAIN + 10)
            books = books_of(hub)
    return figures(given, idle, load, sent, received, outbox, books, code)


def figures(
    given: argparse.Namespace, idle: Watch | None, load: Watch, sent: int, received: int, outbox: float,
    books: dict[str, Any], code: int,
) -> list[Figure]:  # fmt: skip
    """The table."""
    captured, dropped = books["captured"], books["kernel_dropped"]
    per_million = load.cpu / captured * 1e6
    peak = max(load.rss)
    found = [
        Figure(f"sent by trafgen in {given.seconds:.0f} s", f"{sent:,} ({sent / load.seconds:,.0f} a second)"),
        Figure("received by the device", f"{received:,}"),
        Figure("captured", f"{captured:,}", "all received", captured == received),
        Figure("dropped by the kernel", f"{dropped:,}", "0", dropped == 0),
        Figure("agent CPU, seconds per million packets", f"{per_million:.2f}", "≤ 1.0", per_million <= 1.0),
        Figure("agent CPU, share of its core", f"{load.cpu / load.seconds:.0%}"),
        Figure("RssAnon, largest", f"{peak / 1e6:.0f} MB", "< 150 MB", peak < 150e6),
        Figure("RssAnon, growth over the last two thirds", f"{load.growth / 1e6:+.1f} MB", "flat", load.growth < 5e6),
        Figure("outbox at the end of the load", f"{outbox / 1e6:.0f} MB"),
        Figure("packets with a row / in flows only", f"{books['row']:,} / {books['flow_only']:,}"),
        Figure("lost", json.dumps(books["lost"])),
        Figure("ledger", "balanced" if books["balanced"] else "not balanced", "balanced", books["balanced"]),
        Figure("exit code", str(code)),
    ]
    if idle is not None:
        share, rss = idle.cpu / idle.seconds, max(idle.rss)
        found += [
            Figure(f"idle for {given.idle:.0f} s: CPU", f"{share:.2%}", "< 1 %", share < 0.01),
            Figure("idle: RssAnon", f"{rss / 1e6:.0f} MB", "< 90 MB", rss < 90e6),
        ]
    return found


def main() -> int:
    """Measure, print, write where asked; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description="measure the live agent against trafgen")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds without any; 0 = not measured")
    parser.add_argument("--payload", type=int, default=18, help="bytes in each packet behind the UDP or TCP header")
    parser.add_argument("--rate", type=int, default=0, help="packets a second; 0 = as many as go")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md")
    parser.add_argument("agent", nargs="*", help="options for nodetap-agent run, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nodetap-live-") as folder:
        prefer_session("self", FIRST)
        try:
            found = measure(given, Path(folder))
        finally:
            prefer_session("self", 0)
    length = len(frame(0, given.payload))
    options = f", agent options `{' '.join(given.agent)}`" if given.agent else ""
    text = f"{machine()}, frames of {length} and {length + 12} bytes, {FLOWS} flows{options}\n\n{table(found)}"
    print(text)
    if given.write:
        write_page(text, MARKS)
    return 1 if any(figure.met is False for figure in found) else 0


if __name__ == "__main__":
    sys.exit(main())
