"""Scenario 18: `nodetap follow` while the hub is restarted: each row once, in order; what is gone is said."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from figures import record
from numbered import write_pcap
from procs import Agent, Hub, Process, ending, environment, program, until

FULL = os.environ.get("NODETAP_FAULTS") == "full"
FRAMES = 100_000 if FULL else 30_000
RATE = FRAMES // 15
RESTARTS = (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)


class Follower(Process):
    """`nodetap follow -o ndjson ARGS`, its rows in a file of their own."""

    def __init__(self, folder: Path, hub: Hub, *args: str, name: str = "follow") -> None:
        self.out = folder / f"{name}.out"
        command = program("hub.cli.main", "--hub-url", hub.api, "follow", "-o", "ndjson", *args)
        shell = ["sh", "-c", 'out=$1; shift; exec "$@" >"$out"', "sh", str(self.out), *command]
        super().__init__(shell, folder / f"{name}.log")

    @property
    def count(self) -> int:
        return self.out.read_bytes().count(b"\n") if self.out.exists() else 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]


def replay(folder: Path, hub: Hub, frames: int, rate: int, name: str) -> Agent:
    capture = write_pcap(folder / f"{name}.pcap", frames)
    return Agent(
        folder, "replay", str(capture), "--hub", hub.ws, "--speed", str(rate), "--node", name, "--backoff-max", "1",
        "--buffer-bytes", str(1 << 20), name=name,
    )  # fmt: skip


@contextmanager
def whole(folder: Path, hub: Hub, frames: int, name: str) -> Iterator[None]:
    """All of a small capture is stored."""
    agent = replay(folder, hub, frames, frames * 10, name)
    with ending(agent):
        assert agent.wait(60) == 0, agent.text[-2000:]
        yield


@pytest.mark.slow
def test_every_row_once_and_in_order_through_three_restarts(tmp_path: Path) -> None:
    hub = Hub(tmp_path).ready()
    live = Follower(tmp_path, hub, "--since", "all", "--give-up", "120", "--strict")
    agent = replay(tmp_path, hub, FRAMES, RATE, "n1")
    try:
        for turn, how in enumerate(RESTARTS, 1):
            until("more rows", lambda turn=turn: live.count > turn * FRAMES // 5)
            hub.send(how)
            hub.wait(30)
            hub = hub.again().ready()
        assert agent.wait(60) == 0, agent.text[-2000:]
        until("the last row", lambda: live.count >= FRAMES)
        live.send(signal.SIGINT)
        assert live.wait(10) == 0, live.text
        numbers = [(row["frame.number"], row["tcp.seq_raw"]) for row in live.rows]
        assert numbers == [(n, n) for n in range(1, FRAMES + 1)]
        assert "trying again" in live.text  # once an outage, and one that follows at once is the same to it
        check_gone_for_good(tmp_path, hub, live.rows[-101]["nodetap.cursor"])
    finally:
        for process in (live, agent, hub):
            process.kill()
    record("18", f"`follow` through {len(RESTARTS)} hub restarts, then the hub is gone for good",
           "0 missing, 0 doubled, 0 reordered; a last word and not with 0",
           f"{FRAMES:,} rows, each once and in order; gave up with 3 and the cursor")  # fmt: skip


def check_gone_for_good(folder: Path, hub: Hub, cursor: str) -> None:
    """One that went on by a cursor, and then the hub never comes back."""
    last = Follower(folder, hub, "--cursor", cursor, "--give-up", "1", name="last")
    with ending(last):
        until("the last hundred rows", lambda: last.count == 100)
        hub.kill()
        assert last.wait(20) == 3
        told = last.text.splitlines()[-1]
        assert "gave up after 1 s" in told
        assert "--cursor" in told
    assert last.count == 100


def test_what_retention_took_before_it_was_followed_is_counted(tmp_path: Path) -> None:
    hub = Hub(tmp_path).ready()
    with ending(hub), whole(tmp_path, hub, 500, "first"):
        (first,) = take(tmp_path, hub, 1, "--since", "all")
        total, left = 500, 500
        while left == total:  # the store keeps a table's newest part, and may just have made one of all
            name = f"more{total}"
            with whole(tmp_path, hub, 500, name):
                hub.stop()
                hub = hub.again("--retain-bytes", "1").ready()
            total += 500
            left = len(after_retention(hub))
        with ending(hub):
            follower = Follower(tmp_path, hub, "--cursor", first["nodetap.cursor"], "--limit", str(left), "--strict")
            with ending(follower):
                assert follower.wait(20) == 4, follower.text
                assert follower.count == left
                assert f"nodetap: {total - left:,} rows were removed before they were followed" in follower.text
    record(
        "18",
        "retention overtakes the cursor of `follow`",
        "it says how much",
        f"{total - left:,} rows removed, said so",
    )


STALLED = 600_000 if FULL else 120_000
STALLED_RATE = 20_000 if FULL else 12_000
MAX_LAG = 3


@pytest.mark.slow
def test_a_reader_that_stops_is_told_how_much_it_missed(tmp_path: Path) -> None:
    """`follow` writes into a pipe that nobody reads while rows come, and then somebody does."""
    hub = Hub(tmp_path).ready()
    pipe, end = os.pipe()
    log = (tmp_path / "stalled.log").open("wb")
    args = ("follow", "-o", "ndjson", "--since", "all", "--max-lag", str(MAX_LAG), "--strict")
    live = subprocess.Popen(
        program("hub.cli.main", "--hub-url", hub.api, *args), stdout=end, stderr=log, env=environment()
    )
    os.close(end)
    agent = replay(tmp_path, hub, STALLED, STALLED_RATE, "n1")
    try:
        read = os.read(pipe, 1 << 16)
        assert agent.wait(180) == 0, agent.text[-2000:]
        stored = time.monotonic()
        until("it is late", lambda: time.monotonic() > stored + 2 * MAX_LAG)
        anonymous = rss_anon(live.pid)
        os.set_blocking(pipe, False)
        parts = [read]

        def all_accounted_for() -> bool:
            with contextlib.suppress(BlockingIOError):
                while part := os.read(pipe, 1 << 20):
                    parts.append(part)
            return sum(part.count(b"\n") for part in parts) + skipped(tmp_path) >= STALLED

        until("all rows are read or said to be skipped", all_accounted_for, 120)
        live.send_signal(signal.SIGINT)
        assert live.wait(20) == 4, (tmp_path / "stalled.log").read_text()
    finally:
        live.kill()
        live.wait()
        os.close(pipe)
        log.close()
        for process in (agent, hub):
            process.kill()
    numbers = [json.loads(line)["frame.number"] for line in b"".join(parts).splitlines()]
    assert skipped(tmp_path) > 0
    assert len(numbers) + skipped(tmp_path) == STALLED
    assert numbers == sorted(set(numbers))
    holes = sum(later - earlier > 1 for earlier, later in pairwise(numbers))
    assert holes <= (tmp_path / "stalled.log").read_text().count("skipped ")  # rows are missing where it said so alone
    assert anonymous < 100e6
    record("18", f"a pipe that is not read while {STALLED:,} rows come at {STALLED_RATE:,} a second",
           "memory bounded, what is skipped is said",
           f"{len(numbers):,} printed + {skipped(tmp_path):,} skipped; {anonymous / 1e6:.0f} MB")  # fmt: skip


def skipped(folder: Path) -> int:
    """How many rows the stalled follower said it skipped."""
    found = re.findall(r"skipped ([\d,]+) rows", (folder / "stalled.log").read_text())
    return sum(int(count.replace(",", "")) for count in found)


def rss_anon(pid: int) -> int:
    """Anonymous memory of a process, bytes."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


def after_retention(hub: Hub) -> list[dict[str, Any]]:
    until("retention has looked", lambda: any(e.get("event") == "dropped by retention" for e in hub.events))
    return hub.rows("--fields", "frame.number")


def take(folder: Path, hub: Hub, count: int, *args: str) -> list[dict[str, Any]]:
    follower = Follower(folder, hub, "--limit", str(count), *args, name="take")
    with ending(follower):
        assert follower.wait(20) == 0, follower.text
        return follower.rows
