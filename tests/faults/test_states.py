"""The four states on real sockets, seen in logs, metrics and `nodetap agents`; a hub that stops; a signal to leave."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from numbered import write_pcap
from procs import Agent, Hub, ending, free_port, until

STALL = 3.0
TICK = 0.5


def state_in_cli(hub: Hub, name: str) -> dict:
    found = json.loads(hub.cli("agents", "-o", "json").stdout)
    return next((a for a in found if a["agent"].startswith(name)), {})


def transitions(agent: Agent) -> list[str]:
    return [e["state"] for e in agent.events if e.get("event") == "state"]


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
    lines = [e for e in agent.events if e.get("event") == "state"]
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


def rss(pid: int) -> int:
    """Resident anonymous memory of a process, bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("RssAnon:"))) * 1024


@pytest.mark.root
def test_a_hub_that_stops_while_streaming_is_found_and_streaming_goes_on(tmp_path: Path) -> None:
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
        stopped = time.monotonic()
        stalls = 'nodetap_agent_stalls_total{detector="progress"}'
        until("the stall is found", lambda: agent.metric(stalls) == 1.0, STALL + 2 * TICK + 2)
        found = time.monotonic() - stopped
        assert found <= STALL + 2 * TICK + 1.5, found  # sealing, sending and asking for metrics take their time too
        until("left the link", lambda: agent.state in ("backoff", "connecting"), 1)
        until("capture buffers are empty", lambda: agent.metric("nodetap_agent_capture_buffer_bytes") == 0, 1)
        slow = hub.cli("packets", timeout=30, check=False)
        assert slow.returncode == 3
        assert "unresponsive" in slow.stderr
        held = agent.metric("nodetap_agent_buffer_bytes")
        assert rss(agent.popen.pid) <= (baseline + held) * 1.1 + (8 << 20)
        hub.send(signal.SIGCONT)
        resumed = time.monotonic()
        until("streaming again", lambda: agent.state == "streaming", 2 + 5)
        print(f"found after {found:.2f} s, streaming {time.monotonic() - resumed:.2f} s after SIGCONT")
        stall = [e for e in agent.events if e.get("event") == "link stalled"]
        assert len(stall) == 1
        assert {"detector", "unacknowledged", "oldest_s", "pong_age_s", "connection"} <= set(stall[0])
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


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "numbered.pcap", 50_000)
    agent = Agent(tmp_path, "replay", str(capture), "--hub", "ws://127.0.0.1:9", "--buffer-bytes", str(1 << 20))
    with ending(agent):
        until("backoff", lambda: agent.state in ("backoff", "connecting"))
        os.kill(agent.popen.pid, signal.SIGTERM)
        until("told to stop", lambda: any(e.get("event") == "told to stop" for e in agent.events))
        os.kill(agent.popen.pid, signal.SIGTERM)
        assert agent.wait(5) == 3
