from __future__ import annotations

import socket
import struct
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.netlink import Link, Links, read_link


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def test_what_a_message_tells() -> None:
    head = struct.pack("=BxHiII", 0, 772, 7, 0x1049, 0)
    assert read_link(head + attribute(13, b"\1") + attribute(3, b"veth-1\0")) == Link(7, "veth-1", 772, True)
    assert read_link(struct.pack("=BxHiII", 0, 1, 8, 0x1000, 0) + attribute(3, b"eth0\0")) == Link(8, "eth0", 1, False)
    assert read_link(head + attribute(13, b"\1")) is None, "no name"


@given(st.binary(max_size=80))
def test_any_bytes_are_read(body: bytes) -> None:
    read_link(body)


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="Linux only")
def test_the_kernel_lists_its_links() -> None:
    with closing(Links()) as links:
        assert [(link.index, link.name) for link in links.ask()] == sorted(socket.if_nameindex())
        assert [link.hatype for link in links.ask() if link.name == "lo"] == [772]
        assert not links.changed()
