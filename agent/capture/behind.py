"""Which address lies behind each link of this node: the pod's, for the host's end of a pod's veth pair.

Networks of pods tell it in two ways, and anybody may read both: by a host route out of the link (Calico, Cilium, AWS,
GKE), or, where pods hang on a bridge (kubenet, flannel), by what the bridge has learned: an address has a MAC address,
a MAC address is behind a port. A link is given an address only where it is the one that there is.

`behind` is pure; `Neighbourhood` asks the kernel (rtnetlink(7)) whenever it says that something changed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.capture.netlink import RTM_NEWNEIGH, RTM_NEWROUTE, Link, Links, attributes

_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NDA_DST, _NDA_LLADDR, _NDA_MASTER = 1, 2, 9
_RTN_UNICAST = 1
_NUD_PERMANENT, _NUD_NONE = 0x80, 0x01 | 0x20  # an entry that is incomplete, or failed
_NTF_PROXY = 0x08
_GROUPS = 0x1 | 0x4 | 0x40 | 0x400  # RTMGRP_LINK, _NEIGH, _IPV4_ROUTE, _IPV6_ROUTE
_ROUTE, _NEIGHBOUR = struct.Struct("=BBBBBBBBI"), struct.Struct("=BxxxiHBB")
_WHOLE = {socket.AF_INET: 32, socket.AF_INET6: 128}
PAIRED = frozenset({"veth", "netkit"})
"""Kinds of links whose other end is in another network namespace."""
PAUSE = 1.0
"""Seconds between two looks at the least: neighbours come and go all the time."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An address or a bridge port's MAC address that the kernel knows on a link. `master` is the bridge, 0 for none."""

    index: int
    mac: bytes
    address: str = ""
    master: int = 0


def read_route(body: bytes) -> tuple[int, str] | None:
    """Link and address of a host route without a gateway (RTM_NEWROUTE); None for any other."""
    if len(body) < _ROUTE.size:
        return None
    family, length, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(body)
    found = attributes(body[_ROUTE.size :])
    if (
        kind != _RTN_UNICAST
        or _WHOLE.get(family) != length
        or _RTA_GATEWAY in found
        or len(found.get(_RTA_OIF, b"")) != 4
    ):
        return None
    address = _address(found.get(_RTA_DST, b""))
    return (struct.unpack("=i", found[_RTA_OIF])[0], address) if address else None


def read_neighbour(body: bytes) -> Neighbour | None:
    """What an RTM_NEWNEIGH message says of a neighbour, or of a MAC address behind a port; None for what is neither."""
    if len(body) < _NEIGHBOUR.size:
        return None
    family, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
    found = attributes(body[_NEIGHBOUR.size :])
    mac = found.get(_NDA_LLADDR, b"")
    if state & _NUD_NONE or flags & _NTF_PROXY or not any(mac):
        return None
    if family == socket.AF_BRIDGE:
        master = found.get(_NDA_MASTER, b"")
        if state & _NUD_PERMANENT or len(master) != 4:
            return None
        return Neighbour(index, mac, master=struct.unpack("=i", master)[0])
    address = _address(found.get(_NDA_DST, b""))
    return Neighbour(index, mac, address) if address else None


def _address(data: bytes) -> str:
    """The address as text; empty for link-local and other ones that are no pod's."""
    if len(data) not in (4, 16):
        return ""
    address = ipaddress.ip_address(data)
    return "" if address.is_link_local or address.is_multicast or address.is_loopback else str(address)


def behind(links: Iterable[Link], routes: Iterable[tuple[int, str]], neighbours: Iterable[Neighbour]) -> dict[str, str]:
    """Name of a paired link -> the address behind it, IPv4 where it has both; only where there is exactly one."""
    paired = {link.index: link.name for link in links if link.kind in PAIRED}
    found: dict[int, set[str]] = defaultdict(set)
    for index, address in routes:
        found[index].add(address)
    known = list(neighbours)
    ports = {(one.master, one.mac): one.index for one in known if one.master}
    for one in known:
        if one.address:
            found[ports.get((one.index, one.mac), one.index)].add(one.address)
    chosen = ((name, _only(found[index])) for index, name in paired.items() if index in found)
    return {name: address for name, address in chosen if address}


def _only(addresses: set[str]) -> str:
    for version in (4, 6):
        same = [address for address in addresses if (":" in address) == (version == 6)]
        if same:
            return same[0] if len(same) == 1 else ""
    return ""


def look(links: Links) -> dict[str, str]:
    """What is behind the links now. Raises OSError."""
    there = links.ask()
    if not any(link.kind in PAIRED for link in there):
        return {}
    routes = links.dump(RTM_NEWROUTE, _ROUTE.pack(*(0,) * 9))
    neighbours = [
        body
        for family in (socket.AF_UNSPEC, socket.AF_BRIDGE)
        for body in links.dump(RTM_NEWNEIGH, _NEIGHBOUR.pack(family, 0, 0, 0, 0))
    ]
    return behind(there, filter(None, map(read_route, routes)), filter(None, map(read_neighbour, neighbours)))


class Neighbourhood(threading.Thread):
    """Looks whenever the kernel says that something changed; `on_change`, on this thread, gets what is behind links."""

    def __init__(self, on_change: Callable[[dict[str, str]], None]) -> None:
        super().__init__(name="behind", daemon=True)
        self._on_change = on_change
        self._halt = threading.Event()
        self._links = Links(_GROUPS)

    def run(self) -> None:
        """Until told to stop. What the kernel fails to tell is asked for again."""
        with contextlib.closing(self._links) as links:
            word = select.poll()
            word.register(links, select.POLLIN)
            while not self._halt.is_set():
                with contextlib.suppress(OSError):
                    links.changed()
                    self._on_change(look(links))
                self._halt.wait(PAUSE)
                while not self._halt.is_set() and not word.poll(PAUSE * 1000):
                    continue

    def stop(self) -> None:
        """Look no more."""
        self._halt.set()
