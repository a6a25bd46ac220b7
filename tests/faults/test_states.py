"""The four states on real sockets, seen in logs, metrics and `nodetap agents`; a hub that stops; a signal to leave."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from figures import record
from herd import Lateness
from numbered import write_pcap
from procs import Agent, Hub, Process, ending, free_port, until

STALL = 3.0
TICK = 0.5
LATE = 0.5
"""Seconds by which a busy machine may be late with everything."""


def state_in_cli(hub: Hub, name: str) -> dict:
    found = json.loads(hub.cli("agents", "-o", "json").stdout)
    return next((a for a in found if a["agent"].startswith(name)), {})


def events(process: Process, name: str) -> list[dict]:
    """The log lines of one event."""
    return [e for e in process.events if e.get("event") == name]


def moment(event: dict) -> float:
    """When a log line was written, seconds."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def within(bound: float, machine: Lateness, what: str, look: Callable[[], Any]) -> float:
    """Seconds until `look` is true: at most `bound`, unless others overrun the machine."""
    began = time.monotonic()
    until(what, look, bound + 30.0, 0.02)
    took = time.monotonic() - began
    assert took <= bound or machine.overrun, f"{what}: after {took:.2f} s ({machine})"
    return took


def transitions(agent: Agent) -> list[str]:
    return [e["state"] for e in events(agent, "state")]


def test_each_state_is_reached_and_seen(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "numbered.pcap", 400_000)
    port = free_port()
    silent = socket.create_server(("127.0.0.1", port))  # accepts in the kernel and never answers: CONNECTING
    agent = Agent(
        tmp_path, "replay", str(capture), "--hub", f"ws://127.0.0.1:{port}", "--speed", "20000", "--node", "n1",
        "--stall-timeout", "3", "--backoff-max", "0.5", "--buffer-bytes", str(4 << 20),
    )  # fmt: skip
    with ending(agent):
        until("connecting in the metrics", lambda: agent.state == "connecting")
        silent.close()
        hub = Hub(tmp_path, agents=port).ready()
        with ending(hub):
            until("streaming in the metrics", lambda: agent.state == "streaming")
            until("streaming in the CLI", lambda: state_in_cli(hub, "n1").get("state") == "streaming")
            hub.kill()
            until("backoff in the metrics", lambda: agent.state in ("backoff", "connecting"))
            until("backoff in the log", lambda: "backoff" in transitions(agent))
            hub = hub.again().ready()
        with ending(hub):
            until("streaming again", lambda: agent.state == "streaming")
            agent.send(signal.SIGTERM)
            until("draining in the log", lambda: "draining" in transitions(agent))
            assert agent.wait(30) == 0, agent.text[-2000:]
            left = until("left in the CLI", lambda: state_in_cli(hub, "n1"))
            assert left["verdict"] == "left"
            ledger = hub.ledger()
            assert ledger["balanced"]
            assert ledger["complete"]
    assert {"streaming", "backoff", "connecting", "draining", "stopped"} <= set(transitions(agent))
    lines = events(agent, "state")
    assert all(e["agent"].startswith("n1/replay-") and len(e["epoch"]) == 16 for e in lines)
    assert all("connection" in e for e in lines)


