"""The spool under real agents and hubs: killed, told to stop, on disks that are full, read-only or taken."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from figures import record
from herd import Lateness
from procs import Agent, Hub, ending, free_port, until
from test_names_and_signals import ROWS, end_beside_a_still_hub, live
from test_states import datagrams, events

CAPTURED = "nodetap_agent_captured_packets_total"
WRITTEN = "nodetap_agent_spool_written_bytes_total"
PARKED = "nodetap_agent_spool_parked_batches"
pytestmark = pytest.mark.root


@contextmanager
def tmpfs(path: Path, options: str) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    if not shutil.which("mount") or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path]).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def resume(folder: Path, hub: Hub, port: int, spool: Path) -> dict[str, dict[str, Any]]:
    """Let the hub go on and start the agent again on its spool; once all is sent, the books by epoch."""
    hub.send(signal.SIGCONT)
    again = live(folder, hub, port, "--spool", str(spool), log="again")
    with ending(again):
        until("streaming", lambda: again.state == "streaming")
        until("found", lambda: events(again, "spool recovered"))
        until("all is sent", lambda: again.metric("nodetap_agent_buffer_batches") == 0)
        again.send(signal.SIGTERM)
        assert again.wait(20) == 0, again.text[-1000:]
    assert not list(spool.glob("*/*.segment"))
    return {books["epoch"]: books for books in hub.ledger()["agents"]}


def numbers(hub: Hub, epoch: str) -> list[int]:
    """Frame numbers of the rows of a run, sorted."""
    rows = hub.rows("nodetap.epoch", "==", epoch, "--fields", "frame.number")
    return sorted(row["frame.number"] for row in rows)


def check_rows(hub: Hub, books: dict[str, Any], agent: Agent) -> list[int]:
    """Each row once; all of them, unless the ring was so full that for a while packets got no row."""
    found = numbers(hub, books["epoch"])
    assert len(found) == len(set(found)) == books["row"]
    turned = [e for e in events(agent, "level") if e["was"] == "packets"]
    assert all(e["ring_pressed"] for e in turned)
    assert turned or found == list(range(1, len(found) + 1))
    return found


def test_what_is_left_at_the_drain_deadline_is_sent_once_at_the_next_start(tmp_path: Path, machine: Lateness) -> None:
    """Scenario 15."""
    port, spool = free_port(), tmp_path / "spool"
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port, "--drain-timeout", "3", "--spool", str(spool))
    with ending(hub, agent):
        with datagrams(port, 1000):
            took = end_beside_a_still_hub(hub, agent)
        assert took >= 2.9
        assert took <= 4.0 or machine.overrun, took
        stopped = events(agent, "stopped")[0]
        assert stopped["left_packets"] == stopped["spooled_packets"] > 0
        epoch = stopped["epoch"]
        books = resume(tmp_path, hub, port, spool)
        assert len(books) == 2
        of = books[epoch]
        assert of["balanced"]
        assert of["complete"]
        assert of["final"]
        assert of["row"] + of["flow_only"] == of["captured"] == of["flow_packets"] == stopped["ledger"]["captured"]
        check_rows(hub, of, agent)
        assert hub.ledger()["complete"]
    record("15", "what is left at the drain deadline, with a spool", "sent once at the next start, under its own epoch",
           f"{stopped['left_packets']:,} packets left, all stored once, complete")  # fmt: skip


def test_a_second_signal_ends_at_once_and_what_was_captured_is_in_the_spool(tmp_path: Path, machine: Lateness) -> None:
    """Scenario 15."""
    port, spool = free_port(), tmp_path / "spool"
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port, "--drain-timeout", "60", "--spool", str(spool))
    with ending(hub, agent):
        with datagrams(port, 1000):
            took = end_beside_a_still_hub(hub, agent, signals=2)
            assert took <= 1.0 or machine.overrun
        stopped = events(agent, "stopped")[0]
        assert stopped["left_packets"] == stopped["spooled_packets"]
        of = resume(tmp_path, hub, port, spool)[stopped["epoch"]]
        assert of["final"]
        assert of["row"] + of["flow_only"] == of["captured"] == stopped["ledger"]["captured"]
        check_rows(hub, of, agent)
    record("15", "a second SIGTERM while the hub is SIGSTOPped, with a spool", "ends within 1 s, all is spooled",
           f"after {took:.2f} s, {stopped['left_packets']:,} packets left, all stored once")  # fmt: skip


def test_a_kill_while_the_hub_stands_still_loses_the_last_seconds_only(tmp_path: Path) -> None:
    """Scenario 21, with more waiting than fits into memory."""
    port, spool = free_port(), tmp_path / "spool"
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port, "--spool", str(spool), "--buffer-bytes", str(1 << 20), "--backoff-max", "1")
    with ending(hub, agent):
        with datagrams(port, 10_000):
            until("rows", lambda: hub.metric(ROWS) > 500)
            hub.send(signal.SIGSTOP)
            until("more than memory holds", lambda: agent.metric(PARKED) > 1, 120)
            captured = agent.metric(CAPTURED)
            time.sleep(2.5)  # what may be lost: a second, half of one until rows are sealed, and the steps of both
            agent.kill()
        epoch = events(agent, "capturing")[0]["epoch"]
        of = resume(tmp_path, hub, port, spool)[epoch]
        assert of["balanced"]
        assert of["lost"] == {}
        assert of["gaps"] == []
        assert of["unreported_since"]
        found = check_rows(hub, of, agent)
        assert found[-1] >= captured
    record("21", "agent SIGKILLed while the hub is SIGSTOPped, with a spool", "what is older than 2.5 s is stored",
           f"{captured:,.0f} captured 2.5 s before, newest row stored {found[-1]:,}")  # fmt: skip


def test_nothing_is_written_while_the_hub_acknowledges(tmp_path: Path) -> None:
    port, spool = free_port(), tmp_path / "spool"
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port, "--spool", str(spool))
    with ending(hub, agent), datagrams(port, 1000):
        until("rows", lambda: hub.metric(ROWS) > 3000)
        assert agent.metric(WRITTEN) == 0
        assert not list(spool.glob("*/*.segment"))
        agent.send(signal.SIGTERM)
        assert agent.wait(20) == 0


def test_a_full_disk_costs_nothing_but_the_copies(tmp_path: Path) -> None:
    port = free_port()
    hub = Hub(tmp_path).ready()
    with tmpfs(tmp_path / "full", "size=64k") as spool:
        agent = live(tmp_path, hub, port, "--spool", str(spool), "--backoff-max", "1")
        with ending(hub, agent), datagrams(port, 2000):
            until("rows", lambda: hub.metric(ROWS) > 500)
            hub.send(signal.SIGSTOP)
            until("full", lambda: agent.metric('nodetap_agent_spool_errors_total{reason="ENOSPC"}') >= 1, 60)
            assert agent.metric("nodetap_agent_spool_failing") == 1
            captured = agent.metric(CAPTURED)
            until("it goes on", lambda: agent.metric(CAPTURED) > captured + 2000)
            hub.send(signal.SIGCONT)
            agent.send(signal.SIGTERM)
            assert agent.wait(30) == 0, agent.text[-1000:]
            assert len(events(agent, "spool failed; going on in memory")) == 1
            books = hub.ledger()["agents"][0]
            assert books["balanced"]
            assert books["row"] + books["flow_only"] == books["captured"]
            check_rows(hub, books, agent)


def test_a_read_only_disk_is_said_and_the_agent_goes_on(tmp_path: Path) -> None:
    port = free_port()
    hub = Hub(tmp_path).ready()
    with tmpfs(tmp_path / "readonly", "ro,size=200k") as spool:
        agent = live(tmp_path, hub, port, "--spool", str(spool))
        with ending(hub, agent), datagrams(port, 500):
            until("rows", lambda: hub.metric(ROWS) > 500)
            assert agent.metric('nodetap_agent_spool_errors_total{reason="EROFS"}') >= 1
            said = events(agent, "spool failed; going on in memory")
            assert [line["reason"] for line in said] == ["Read-only file system"]
            agent.send(signal.SIGTERM)
            assert agent.wait(20) == 0


def test_two_agents_on_one_spool_are_told(tmp_path: Path) -> None:
    port, spool = free_port(), tmp_path / "spool"
    hub = Hub(tmp_path).ready()
    agent = live(tmp_path, hub, port, "--spool", str(spool))
    with ending(hub, agent):
        until("streaming", lambda: agent.state == "streaming")
        other = live(tmp_path, hub, port, "--spool", str(spool), log="other")
        with ending(other):
            assert other.wait(20) == 2
            line = other.text.strip().splitlines()
            assert len(line) == 1
            assert "is used by another agent: give each its own --spool or --node" in line[0]
        assert agent.state == "streaming"
