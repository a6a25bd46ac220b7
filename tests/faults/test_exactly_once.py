"""kill -9 at random moments while rows stream: what is acknowledged is stored, and stored once."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from figures import record
from numbered import write_pcap
from procs import Agent, Hub, ending, until

from hub.store.store import Store

FULL = os.environ.get("NODETAP_FAULTS") == "full"
FRAMES = 1_000_000 if FULL else 200_000
KILLS = 50 if FULL else 10
RATE = 25_000


def replay(folder: Path, capture: Path, hub: Hub, name: str, rate: int) -> Agent:
    return Agent(
        folder, "replay", str(capture), "--hub", hub.ws, "--speed", str(rate), "--node", name,
        "--backoff-max", "0.5", "--connect-timeout", "60", "--buffer-bytes", str(4 << 20), name=name,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(os.environ.get("NODETAP_SEED", "1"))
    capture = write_pcap(tmp_path / "numbered.pcap", FRAMES)
    hub = Hub(tmp_path).ready()
    steady = replay(tmp_path, capture, hub, "steady", RATE)
    victim = replay(tmp_path, capture, hub, "victim", RATE)
    victims = [victim]
    try:
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.05, 1.2))  # the random moment: part of the fault, not a wait for a condition
            if rng.random() < 0.7:
                os.kill(hub.popen.pid, signal.SIGKILL)
                hub.wait()
                hub = hub.again().ready()
            if rng.random() < 0.5:
                victim.kill()
                victim = replay(tmp_path, capture, hub, f"victim{len(victims)}", RATE * 4)
                victims.append(victim)
        assert steady.wait(240) == 0, steady.text[-2000:]
        assert victim.wait(240) == 0, victim.text[-2000:]
        ledger = hub.ledger()
        hub.stop()
    finally:
        for process in (hub, steady, *victims):
            process.kill()
    check_store(tmp_path, ledger)


def check_store(folder: Path, ledger: dict) -> None:
    assert ledger["balanced"], [b for b in ledger["agents"] if not b["balanced"]]
    books = {b["agent"]: b for b in ledger["agents"]}
    steady = next(b for name, b in books.items() if name.startswith("steady/"))
    assert (steady["captured"], steady["row"], steady["pending"]) == (FRAMES, FRAMES, 0)
    assert steady["complete"]
    assert steady["flow_packets"] == FRAMES
    store = Store(f"chdb://{folder / 'store'}")
    store.open(time.time_ns())
    try:
        with store.reader() as reader:
            per_agent = reader.rows(
                "SELECT agent, count(), uniqExact(frame_number), min(frame_number), max(frame_number) "
                "FROM packets GROUP BY agent", {}, timeout=60,
            )  # fmt: skip
            torn = reader.rows(
                "SELECT b.agent, b.seq, b.rows, p.n FROM "
                "(SELECT agent, epoch, seq, rows FROM batches WHERE kind = 'packets' AND reason = '') AS b FULL JOIN "
                "(SELECT agent, epoch, seq, count() AS n FROM packets GROUP BY agent, epoch, seq) AS p "
                "ON b.agent = p.agent AND b.epoch = p.epoch AND b.seq = p.seq WHERE b.rows != p.n", {}, timeout=60,
            )  # fmt: skip
            twice = reader.rows(
                "SELECT agent, epoch, seq, count() FROM batches GROUP BY agent, epoch, seq HAVING count() > 1",
                {}, timeout=60,
            )  # fmt: skip
            flows = reader.rows("SELECT agent, sum(packets + packets_rev) FROM flows GROUP BY agent", {}, timeout=60)
    finally:
        store.close()
    assert not torn
    assert not twice
    for agent, rows, different, first, last in per_agent:
        assert rows == different == books[agent]["row"], agent
        assert (first, last) == (1, different) or not books[agent]["complete"]
    found = {agent: rows for agent, rows, *_ in per_agent}
    assert found[steady["agent"]] == FRAMES
    assert dict(flows)[steady["agent"]] == FRAMES
    assert all(b["complete"] or b["unreported_since"] for b in books.values())
    rows = sum(rows for _, rows, *_ in per_agent)
    record("5", f"{KILLS} SIGKILLs of hub and agent at random moments", "what is acknowledged is stored, and once",
           f"{rows:,} rows of {len(books)} runs, none twice, none missing of the run that was not killed")  # fmt: skip


def test_a_replay_without_a_hub_gives_up_with_the_count_left(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "few.pcap", 100)
    agent = Agent(tmp_path, "replay", str(capture), "--hub", "ws://127.0.0.1:9", "--connect-timeout", "1.5")
    with ending(agent):
        assert agent.wait(20) == 3
        assert "100 of the 100 packets" in agent.text


def wait_for_rows(hub: Hub, agent: Agent) -> None:
    """Until more are stored, or all: a hub that starts slowly may be given the rest at once."""
    name = 'nodetap_hub_rows_stored_total{kind="packets"}'
    before = hub.metric(name)
    until("rows arrive", lambda: hub.metric(name) > before or agent.popen.poll() is not None)


def test_every_frame_once_through_hub_restarts(tmp_path: Path) -> None:
    """The same file through SIGTERM and SIGKILL of the hub, a few times each."""
    capture = write_pcap(tmp_path / "numbered.pcap", 300_000)
    hub = Hub(tmp_path).ready()
    agent = replay(tmp_path, capture, hub, "one", 50_000)
    try:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            wait_for_rows(hub, agent)
            hub.send(number)
            hub.wait(30)
            hub = hub.again().ready()
        assert agent.wait(60) == 0, agent.text[-2000:]
        rows = hub.rows("--fields", "frame.number,tcp.seq_raw")
        assert [r["frame.number"] for r in rows] == list(range(1, 300_001))
        assert [r["tcp.seq_raw"] for r in rows] == list(range(1, 300_001))
        ledger = hub.ledger()
        assert ledger["balanced"]
        assert ledger["complete"]
    finally:
        hub.kill()
        agent.kill()


def test_a_capture_that_is_cut_short_gives_its_whole_frames(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "cut.pcap", 1000)
    capture.write_bytes(capture.read_bytes()[:-30])
    hub = Hub(tmp_path).ready()
    agent = Agent(tmp_path, "replay", str(capture), "--hub", hub.ws)
    with ending(hub, agent):
        assert agent.wait(30) == 0, agent.text[-2000:]
        assert "cut short" in agent.text
        assert len(hub.rows("--fields", "frame.number")) == 999
