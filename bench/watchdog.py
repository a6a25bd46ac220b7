#!/usr/bin/env python3
"""Measure what the watchdog, its pings and its echoes cost the agent. Needs root, trafgen and ip.

    bench/watchdog.py [--rounds 5] [--seconds 20] [--rate 100000]

An agent captures `rate` packets a second, once watched and once not, in turn. Figures are CPU time of the whole agent.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "live")]

from netns import pair  # noqa: E402
from procs import Agent, Hub, ending, until  # noqa: E402

from bench.live import FIRST, LAST, RECEIVER, SENDER, Watch, arrange, configuration, streaming, trafgen  # noqa: E402
from bench.table import Figure, machine, table  # noqa: E402

LIMIT = 0.02


def cpu_share(folder: Path, watched: bool, seconds: float, rate: int) -> float:
    """CPU seconds a second of one agent under that load."""
    env = None if watched else {"NODETAP_FAILPOINT": "unwatched"}
    with pair() as (left, right), right.entered():
        hub = Hub(folder).ready()
        agent = Agent(folder, "run", "--hub", hub.ws, "--interface", right.device, "--node", "bench", env=env)
        with ending(hub, agent):
            until("streaming", lambda: streaming(agent))
            arrange(agent.popen.pid, FIRST, {RECEIVER})
            arrange(hub.popen.pid, LAST, {SENDER, RECEIVER})
            captured = "nodetap_agent_captured_packets_total"
            with trafgen(left, configuration(folder, 18), rate):
                until("captures", lambda: agent.metric(captured) > rate)
                watch = Watch(agent.popen.pid).over(seconds, pause=seconds)
    return watch.cpu / watch.seconds


def main() -> int:
    """Measure and print; 1 where the target is missed."""
    parser = argparse.ArgumentParser(description="measure what the watchdog costs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=int, default=100_000, help="packets a second")
    given = parser.parse_args()
    shares: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * given.rounds):
        watched = bool(number % 2)
        with tempfile.TemporaryDirectory(prefix="nodetap-watchdog-") as folder:
            shares[watched].append(cpu_share(Path(folder), watched, given.seconds, given.rate))
    on, off = statistics.median(shares[True]), statistics.median(shares[False])
    overhead = on / off - 1
    figures = [
        Figure(f"agent CPU at {given.rate:,} packets/s, unwatched", f"{off:.2%} of a core"),
        Figure("the same, watched", f"{on:.2%} of a core"),
        Figure("overhead", f"{overhead:+.1%}", f"< {LIMIT:.0%}", overhead < LIMIT),
    ]
    print(f"{machine()}, medians of {given.rounds}\n\n{table(figures)}")
    return int(overhead >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
