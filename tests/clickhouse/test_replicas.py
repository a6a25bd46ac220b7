"""Several hubs over one store on servers, killed, frozen and cut off from it: each packet is there, and once."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from time import monotonic, sleep, time_ns
from typing import Any

import pytest
from numbered import write_pcap
from procs import Agent, Hub, ending, status_of, until
from standin import Server

from hub.store.cluster import ClusterStore

FULL = os.environ.get("NODETAP_FAULTS") == "full"
SECONDS = 300 if FULL else 30
EVERY = 10.0
RATE = 2_000
ROWS = 'nodetap_hub_rows_stored_total{kind="packets"}'

PER_RUN = "SELECT agent, count(), uniqExact(frame_number), max(frame_number) FROM packets GROUP BY agent ORDER BY agent"
TORN = """
SELECT b.agent, b.seq, b.rows, p.n FROM
(SELECT agent, epoch, seq, rows FROM batches WHERE kind = 'packets' AND reason = '') AS b FULL JOIN
(SELECT agent, epoch, seq, count() AS n FROM packets GROUP BY agent, epoch, seq) AS p
ON b.agent = p.agent AND b.epoch = p.epoch AND b.seq = p.seq WHERE b.rows != p.n"""
TWICE = "SELECT agent, epoch, seq, count() FROM batches GROUP BY agent, epoch, seq HAVING count() > 1"


def replica(folder: Path, server: Server, number: int) -> Hub:
    home = folder / f"hub{number}"
    home.mkdir(exist_ok=True)
    return Hub(home, "--store", server.url())


def replay(folder: Path, capture: Path, name: str, hubs: list[Hub], rate: int = RATE) -> Agent:
    return Agent(
        folder, "replay", str(capture), *(word for hub in hubs for word in ("--hub", hub.ws)), "--speed", str(rate),
        "--node", name, "--backoff-max", "0.5", "--stall-timeout", "3", "--connect-timeout", "120", name=name,
    )  # fmt: skip


def check(server: Server, hub: Hub, frames: int, agents: list[str]) -> None:
    """Everything is there, once and whole, and this hub's ledger knows it, whichever hub took it."""

    def books() -> list[dict[str, Any]]:
        ledger = hub.ledger()
        done = ledger["balanced"] and ledger["complete"] and all(b["row"] == frames for b in ledger["agents"])
        return list(ledger["agents"]) if done and len(ledger["agents"]) == len(agents) else []

    try:
        whole = until("the ledger is whole", books, 120)
    except AssertionError as error:
        raise AssertionError(f"{error}: {hub.ledger()}") from None
    assert sorted(b["agent"].split("/")[0] for b in whole) == agents
    store = ClusterStore(server.url())
    store.open(time_ns())
    try:
        with store.reader() as reader:
            runs = reader.rows(PER_RUN, timeout=60)
            assert [(a.split("/")[0], *rest) for a, *rest in runs] == [(name, *(frames,) * 3) for name in agents]
            assert reader.rows(TORN, timeout=60) == []
            assert reader.rows(TWICE, timeout=60) == []
    finally:
        store.close()


def answers(hub: Hub) -> dict[str, Any]:
    """The completeness of an answer of this hub."""
    done = hub.cli("packets", "--since", "all", "--limit", "5", "-o", "ndjson")
    return dict(json.loads(done.stderr.splitlines()[-1]))


