"""The kernel's list of links, and word when it changes: rtnetlink(7). Needs no rights.

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

_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWLINK, _RTM_GETLINK = 2, 3, 16, 18
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_RTMGRP_LINK = 1
_IFLA_IFNAME, _IFLA_EXT_MASK, _SKIP_STATS = 3, 29, 1 << 3
_IFF_UP = 0x1
_HEADER, _LINK, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=HH")
_REQUEST = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + struct.pack("=HHI", 8, _IFLA_EXT_MASK, _SKIP_STATS)
_ANSWER = 1 << 18  # the kernel puts at most 32 KiB of a dump into one datagram
_ATTEMPTS = 10
_PATIENCE = 5.0  # seconds; the kernel answers in microseconds


@dataclass(frozen=True, slots=True)
class Link:
    """One link as the kernel describes it; `hatype` is ARPHRD_*."""

    index: int
    name: str
    hatype: int
    up: bool


def _records(data: bytes, header: struct.Struct, unit: int = 4) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """What lies in a row of records that begin with `header`, whose first number is the record's length."""
    place = 0
    while place + header.size <= len(data):
        numbers = header.unpack_from(data, place)
        if numbers[0] < header.size:
            return
        yield numbers, data[place + header.size : place + numbers[0]]
        place += (numbers[0] + unit - 1) & -unit


def read_link(body: bytes) -> Link | None:
    """The link that an RTM_NEWLINK message describes; None where it does not."""
    if len(body) < _LINK.size:
        return None
    _, hatype, index, flags, _ = _LINK.unpack_from(body)
    for (_, kind), value in _records(body[_LINK.size :], _ATTRIBUTE):
        if kind == _IFLA_IFNAME:
            return Link(index, os.fsdecode(value.rstrip(b"\0")), hatype, bool(flags & _IFF_UP))
    return None


class Links:
    """The links of the network namespace in which this was made. Raises OSError where the kernel does not answer."""

    def __init__(self) -> None:
        self._ask = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._ask.settimeout(_PATIENCE)
        self._hear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._hear.bind((0, _RTMGRP_LINK))
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
        """All links, by index. A list that changed while the kernel wrote it is asked for again."""
        for _ in range(_ATTEMPTS):
            links, torn = self._dump()
            if not torn:
                break
        return sorted(links, key=lambda link: link.index)

    def _dump(self) -> tuple[list[Link], bool]:
        self._number += 1
        header = _HEADER.pack(_HEADER.size + len(_REQUEST), _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, self._number, 0)
        self._ask.send(header + _REQUEST)
        links: list[Link] = []
        torn = False
        while True:
            for (_, kind, flags, number, _), body in _records(self._ask.recv(_ANSWER), _HEADER):
                if number != self._number:  # the end of an answer that was given up
                    continue
                torn = torn or bool(flags & _NLM_F_DUMP_INTR)
                if kind == _NLMSG_DONE:
                    return links, torn
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, f"the kernel does not list its links: {os.strerror(code)}")
                if kind == _RTM_NEWLINK and (link := read_link(body)) is not None:
                    links.append(link)

    def close(self) -> None:
        """Close the sockets."""
        with contextlib.suppress(OSError):
            self._hear.close()
        self._ask.close()
