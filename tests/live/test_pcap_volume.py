"""`nodetap pcap` of a minute out of full recorders on five agents, one of them frozen.

In the default form recorders have 32 MiB and the minute has three seconds; with NODETAP_FAULTS=full it is 1 GiB and a
minute. What was measured is printed (pytest -s).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.capture import Block, Interface
from agent.recorder.folder import RecorderFolder
from agent.recorder.recorder import Recorder
from tests.agent.test_spool import Log
from tests.live.netns import MARKER, Netns, pair, send_marker, tcpdump
from tests.live.test_live_recorder import frames_of
from tests.procs import Agent, Hub, environment, program, until

FULL = os.environ.get("NODETAP_FAULTS") == "full"
BOUND = 1 << 30 if FULL else 32 << 20
SECONDS = 60 if FULL else 3
DEADLINE = 5.0
SIZE, RATE = 628, 1000
"""Bytes of a datagram, and how many of them are sent in a second."""
BEFORE = b"before the minute"
NAMES = [f"n{number}" for number in range(5)]

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1800 if FULL else 300)]


def fill(folder: Path) -> int:
    """Files of an earlier run, as many as a recorder keeps, of the hour that ended a minute ago. The newest time."""
    count, size = 10_000, SIZE + 42
    data = np.random.default_rng(1).integers(0, 256, count * size, dtype=np.uint8)
    length = np.full(count, size, dtype=np.uint32)
    block = Block(data, np.arange(count) * size, length, length, np.zeros(count, np.int64), np.zeros(count, np.uint16))
    recorder = Recorder(RecorderFolder(folder, "filled"), BOUND, [Interface("eth0", 1)], "00000000000000aa", Log())
    blocks = BOUND // (count * size) + 2
    end = time.time_ns() - 60 * 10**9
    for number in range(blocks):
        begin = end - (blocks - number) * 3600 * 10**9 // blocks
        recorder.put(replace(block, time=begin + np.arange(count, dtype=np.int64)))
        recorder.turn(time.monotonic())
    recorder.turn(time.monotonic(), ending=True)
    assert recorder.overwritten
    recorder._folder.close()
    return end


def copy(folder: Path, name: str) -> None:
    """The same files for an agent: they are never changed, only deleted. The lock is no part of them."""
    others = shutil.ignore_patterns("*lock*")
    shutil.copytree(folder / "filled.recorder", folder / f"{name}.recorder", copy_function=os.link, ignore=others)


def talk(left: Netns, right: Netns, count: int = SECONDS * RATE, text: bytes = b"") -> None:
    """Datagrams at an even pace."""
    with right.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with left.entered():
        source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sink, source:
        sink.bind((right.address, 0))
        begun = time.monotonic()
        for number in range(count):
            source.sendto((text + number.to_bytes(4, "big")).ljust(SIZE, b"."), sink.getsockname())
            time.sleep(max(0.0, begun + number / RATE - time.monotonic()))


def recorded(folder: Path, name: str, text: bytes = MARKER) -> bool:
    """Whether an agent's newest files have a frame with that in it."""
    newest = sorted((folder / f"{name}.recorder").glob("*.pcapng"))[-2:]
    return any(text in path.read_bytes() for path in newest)


def test_a_minute_out_of_full_recorders(tmp_path: Path) -> None:
    dump, out, frames = tmp_path / "tcpdump.pcap", tmp_path / "out.pcapng", tmp_path / "frames"
    fill(frames)
    for name in NAMES:
        copy(frames, name)
    with pair() as (left, right), ExitStack() as undo:
        hub = Hub(tmp_path, prefix=left.command())
        undo.callback(hub.kill)
        agents = {}
        for name in NAMES:
            agents[name] = Agent(
                tmp_path, "run", "--hub", hub.ws, "--interface", left.device, "--node", name, "--recorder", str(frames),
                "--recorder-bytes", str(BOUND), name=name, prefix=left.command(),
            )  # fmt: skip
            undo.callback(agents[name].kill)
        for name in NAMES:
            until(f"{name} streams", lambda name=name: '"state": "streaming"' in agents[name].text, 120)
        talk(left, right, 10, BEFORE)  # between the last run and this one nobody recorded: that was before the minute
        for name in NAMES:
            until(f"{name} records", lambda name=name: recorded(frames, name, BEFORE), 120)
        since = time.time_ns()
        with tcpdump(left, left.device, dump):
            talk(left, right)
            send_marker(left, right, right.address)
        for name in NAMES:
            until(f"{name} has recorded it", lambda name=name: recorded(frames, name), 120)
        theirs = frames_of([dump], tmp_path)

        def ask() -> tuple[str, float]:
            """What it says, and the seconds it took by the hub's log."""
            command = program("hub.cli.main", "--hub-url", hub.api, "pcap", "--since", str(since), "-w", str(out))
            before = len(fetched(hub))
            done = subprocess.run(
                left.command(*command, "--strict", "--deadline", str(DEADLINE)), capture_output=True, text=True,
                env=environment(), timeout=600,
            )  # fmt: skip
            until("it is in the log", lambda: len(fetched(hub)) > before)
            return done.stderr, fetched(hub)[-1]

        said, alone = ask()
        assert said == f"complete: {5 * sum(theirs.values()):,} frames, 5 agents\n"
        agents["n3"].send(signal.SIGSTOP)
        said, first = ask()
        assert said.startswith("INCOMPLETE: n3 missing (")
        assert "no answer within 5 s" in said
        assert first < DEADLINE + (60 if FULL else 10)
        assert frames_of([out], tmp_path) == Counter({frame: 4 * count for frame, count in theirs.items()})
        size = out.stat().st_size
        said, second = ask()
        found = re.search(r"n3 missing \(stalled: no answer within ([\d.]+) s", said)
        assert found is not None, said
        assert float(found[1]) < DEADLINE  # it is known to be silent
        assert frames_of([out], tmp_path) == Counter({frame: 4 * count for frame, count in theirs.items()})
        print(
            f"\n{SECONDS} s out of {BOUND >> 20} MiB on each of 5 agents: {alone:.1f} s, with one frozen {first:.1f} s "
            f"and then {second:.1f} s (deadline {DEADLINE:g} s), {sum(theirs.values()) * 4:,} frames, {size >> 20} MiB"
        )


def fetched(hub: Hub) -> list[float]:
    return [event["seconds"] for event in hub.events if event.get("event") == "raw frames were fetched"]
