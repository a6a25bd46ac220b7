"""An agent whose capture hangs, and one whose event loop does: scenarios 7 and 8 on live processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from procs import Agent, Hub, ending, free_port, until
from test_names_and_signals import events
from test_states import datagrams

pytestmark = pytest.mark.root

STALL, TICK = 3.0, 0.5
STALLS = 'nodetap_agent_stalls_total{{detector="{}"}}'


def agent_of(hub: Hub, folder: Path, port: int, failpoint: str) -> Agent:
    return Agent(
        folder, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {port}", "--node", "n1",
        "--stall-timeout", str(STALL), "--echo-interval", "1", env={"NODETAP_FAILPOINT": failpoint},
    )  # fmt: skip


def verdict(hub: Hub) -> tuple[str, Any]:
    found = hub.agents().get("n1", {})
    return found.get("verdict", ""), found.get("evidence", {}).get("detector")


def test_a_capture_that_hangs_is_restarted_and_the_link_is_left_alone(tmp_path: Path) -> None:
    """Scenario 8."""
    port, hang = free_port(), tmp_path / "hang"
    hub = Hub(tmp_path).ready()
    agent = agent_of(hub, tmp_path, port, f"capture_hang={hang}")
    captured = "nodetap_agent_captured_packets_total"
    with ending(hub, agent), datagrams(port, 500):
        until("captures", lambda: agent.metric(captured) > 200)
        session = hub.agents()["n1"]["session"]
        for restarts in (1, 2, 3):
            before = len(events(agent, "stalled"))
            hang.touch()
            hung = time.monotonic()
            until("a verdict in the log", lambda before=before: len(events(agent, "stalled")) > before, 10, 0.02)
            assert STALL - 0.2 <= time.monotonic() - hung <= STALL + 2 * TICK + 0.5
            if restarts == 1:
                until("the hub says so", lambda: verdict(hub) == ("stalled", "capture"), STALL)
            hang.unlink()
            seen = agent.metric(captured)
            until("captures again", lambda seen=seen: agent.metric(captured) > seen + 200)
            assert agent.metric("nodetap_agent_capture_restarts_total") >= restarts
        until("degraded for good", lambda: verdict(hub) == ("degraded", "capture"))
        assert hub.agents()["n1"]["session"] == session  # one link all the time
        assert events(agent, "link stalled") == []
        assert agent.stop() == 0, agent.text[-2000:]
        books = hub.ledger()["agents"][0]
        assert books["balanced"]
        assert books["kernel_dropped"] > 0  # what came while nobody looked
        assert books["kernel_packets"] == books["captured"] + books["kernel_dropped"] + sum(books["discarded"].values())
        assert len(hub.rows("--fields", "frame.number")) == books["captured"] == books["row"]


@pytest.mark.parametrize("how", ["loop_block", "loop_gil"])
def test_a_loop_that_is_blocked_blames_itself(tmp_path: Path, how: str) -> None:
    """Scenario 7, 5 s: Python code that does not return, and a call that keeps the interpreter's lock."""
    port, block = free_port(), tmp_path / "block"
    hub = Hub(tmp_path).ready()
    agent = agent_of(hub, tmp_path, port, f"{how}={block}")
    with ending(hub, agent), datagrams(port, 200):
        until("streams", lambda: agent.metric("nodetap_agent_captured_packets_total") > 100)
        told = tmp_path / "told"
        told.write_text("5")
        told.rename(block)
        begun = time.monotonic()
        until("the stack of the blocked loop", lambda: "failpoints.py" in agent.text, 5.0, 0.02)
        assert time.monotonic() - begun < 2.0 + TICK
        until("it answers again", lambda: agent.state == "streaming")
        until("the books move on", lambda: agent.metric(STALLS.format("loop")) >= (how == "loop_block"))
        for detector in ("progress", "echo", "ping"):
            assert agent.metric(STALLS.format(detector)) == 0  # the hub was never to blame
        assert len(events(agent, "welcome")) <= 2  # at most one reconnect
        until("healthy", lambda: verdict(hub)[0] == "healthy")
        assert agent.stop() == 0, agent.text[-2000:]
        assert hub.ledger()["balanced"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["loop_block", "loop_gil"])
def test_a_loop_blocked_for_a_minute_is_stalled_and_comes_back(tmp_path: Path, how: str) -> None:
    """Scenario 7, 60 s, and past the loop's deadline: the process ends, with its stacks, and not with code 0."""
    port, block = free_port(), tmp_path / "block"
    hub = Hub(tmp_path).ready()
    agent = agent_of(hub, tmp_path, port, f"{how}={block}")
    with ending(hub, agent):
        until("streams", lambda: agent.state == "streaming")
        for seconds in ("60", "120"):
            told = tmp_path / "told"
            told.write_text(seconds)
            told.rename(block)
            until("the hub calls it stalled", lambda: verdict(hub)[0] == "stalled", 20)
            if seconds == "60":
                until("streams again", lambda: agent.state == "streaming" and verdict(hub)[0] == "healthy", 70)
                assert agent.metric(STALLS.format("progress")) == 0
        assert agent.wait(100) not in (0, None)
        assert "failpoints.py" in agent.text
