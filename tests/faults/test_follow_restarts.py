"""Scenario 18: `nodetap follow` while the hub is restarted: each row once, in order; what is gone is said."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from figures import record
from numbered import write_pcap
from procs import Agent, Hub, Process, ending, program, until

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
    live = Follower(tmp_path, hub, "--since", "all", "--give-up", "30", "--strict")
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


def after_retention(hub: Hub) -> list[dict[str, Any]]:
    until("retention has looked", lambda: any(e.get("event") == "dropped by retention" for e in hub.events))
    return hub.rows("--fields", "frame.number")


def take(folder: Path, hub: Hub, count: int, *args: str) -> list[dict[str, Any]]:
    follower = Follower(folder, hub, "--limit", str(count), *args, name="take")
    with ending(follower):
        assert follower.wait(20) == 0, follower.text
        return follower.rows
