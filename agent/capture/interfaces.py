"""The network interfaces of this host, and choosing among them. Needs no rights.

By netlink and ioctl (netdevice(7)), which ask the network namespace of the process: /sys shows that of whoever mounted
it.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from agent.capture import CaptureError
from agent.capture.netlink import Link, Links

_SIOCGIFADDR = 0x8915
_LOOPBACK = 772

LINKTYPES: dict[int, int] = {
    1: 1,  # ARPHRD_ETHER
    _LOOPBACK: 1,  # ARPHRD_LOOPBACK: AF_PACKET gives an Ethernet header there too
    0xFFFE: 101,  # ARPHRD_NONE: tun, WireGuard
    519: 101,  # ARPHRD_RAWIP
    512: 101,  # ARPHRD_PPP: AF_PACKET gives the IP packet
    768: 101,  # ARPHRD_TUNNEL: IP in IP
    769: 101,  # ARPHRD_TUNNEL6
    776: 101,  # ARPHRD_SIT
    778: 101,  # ARPHRD_IPGRE
    823: 101,  # ARPHRD_IP6GRE
}
"""ARPHRD_* of an interface -> LINKTYPE_* of what a raw packet socket reads there."""


@dataclass(frozen=True, slots=True)
class InterfaceInfo:
    """One interface. `linktype` is None where frames of its kind cannot be captured here; `hatype` is ARPHRD_*."""

    name: str
    index: int
    up: bool
    loopback: bool
    linktype: int | None
    addresses: tuple[str, ...]
    hatype: int


def _ipv4(sock: socket.socket, name: str) -> list[str]:
    """The interface's first IPv4 address, where it has one."""
    try:
        answer: bytes = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return []
    return [socket.inet_ntoa(answer[20:24])]  # struct ifreq: the name, a sockaddr_in


def _ipv6() -> dict[str, list[str]]:
    """Interface name -> its IPv6 addresses."""
    found: dict[str, list[str]] = {}
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        address, _, _, _, _, name = line.split()
        found.setdefault(name, []).append(str(ipaddress.IPv6Address(bytes.fromhex(address))))
    return found


def of_link(link: Link, addresses: Iterable[str] = ()) -> InterfaceInfo:
    """What capture has to know about a link."""
    loopback, linktype = link.hatype == _LOOPBACK, LINKTYPES.get(link.hatype)
    return InterfaceInfo(link.name, link.index, link.up, loopback, linktype, tuple(addresses), link.hatype)


@contextlib.contextmanager
def asking() -> Iterator[Links]:
    """The links of this network namespace, for the block. Raises CaptureError where the kernel does not tell."""
    try:
        with contextlib.closing(Links()) as links:
            yield links
    except OSError as error:
        raise CaptureError(f"cannot list the interfaces: {error}") from None


def interfaces_of(links: Links) -> list[InterfaceInfo]:
    """All interfaces, by index. Raises OSError."""
    ipv6 = _ipv6()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return [of_link(link, [*_ipv4(sock, link.name), *ipv6.get(link.name, [])]) for link in links.ask()]


def list_interfaces() -> list[InterfaceInfo]:
    """All interfaces of this network namespace, by index. Raises CaptureError where the kernel does not tell."""
    with asking() as links:
        return interfaces_of(links)


def matching(
    interfaces: Iterable[InterfaceInfo], include: Sequence[str], exclude: Sequence[str] = ()
) -> list[InterfaceInfo]:
    """Those whose names match a glob of `include` and none of `exclude`."""
    return [
        interface
        for interface in interfaces
        if any(fnmatchcase(interface.name, glob) for glob in include)
        and not any(fnmatchcase(interface.name, glob) for glob in exclude)
    ]


def choose(
    interfaces: Sequence[InterfaceInfo] | None, include: Sequence[str], exclude: Sequence[str] = ()
) -> list[InterfaceInfo]:
    """The interfaces whose names match a glob of `include` and none of `exclude`; None means all there are.

    Raises CaptureError where none does, or where one named without a wildcard is of a kind that cannot be captured;
    others of such a kind are left out.
    """
    if interfaces is None:
        interfaces = list_interfaces()
    chosen = matching(interfaces, include, exclude)
    for interface in chosen:
        if interface.linktype is None and interface.name in include:
            raise CaptureError(
                f"cannot capture on {interface.name}: frames of its kind (ARPHRD {interface.hatype}) are not known;"
                " leave it out with --exclude"
            )
    chosen = [interface for interface in chosen if interface.linktype is not None]
    if not chosen:
        there = ", ".join(interface.name for interface in interfaces if interface.linktype is not None) or "none"
        raise CaptureError(f"no interface matches {', '.join(include) or 'nothing'}; there are: {there}")
    return chosen
