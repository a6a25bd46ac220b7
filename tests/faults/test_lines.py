"""Bad lines between agents, people and the hub: half-open, slow and unsteady, closed when idle. Real sockets."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from figures import record
from herd import Lateness
from live.netns import Netns, pair
from numbered import write_pcap
from procs import Agent, Hub, Process, ending, environment, free_port, program, until
from proxy import Bad, proxy
from test_states import LATE, events, moment

FULL = os.environ.get("NODETAP_FAULTS") == "full"
STALL, TICK = 3.0, 0.5
STATUS = 2.0
"""Seconds between two words of an agent that has nothing to say."""
ROWS = 'nodetap_hub_rows_stored_total{kind="packets"}'
DETECTORS = ("progress", "echo", "ping", "loop", "capture")


def stalls(agent: Agent) -> dict[str, float]:
    return {d: agent.metric(f'nodetap_agent_stalls_total{{detector="{d}"}}') for d in DETECTORS}


def calm(agent: Agent, connections: int = 1) -> None:
    """No stall was called, no link was lost."""
    assert stalls(agent) == dict.fromkeys(DETECTORS, 0.0)
    assert len(events(agent, "welcome")) == connections


# -- scenario 4 ----------------------------------------------------------------------------------------------------


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


@pytest.mark.root
@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "idle"])
def test_a_half_open_link_is_left_and_made_anew(tmp_path: Path, streaming: bool, machine: Lateness) -> None:
    """Scenario 4: packets vanish both ways, nobody is told. The hub drops its ghost after 30 s, scaled after 6."""
    ghost = 30.0 if FULL else 6.0
    echo = 0.0 if streaming else 2.0
    with pair() as (left, right):
        hub = Hub(tmp_path, "--agents", f"{right.address}:8470", "--insecure", prefix=right.command(),
                  first=f"import hub.ingest.session as s; s.SILENCE_TIMEOUT = {ghost}")  # fmt: skip
        with right.entered():
            hub.ready()
        agent = Agent(
            tmp_path, "run", "--hub", f"ws://{right.address}:8470", "--insecure", "--interface", "lo", "--filter",
            "udp port 9999", "--node", "n1", "--stall-timeout", str(STALL), "--echo-interval", "2", "--backoff-max",
            "2", prefix=left.command(),
        )  # fmt: skip
        with ending(hub, agent), traffic(left, 9999, 1000 if streaming else 0):
            until("welcomed", lambda: events(agent, "welcome"))
            if streaming:
                with right.entered():
                    until("rows", lambda: hub.metric(ROWS) > 1000, 30)
            with blackhole(left, right):
                cut = time.time()
                stall = until("the stall", lambda: events(agent, "link stalled"), 30)[0]
                gone = until("the hub drops its ghost", lambda: events(hub, "connection ended"), ghost + 20)[0]
            healed = time.time()
            again = until("welcomed again", lambda: events(agent, "welcome")[1:], 30)[0]
            assert agent.stop() == 0, agent.text[-2000:]
            with right.entered():
                books = hub.ledger()["agents"][0]
    found, dropped = moment(stall) - cut, moment(gone) - cut
    assert found <= echo + stall["deadline_s"] + 2 * TICK + LATE or machine.overrun
    assert dropped <= ghost + STATUS + LATE or machine.overrun
    assert moment(again) - healed <= 2 + 5 or machine.overrun
    assert stall["detector"] in (("progress",) if streaming else ("echo", "ping"))
    assert books["balanced"]
    assert books["lost"] == {}
    assert books["captured"] == books["row"] + books["flow_only"]
    record(
        "4", f"half-open line, {'streaming' if streaming else 'idle'}, D = 3 s",
        f"found within {'D + 1' if streaming else 'echo interval (2 s) + D + 1'} s, the hub drops its ghost after "
        f"{ghost:.0f} s, 0 lost",
        f"found after {found:.2f} s by {stall['detector']}, ghost dropped after {dropped:.1f} s, streaming "
        f"{moment(again) - healed:.2f} s after the line was whole, {books['captured']:,} packets",
    )  # fmt: skip


@contextmanager
def blackhole(left: Netns, right: Netns) -> Iterator[None]:
    """Packets between two namespaces vanish both ways, until the block ends."""
    ways = ((left, right), (right, left))
    for here, there in ways:
        here.run("ip", "route", "add", "blackhole", f"{there.address}/32")
    yield
    for here, there in ways:
        here.run("ip", "route", "del", "blackhole", f"{there.address}/32")


# -- scenario 9 ----------------------------------------------------------------------------------------------------


QUIET = ("nothing", "little", "nothing that the filter wants")


@pytest.mark.root
@pytest.mark.timeout(2400)
def test_quiet_is_no_stall(tmp_path: Path) -> None:
    """Scenario 9: silence, a packet now and then, a busy interface of which nothing is wanted; full: for 30 minutes."""
    seconds = 1800.0 if FULL else 12.0
    hub = Hub(tmp_path).ready()
    ports = [free_port() for _ in QUIET]
    agents = [
        Agent(
            tmp_path, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {port}", "--node", f"n{n}",
            "--stall-timeout", "3", "--echo-interval", "1", name=f"n{n}",
        )
        for n, port in enumerate(ports)
    ]  # fmt: skip
    with ending(hub, *agents), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        until("all stream", lambda: all(agent.state == "streaming" for agent in agents))
        end, turns = time.monotonic() + seconds, itertools.count(1)

        def over() -> bool:
            for _ in range(50):
                sock.sendto(b"x", ("127.0.0.1", 9))
            if next(turns) % 20 == 0:
                sock.sendto(b"x", ("127.0.0.1", ports[1]))
            return time.monotonic() > end

        until("the time is over", over, seconds + 60, 0.02)
        for agent in agents:
            calm(agent)
        verdicts = {hub.agents()[f"n{n}"]["verdict"] for n in range(len(agents))}
        assert verdicts <= {"healthy", "quiet"}
        assert [agent.stop() for agent in agents] == [0, 0, 0]
        assert hub.ledger()["balanced"]
    for what in QUIET:
        record("9", f"a live agent hears {what}", f"0 stalls in {seconds / 60:g} min", "0 stalls, one connection")


# -- scenario 12 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_trip", [0.036, 0.3])
def test_a_long_unsteady_line_loses_nothing(tmp_path: Path, round_trip: float, machine: Lateness) -> None:
    """Scenario 12: a long round trip, jitter, and freezes of a second."""
    frames, rate = (1_000_000, 100_000) if FULL else (200_000, 20_000)
    capture = write_pcap(tmp_path / "numbered.pcap", frames)
    hub = Hub(tmp_path).ready()
    bad = Bad(delay=round_trip / 2, jitter=0.05, freeze=1.0, every=5.0)
    with ending(hub), proxy(hub.agents_port, bad) as port:
        agent = Agent(
            tmp_path, "replay", str(capture), "--hub", f"ws://127.0.0.1:{port}", "--node", "n1",
            "--speed", str(rate), "--stall-timeout", str(STALL), "--echo-interval", "1",
        )  # fmt: skip
        with ending(agent):
            until("half of it", lambda: hub.metric(ROWS) > frames / 2, 60)
            calm(agent)
            measured = agent.metric("nodetap_agent_round_trip_seconds")
            assert measured >= round_trip * 0.9
            assert agent.wait(120) == 0, agent.text[-2000:]
        welcome, end = events(agent, "welcome"), events(agent, "state")[-1]
        assert bad.opened == len(welcome) == 1
        assert events(agent, "link stalled") == []
        books = hub.ledger()["agents"][0]
        assert books["balanced"]
        assert books["row"] == books["captured"] == frames
    latest = round_trip + 2 * bad.jitter + bad.freeze  # what the last acknowledgement may take, however fast the rest
    throughput = frames / (moment(end) - moment(welcome[0]) - latest)
    assert throughput >= 0.9 * rate or machine.overrun
    record("12", f"round trip {round_trip * 1000:.0f} ms, 100 ms of jitter, frozen for 1 s in every 5",
           "0 disconnects, 0 stalls, 0 lost, at least 90 % of the rate",
           f"one connection, measured round trip {measured * 1000:.0f} ms, {min(throughput / rate, 1):.0%} of "
           f"{rate:,}/s, {frames:,} rows")  # fmt: skip


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
    record("13", f"a proxy that closes what is idle for {idle:.0f} s, an agent and `follow`", "0 disconnects",
           f"0 disconnects in {2.5 * idle:.0f} s, then a row arrives")  # fmt: skip


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
    record("13", "a proxy that closes what is idle for 0.4 s", "reconnects, the log names the idle close", reasons[0])


# -- people --------------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_a_follower_whose_host_has_vanished_is_let_go(tmp_path: Path, machine: Lateness) -> None:
    """Scenario 18, the other end: packets vanish, nobody is told. Two minutes, scaled to 6 s."""
    silence = 120.0 if FULL else 6.0
    with pair() as (left, right):
        hub = Hub(tmp_path, "--api", f"{right.address}:8480", "--insecure", prefix=right.command(),
                  first=f"import hub.api.listener as a; a.SILENCE = {silence}")  # fmt: skip
        hub.api = f"http://{right.address}:8480"
        with right.entered():
            hub.ready()
        command = program("hub.cli.main", "--hub-url", hub.api, "follow", "-o", "ndjson", "--give-up", "300")
        follower = Process(left.command(*command), tmp_path / "follow.log")
        with ending(hub, follower):
            follows = partial(_connections, hub, right)
            until("it follows", lambda: follows() == 1)
            follower.send(signal.SIGSTOP)  # stopped and reachable it is kept: its kernel takes what is sent
            time.sleep(silence / 2)
            assert follows() == 1
            with blackhole(left, right):
                cut = time.monotonic()
                until("it is let go", lambda: follows() == 0, silence + 30)
                took = time.monotonic() - cut
            follower.send(signal.SIGCONT)
            until("it follows again", lambda: follows() == 1, 60)
            assert "trying again" in follower.text
    assert took <= silence + silence / 2 + LATE or machine.overrun
    record(
        "18", f"the host of a follower vanishes, with {silence:.0f} s of silence",
        "the hub lets it go within that time and half of it more; the line whole again, it goes on by itself",
        f"let go after {took:.1f} s",
    )  # fmt: skip


def _connections(hub: Hub, where: Netns) -> int:
    """How many people and programs are connected besides who looks."""
    with where.entered():
        return int(hub.metric("nodetap_hub_people_connections")) - 1
