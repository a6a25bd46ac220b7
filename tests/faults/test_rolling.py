"""A rolling restart, as an upgrade in a cluster makes one: the hub, then its agents by twos, while all capture."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from live.netns import pair
from procs import Agent, Hub, free_port, until
from stored import stored

from hub.store.store import Store

AGENTS = 20 if os.environ.get("NODETAP_FAULTS") == "full" else 6
AT_ONCE = 2
"""Agents that are away together: the chart's maxUnavailable of 10 %."""
RATE = 250
"""Datagrams a second for each agent."""
GRACE = 30.0
"""Seconds that the chart's pods have to end."""
EDGES = "SELECT agent, epoch, min(time), max(time) FROM packets GROUP BY agent, epoch ORDER BY agent, min(time)"


class Nodes:
    """A hub and agents, each with a port of its own to listen to and a spool that outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub = Hub(folder).ready()
        self.ports = [free_port() for _ in range(AGENTS)]
        self.agents = [self._start(number) for number in range(AGENTS)]
        self.drains: list[float] = []

    def _start(self, number: int) -> Agent:
        name = f"node{number}"
        return Agent(
            self.folder, "run", "--hub", self.hub.ws, "--interface", "lo", "--filter", f"udp port {self.ports[number]}",
            "--node", name, "--spool", str(self.folder / f"{name}.spool"), name=name,
        )  # fmt: skip

    def streaming(self) -> bool:
        for agent in self.agents:
            assert agent.popen.poll() is None, agent.text[-2000:]
        return all(agent.state == "streaming" for agent in self.agents)

    def replace_hub(self) -> float:
        """Seconds from the signal until every agent streams to the new one."""
        began = time.monotonic()
        self.hub.send(signal.SIGTERM)
        assert self.hub.wait(GRACE) == 0
        self.hub = self.hub.again().ready()
        until("all stream again", lambda: self.streaming() and self.hub.metric("nodetap_hub_sessions") >= AGENTS)
        return time.monotonic() - began

    def replace_agents(self) -> None:
        for first in range(0, AGENTS, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, AGENTS))
            self.stop(numbers)
            for number in numbers:
                self.agents[number] = self._start(number)
            until("all stream again", self.streaming)

    def stop(self, numbers: range) -> None:
        began = time.monotonic()
        for number in numbers:
            self.agents[number].send(signal.SIGTERM)
        for number in numbers:
            assert self.agents[number].wait(GRACE) == 0, self.agents[number].text[-2000:]
            self.drains.append(time.monotonic() - began)

    @contextlib.contextmanager
    def traffic(self) -> Iterator[None]:
        """RATE datagrams a second to each port until the block ends."""
        halt = threading.Event()
        with contextlib.ExitStack() as stack:
            source, *sinks = (
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(AGENTS + 1)
            )
            for sink, port in zip(sinks, self.ports, strict=True):
                sink.bind(("127.0.0.1", port))

            def work() -> None:
                while not halt.wait(0.02):
                    for port in self.ports:
                        for _ in range(RATE // 50):
                            source.sendto(bytes(200), ("127.0.0.1", port))

            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            try:
                yield
            finally:
                halt.set()
                thread.join(10)

    def end(self) -> None:
        for process in (*self.agents, self.hub):
            process.kill()


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rolling_restart_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with pair() as (here, _), here.entered():
        nodes = Nodes(tmp_path)
        try:
            with nodes.traffic():
                until("all stream", nodes.streaming)
                away = nodes.replace_hub()
                nodes.replace_agents()
                nodes.stop(range(AGENTS))
            ledger = nodes.hub.ledger()
            assert nodes.hub.stop() == 0
        finally:
            nodes.end()
    runs = ledger["agents"]
    assert ledger["balanced"]
    assert ledger["complete"]
    assert len(runs) == 2 * AGENTS
    assert all(run["captured"] == run["row"] + run["flow_only"] == run["flow_packets"] > 0 for run in runs)
    found = stored(tmp_path)
    found.check()
    assert sum(found.rows.values()) == sum(run["row"] for run in runs)
    captured, rows = (sum(run[name] for run in runs) for name in ("captured", "row"))
    gaps = unwatched(tmp_path)
    print(f"{AGENTS} agents, {captured} packets, {rows} of them as rows, none lost, none twice; new hub: all stream "
          f"after {away:.1f} s; agents end within {max(nodes.drains):.1f} s; between two agents of a node "
          f"{median(gaps):.1f} s, at most {max(gaps):.1f} s")  # fmt: skip


def unwatched(folder: Path) -> list[float]:
    """Seconds between the last packet of a node's old agent and the first of its new one, on which nobody looked."""
    store = Store(f"chdb://{folder / 'store'}")
    store.open(1)
    try:
        with store.reader() as reader:
            edges = reader.rows(EDGES, timeout=60)
    finally:
        store.close()
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(new[2] - old[3]) / 1e9 for old, new in pairs]
