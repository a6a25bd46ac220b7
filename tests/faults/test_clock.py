"""Clocks that are an hour off, and that are set while packets stream: scenario 11 on live processes.

Nobody may set the machine's clock for a test. A statement run before the program moves what it reads of the clock by
the seconds that a file holds, and in an agent the kernel's stamps of packets by the same.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from figures import record
from procs import ROOT, Agent, Hub, ending, free_port, until
from test_names_and_signals import events
from test_states import datagrams

pytestmark = pytest.mark.root

HOUR, NS = 3600, 10**9
MARGIN = 0.05
DETECTORS = ("progress", "echo", "ping", "loop", "capture")

CLOCK = """
import time
from pathlib import Path

def skew(file=Path({file!r}), float=float):
    try:
        return int(float(file.read_text()) * 1e9)
    except (OSError, ValueError):
        return 0

true = time.time_ns
time.time_ns = lambda: skew() + true()  # in this order: a file takes its time
time.time = lambda: time.time_ns() / 1e9
"""
STAMPS = """
from dataclasses import replace
import agent.pipeline

feed = agent.pipeline.Pipeline.feed
agent.pipeline.Pipeline.feed = lambda self, block: feed(self, replace(block, time=block.time + skew()))
"""


class Skew:
    """The clock of one process: seconds that it is ahead of the true one."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def set(self, seconds: float) -> None:
        """Step to that many seconds."""
        new = self.file.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self.file)