@contextmanager
def datagrams(port: int, per_second: int) -> Iterator[list[int]]:
    """UDP to a port of our own on loopback, numbered, until the block ends. The list holds how many were sent."""
    sent, halt = [0], threading.Event()

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while not halt.wait(0.01):
                for _ in range(per_second // 100):
                    sock.sendto(b"x" * 200, ("127.0.0.1", port))
                    sent[0] += 1

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", port))
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield sent
        finally:
            halt.set()
            thread.join(5)


def allowed(agent: Agent, baseline: int) -> float:
    """Bytes that an agent may use which holds what it cannot send."""
    return (baseline + agent.metric("nodetap_agent_buffer_bytes")) * 1.1


def rss(pid: int) -> int:
    """Resident anonymous memory of a process, bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("RssAnon:"))) * 1024


@pytest.mark.root
def test_a_hub_that_stops_while_streaming_is_found_and_streaming_goes_on(tmp_path: Path, machine: Lateness) -> None:
    """Scenario 1: SIGSTOP of the hub under live traffic."""
    port = free_port()
    hub = Hub(tmp_path).ready()
    agent = Agent(
        tmp_path, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {port}", "--node", "n1",
        "--stall-timeout", str(STALL), "--echo-interval", "2", "--backoff-max", "2",
    )  # fmt: skip
    with ending(hub, agent), datagrams(port, 2000) as sent:
        until("streaming", lambda: agent.state == "streaming")
        until("rows", lambda: hub.metric('nodetap_hub_rows_stored_total{kind="packets"}') > 2000)
        baseline = rss(agent.popen.pid)
        hub.send(signal.SIGSTOP)
        stopped = time.time()
        stall = until("the stall", lambda: events(agent, "link stalled"))[0]
        within(1, machine, "capture buffers are empty", lambda: agent.metric("nodetap_agent_capture_buffer_bytes") == 0)
        within(5, machine, "memory is given back", lambda: rss(agent.popen.pid) <= allowed(agent, baseline))
        used = rss(agent.popen.pid)
        found = moment(stall) - stopped
        left = next(moment(e) for e in events(agent, "state") if e["event_"] == "stalled") - moment(stall)
        assert found <= stall["deadline_s"] + 2 * TICK + LATE or machine.overrun
        assert STALL <= stall["deadline_s"] <= 3 * STALL  # it follows what acknowledgements take on this machine
        assert left <= 0.1 or machine.overrun
        assert agent.metric('nodetap_agent_stalls_total{detector="progress"}') == 1
        slow = hub.cli("packets", timeout=30, check=False)
        assert slow.returncode == 3
        assert "unresponsive" in slow.stderr
        hub.send(signal.SIGCONT)
        again = within(2 + 5, machine, "streaming again", lambda: agent.state == "streaming")
        assert len(events(agent, "link stalled")) == 1
        assert {"detector", "unacknowledged", "oldest_s", "pong_age_s", "connection"} <= set(stall)
        until("one session", lambda: hub.metric("nodetap_hub_sessions") == 1, 40)
        agent.send(signal.SIGTERM)
        assert agent.wait(30) == 0, agent.text[-2000:]
        books = next(b for b in hub.ledger()["agents"] if b["agent"] == "n1")
        assert books["balanced"]
        assert books["lost"] == {}
        assert books["pending"] == 0
        assert books["row"] == books["captured"] == books["flow_packets"]
        assert books["captured"] + books["kernel_dropped"] <= sent[0]
        rows = hub.rows("udp.dstport", "==", str(port), "--fields", "frame.number")
        assert len(rows) == len({r["frame.number"] for r in rows}) == books["row"]
    record(
        "1", "hub SIGSTOPped while streaming, D = 3 s",
        "found within D + 1 s, link left within 0.1 s, capture buffers empty within 1 s, memory at most baseline + "
        "outbox + 10 %, streaming 7 s after SIGCONT, 0 lost",
        f"found after {found:.2f} s (D was {stall['deadline_s']:.1f} s), left after {left * 1000:.0f} ms, memory "
        f"{(used - baseline) / 2**20:+.1f} MiB, streaming after {again:.2f} s, {books['captured']:,} packets once each",
    )  # fmt: skip


def test_a_second_signal_ends_it_at_once(tmp_path: Path, machine: Lateness) -> None:
    capture = write_pcap(tmp_path / "numbered.pcap", 50_000)
    agent = Agent(tmp_path, "replay", str(capture), "--hub", "ws://127.0.0.1:9", "--buffer-bytes", str(1 << 20))
    with ending(agent):
        until("backoff", lambda: agent.state in ("backoff", "connecting"))
        os.kill(agent.popen.pid, signal.SIGTERM)
        until("told to stop", lambda: any(e.get("event") == "told to stop" for e in agent.events))
        os.kill(agent.popen.pid, signal.SIGTERM)
        told = time.monotonic()
        assert agent.wait(20) == 3
        took = time.monotonic() - told
    assert took <= 1.0 or machine.overrun
    record("15", "a second SIGTERM", "ends within 1 s, not with 0", f"after {took:.2f} s, with 3")
