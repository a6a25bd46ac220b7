"""Scenario 5: the hub is restarted while an agent streams. Nothing is lost, nothing doubled, streaming goes on soon.

What the hub acknowledged leaves the agent's memory: if that were not on disk, the numbered frames would have a hole.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from figures import record
from herd import Lateness
from numbered import write_pcap
from procs import Agent, Hub, Process, until
from stored import Stored, stored
from test_names_and_signals import ROWS
from test_states import events, moment
from test_store_kill import RENAMES, strace

FULL = os.environ.get("NODETAP_FAULTS") == "full"
RESTARTS = 20 if FULL else 4
RATE = 20_000
FRAMES, TIMES = 200_000, 100
"""One capture, read again and again: more than is ever read, the agent is told to stop after the last restart."""
SOON = 5.0
"""Seconds from listening to streaming."""


def replay(folder: Path, hubs: list[Hub], patience: float | None = None) -> Agent:
    """An agent that reads numbered frames; `patience` replaces the seconds for which a batch may be in doubt."""
    capture = write_pcap(folder / "numbered.pcap", FRAMES)
    options = [option for hub in hubs for option in ("--hub", hub.ws)]
    return Agent(
        folder, "replay", *[str(capture)] * TIMES, *options, "--speed", str(RATE), "--node", "n1", "--backoff-max", "2",
        first="" if patience is None else f"import agent.uplink.connection as c; c.DOUBT_PATIENCE = {patience}",
    )  # fmt: skip


def streams(agent: Process, hub: Hub) -> None:
    """Rows arrive at this hub."""
    assert agent.popen.poll() is None, agent.text[-2000:]
    before = max(hub.metric(ROWS), 0)
    until("rows arrive", lambda: hub.metric(ROWS) > before)


def waits(agent: Process, hub: Hub) -> list[float]:
    """Seconds from listening to streaming, of each life of the hub after the first."""
    welcomes = [moment(e) for e in events(agent, "welcome")]
    ups = [moment(e) for e in events(hub, "hub is up")][1:]
    return [min((w - up for w in welcomes if w >= up - 0.5), default=1e9) for up in ups]


def leave(agent: Process, hub: Hub) -> tuple[dict[str, Any], Stored]:
    """The agent stops, the hub after it: its books of that agent, and what is stored."""
    assert agent.stop(60) == 0, agent.text[-2000:]
    ledger = hub.ledger()
    assert hub.stop() == 0
    return ledger["agents"][0], stored(hub.folder)


def check_all_there(agent: Process, hub: Hub) -> int:
    books, found = leave(agent, hub)
    found.check()
    assert books["balanced"]
    assert books["complete"]
    assert books["lost"] == {}
    assert sorted(found.numbers) == list(range(1, books["captured"] + 1))
    assert books["captured"] == books["row"] == books["flow_packets"]
    return int(books["captured"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_streaming_goes_on_after_a_restart(tmp_path: Path, how: signal.Signals, machine: Lateness) -> None:
    hub = Hub(tmp_path).ready()
    agent = replay(tmp_path, [hub])
    try:
        for _ in range(RESTARTS):
            streams(agent, hub)
            hub.send(how)
            assert hub.wait(30) == (0 if how is signal.SIGTERM else -how)
            hub = hub.again().ready()
        streams(agent, hub)
        took = waits(agent, hub)
        frames = check_all_there(agent, hub)
    finally:
        hub.kill()
        agent.kill()
    assert len(took) == RESTARTS
    assert max(took) <= SOON or machine.overrun, took
    record("5", f"hub restarted {RESTARTS} times, {how.name}", "streaming 5 s after it listens, 0 lost, 0 doubled",
           f"{frames:,} frames once each, streaming after at most {max(took):.2f} s")  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_where_a_part_gets_its_name(tmp_path: Path) -> None:
    """The rename that publishes a part does not happen: of packets, flows or the books, as the count falls."""
    tracer, chance, killed = strace(), random.Random(5), 0
    trace = tmp_path / "trace"
    hub = Hub(tmp_path).ready()
    agent = replay(tmp_path, [hub])
    try:
        while killed < RESTARTS:
            streams(agent, hub)
            inject = f"inject={RENAMES}:signal=SIGKILL:when={chance.randint(1, 3)}"  # counted from here on, by thread
            command = [tracer, "-f", "-p", str(hub.popen.pid), "-o", str(trace), "-e", f"trace={RENAMES}"]
            with subprocess.Popen([*command, "-e", inject], stderr=subprocess.DEVNULL) as tracing:
                try:
                    assert hub.wait(60) == -signal.SIGKILL
                finally:
                    tracing.terminate()
            killed += "tmp_insert_" in last_rename(trace.read_text())
            hub = hub.again().ready()
        streams(agent, hub)
        frames = check_all_there(agent, hub)
    finally:
        hub.kill()
        agent.kill()
    record("5", f"hub SIGKILLed {killed} times where a part gets its name", "0 lost, 0 doubled",
           f"{frames:,} frames once each")  # fmt: skip


def last_rename(trace: str) -> str:
    return next((line for line in reversed(trace.splitlines()) if " rename" in line), "")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_two_stores_nothing_lands_in_both(tmp_path: Path) -> None:
    """What is in doubt goes to the store that may hold it, or to none: then both ledgers together name it."""
    hubs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        hubs.append(Hub(tmp_path / name).ready())
    agent = replay(tmp_path, hubs, None if FULL else 3.0)
    try:
        present = 0
        for turn in range(RESTARTS):
            streams(agent, hubs[present])
            end(agent, hubs[present], kindly=turn % 3 == 2)
            streams(agent, hubs[1 - present])
            hubs[present] = hubs[present].again().ready()
            present = 1 - present
        assert agent.stop(120) == 0, agent.text[-2000:]
        captured = int(agent.text.splitlines()[-1].split()[0])
        ledgers = [hub.ledger()["agents"][0] for hub in hubs]
        for hub in hubs:
            assert hub.stop() == 0
    finally:
        for process in (*hubs, agent):
            process.kill()
    doubt, missing = check_stores([stored(hub.folder) for hub in hubs], ledgers, captured)
    record("5", f"{RESTARTS} times from one hub to another with a store of its own",
           "a batch in doubt never lands in both stores; what is in neither, both ledgers name",
           f"{captured:,} frames, {doubt} batches in doubt, {missing:,} frames named as lost in doubt")  # fmt: skip


def end(agent: Agent, hub: Hub, kindly: bool) -> None:
    """The hub goes; killed, it leaves batches in doubt."""
    if not kindly:
        hub.send(signal.SIGSTOP)
        until("a batch is out", lambda: agent.metric("nodetap_agent_oldest_unacknowledged_seconds") > 0.3)
    hub.send(signal.SIGTERM if kindly else signal.SIGKILL)
    hub.wait(30)


def check_stores(found: list[Stored], ledgers: list[dict[str, Any]], captured: int) -> tuple[int, int]:
    """How many batches were in doubt, how many frames are in neither store."""
    a, b = found
    for store in found:
        store.check()
    assert not a.keys() & b.keys(), "a batch is in both stores"
    assert not set(a.numbers) & set(b.numbers), "a frame is in both stores"
    doubt = {kept.key: kept for kept in (*a.batches, *b.batches) if kept.reason == "in_doubt"}
    nowhere = [kept for key, kept in doubt.items() if key not in a.keys() | b.keys()]
    missing = captured - len(a.numbers) - len(b.numbers)
    assert missing == sum(kept.packets for kept in nowhere if kept.kind == "packets")
    for store, books in zip(found, ledgers, strict=True):
        named = sum(kept.packets for kept in store.batches if kept.reason == "in_doubt" and kept.kind == "packets")
        assert books["balanced"]
        assert not books["complete"], "the rest is in the other store"
        assert books["lost"].get("in_doubt", 0) == named
        assert books["row"] == len(store.numbers)
    return len(doubt), missing
