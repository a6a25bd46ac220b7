"""The recorder of a live agent: frames as tcpdump writes them, VLAN tags and nanoseconds included."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.live.netns import Netns, pair, send_marker, tcpdump
from tests.procs import Agent, free_port, until

COUNT = 300


def frames_of(paths: list[Path], folder: Path) -> Counter[bytes]:
    """The bytes of all frames, by way of a classic capture with microseconds."""
    found: Counter[bytes] = Counter()
    for path in paths:
        plain = folder / "plain.pcap"
        subprocess.run(["editcap", "-F", "nsecpcap", path, plain], check=True, capture_output=True)
        data, place = plain.read_bytes(), 24
        while place < len(data):
            size = int.from_bytes(data[place + 8 : place + 12], "little")
            found[data[place + 12 : place + 16 + size]] += 1
            place += 16 + size
    return found


def talk(left: Netns, right: Netns) -> None:
    """Datagrams of every small size, and frames with a VLAN tag, which the kernel takes off where they arrive."""
    with right.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with left.entered():
        source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sink, source, raw:
        sink.bind((right.address, 0))
        raw.bind((left.device, 0))
        for size in range(COUNT):
            source.sendto(bytes(size), sink.getsockname())
            raw.send(b"\xff" * 6 + bytes(6) + b"\x81\x00" + struct.pack(">H", size) + b"\x88\xb5" + bytes(46 + size))


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_files_hold_what_tcpdump_writes(tmp_path: Path, side: str) -> None:
    capture, folder = tmp_path / "tcpdump.pcap", tmp_path / "frames"
    with pair() as (left, right):
        where = left if side == "sender" else right
        with tcpdump(where, where.device, capture):
            agent = Agent(
                tmp_path, "run", "--interface", where.device, "--hub", f"ws://127.0.0.1:{free_port()}", "--node", "n1",
                "--recorder", str(folder), prefix=where.command(),
            )  # fmt: skip
            try:
                until("the agent captures", lambda: "capturing" in agent.text)
                talk(left, right)
                send_marker(left, right, right.address)
                path = folder / "n1.recorder"
                until(
                    "the marker is recorded", lambda: any(b"the last frame" in p.read_bytes() for p in path.glob("*"))
                )
            finally:
                agent.kill()
        recorded = sorted(path.glob("*.pcapng"))
        ours, theirs = frames_of(recorded, tmp_path), frames_of([capture], tmp_path)
    assert sum(theirs.values()) > 2 * COUNT
    assert ours == theirs
