"""The network interfaces of this host, and choosing among them. Needs no rights.

By ioctl (netdevice(7)), which asks the network namespace of the process: /sys shows that of whoever mounted it.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from agent.capture import CaptureError

_IFF_UP = 0x1
_SIOCGIFFLAGS, _SIOCGIFADDR, _SIOCGIFHWADDR = 0x8913, 0x8915, 0x8927
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


def _ask(sock: socket.socket, request: int, name: str) -> bytes | None:
    """What follows the name in the answer to an interface ioctl (struct ifreq); None where there is no answer."""
    try:
        answer: bytes = fcntl.ioctl(sock, request, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return None
    return answer[16:]


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


def list_interfaces() -> list[InterfaceInfo]:
    """All interfaces of this network namespace, by index."""
    ipv6 = _ipv6()
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for index, name in sorted(socket.if_nameindex()):
            kind, flags = _ask(sock, _SIOCGIFHWADDR, name), _ask(sock, _SIOCGIFFLAGS, name)
            if kind is None or flags is None:  # it went away while we looked
                continue
            (hatype,) = struct.unpack_from("=H", kind)
            up = bool(struct.unpack_from("=H", flags)[0] & _IFF_UP)
            ipv4 = _ask(sock, _SIOCGIFADDR, name)
            addresses = (*([socket.inet_ntoa(ipv4[4:8])] if ipv4 else []), *ipv6.get(name, []))
            loopback = hatype == _LOOPBACK
            found.append(InterfaceInfo(name, index, up, loopback, LINKTYPES.get(hatype), addresses, hatype))
    return found


def choose(
    interfaces: Sequence[InterfaceInfo] | None, include: Sequence[str], exclude: Sequence[str] = ()
) -> list[InterfaceInfo]:
    """The interfaces whose names match a glob of `include` and none of `exclude`; None means all there are.

    Raises CaptureError where none does, or where one named without a wildcard is of a kind that cannot be captured;
    others of such a kind are left out.
    """
    if interfaces is None:
        interfaces = list_interfaces()
    chosen = [
        interface
        for interface in interfaces
        if any(fnmatchcase(interface.name, glob) for glob in include)
        and not any(fnmatchcase(interface.name, glob) for glob in exclude)
    ]
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
