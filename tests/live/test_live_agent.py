"""The live agent against tcpdump on the same interface: the same frames, each once, through hub and store."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from netns import Netns, pair, send_marker, tcpdump
from procs import Agent, Hub, ending, environment, program, until

pytestmark = pytest.mark.root

FIELDS = (
    "frame.len", "eth.src", "eth.dst", "eth.type", "arp.opcode", "ip.src", "ip.dst", "ip.id", "ip.ttl", "nodetap.proto",
    "tcp.srcport", "tcp.dstport", "tcp.flags", "tcp.seq_raw", "tcp.ack_raw", "tcp.len", "udp.srcport", "udp.dstport",
    "udp.length", "icmp.type", "icmp.code",
)  # fmt: skip
BULK = 40 << 20


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in FIELDS)


def decoded(capture: Path) -> list[dict[str, Any]]:
    """What tcpdump wrote, decoded without any hub."""
    command = program("agent.cli", "decode", str(capture), "-o", "ndjson", "--fields", ",".join(FIELDS))
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(), timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


def web(left: Netns, right: Netns, folder: Path) -> None:
    """curl against `python3 -m http.server`, a small file and one of a megabyte."""
    (folder / "small.txt").write_text("hello\n")
    (folder / "large.bin").write_bytes(b"z" * (1 << 20))
    serve = [sys.executable, "-m", "http.server", "8000", "--bind", right.address, "--directory", str(folder)]
    server = subprocess.Popen(right.command(*serve), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for name in ("small.txt", "large.bin"):
            url = f"http://{right.address}:8000/{name}"
            left.run(
                "curl", "-sf", "--retry", "50", "--retry-connrefused", "--retry-delay", "0", "-o", "/dev/null", url
            )
    finally:
        server.kill()
        server.wait()


def names(left: Netns, right: Netns) -> None:
    """DNS queries, and answers that say there is no such name."""
    with right.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with left.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.bind((right.address, 53))
        client.settimeout(5)
        for number in range(20):
            question = b"\x04host\x07example\x00" + struct.pack("!HH", 1, 1)
            client.sendto(struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question, (right.address, 53))
            query, who = server.recvfrom(512)
            server.sendto(query[:2] + struct.pack("!5H", 0x8183, 1, 0, 0, 0) + question, who)
            client.recv(512)


def bulk(left: Netns, right: Netns) -> None:
    """One TCP connection that carries BULK bytes as fast as it goes."""
    with right.entered():
        listener = socket.create_server((right.address, 5001))
    with left.entered():
        client = socket.create_connection((right.address, 5001), timeout=20)
    peer, _ = listener.accept()
    with listener, client, peer:
        sender = threading.Thread(target=client.sendall, args=(b"\x00" * BULK,), daemon=True)
        sender.start()
        left_over = BULK
        while left_over:
            left_over -= len(peer.recv(1 << 20))
        sender.join(10)


def test_the_agent_reports_what_tcpdump_writes(tmp_path: Path) -> None:
    for tool in ("tcpdump", "curl", "ping"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    capture = tmp_path / "tcpdump.pcap"
    with pair() as (left, right), left.entered():
        hub = Hub(tmp_path).ready()
        agent = Agent(tmp_path, "run", "--hub", hub.ws, "--interface", left.device, "--node", "live")
        with ending(hub, agent):
            until("streaming", lambda: agent.state == "streaming")
            with tcpdump(left, left.device, capture):
                left.run("ping", "-c", "5", "-i", "0.05", right.address)
                names(left, right)
                web(left, right, tmp_path)
                bulk(left, right)
                left.run("ping", "-c", "2", "-i", "0.05", "-s", "4000", right.address)  # IPv4 fragments
                send_marker(left, right, right.address)
            agent.send(signal.SIGTERM)
            assert agent.wait(30) == 0, agent.text[-2000:]
            books = next(b for b in hub.ledger()["agents"] if b["agent"] == "live")
            rows = hub.rows("--fields", ",".join(("frame.number", "nodetap.iface", *FIELDS)))
    theirs, ours = Counter(map(identity, decoded(capture))), Counter(map(identity, rows))
    assert ours - theirs == Counter()
    assert theirs - ours == Counter()
    assert [row["frame.number"] for row in sorted(rows, key=lambda r: r["frame.number"])] == list(
        range(1, len(rows) + 1)
    )
    assert {row["nodetap.iface"] for row in rows} == {left.device}
    assert books["kernel_dropped"] == 0
    assert books["captured"] == books["row"] == books["flow_packets"] == books["kernel_packets"] == len(rows)
    assert books["balanced"]
    assert books["complete"]
    print(f"{len(rows)} frames, {sum(r['frame.len'] for r in rows) >> 20} MiB, equal to tcpdump's")


def test_without_the_right_to_capture_one_line_says_what_to_do(tmp_path: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    command = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--reuid", "65534", "--clear-groups"]
    agent = [*command, *program("agent.cli", "run", "--interface", "lo")]
    done = subprocess.run(agent, capture_output=True, text=True, env=environment(), timeout=30, cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "setcap" in lines[0]
    assert "root" in lines[0]
