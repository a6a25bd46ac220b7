"""One name twice, signals to leave, an agent killed and started again: real hubs and agents."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import pytest
from figures import record
from herd import Lateness
from numbered import write_pcap
from procs import Agent, Hub, ending, free_port, until
from test_states import datagrams, events, moment, within

FULL = os.environ.get("NODETAP_FAULTS") == "full"
ROWS = 'nodetap_hub_rows_stored_total{kind="packets"}'


def live(folder: Path, hub: Hub, port: int, *args: str, name: str = "n1", log: str = "agent", first: str = "") -> Agent:
    return Agent(
        folder, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {port}", "--node", name,
        "--stall-timeout", "3", "--echo-interval", "1", *args, name=log, first=first,
    )  # fmt: skip


def end_beside_a_still_hub(hub: Hub, agent: Agent, signals: int = 1) -> float:
    """SIGSTOP of a hub with rows, so many SIGTERMs to its agent: the seconds from the last until it ends, with 3."""
    until("rows", lambda: hub.metric(ROWS) > 500)
    hub.send(signal.SIGSTOP)
    agent.send(signal.SIGTERM)
    for _ in range(1, signals):
        until("draining", lambda: agent.state == "draining")
        agent.send(signal.SIGTERM)
    told = time.monotonic()
    assert agent.wait(20) == 3
    return time.monotonic() - told


@pytest.mark.root
def test_of_two_agents_of_one_name_the_newer_stays_and_the_older_waits(tmp_path: Path, machine: Lateness) -> None:
    """Scenario 10."""
    port = free_port()
    hub = Hub(tmp_path).ready()
    older = live(tmp_path, hub, port, log="older")
    with ending(hub, older), datagrams(port, 200):
        until("the older streams", lambda: older.state == "streaming")
        newer = live(tmp_path, hub, port, log="newer")
        with ending(newer):
            until("the newer streams", lambda: newer.state == "streaming")
            wait = until("the older is out", lambda: events(older, "reconnecting"))[0]
            took = moment(wait) - moment(events(newer, "welcome")[0])
            assert took <= 1.0 or machine.overrun
            assert 30.0 <= wait["wait_s"] <= 60.0
            assert "superseded" in wait["reason"]
            assert any(e.get("event", "").startswith("superseded by a newer") for e in hub.events)
            until("one session", lambda: hub.metric("nodetap_hub_sessions") == 1)
            assert newer.state == "streaming"
            assert newer.stop() == 0
        assert older.stop() == 0  # who has to go hurries back and hands in what it has
        assert hub.ledger()["complete"]
    record("10", "two agents of one name", "the newer streams, the older leaves within 1 s and waits 30 to 60 s",
           f"left after {max(took, 0.0) * 1000:.0f} ms, waits {wait['wait_s']:.0f} s")  # fmt: skip


@pytest.mark.root
@pytest.mark.timeout(600)
def test_two_clones_take_turns_slowly_and_are_reported(tmp_path: Path) -> None:
    """Scenario 10; scaled, those who lost their name wait a tenth of the time."""
    port, flips = free_port(), 6
    alone = 30.0 if FULL else 3.0
    first = f"import agent.uplink.backoff as b; b.SUPERSEDED_WAIT = {alone}"
    hub = Hub(tmp_path).ready()
    clones = [live(tmp_path, hub, port, log=log, first=first) for log in ("one", "other")]

    def lost() -> list[float]:
        """When one of them lost its name: where this machine is overrun, links stall besides."""
        left = (e for clone in clones for e in events(clone, "reconnecting"))
        return sorted(moment(e) for e in left if e["reason"].startswith("superseded"))

    with ending(hub, *clones), datagrams(port, 200):
        until("they take turns", lambda: len(lost()) >= flips, flips * alone * 2 + 20, 0.2)
        times, said = lost(), hub.agents()["n1"]
        assert (said["verdict"], said["evidence"]["detector"]) == ("degraded", "name")
        assert [clone.stop() for clone in clones] == [0, 0]  # who has to go hurries back and hands in what it has
        ledger = hub.ledger()
        assert ledger["balanced"]
        assert ledger["complete"]
        assert len(ledger["agents"]) == 2
        for books in ledger["agents"]:
            frames = hub.rows("nodetap.epoch", "==", books["epoch"], "--fields", "frame.number")
            assert len(frames) == len({row["frame.number"] for row in frames}) == books["row"]
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert min(gaps) >= alone * 0.98  # at most twice in any `2 * alone`: a minute, by default
    turns = len(gaps) * 2 * alone / (times[-1] - times[0])
    record("10", "two clones for good", "at most 2 turns a minute, and `nodetap agents` says so",
           f"{turns:.1f} turns a minute{'' if FULL else ' (time scaled by 10)'}; degraded, detector name")  # fmt: skip


def test_a_replay_that_finds_no_hub_ends_soon_after_a_signal(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "numbered.pcap", 1_000)
    replay = Agent(tmp_path, "replay", str(capture), "--hub", f"ws://127.0.0.1:{free_port()}", name="replay")
    with ending(replay):
        until("it has no connection", lambda: events(replay, "reconnecting"))
        replay.send(signal.SIGTERM)
        assert replay.wait(40) == 3, replay.text[-1000:]  # of the minute that it has without a signal
        assert "gave up with 1000 of the 1000 packets" in replay.text


@pytest.mark.root
def test_a_replay_beside_a_live_agent_disturbs_nothing(tmp_path: Path) -> None:
    """Scenario 10."""
    port, frames = free_port(), 50_000
    capture = write_pcap(tmp_path / "numbered.pcap", frames)
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port)
    with ending(hub, agent), datagrams(port, 500):
        until("rows", lambda: hub.metric(ROWS) > 200)
        session = hub.agents()["n1"]["session"]
        replay = Agent(tmp_path, "replay", str(capture), "--hub", hub.ws, "--node", "n1", name="replay")
        with ending(replay):
            assert replay.wait(60) == 0, replay.text[-1000:]
        now = hub.agents()["n1"]
        assert (now["session"], now["reconnects"]) == (session, 0)
        assert now["verdict"] in ("healthy", "degraded")  # the latter where this machine is too busy for all rows
        assert len(events(agent, "welcome")) == 1
        assert agent.stop() == 0
        books = {b["agent"]: b for b in hub.ledger()["agents"]}
        assert all(b["balanced"] and b["complete"] for b in books.values()), books
        assert all(b["captured"] == b["row"] + b["flow_only"] for b in books.values()), books
        other = next(b for name, b in books.items() if name.startswith("n1/replay-"))
        assert other["row"] == frames
    record("10", "a replay beside the live agent of its node", "nothing is disturbed",
           f"{frames:,} frames replayed, the live link is the same, both books balanced")  # fmt: skip


@pytest.mark.root
def test_a_signal_while_streaming_stores_the_last_packet_before_it(tmp_path: Path, machine: Lateness) -> None:
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
            told = time.monotonic()
            assert agent.wait(30) == 0, agent.text[-1000:]
            took = time.monotonic() - told
            assert took <= 10 or machine.overrun
        rows = len(hub.rows("udp.dstport", "==", str(port), "--fields", "frame.number"))
        assert rows >= before  # it listened before the first was sent
        books = hub.ledger()["agents"][0]
        assert books["captured"] == books["row"] == rows
        assert books["final"]
        assert hub.agents()["n1"]["verdict"] == "left"
        assert books["kernel_packets"] == rows + books["kernel_dropped"] + sum(books["discarded"].values())
    record("14", "SIGTERM while streaming, drain deadline 10 s", "exit 0, the last packet before the signal is stored",
           f"exit 0 after {took:.2f} s, {before:,} sent before the signal, {rows:,} rows")  # fmt: skip


@pytest.mark.root
def test_a_signal_while_the_hub_stands_still_ends_at_the_drain_deadline(tmp_path: Path, machine: Lateness) -> None:
    """Scenario 15."""
    port = free_port()
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port, "--drain-timeout", "3")
    with ending(hub, agent), datagrams(port, 1000):
        took = end_beside_a_still_hub(hub, agent)
        assert took >= 2.9
        assert took <= 4.0 or machine.overrun, took
        left = events(agent, "stopped")[0]["left_packets"]
        assert left > 0
    record("15", "SIGTERM while the hub is SIGSTOPped, drain deadline 3 s", "ends within 4 s, not with 0, count left",
           f"after {took:.2f} s, with 3, {left:,} packets left")  # fmt: skip


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
            until("it is not stalled", lambda: hub.agents()["n1"]["verdict"] in ("healthy", "degraded"))
            until("no stall is claimed", lambda: "stall" not in hub.agents()["n1"]["evidence"])
        until("it streams", lambda: agent.state == "streaming")


@pytest.mark.root
def test_who_was_stopped_for_longer_than_it_may_hang_goes_on(tmp_path: Path) -> None:
    """SIGSTOP of agent and hub, with batches on their way: what each ends itself for is time in which it ran."""
    port, dead, rounds = free_port(), 2.5, 5 if FULL else 1  # a busy machine is late by a second or two
    first = f"import agent.watchdog, hub.watchdog; agent.watchdog.LOOP_DEAD = hub.watchdog.LOOP_DEAD = {dead}"
    hub = Hub(tmp_path, first=first).ready()
    agent = live(tmp_path, hub, port, first=first)
    with ending(hub, agent), datagrams(port, 200):
        for stopped in [(agent,), (hub,), (agent, hub)] * rounds:
            before = hub.metric(ROWS)
            until("rows", lambda before=before: hub.metric(ROWS) > before)
            for process in stopped:
                process.send(signal.SIGSTOP)
            time.sleep(2 * dead)  # the fault: longer than any of their deadlines
            for process in stopped:
                process.send(signal.SIGCONT)
        until("it streams", lambda: agent.state == "streaming")
        assert agent.stop() == 0, agent.text[-2000:]
        assert hub.ledger()["complete"]
        assert hub.stop() == 0, hub.text[-2000:]
        for process in (agent, hub):
            assert [e for e in process.events if e.get("event") == "the process did not run"]
            assert "most recent call first" not in process.text
    record("9", f"agent, hub, both stopped {rounds} times each, twice as long as what they end themselves for",
           "they go on, without stacks; balanced, complete", "no end, no stacks, balanced and complete")  # fmt: skip


@pytest.mark.root
def test_a_killed_agent_comes_back_under_a_new_epoch_and_the_gap_is_said(tmp_path: Path, machine: Lateness) -> None:
    """Scenario 21."""
    port = free_port()
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port)
    with ending(hub, agent), datagrams(port, 1000):
        until("rows", lambda: hub.metric(ROWS) > 500)
        agent.kill()
        again = live(tmp_path, hub, port, log="again")
        with ending(again):
            took = within(5, machine, "streaming", lambda: again.state == "streaming")
            again.send(signal.SIGTERM)
            assert again.wait(20) == 0
        ledger = hub.ledger()
        assert ledger["balanced"]
        assert not ledger["complete"]
        assert len({b["epoch"] for b in ledger["agents"]}) == 2
        assert sum(b["unreported_since"] is not None for b in ledger["agents"]) == 1
    record("21", "agent SIGKILLed and started again", "streaming within 5 s, a new epoch; balanced, not complete",
           f"streaming after {took:.2f} s, the old epoch is unreported since its last batch")  # fmt: skip
