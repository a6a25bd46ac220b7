"""Interfaces that come, go, change their names and come back while the ring is open."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from contextlib import closing

import pytest
from netns import Netns, pair
from procs import until
from test_ring import balanced, opened, ping, rest, tagged

from agent.capture.ring import RingSource

pytestmark = pytest.mark.root


class Heard:
    """What a source says of its interfaces, and the frames per interface that it hands over."""

    def __init__(self, source: RingSource) -> None:
        self.source = source
        self.changes: list[tuple[list[str], list[str]]] = []
        self.frames: Counter[str] = Counter()
        source.on_change = lambda came, went: self.changes.append((came, went))

    def read(self, seconds: float = 0.0) -> None:
        if (block := self.source.next_block(seconds)) is not None:
            self.frames.update(self.source.interfaces[place].name for place in block.iface)

    def until_change(self, came: list[str], went: list[str]) -> None:
        def look() -> bool:
            self.read(0.2)
            return (came, went) in self.changes

        until(f"{came} came, {went} went", look, pause=0)
        self.changes.clear()

    def rest(self) -> Counter[str]:
        for block in rest(self.source):
            self.frames.update(self.source.interfaces[place].name for place in block.iface)
        return self.frames


def new_pair(left: Netns, right: Netns, name: str, number: int) -> str:
    """A further pair from left to right; the address at its far end."""
    left.run("ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", right.name)
    for netns, last in ((left, 1), (right, 2)):
        netns.run("ip", "address", "add", f"10.98.{number}.{last}/24", "dev", name)
        netns.run("ip", "link", "set", name, "up")
    return f"10.98.{number}.2"


def test_new_interfaces_are_taken_up_where_the_globs_say_so() -> None:
    with pair() as (left, right), closing(opened(left, "pod*", left.device, exclude=("pod-x*",), bpf="icmp")) as source:
        heard = Heard(source)
        ping(left, right.address)
        wanted, unwanted = new_pair(left, right, "pod-a", 1), new_pair(left, right, "pod-x", 2)
        heard.until_change(["pod-a"], [])
        for address in (right.address, wanted, unwanted):
            ping(left, address)
        assert heard.rest() == {left.device: 12, "pod-a": 6}
        assert balanced(source, 18)
        assert [interface.name for interface in source.interfaces] == [left.device, "pod-a"]


def test_an_interface_that_goes_keeps_its_place_and_comes_back() -> None:
    with pair() as (left, right), closing(opened(left, "pod*", "lo", bpf="icmp")) as source:
        heard = Heard(source)
        for _ in range(2):
            address = new_pair(left, right, "pod-a", 1)
            heard.until_change(["pod-a"], [])
            ping(left, address)
            left.run("ip", "link", "delete", "pod-a")
            heard.until_change([], ["pod-a"])
        ping(left, "127.0.0.1")
        assert heard.rest() == {"pod-a": 12, "lo": 6}
        assert [interface.name for interface in source.interfaces] == ["lo", "pod-a"]


def test_the_only_interface_goes_and_comes_back() -> None:
    with pair() as (left, right):
        address = new_pair(left, right, "only", 1)
        with closing(opened(left, "only", bpf="icmp")) as source:
            heard = Heard(source)
            ping(left, address)
            left.run("ip", "link", "delete", "only")
            heard.until_change([], ["only"])
            assert not source.done
            address = new_pair(left, right, "only", 1)
            heard.until_change(["only"], [])
            ping(left, address)
            left.run("ip", "link", "set", "only", "down")
            left.run("ip", "link", "set", "only", "name", "another")
            left.run("ip", "link", "set", "another", "up")
            heard.until_change([], ["only"])
            ping(left, address)
            assert heard.rest() == {"only": 12}
            assert balanced(source, 12)


def test_a_link_type_that_comes_later_gets_its_ring() -> None:
    with pair() as (left, _), closing(opened(left, "*", bpf="icmp")) as source:
        heard = Heard(source)
        left.run("ip", "tuntap", "add", "tip", "mode", "tun")
        heard.until_change(["tip"], [])
        assert source.linktypes == {1, 101}
        left.run("ip", "tuntap", "delete", "tip", "mode", "tun")
        heard.until_change([], ["tip"])
        ping(left, "127.0.0.1")
        assert heard.rest() == {"lo": 6}


def test_vlan_filters_work_once_an_interface_is_up() -> None:
    with pair() as (left, right):
        left.run("ip", "link", "set", left.device, "down")
        with closing(opened(left, bpf="vlan 5")) as source, left.entered():
            left.run("ip", "link", "set", left.device, "up")
            assert source.next_block(0.2) is None, "it reads what the kernel says of the link"
            with right.entered():
                sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            with sender:
                for tag in ("81000004", "81000005", "81000005"):
                    sender.sendto(tagged(tag), (right.device, 0))
            tags = [int(tag) & 0xFFFF for block in rest(source) if block.vlan is not None for tag in block.vlan]
        assert tags == [5, 5]


def test_no_frame_is_lost_or_seen_twice_while_interfaces_come_and_go() -> None:
    """Numbered frames on one interface, sent without a pause while others appear and vanish."""
    with pair() as (left, right), closing(opened(left, left.device, "pod*")) as source:
        with left.entered():
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        ended = threading.Event()
        sent = 0

        def send() -> None:
            nonlocal sent
            head = bytes.fromhex("ffffffffffff020000000001") + b"\x88\xb5"
            while not ended.is_set():
                sender.sendto(head + struct.pack("!I", sent) + bytes(42), (left.device, 0))
                sent += 1

        thread = threading.Thread(target=send)
        numbers: list[int] = []
        with sender:
            thread.start()
            churn = threading.Thread(target=_churn, args=(left, right))
            churn.start()
            deadline = time.monotonic() + 60
            while churn.is_alive() or len(source.interfaces) < 6:
                assert time.monotonic() < deadline
                if (block := source.next_block(0.1)) is not None:
                    numbers += _numbers(block)
            ended.set()
            thread.join()
        for block in rest(source):
            numbers += _numbers(block)
        assert source.counters().kernel_dropped == 0
        assert len(source.interfaces) == 6
    assert numbers == list(range(sent))


def _churn(left: Netns, right: Netns) -> None:
    for number in range(5):
        new_pair(left, right, f"pod-{number}", number)
        if number:
            left.run("ip", "link", "delete", f"pod-{number - 1}")


def _numbers(block: object) -> list[int]:
    data, offset = block.data, block.offset  # type: ignore[attr-defined]
    return [
        int.from_bytes(data[at + 14 : at + 18].tobytes(), "big")
        for at in offset
        if data[at + 12 : at + 14].tobytes() == b"\x88\xb5"
    ]