def skewed_hub(folder: Path) -> tuple[Hub, Skew]:
    skew, site = Skew(folder / "hub.skew"), folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(CLOCK.format(file=str(skew.file)))
    return Hub(folder, env={"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}).ready(), skew


def skewed_agent(folder: Path, hub: Hub, name: str, port: int, skew: Skew) -> Agent:
    return Agent(
        folder, "run", "--hub", hub.ws, "--interface", "lo", "--filter", f"udp port {port}", "--node", name,
        "--stall-timeout", "3", "--echo-interval", "1", name=name, first=CLOCK.format(file=str(skew.file)) + STAMPS,
    )  # fmt: skip


def error(hub: Hub, name: str, expected: float) -> float | None:
    """Seconds that the hub's idea of a clock is wrong; None until it is within the bound of the scenario."""
    link = hub.agents().get(name, {})
    if "clock_offset" not in link:
        return None
    wrong = abs(link["clock_offset"] - expected)
    return wrong if wrong <= link["round_trip"] / 2 + MARGIN else None


def settled(hub: Hub, expected: dict[str, float]) -> float:
    """The largest error of all, once each is within its bound."""
    wrong = 0.0
    for name, offset in expected.items():
        until(f"the offset of {name}", lambda n=name, o=offset: error(hub, n, o) is not None)
        wrong = max(wrong, error(hub, name, offset) or 0.0)
    return wrong


def warned(hub: Hub, *command: str) -> dict[str, int]:
    """Whose clock a command warns of on stderr, and by how many seconds it is ahead of the hub's."""
    found = re.findall(r"the clock of (\S+) is ([0-9,.]+) s (ahead|behind)", hub.cli(*command).stderr)
    return {name: round(float(off.replace(",", ""))) * (1 if way == "ahead" else -1) for name, off, way in found}


@contextmanager
def watched(hub: Hub) -> Iterator[set[str]]:
    """Every verdict that the hub gives while the block runs."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            seen.update(agent["verdict"] for agent in hub.agents().values())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(30)


def times(hub: Hub) -> tuple[dict[str, list[int]], dict[str, float]]:
    """The times of all stored packets by agent, ns; the offsets by which the answer says to correct them."""
    done = hub.cli(
        "packets", "--since", "all", "--limit", "0", "--fields", "nodetap.agent,frame.time_epoch", "-o", "ndjson"
    )
    found: dict[str, list[int]] = {}
    for row in map(json.loads, done.stdout.splitlines()):
        found.setdefault(row["nodetap.agent"], []).append(int(row["frame.time_epoch"].replace(".", "")))
    return found, {clock["agent"]: clock["offset"] for clock in json.loads(done.stderr)["clocks"]}


@pytest.mark.slow
def test_clocks_that_are_off_or_set_are_known_and_stall_nothing(tmp_path: Path) -> None:
    """Scenario 11: three agents see the same packets; one clock is right, one an hour ahead, one an hour behind."""
    port = free_port()
    hub, of_hub = skewed_hub(tmp_path)
    agents, of = {}, {}
    for name, seconds in (("n1", 0), ("n2", HOUR), ("n3", -HOUR)):
        of[name] = Skew(tmp_path / f"{name}.skew")
        of[name].set(seconds)
        agents[name] = skewed_agent(tmp_path, hub, name, port, of[name])
    with ending(hub, *agents.values()), datagrams(port, 200), watched(hub) as verdicts:
        off = settled(hub, {"n1": 0, "n2": -HOUR, "n3": HOUR})
        until("rows of all", lambda: len(times(hub)[0]) == 3)
        for command in (("agents",), ("agents", "-o", "wide"), ("packets",), ("flows",)):
            assert warned(hub, *command) == {"n2": HOUR, "n3": -HOUR}
        doctor = json.loads(hub.cli("doctor", "-o", "json", check=False).stdout)["findings"]
        assert {f["where"] for f in doctor if f["check"] == "clock" and f["level"] == "bad"} == {"n2", "n3"}
        apart = corrected(hub)

        stepped = time.monotonic()
        of["n1"].set(1)
        of["n2"].set(-HOUR)
        of["n3"].set(HOUR)
        off = max(off, settled(hub, {"n1": -1, "n2": HOUR, "n3": -HOUR}))
        seconds = time.monotonic() - stepped
        assert warned(hub, "agents") == {"n2": -HOUR, "n3": HOUR}

        of_hub.set(HOUR)
        off = max(off, settled(hub, {"n1": HOUR - 1, "n2": 2 * HOUR, "n3": 0}))
        assert warned(hub, "agents") == {"n1": 1 - HOUR, "n2": -2 * HOUR}

        for name, agent in agents.items():
            for detector in DETECTORS:
                stalls = agent.metric(f'nodetap_agent_stalls_total{{detector="{detector}"}}')
                assert stalls == 0, (name, events(agent, "link stalled"), hub.text[-3000:])
            assert len(events(agent, "welcome")) == 1, name
            before = agent.metric("nodetap_agent_captured_packets_total")
            until("it captures on", lambda a=agent, b=before: a.metric("nodetap_agent_captured_packets_total") > b)
        assert verdicts == {"healthy"}
        for agent in agents.values():
            assert agent.stop() == 0, agent.text[-2000:]
        books = hub.ledger()
        assert books["balanced"]
        assert books["complete"]
        for run in books["agents"]:
            assert run["captured"] == run["row"]
            assert not any(run["lost"].values())
    record(
        "11",
        "clocks an hour ahead and behind; agents' clocks set by two hours and the hub's by one while packets stream",
        "offset within RTT/2 + 50 ms, raw and corrected time, 0 false stalls, the CLI warns past 2 s",
        f"offset wrong by {off * 1e3:.1f} ms at most, corrected times of the same packets {apart * 1e3:.1f} ms apart, "
        f"steps known after {seconds:.1f} s; 0 stalls, 0 reconnects, 0 lost",
    )


def corrected(hub: Hub) -> float:
    """How far the corrected times of the same packets are apart, seconds; the raw ones are by an hour."""
    raw, offsets = times(hub)
    assert sorted(offsets) == ["n2", "n3"]
    for name, ahead in (("n2", HOUR), ("n3", -HOUR)):
        assert nearest(raw[name], raw["n1"], -ahead) < 0.001  # each socket is stamped by itself
    wrong = max(nearest(raw[name], raw["n1"], offsets[name]) for name in offsets)
    assert wrong <= max(agent["round_trip"] for agent in hub.agents().values()) / 2 + MARGIN
    return wrong


def nearest(times: list[int], others: list[int], offset: float) -> float:
    """Seconds from a time, moved by `offset` seconds, to the nearest of the others: the median."""
    moved, sorted_ = np.array(times) + round(offset * NS), np.sort(np.array(others))
    after = np.clip(np.searchsorted(sorted_, moved), 1, len(sorted_) - 1)
    return float(np.median(np.minimum(abs(sorted_[after] - moved), abs(moved - sorted_[after - 1])))) / NS
