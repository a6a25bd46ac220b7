#!/usr/bin/env python3
"""Measure how old a packet is when `nodetap follow` prints it. Needs root, two cores, tcpreplay and ip.

    bench/follow.py [--seconds 30] [--rate 50000] [--only filter,all] [--write]

Two network namespaces joined by a veth pair: tcpreplay sends at a rate, the agent captures on the other end and streams
to a real hub with the embedded store, and `nodetap follow -o ndjson` prints into a pipe that is read here: once with a
filter that finds few of the packets, once without any. The age of a row is when its line was read, less its
`frame.time_epoch`. `--write` puts the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "live")]

from netns import Netns, pair  # noqa: E402
from numbered import write_pcap  # noqa: E402
from procs import Agent, Hub, ending, environment, program, until  # noqa: E402

from bench.live import books_of, streaming  # noqa: E402
from bench.table import Figure, machine, table, write_page  # noqa: E402
from bench.usage import cpu_of  # noqa: E402

MARKS = ("<!-- follow: begin -->", "<!-- follow: end -->")
FLOWS, ROUND = 512, 51_200
FILTERS = {"filter": ["tcp.srcport", "==", "1100"], "all": []}
"""What is followed: one of FLOWS flows, or everything."""
TARGET = 1.5
"""Seconds, of the 95th percentile."""
SETTLE = 3.0
"""Seconds at the beginning that are not counted: imports, first commits."""
_TIME = re.compile(rb'"frame\.time_epoch":"(\d+\.\d+)"')


class Reader(threading.Thread):
    """Reads what `nodetap follow` prints, and when; ends with it. What it said on stderr is in `log`."""

    def __init__(self, hub: Hub, words: list[str], log: Path) -> None:
        super().__init__(daemon=True)
        self.log = log
        command = program("hub.cli.main", "--hub-url", hub.api, "follow", "-o", "ndjson", *words)
        with log.open("wb") as errors:
            self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment())
        self._read: list[tuple[float, list[bytes]]] = []
        self.begun = threading.Event()

    def run(self) -> None:
        """Until the end of the stream."""
        assert self.popen.stdout is not None
        handle, kept = self.popen.stdout.fileno(), b""
        with open(handle, "rb", buffering=0, closefd=False) as pipe:
            while chunk := pipe.read(1 << 20):
                now, kept = time.time(), kept + chunk
                cut = kept.rfind(b"\n") + 1
                self._read.append((now, _TIME.findall(kept, 0, cut)))
                kept = kept[cut:]
                self.begun.set()

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Capture time and age of every row, seconds."""
        captured = np.array([float(text) for _, texts in self._read for text in texts])
        read = np.repeat([at for at, _ in self._read], [len(texts) for _, texts in self._read])
        return captured, read - captured

    @property
    def skipped(self) -> int:
        """Rows that it said it skipped."""
        found = re.findall(r"skipped ([\d,]+) rows", self.log.read_text())
        return sum(int(text.replace(",", "")) for text in found)


