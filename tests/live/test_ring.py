"""The kernel's rings against tcpdump on the same interface: exactly the same frames."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from netns import Netns, pair, send_marker, tcpdump

from agent.capture import Block, CaptureError
from agent.capture.file import FileSource
from agent.capture.ring import RingSource

pytestmark = pytest.mark.root

Frame = tuple[int, bytes]


def frames_of(block: Block) -> list[Frame]:
    """Length on the wire and bytes of each frame, with the VLAN tag that the kernel took off put back."""
    frames = []
    for at, length, wire_len, vlan in zip(
        block.offset,
        block.cap_len,
        block.wire_len,
        block.vlan if block.vlan is not None else np.full(len(block), -1),
        strict=True,
    ):
        data = block.data[at : at + length].tobytes()
        tag = b"" if vlan < 0 else int(vlan).to_bytes(4, "big")
        frames.append((int(wire_len), data[:12] + tag + data[12:]))
    return frames


def read_file(path: Path) -> list[Frame]:
    source = FileSource([path])
    source.open()
    frames: list[Frame] = []
    while not source.done:
        if (block := source.next_block(1)) is not None:
            frames += frames_of(block)
    return frames


def opened(netns: Netns, *include: str, ring_bytes: int = 16 << 20, **options: object) -> RingSource:
    source = RingSource(include or (netns.device,), ring_bytes=ring_bytes, **options)  # type: ignore[arg-type]
    with netns.entered():
        source.open()
    return source


def rest(source: RingSource) -> Iterator[Block]:
    """Stop, and what is still there."""
    source.stop()
    deadline = time.monotonic() + 10
    while not source.done:
        assert time.monotonic() < deadline, "the source did not end"
        if (block := source.next_block(0.2)) is not None:
            yield block


def drained(source: RingSource) -> list[Frame]:
    return [frame for block in rest(source) for frame in frames_of(block)]


def balanced(source: RingSource, captured: int) -> bool:
    counters = source.counters()
    return counters.kernel_packets == captured + counters.kernel_dropped + sum(counters.discarded.values())


def transfer(left: Netns, right: Netns, size: int) -> None:
    """`size` bytes over TCP from left to right, to the last acknowledgement of the end."""
    with right.entered():
        listener = socket.create_server((right.address, 5000))
    received = []

    def receive() -> None:
        peer, _ = listener.accept()
        with peer:
            while data := peer.recv(1 << 20):
                received.append(len(data))

    thread = threading.Thread(target=receive)
    thread.start()
    with left.entered():
        sender = socket.socket()
    with closing(listener), sender:
        sender.settimeout(10)
        sender.connect((right.address, 5000))
        sender.sendall(bytes(size))
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(1) == b""
        thread.join(10)
    assert sum(received) == size


def ping(netns: Netns, address: str, count: int = 3) -> None:
    netns.run("ping", "-q", "-c", str(count), "-i", "0.01", "-W", "2", address)


def test_same_frames_as_tcpdump(tmp_path: Path) -> None:
    with pair() as (left, right), closing(opened(left)) as source:
        with tcpdump(left, left.device, tmp_path / "seen.pcap"):
            ping(left, right.address)
            transfer(left, right, 4 << 20)
            send_marker(left, right, right.address)
        frames = drained(source)
        assert source.counters().kernel_dropped == 0
        assert balanced(source, len(frames))
    assert Counter(frames) == Counter(read_file(tmp_path / "seen.pcap"))
    assert len(frames) > 50
    assert max(len(data) for _, data in frames) > 1514, "segments come before they are cut"


def tagged(*tags: str) -> bytes:
    """A broadcast ICMP echo request behind VLAN tags, each TPID and TCI in hex."""
    ip = bytes.fromhex("4500001c000100004001000001010101020202020800f7fe00000001")
    return b"\xff" * 6 + bytes.fromhex("020000000001" + "".join(tags) + "0800") + ip + bytes(18)


def test_vlan_tags_that_the_kernel_takes_off(tmp_path: Path) -> None:
    sent = [tagged("8100202a"), tagged("88a80007", "8100002a"), tagged("8100002b"), tagged()]
    with (
        pair() as (left, right),
        closing(opened(left)) as source,
        closing(opened(left, bpf="vlan 42 and icmp")) as filtered,
    ):
        with tcpdump(left, left.device, tmp_path / "seen.pcap"):
            with right.entered():
                sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            with sender:
                for frame in sent:
                    sender.sendto(frame, (right.device, 0))
            send_marker(left, right, right.address)
        frames = drained(source)
        assert drained(filtered) == [(len(sent[0]), sent[0])]
    assert [data for _, data in frames[:4]] == sent
    assert Counter(frames) == Counter(read_file(tmp_path / "seen.pcap"))


def test_each_loopback_frame_once(tmp_path: Path) -> None:
    with pair() as (left, _), closing(opened(left, "lo")) as source:
        with tcpdump(left, "lo", tmp_path / "seen.pcap"):
            ping(left, "127.0.0.1")
            send_marker(left, left, "127.0.0.1")
        frames = drained(source)
        assert source.counters().discarded == {"loopback_copy": 7}
        assert balanced(source, len(frames))
    assert len(frames) == 7
    assert Counter(frames) == Counter(read_file(tmp_path / "seen.pcap"))


def test_interfaces_that_were_not_chosen_are_not_seen() -> None:
    with pair() as (left, right):
        left.run("ip", "link", "add", "other", "type", "veth", "peer", "name", "another")
        with (
            closing(opened(left, "lo", "other")) as without,
            closing(opened(left, "lo", left.device, bpf="icmp")) as with_it,
        ):
            ping(left, right.address)
            ping(left, left.address)
            names = [interface.name for interface in with_it.interfaces]
            assert Counter(names[i] for block in rest(with_it) for i in block.iface) == {"lo": 6, left.device: 6}
            assert len(drained(without)) == 6
            assert balanced(without, 6)


@contextmanager
def tun(netns: Netns) -> Iterator[int]:
    """The file of a device `tip` that carries bare IP packets."""
    with netns.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        with netns.entered():
            fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"tip", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
        netns.run("ip", "link", "set", "tip", "up")
        yield fd
    finally:
        os.close(fd)


def test_links_of_several_types_at_once() -> None:
    with pair() as (left, right), tun(left) as fd, closing(opened(left, "tip", left.device, bpf="icmp")) as source:
        ping(left, right.address)
        for _ in range(3):
            os.write(fd, tagged()[14:42])
        assert source.linktypes == {1, 101}
        frames = drained(source)
        assert balanced(source, len(frames))
    assert len(frames) == 9
    assert [data for wire_len, data in frames if wire_len == 28] == [tagged()[14:42]] * 3


def test_an_interface_that_goes_down_and_up_again() -> None:
    with pair() as (left, right), closing(opened(left)) as source:
        ping(left, right.address)
        left.run("ip", "link", "set", left.device, "down")
        before = source.next_block(1)
        assert before is not None
        while source.next_block(0.1) is not None:
            pass
        left.run("ip", "link", "set", left.device, "up")
        ping(left, right.address)
        assert len(drained(source)) >= 6


def test_wrong_filters_and_names_are_told() -> None:
    with pair() as (left, _):
        with pytest.raises(CaptureError, match=r"bad filter 'tcpp'.*syntax"):
            opened(left, bpf="tcpp")
        with pytest.raises(CaptureError, match=f"no interface matches nope; there are: lo, .*{left.device}"):
            opened(left, "nope")


def test_times_are_now() -> None:
    with pair() as (left, right), closing(opened(left)) as source:
        before = time.time_ns()
        ping(left, right.address)
        block = source.next_block(5)
        assert block is not None
        assert before <= block.time.min() <= block.time.max() <= time.time_ns()


def test_what_is_sent_after_stop_is_not_taken() -> None:
    with pair() as (left, right), closing(opened(left, bpf="icmp")) as source:
        ping(left, right.address)
        source.stop()
        ping(left, right.address)
        assert len(drained(source)) == 6


def test_a_ring_that_fills_up_is_told() -> None:
    # a slow machine fills blocks by time, too: 28 of 64 are left for that
    with pair() as (left, right), closing(opened(left, ring_bytes=64 << 20)) as source:
        ping(left, right.address)
        assert source.next_block(1) is not None
        assert not source.pressed
        transfer(left, right, 36 << 20)
        assert source.next_block(1) is not None
        assert source.pressed
        while source.next_block(0.2) is not None:
            pass
        assert source.pressed, "for some seconds, or it would come and go with each burst"
        assert source.counters().kernel_dropped == 0
