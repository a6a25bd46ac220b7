"""Several capture processes: every packet in exactly one, a flow in one, the books of each right."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections import defaultdict
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from netns import Netns, pair
from procs import Agent, Hub, ending, until
from test_ring import balanced, opened, rest

pytestmark = pytest.mark.root

FLOWS, EACH = 40, 5


def exchange(left: Netns, right: Netns) -> None:
    """FLOWS conversations over UDP, EACH datagrams there and back."""
    with right.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ExitStack() as stack:
        stack.enter_context(server).bind((right.address, 7000))
        server.settimeout(5)
        for _ in range(FLOWS):
            with left.entered():
                client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            stack.enter_context(client).settimeout(5)  # open to the end: one that is closed may have its port again
            for _ in range(EACH):
                client.sendto(b"there", (right.address, 7000))
                server.sendto(b"back", server.recvfrom(100)[1])
                client.recv(100)


def test_rings_share_packets_by_flow() -> None:
    with (
        pair() as (left, right),
        closing(opened(left, bpf="udp", fanout=77)) as one,
        closing(opened(left, bpf="udp", fanout=77)) as two,
    ):
        exchange(left, right)
        seen: dict[int, set[int]] = defaultdict(set)
        frames = [0, 0]
        for number, source in enumerate((one, two)):
            for block in rest(source):
                frames[number] += len(block)
                for at in block.offset:
                    sport, dport = struct.unpack("!HH", block.data[at + 34 : at + 38].tobytes())
                    seen[sport if dport == 7000 else dport].add(number)
            assert balanced(source, frames[number])
    assert sum(frames) == FLOWS * EACH * 2
    assert len(seen) == FLOWS
    assert all(len(numbers) == 1 for numbers in seen.values()), "a flow in two workers"
    assert min(frames) > 0


def test_workers_are_agents_of_their_own(tmp_path: Path) -> None:
    with pair() as (left, right), left.entered():
        hub = Hub(tmp_path).ready()
        agent = Agent(
            tmp_path, "run", "--hub", hub.ws, "--interface", left.device, "--node", "many", "--capture-workers", "2"
        )
        with ending(hub, agent):
            until("both stream", lambda: sum(a["state"] == "streaming" for a in hub.agents().values()) == 2)
            assert set(hub.agents()) == {"many/w1", "many/w2"}
            assert {a["node"] for a in hub.agents().values()} == {"many"}
            exchange(left, right)
            agent.send(signal.SIGTERM)
            assert agent.wait(30) == 0, agent.text[-2000:]
            books = hub.ledger()
            rows = hub.rows("udp.port", "==", "7000", "--fields", "nodetap.agent")
    assert books["balanced"]
    assert len(rows) == FLOWS * EACH * 2
    assert {row["nodetap.agent"] for row in rows} == {"many/w1", "many/w2"}


def test_a_worker_that_dies_ends_them_all(tmp_path: Path) -> None:
    with pair() as (left, _), left.entered():
        hub = Hub(tmp_path).ready()
        agent = Agent(
            tmp_path, "run", "--hub", hub.ws, "--interface", left.device, "--node", "many", "--capture-workers", "2"
        )
        with ending(hub, agent):
            until("both stream", lambda: sum(a["state"] == "streaming" for a in hub.agents().values()) == 2)
            children = Path(f"/proc/{agent.popen.pid}/task/{agent.popen.pid}/children").read_text().split()
            assert len(children) == 2
            os.kill(int(children[0]), signal.SIGKILL)
            assert agent.wait(30) == 1
            assert not Path(f"/proc/{children[1]}").exists()