@contextlib.contextmanager
def sending(netns: Netns, capture: Path, rate: int) -> Iterator[None]:
    """tcpreplay sends at a steady rate (trafgen would send a second's packets at once)."""
    command = ["tcpreplay", "--quiet", "--intf1", netns.device, "--preload-pcap", "--timer=nano", "--loop=0"]
    command.append("--pps-multi=50")  # a millisecond's at a time: to send one by one takes a third of a core
    with (capture.parent / "tcpreplay.log").open("wb") as log:
        process = subprocess.Popen(netns.command(*command, f"--pps={rate}", str(capture)), stdout=log, stderr=log)
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def measure(what: str, given: argparse.Namespace, folder: Path) -> list[Figure]:
    """One run: the figures of one filter."""
    capture = write_pcap(folder / "sent.pcap", ROUND, flows=FLOWS)
    with pair() as (left, right), right.entered():
        hub = Hub(folder).ready()
        agent = Agent(folder, "run", "--hub", hub.ws, "--interface", right.device, "--node", "bench")
        with ending(hub, agent):
            until("streaming", lambda: streaming(agent))
            reader = Reader(hub, FILTERS[what], folder / "follow.log")
            reader.start()
            try:
                with sending(left, capture, given.rate):
                    assert reader.begun.wait(30), f"no rows: {reader.log.read_text()}"
                    begin = time.time()
                    before = {name: cpu_of(pid) for name, pid in pids(hub, agent, reader).items()}
                    time.sleep(SETTLE + given.seconds)
                    used = {name: cpu_of(pid) - before[name] for name, pid in pids(hub, agent, reader).items()}
                agent.send(signal.SIGTERM)
                agent.wait(60)
                stop(hub, reader)
            finally:
                reader.popen.kill()
            books = books_of(hub)
    captured, age = reader.rows()
    counted = (captured >= begin + SETTLE) & (captured < begin + SETTLE + given.seconds)
    return figures(what, given, age[counted], used, books["captured"], reader, len(age), books["row"])


def pids(hub: Hub, agent: Agent, reader: Reader) -> dict[str, int]:
    """Whose CPU is shown."""
    return {"agent": agent.popen.pid, "hub": hub.popen.pid, "follow": reader.popen.pid}


def stop(hub: Hub, reader: Reader) -> None:
    """End `follow` once nothing more comes."""
    seen = -1

    def quiet() -> bool:
        nonlocal seen
        before, seen = seen, sum(len(texts) for _, texts in reader._read)
        return seen == before

    until("the last row", quiet, timeout=120, pause=5)
    reader.popen.send_signal(signal.SIGINT)
    reader.popen.wait(20)
    reader.join(20)


def figures(
    what: str, given: argparse.Namespace, age: np.ndarray, used: dict[str, float], captured: int, reader: Reader,
    printed: int, stored: int,
) -> list[Figure]:  # fmt: skip
    """The lines of one run."""
    name = f"one flow of {FLOWS}" if what == "filter" else "everything"
    middle, late, latest = np.percentile(age, (50, 95, 99)) if len(age) else (np.nan,) * 3
    seconds = given.seconds + SETTLE
    return [
        Figure(f"{name}: captured to line printed, p95, seconds", f"{late:.2f}", f"< {TARGET}", bool(late < TARGET)),
        Figure(f"{name}: p50 / p99, seconds", f"{middle:.2f} / {latest:.2f}"),
        Figure(f"{name}: rows printed / packets with a row / captured", f"{printed:,} / {stored:,} / {captured:,}"),
        Figure(f"{name}: skipped, as it said", f"{reader.skipped:,}"),
        Figure(f"{name}: CPU of agent / hub / follow, cores",
               " / ".join(f"{used[each] / seconds:.2f}" for each in ("agent", "hub", "follow"))),
    ]  # fmt: skip


def main() -> int:
    """Measure, print, write where asked; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description="measure how old a packet is when `nodetap follow` prints it")
    parser.add_argument("--seconds", type=float, default=30.0, help="of traffic that count")
    parser.add_argument("--rate", type=int, default=50_000, help="packets a second")
    parser.add_argument("--only", default=",".join(FILTERS), help=f"of {', '.join(FILTERS)}, by comma")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md")
    given = parser.parse_args()
    found: list[Figure] = []
    for what in given.only.split(","):
        with tempfile.TemporaryDirectory(prefix="nodetap-follow-") as folder:
            found += measure(what, given, Path(folder))
    text = f"{machine()}, {given.rate:,} packets a second of 60 bytes for {given.seconds:.0f} s\n\n{table(found)}"
    print(text)
    if given.write:
        write_page(text, MARKS)
    return 1 if any(figure.met is False for figure in found) else 0


if __name__ == "__main__":
    sys.exit(main())
