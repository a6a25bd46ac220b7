"""The ring in scapy's own hands: every frame is delivered."""

from __future__ import annotations

import os
import socket
import time

import pytest
from netns import Netns, pair
from procs import until
from scapy.layers.inet import ICMP
from scapy.layers.l2 import Dot1Q
from scapy.sendrecv import AsyncSniffer, sniff
from test_ring import ping, tagged, tun

from agent.capture import CaptureError
from agent.capture.scapy_ring import RingSocket

pytestmark = pytest.mark.root


def ring(netns: Netns, *args: str, **options: object) -> RingSocket:
    with netns.entered():
        return RingSocket(*args, ring_bytes=8 << 20, **options)  # type: ignore[arg-type]


def test_sniff_gets_all_frames() -> None:
    with pair() as (left, right), ring(left, left.device, "icmp") as sock:
        before = time.time()
        ping(left, right.address, 20)
        packets = sniff(opened_socket=sock, count=40, timeout=10)
        assert [packet[ICMP].type for packet in packets] == [8, 0] * 20
        assert {packet.wirelen for packet in packets} == {98}
        assert before <= packets[0].time <= packets[-1].time <= time.time()


def test_sniff_in_a_thread_ends_when_told() -> None:
    with pair() as (left, right), ring(left, left.device, "icmp") as sock:
        started = []
        sniffer = AsyncSniffer(opened_socket=sock, started_callback=lambda: started.append(1), prn=lambda _: None)
        sniffer.start()
        ping(left, right.address)
        until("six frames", lambda: sniffer.count >= 6, pause=0.01)
        sniffer.stop()
        assert len(sniffer.results) == 6


def test_two_rings_and_a_tagged_frame_and_bare_ip() -> None:
    with (
        pair() as (left, right),
        tun(left) as fd,
        ring(left, ["tip", "lo"], "icmp") as several,  # type: ignore[arg-type]
        ring(right, right.device, "icmp") as other,
    ):
        os.write(fd, tagged()[14:42])
        ping(left, "127.0.0.1")
        with left.entered():
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with sender:
            sender.sendto(tagged("8100202a"), (left.device, 0))
        packets = sniff(opened_socket=[several, other], count=8, timeout=10)
        assert [packet.name for packet in packets].count("IP") == 1
        assert [packet[Dot1Q].vlan for packet in packets if Dot1Q in packet] == [42]
        assert len(packets) == 8


def test_what_cannot_be_opened_is_told() -> None:
    with pair() as (left, _):
        with pytest.raises(CaptureError, match="no interface matches nope"):
            ring(left, "nope")
        with ring(left, left.device) as sock, pytest.raises(Exception, match="Can't send"):
            sock.send(b"x")
