from __future__ import annotations

import socket
import struct
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live.netns import Netns, pair
from procs import until

from agent.capture.behind import Neighbour, Neighbourhood, behind, look, read_neighbour, read_route
from agent.capture.netlink import RTM_NEWROUTE, Link, Links
from agent.cli import run_command

VETHS = [Link(3, "veth3", 1, True, "veth"), Link(4, "veth4", 1, True, "veth"), Link(2, "eth0", 1, True)]
MAC, OTHER = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def route(address: bytes, length: int, index: int, kind: int = 1, more: bytes = b"") -> bytes:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    head = struct.pack("=BBBBBBBBI", family, length, 0, 0, 254, 2, 253, kind, 0)
    return head + attribute(1, address) + attribute(4, struct.pack("=i", index)) + more


def test_host_routes_without_a_gateway_count() -> None:
    assert read_route(route(bytes([10, 0, 0, 7]), 32, 3)) == (3, "10.0.0.7")
    assert read_route(route(bytes([0xFD, *14 * [0], 7]), 128, 3)) == (3, "fd00::7")
    assert read_route(route(bytes([10, 0, 0, 0]), 24, 3)) is None
    assert read_route(route(bytes([10, 0, 0, 7]), 32, 3, kind=2)) is None, "local"
    assert read_route(route(bytes([10, 0, 0, 7]), 32, 3, more=attribute(5, bytes(4)))) is None, "a gateway"
    assert read_route(route(bytes([169, 254, 1, 1]), 32, 3)) is None, "link-local"


def test_neighbours_and_ports_count() -> None:
    head = struct.Struct("=BxxxiHBB")
    known = attribute(1, bytes([10, 0, 0, 7])) + attribute(2, MAC)
    assert read_neighbour(head.pack(socket.AF_INET, 5, 2, 0, 1) + known) == Neighbour(5, MAC, "10.0.0.7")
    assert read_neighbour(head.pack(socket.AF_INET, 5, 0x20, 0, 1) + known) is None, "failed"
    port = attribute(2, MAC) + attribute(9, struct.pack("=i", 5))
    assert read_neighbour(head.pack(socket.AF_BRIDGE, 3, 2, 4, 0) + port) == Neighbour(3, MAC, "", 5)
    assert read_neighbour(head.pack(socket.AF_BRIDGE, 3, 0x80, 4, 0) + port) is None, "the port's own"


@given(st.binary(max_size=80))
def test_any_bytes_are_read(body: bytes) -> None:
    read_route(body)
    read_neighbour(body)


def test_a_route_or_a_bridge_tells_who_is_behind_a_link() -> None:
    bridge = [Neighbour(9, MAC, "10.0.0.8"), Neighbour(4, MAC, "", 9), Neighbour(9, OTHER, "10.0.0.9")]
    assert behind(VETHS, [(3, "10.0.0.7"), (2, "10.0.0.1")], bridge) == {"veth3": "10.0.0.7", "veth4": "10.0.0.8"}


def test_only_one_address_is_told_and_of_two_kinds_that_of_ipv4() -> None:
    assert behind(VETHS, [(3, "10.0.0.7"), (3, "10.0.0.8"), (4, "fd00::7"), (4, "10.0.0.9")], []) == {
        "veth4": "10.0.0.9"
    }


@pytest.mark.root
def test_the_kernel_tells_of_routes_and_bridges_as_they_change() -> None:
    with pair() as (node, pod), node.entered():
        seen: list[dict[str, str]] = []
        thread = Neighbourhood(seen.append)
        thread.start()
        node.run("ip", "route", "add", f"{pod.address}/32", "dev", node.device)
        until("the route is seen", lambda: seen and seen[-1] == {node.device: pod.address})
        node.run("ip", "route", "del", f"{pod.address}/32", "dev", node.device)
        node.run("ip", "link", "add", "cni0", "type", "bridge")
        node.run("ip", "address", "flush", "dev", node.device)
        node.run("ip", "link", "set", node.device, "master", "cni0")
        node.run("ip", "address", "add", f"{node.address}/24", "dev", "cni0")
        node.run("ip", "link", "set", "cni0", "up")
        until("the bridge forwards", lambda: _pings(node, pod))
        until("the bridge is seen", lambda: seen[-1] == {node.device: pod.address})
        with closing(Links()) as links:
            assert look(links) == {node.device: pod.address}
        thread.stop()
        thread.join(10)
        assert not thread.is_alive()


class Sandbox(Links):
    """A kernel that knows links and neighbours, and no routes."""

    def dump(self, kind: int, request: bytes) -> list[bytes]:
        unknown = kind == RTM_NEWROUTE
        ask = self._ask
        self._ask = Unknowing(ask.detach()) if unknown else ask
        return super().dump(kind, request)


class Unknowing(socket.socket):
    """Asks for something that no kernel knows."""

    def __init__(self, fileno: int) -> None:
        super().__init__(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE, fileno)

    def send(self, data: bytes) -> int:  # type: ignore[override]
        return super().send(data[:4] + struct.pack("=H", 0xFFF) + data[6:])


def test_a_list_that_the_kernel_refuses_has_its_name() -> None:
    with closing(Sandbox()) as links, pytest.raises(OSError, match="does not list its routes: Operation not supp"):
        links.dump(RTM_NEWROUTE, bytes(12))


@pytest.mark.root
def test_interfaces_are_listed_where_the_kernel_tells_no_routes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agent.capture.interfaces.Links", Sandbox)
    with pair() as (node, _), node.entered():
        assert run_command(["interfaces"]) == 0
        said = capsys.readouterr()
        assert node.device in said.out
        assert said.err.splitlines() == [
            "nodetap-agent: cannot tell what is behind interfaces: "
            "the kernel does not list its routes: Operation not supported"
        ]


def _pings(node: Netns, pod: Netns) -> bool:
    try:
        node.run("ping", "-c1", "-W1", pod.address)
    except AssertionError:
        return False
    return True
