"""An agent whose capture hangs, and one whose event loop does: scenarios 7 and 8 on live processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from figures import record
from herd import Lateness
from procs import Agent, Hub, ending, free_port, until
from test_states import LATE, datagrams, events, moment, within

pytestmark = pytest.mark.root

FULL = os.environ.get("NODETAP_FAULTS") == "full"
STALL, TICK, BEAT = 3.0, 0.5, 0.25
LONG, DEAD = (60.0, 90.0) if FULL else (14.0, 20.0)
WORDS = {"loop_block": "Python code", "loop_gil": "a call that holds the GIL"}
STALLS = 'nodetap_agent_stalls_total{{detector="{}"}}'


def agent_of(hub: Hub, folder: Path, port: int, failpoint: str, name: str = "n1", first: str = "") -> Agent:
    return Agent(
        folder, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {port}", "--node", name,
        "--stall-timeout", str(STALL), "--echo-interval", "1", name=name, first=first,
        env={"NODETAP_FAILPOINT": failpoint},
    )  # fmt: skip


def verdict(hub: Hub, name: str = "n1") -> tuple[str, Any]:
    found = hub.agents().get(name, {})
    return found.get("verdict", ""), found.get("evidence", {}).get("detector")


def test_a_capture_that_hangs_is_restarted_and_the_link_is_left_alone(tmp_path: Path, machine: Lateness) -> None:
    """Scenario 8."""
    port, hang = free_port(), tmp_path / "hang"
    hub = Hub(tmp_path).ready()
    agent = agent_of(hub, tmp_path, port, f"capture_hang={hang}")
    captured, took = "nodetap_agent_captured_packets_total", []
    with ending(hub, agent), datagrams(port, 500):
        until("captures", lambda: agent.metric(captured) > 200)
        session = hub.agents()["n1"]["session"]
        for restarts in (1, 2, 3):
            before = len(events(agent, "stalled"))
            hang.touch()
            hung = time.time()
            until("a verdict in the log", lambda before=before: len(events(agent, "stalled")) > before)
            took.append(moment(events(agent, "stalled")[-1]) - hung)
            assert took[-1] >= STALL - 0.2
            assert took[-1] <= STALL + 2 * TICK + LATE or machine.overrun
            if restarts == 1:
                until("the hub says so", lambda: verdict(hub) == ("stalled", "capture"))
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
    record(
        "8", "capture hung three times, D = 3 s",
        "stalled by detector capture within D + 1 s, restarted, link untouched, degraded after three",
        f"after {', '.join(f'{s:.2f}' for s in took)} s, same session, {books['kernel_dropped']:,} kernel drops",
    )  # fmt: skip


@pytest.mark.parametrize("how", ["loop_block", "loop_gil"])
def test_a_loop_that_is_blocked_blames_itself(tmp_path: Path, how: str, machine: Lateness) -> None:
    """Scenario 7, 5 s: Python code that does not return, and a call that keeps the interpreter's lock."""
    port = free_port()
    hub = Hub(tmp_path).ready()
    agent = agent_of(hub, tmp_path, port, f"{how}={tmp_path / 'block'}")
    with ending(hub, agent), datagrams(port, 200):
        until("streams", lambda: agent.metric("nodetap_agent_captured_packets_total") > 100)
        block(tmp_path / "block", 5)
        stack = 2.0 + BEAT + LATE  # it blocks at its next beat
        took = within(stack, machine, "the stack of the blocked loop", lambda: "failpoints.py" in agent.text)
        until("it answers again", lambda: agent.state == "streaming")
        until("the books move on", lambda: agent.metric(STALLS.format("loop")) >= (how == "loop_block"))
        for detector in ("progress", "echo", "ping"):
            assert agent.metric(STALLS.format(detector)) == 0  # the hub was never to blame
        assert len(events(agent, "welcome")) <= 2  # at most one reconnect
        until("healthy", lambda: verdict(hub)[0] == "healthy")
        welcomes = len(events(agent, "welcome"))
        assert agent.stop() == 0, agent.text[-2000:]
        assert hub.ledger()["balanced"]
    record("7", f"loop blocked for 5 s, {WORDS[how]}", "stack within 2 s, hub not blamed, one reconnect at most",
           f"stack after {took:.2f} s, 0 link stalls, {welcomes - 1} reconnects")  # fmt: skip


def block(path: Path, seconds: float) -> None:
    """The agent finds a whole file."""
    told = path.with_suffix(".told")
    told.write_text(str(seconds))
    told.rename(path)


@pytest.mark.slow
def test_a_loop_blocked_for_long_is_stalled_and_comes_back_and_one_blocked_for_good_ends(
    tmp_path: Path, machine: Lateness
) -> None:
    """Scenario 7, 60 s, and past the loop's deadline of 90 s; scaled, both are shorter."""
    first = f"import agent.watchdog as w; w.LOOP_DEAD = {DEAD}"
    hub = Hub(tmp_path).ready()
    agents = {
        how: agent_of(hub, tmp_path, free_port(), f"{how}={tmp_path / how}", name=how, first=first) for how in WORDS
    }
    with ending(hub, *agents.values()):
        until("both stream", lambda: all(agent.state == "streaming" for agent in agents.values()))
        for seconds in (LONG, 10 * DEAD):
            for how in agents:
                block(tmp_path / how, seconds)
            blocked, told = time.time(), {}
            for how in agents:
                until("the hub calls it stalled", lambda how=how: verdict(hub, how)[0] == "stalled", 20)
                told[how] = time.time() - blocked
            if seconds == LONG:
                for how, agent in agents.items():
                    until("streams again", lambda agent=agent: agent.state == "streaming", LONG + 20)
                    until("healthy", lambda how=how: verdict(hub, how)[0] == "healthy")
                    assert agent.metric(STALLS.format("progress")) == 0
        codes = {how: agent.wait(DEAD + 30) for how, agent in agents.items()}
        took = {how: last_written(agent) - blocked for how, agent in agents.items()}
    for how, agent in agents.items():
        assert codes[how] != 0
        assert "failpoints.py" in agent.text
        assert took[how] <= DEAD + BEAT + 2 * TICK + LATE or machine.overrun
        record("7", f"loop blocked for {LONG:.0f} s, then for good, {WORDS[how]}",
               f"the hub says stalled after 10 s, then well again; past {DEAD:.0f} s it ends, not with 0",
               f"stalled after {told[how]:.1f} s, ended after {took[how]:.1f} s with {codes[how]}")  # fmt: skip


def last_written(agent: Agent) -> float:
    """When it wrote its last words, the stacks that come before its end."""
    return agent.log.stat().st_mtime