def connected(hub: Hub) -> bool:
    """Whether a hub knows one agent, connected to whichever, and its books as those of a run that goes on."""
    agents, books = list(hub.agents().values()), hub.ledger()["agents"]
    return [a["state"] for a in agents] == ["streaming"] and [b["unreported_since"] for b in books] == [None]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_replicas_killed_in_turn_under_load(tmp_path: Path) -> None:
    frames = RATE * SECONDS
    capture = write_pcap(tmp_path / "numbered.pcap", frames)
    server = Server(tmp_path)
    hubs = [replica(tmp_path, server, 0).ready(), replica(tmp_path, server, 1).ready()]
    agents = [replay(tmp_path, capture, "a", hubs), replay(tmp_path, capture, "b", hubs[::-1])]
    with ending(server, *agents):
        try:
            ends, turn = monotonic() + SECONDS, 0
            while monotonic() < ends and any(agent.popen.poll() is None for agent in agents):
                sleep(EVERY)  # the moment is the experiment
                hubs[turn].send(signal.SIGKILL)
                hubs[turn].wait()
                assert "agents" in answers(hubs[1 - turn])
                hubs[turn] = hubs[turn].again()
                hubs[turn].ready()
                turn = 1 - turn
            for agent in agents:
                assert agent.wait(300) == 0, agent.text[-2000:]
            for hub in hubs:
                check(server, hub, frames, ["a", "b"])
        finally:
            for hub in hubs:
                hub.kill()


@pytest.mark.slow
def test_a_hub_frozen_with_its_insert_in_flight(tmp_path: Path) -> None:
    """The agent goes to the other hub; then the insert lands, and later the frozen hub goes on where it was."""
    frames = 30_000
    capture = write_pcap(tmp_path / "numbered.pcap", frames)
    server = Server(tmp_path)
    hubs = [replica(tmp_path, server, 0).ready(), replica(tmp_path, server, 1).ready()]
    agent = replay(tmp_path, capture, "a", hubs, rate=600)
    with ending(server, agent, *hubs):
        until("rows are stored", lambda: any(hub.metric(ROWS) > 0 for hub in hubs))
        until("both hubs know the agent as one that is connected", lambda: all(connected(hub) for hub in hubs))
        frozen, other = sorted(hubs, key=lambda hub: -hub.metric(ROWS))
        store = ClusterStore(server.url())
        store.open(time_ns())
        with store.reader() as reader:
            api = f"127.0.0.1:{frozen.api_port}"
            mine = "SELECT DISTINCT hub FROM hubs WHERE endsWith(api, {a:String})"
            ((number,),) = reader.rows(mine, {"a": api}, timeout=20)
        server.switch("hold", f"nodetap-insert {number} ")
        until("an insert is in flight", lambda: (server.control / "holding").exists())
        frozen.send(signal.SIGSTOP)
        until("the other hub stores", lambda: other.metric(ROWS) > 0)
        server.release("hold")
        until("more is stored", lambda: other.metric(ROWS) > 6_000)
        frozen.send(signal.SIGCONT)
        assert agent.wait(200) == 0, agent.text[-2000:]
        store.close()
        check(server, other, frames, ["a"])
        check(server, frozen, frames, ["a"])


@pytest.mark.slow
def test_servers_that_stop_or_can_only_be_read_hold_the_agents_back(tmp_path: Path) -> None:
    frames = 30_000
    capture = write_pcap(tmp_path / "numbered.pcap", frames)
    server = Server(tmp_path)
    hub = replica(tmp_path, server, 0).ready()
    agent = replay(tmp_path, capture, "a", [hub], rate=3_000)
    with ending(hub, agent, server):
        until("rows are stored", lambda: hub.metric(ROWS) > 0)
        server.switch("error", "242")
        until("the hub says so", lambda: status_of(f"{hub.api}/readyz") == 503)
        assert hub.popen.poll() is None
        server.release("error")
        until("it stores again", lambda: status_of(f"{hub.api}/readyz") == 200)
        server.kill()
        until("the hub says so", lambda: status_of(f"{hub.api}/readyz") == 503)
        server = server.again()
        with ending(server):
            assert agent.wait(200) == 0, agent.text[-2000:]
            check(server, hub, frames, ["a"])
            said = [event.get("reason", "") for event in hub.events if event["event"] == "cannot store; trying again"]
            assert any("the table can only be read" in reason for reason in said)
            assert any("no server answers" in reason for reason in said)
            assert "secret" not in hub.text
