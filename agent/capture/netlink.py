"""The kernel's lists of links, routes and neighbours, and word when they change: rtnetlink(7). Needs no rights.

The word says only that something changed; the list is then asked anew. So a lost word, two in one, or an unknown kind
of word cannot make us believe what is not so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWNEIGH = 16, 24, 28
LISTS = {RTM_NEWLINK: "links", RTM_NEWROUTE: "routes", RTM_NEWNEIGH: "neighbours"}
"""What can be asked for: the kind of what answers, and how it is called."""
_GET = 2  # from the number of what answers to that of the question
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_RTMGRP_LINK = 1
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_EXT_MASK, _SKIP_STATS = 3, 18, 29, 1 << 3
_IFLA_INFO_KIND = 1
_IFF_UP = 0x1
_HEADER, _LINK, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=HH")
_REQUEST = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + struct.pack("=HHI", 8, _IFLA_EXT_MASK, _SKIP_STATS)
_ANSWER = 1 << 18  # the kernel puts at most 32 KiB of a dump into one datagram
_ATTEMPTS = 10
_PATIENCE = 5.0  # seconds; the kernel answers in microseconds


@dataclass(frozen=True, slots=True)
class Link:
    """One link as the kernel describes it; `hatype` is ARPHRD_*, `kind` that of a virtual one (veth, bridge, ...)."""

    index: int
    name: str
    hatype: int
    up: bool
    kind: str = ""


def _records(data: bytes, header: struct.Struct, unit: int = 4) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """What lies in a row of records that begin with `header`, whose first number is the record's length."""
    place = 0
    while place + header.size <= len(data):
        numbers = header.unpack_from(data, place)
        if numbers[0] < header.size:
            return
        yield numbers, data[place + header.size : place + numbers[0]]
        place += (numbers[0] + unit - 1) & -unit


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes that follow a message's header, by their kind."""
    return {kind & 0x3FFF: value for (_, kind), value in _records(data, _ATTRIBUTE)}


def read_link(body: bytes) -> Link | None:
    """The link that an RTM_NEWLINK message describes; None where it does not."""
    if len(body) < _LINK.size:
        return None
    _, hatype, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body[_LINK.size :])
    if _IFLA_IFNAME not in found:
        return None
    kind = attributes(found.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"")
    name, of_kind = (os.fsdecode(value.rstrip(b"\0")) for value in (found[_IFLA_IFNAME], kind))
    return Link(index, name, hatype, bool(flags & _IFF_UP), of_kind)


class Links:
    """The links of the network namespace in which this was made; word of the `groups` (RTMGRP_*) that are named.

    Raises OSError where the kernel does not answer.
    """

    def __init__(self, groups: int = _RTMGRP_LINK) -> None:
        self._ask = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._ask.settimeout(_PATIENCE)
        self._hear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._hear.bind((0, groups))
        self._number = 0

    def fileno(self) -> int:
        """For poll: readable where `changed` may be true."""
        return self._hear.fileno()

    def changed(self) -> bool:
        """Whether the list may have changed since the last call, or since this was made."""
        changed = False
        while True:
            try:
                self._hear.recv(_ANSWER)
            except BlockingIOError:
                return changed
            except OSError as error:  # ENOBUFS: there was more to say than fits
                if error.errno != errno.ENOBUFS:
                    raise
            changed = True

    def ask(self) -> list[Link]:
        """All links, by index."""
        found = map(read_link, self.dump(RTM_NEWLINK, _REQUEST))
        return sorted((link for link in found if link is not None), key=lambda link: link.index)

    def dump(self, kind: int, request: bytes) -> list[bytes]:
        """The bodies of a list, a kind of LISTS. One that changed while the kernel wrote it is asked for
        again."""
        for _ in range(_ATTEMPTS):
            bodies, torn = self._dump(kind, request)
            if not torn:
                break
        return bodies

    def _dump(self, wanted: int, request: bytes) -> tuple[list[bytes], bool]:
        self._number += 1
        length, flags = _HEADER.size + len(request), _NLM_F_REQUEST | _NLM_F_DUMP
        self._ask.send(_HEADER.pack(length, wanted + _GET, flags, self._number, 0) + request)
        bodies: list[bytes] = []
        torn = False
        while True:
            for (_, kind, flags, number, _), body in _records(self._ask.recv(_ANSWER), _HEADER):
                if number != self._number:  # the end of an answer that was given up
                    continue
                torn = torn or bool(flags & _NLM_F_DUMP_INTR)
                if kind == _NLMSG_DONE:
                    return bodies, torn
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, f"the kernel does not list its {LISTS[wanted]}: {os.strerror(code)}")
                if kind == wanted:
                    bodies.append(body)

    def close(self) -> None:
        """Close the sockets."""
        with contextlib.suppress(OSError):
            self._hear.close()
        self._ask.close()
