"""One name twice, signals to leave, an agent killed and started again: real hubs and agents."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from procs import Agent, Hub, ending, free_port, until
from test_states import datagrams

ROWS = 'nodetap_hub_rows_stored_total{kind="packets"}'


def live(folder: Path, hub: Hub, port: int, *args: str, name: str = "n1", log: str = "agent") -> Agent:
    return Agent(
        folder, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {port}", "--node", name,
        "--stall-timeout", "3", "--echo-interval", "1", *args, name=log,
    )  # fmt: skip


def events(agent: Agent, name: str) -> list[dict]:
    return [e for e in agent.events if e.get("event") == name]


@pytest.mark.root
def test_of_two_agents_of_one_name_the_newer_stays_and_the_older_waits(tmp_path: Path) -> None:
    """Scenario 10."""
    port = free_port()
    hub = Hub(tmp_path).ready()
    older = live(tmp_path, hub, port, log="older")
    with ending(hub, older):
        until("the older streams", lambda: older.state == "streaming")
        newer = live(tmp_path, hub, port, log="newer")
        with ending(newer):
            until("the newer streams", lambda: newer.state == "streaming")
            until("the older is out", lambda: older.state == "backoff", 1.5)
            wait = events(older, "reconnecting")[0]
            assert 30.0 <= wait["wait_s"] <= 60.0
            assert "superseded" in wait["reason"]
            assert any(e.get("event", "").startswith("superseded by a newer") for e in hub.events)
            assert newer.state == "streaming"
            assert hub.metric("nodetap_hub_sessions") == 1


@pytest.mark.root
def test_a_signal_while_streaming_stores_the_last_packet_before_it(tmp_path: Path) -> None:
    """Scenario 14."""
    port = free_port()
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port, "--drain-timeout", "10")
    with ending(hub, agent):
        until("streaming", lambda: agent.state == "streaming")
        with datagrams(port, 1000) as sent:
            until("captured", lambda: agent.metric("nodetap_agent_captured_packets_total") > 500)
            before = sent[0]
            agent.send(signal.SIGTERM)
            assert agent.wait(11) == 0, agent.text[-1000:]
        rows = len(hub.rows("udp.dstport", "==", str(port), "--fields", "frame.number"))
        assert rows >= before  # it listened before the first was sent
        books = hub.ledger()["agents"][0]
        assert books["captured"] == books["row"] == rows
        assert books["final"]
        assert hub.agents()["n1"]["verdict"] == "left"
        assert books["kernel_packets"] == rows + books["kernel_dropped"] + sum(books["discarded"].values())


@pytest.mark.root
def test_a_signal_while_the_hub_stands_still_ends_at_the_drain_deadline(tmp_path: Path) -> None:
    """Scenario 15."""
    port = free_port()
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port, "--drain-timeout", "3")
    with ending(hub, agent), datagrams(port, 1000):
        until("rows", lambda: hub.metric(ROWS) > 500)
        hub.send(signal.SIGSTOP)
        agent.send(signal.SIGTERM)
        told = time.monotonic()
        assert agent.wait(10) == 3
        took = time.monotonic() - told
        assert 2.9 <= took <= 4.0, took
        assert events(agent, "stopped")[0]["left_packets"] > 0


@pytest.mark.root
def test_an_agent_that_was_stopped_and_goes_on_is_well_again(tmp_path: Path) -> None:
    """SIGSTOP of the agent: whatever its watchdog thinks on waking, the word does not stick."""
    port = free_port()
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port)
    with ending(hub, agent), datagrams(port, 100):
        until("rows", lambda: hub.metric(ROWS) > 50)
        for _ in range(3):
            agent.send(signal.SIGSTOP)
            time.sleep(2)  # the fault: longer than the loop may be late
            agent.send(signal.SIGCONT)
            until("healthy", lambda: hub.agents()["n1"]["verdict"] == "healthy", 10)
            until("no stall is claimed", lambda: "stall" not in hub.agents()["n1"]["evidence"], 5)
        assert agent.state == "streaming"


@pytest.mark.root
def test_a_killed_agent_comes_back_under_a_new_epoch_and_the_gap_is_said(tmp_path: Path) -> None:
    """Scenario 21."""
    port = free_port()
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port)
    with ending(hub, agent), datagrams(port, 1000):
        until("rows", lambda: hub.metric(ROWS) > 500)
        agent.kill()
        started = time.monotonic()
        again = live(tmp_path, hub, port, log="again")
        with ending(again):
            until("streaming", lambda: again.state == "streaming", 5)
            assert time.monotonic() - started < 5
            again.send(signal.SIGTERM)
            assert again.wait(20) == 0
        ledger = hub.ledger()
        assert ledger["balanced"]
        assert not ledger["complete"]
        assert len({b["epoch"] for b in ledger["agents"]}) == 2
        assert sum(b["unreported_since"] is not None for b in ledger["agents"]) == 1
