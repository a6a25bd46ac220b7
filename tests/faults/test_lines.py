"""Bad lines between agents, people and the hub: half-open, slow and unsteady, closed when idle. Real sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live.netns import Netns, pair
from numbered import write_pcap
from procs import Agent, Hub, ending, environment, free_port, program, until
from proxy import Bad, proxy
from test_names_and_signals import events

FULL = os.environ.get("NODETAP_FAULTS") == "full"
STALL, TICK = 3.0, 0.5
ROWS = 'nodetap_hub_rows_stored_total{kind="packets"}'
DETECTORS = ("progress", "echo", "ping", "loop", "capture")


def stalls(agent: Agent) -> dict[str, float]:
    return {d: agent.metric(f'nodetap_agent_stalls_total{{detector="{d}"}}') for d in DETECTORS}


def calm(agent: Agent, connections: int = 1) -> None:
    """No stall was called, no link was lost."""
    assert stalls(agent) == dict.fromkeys(DETECTORS, 0.0)
    assert len(events(agent, "welcome")) == connections


# -- scenario 4 ----------------------------------------------------------------------------------------------------


def inside(netns: Netns, command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(netns.command(*command), stdout=out, stderr=out, env=environment(), cwd=log.parent)


@contextmanager
def traffic(netns: Netns, port: int, per_second: int) -> Iterator[None]:
    """UDP on the loopback of a namespace until the block ends."""
    halt = threading.Event()
    with netns.entered():
        source, sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    sink.bind(("127.0.0.1", port))

    def work() -> None:
        while not halt.wait(0.01):
            for _ in range(per_second // 100):
                source.sendto(b"x" * 200, ("127.0.0.1", port))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with source, sink:
        try:
            yield
        finally:
            halt.set()
            thread.join(5)


def log_of(path: Path, event: str) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text(errors="replace").splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == event]


@pytest.mark.root
@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "idle"])
def test_a_half_open_link_is_left_and_made_anew(tmp_path: Path, streaming: bool) -> None:
    """Scenario 4: packets vanish both ways, nobody is told."""
    with pair() as (left, right):
        agents, api = 8470, 8480
        hub_log, agent_log = tmp_path / "hub.log", tmp_path / "agent.log"
        serve = program(
            "hub.serve", "--log-format", "json", "serve", "--agents", f"{right.address}:{agents}",
            "--api", f"127.0.0.1:{api}", "--store", f"chdb://{tmp_path / 'store'}", "--insecure",
        )  # fmt: skip
        run = program(
            "agent.cli", "--log-format", "json", "run", "--hub", f"ws://{right.address}:{agents}", "--insecure",
            "--interface", "lo", "--filter", "udp port 9999", "--node", "n1", "--stall-timeout", str(STALL),
            "--echo-interval", "2", "--backoff-max", "2",
        )  # fmt: skip
        hub = inside(right, serve, hub_log)
        agent = None

        def ledger() -> dict:
            command = program("hub.cli.main", "--hub-url", f"http://127.0.0.1:{api}", "ledger", "-o", "json")
            done = subprocess.run(right.command(*command), capture_output=True, env=environment(), timeout=60)
            return dict(json.loads(done.stdout)) if done.stdout else {}

        try:
            until("the hub is up", lambda: log_of(hub_log, "hub is up"))
            agent = inside(left, run, agent_log)
            with traffic(left, 9999, 1000 if streaming else 0):
                until("welcomed", lambda: log_of(agent_log, "welcome"))
                if streaming:
                    until("rows", lambda: ledger().get("agents", [{}])[0].get("row", 0) > 1000, 30)
                for here, there in ((left, right), (right, left)):
                    here.run("ip", "route", "add", "blackhole", f"{there.address}/32")
                cut = time.monotonic()
                until("the stall", lambda: log_of(agent_log, "link stalled"), 2 + STALL + 2 * TICK + 2)
                found = time.monotonic() - cut
                assert found <= (0 if streaming else 2) + STALL + 2 * TICK + 1.5  # idle: up to an echo interval more
                if streaming:
                    until("the hub drops its ghost", lambda: log_of(hub_log, "connection ended"), 45)
                for here, there in ((left, right), (right, left)):
                    here.run("ip", "route", "del", "blackhole", f"{there.address}/32")
                until("welcomed again", lambda: len(log_of(agent_log, "welcome")) == 2, 2 + 5 + STALL)
                stall = log_of(agent_log, "link stalled")
                assert [s["detector"] for s in stall] == (
                    ["progress"] if streaming else stall and [stall[0]["detector"]]
                )
                if not streaming:
                    assert stall[0]["detector"] in ("echo", "ping")
            agent.terminate()
            assert agent.wait(30) == 0, agent_log.read_text()[-2000:]
            books = ledger()["agents"][0]
            assert books["balanced"]
            assert books["lost"] == {}
            assert books["captured"] == books["row"]
            print(f"found after {found:.2f} s")
        finally:
            for process in (agent, hub):
                if process is not None:
                    process.kill()
                    process.wait(10)


# -- scenario 9 ----------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("how", ["nothing", "little", "a filter that matches nothing"])
def test_quiet_is_no_stall(tmp_path: Path, how: str) -> None:
    """Scenario 9, scaled: silence, a packet now and then, a busy interface of which nothing is wanted."""
    port, seconds = free_port(), 1800 if FULL else 8
    hub = Hub(tmp_path).ready()
    agent = Agent(
        tmp_path, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {port}", "--node", "n1",
        "--stall-timeout", "3", "--echo-interval", "1",
    )  # fmt: skip
    with ending(hub, agent), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        until("streams", lambda: agent.state == "streaming")
        end = time.monotonic() + seconds

        def over() -> bool:
            if how == "little":
                sock.sendto(b"x", ("127.0.0.1", port))
            elif how != "nothing":
                for _ in range(200):
                    sock.sendto(b"x", ("127.0.0.1", 9))
            return time.monotonic() > end

        until("the time is over", over, seconds + 5, 0.5 if how == "little" else 0.02)
        calm(agent)
        assert hub.agents()["n1"]["verdict"] in ("healthy", "quiet")
        assert agent.stop() == 0


# -- scenario 12 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_trip", [0.036, 0.3])
def test_a_long_unsteady_line_loses_nothing(tmp_path: Path, round_trip: float) -> None:
    """Scenario 12: a long round trip, jitter, and freezes of a second."""
    frames = 1_000_000 if FULL else 200_000
    capture = write_pcap(tmp_path / "numbered.pcap", frames)
    hub = Hub(tmp_path).ready()
    bad = Bad(delay=round_trip / 2, jitter=0.05, freeze=1.0, every=5.0)
    with ending(hub), proxy(hub.agents_port, bad) as port:
        agent = Agent(
            tmp_path, "replay", str(capture), "--hub", f"ws://127.0.0.1:{port}", "--node", "n1",
            "--speed", str(frames // 10), "--stall-timeout", str(STALL), "--echo-interval", "1",
        )  # fmt: skip
        with ending(agent):
            until("half of it", lambda: hub.metric(ROWS) > frames / 2, 60)
            calm(agent)
            assert agent.metric("nodetap_agent_round_trip_seconds") >= round_trip * 0.9
            assert agent.wait(120) == 0, agent.text[-2000:]
        assert bad.opened == len(events(agent, "welcome")) == 1
        assert events(agent, "link stalled") == []
        books = hub.ledger()["agents"][0]
        assert books["balanced"]
        assert books["row"] == books["captured"] == frames


# -- scenario 13 ---------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_a_line_that_is_closed_when_idle_stays_open(tmp_path: Path) -> None:
    """Scenario 13: a proxy that closes idle connections, an agent and a follower with nothing to say, then one row."""
    port, idle = free_port(), 60.0 if FULL else 6.0
    hub = Hub(tmp_path).ready()
    agents, people = Bad(idle=idle), Bad(idle=idle)
    with ending(hub), proxy(hub.agents_port, agents) as agent_port, proxy(hub.api_port, people) as people_port:
        agent = Agent(
            tmp_path, "run", "--hub", f"ws://127.0.0.1:{agent_port}", "--interface", "lo", "--filter",
            f"udp port {port}", "--node", "n1", "--stall-timeout", "10", "--echo-interval", "4",
        )  # fmt: skip
        command = program("hub.cli.main", "--hub-url", f"http://127.0.0.1:{people_port}", "follow", "-o", "ndjson")
        out = tmp_path / "follow.out"
        with ending(agent), out.open("wb") as sink:
            until("streams", lambda: agent.state == "streaming")
            follower = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment())
            try:
                until("follows", lambda: people.opened >= 1)
                end = time.monotonic() + 2.5 * idle
                until("two idle times have passed", lambda: time.monotonic() > end, 3 * idle + 5, 0.5)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.sendto(b"x" * 300, ("127.0.0.1", port))
                until("the row is printed", lambda: b"nodetap.cursor" in out.read_bytes(), 10)
            finally:
                follower.kill()
                follower.wait(10)
            assert (agents.closed_idle, people.closed_idle) == (0, 0)
            assert (agents.opened, people.opened) == (1, 1)
            calm(agent)


@pytest.mark.root
def test_a_line_closed_sooner_than_we_speak_is_named(tmp_path: Path) -> None:
    """Scenario 13: shorter than the ping: it reconnects, and the log says what may have closed it."""
    hub = Hub(tmp_path).ready()
    bad = Bad(idle=0.4)
    with ending(hub), proxy(hub.agents_port, bad) as port:
        agent = Agent(
            tmp_path, "run", "--hub", f"ws://127.0.0.1:{port}", "--interface", "lo", "--filter", "udp port 9",
            "--node", "n1", "--backoff-max", "0.5",
        )  # fmt: skip
        with ending(agent):
            until("reconnects", lambda: len(events(agent, "welcome")) >= 3)
            reasons = [e["reason"] for e in events(agent, "connection ended")]
            assert all("idle" in reason for reason in reasons), reasons
