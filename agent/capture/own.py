"""The agent's own traffic: TCP with the hub, known by port or by address and port, left out and counted.

Done after capture and not in the kernel's filter: what a filter rejects is counted by nobody.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent import kernel
from agent.capture import Block, Interface, pick
from agent.capture.chain import words
from protocol import built

Endpoint = int | tuple[str, int]
"""A TCP port of anybody's, or an address and a port there."""

_ETHERNET, _RAW_IP = 1, 101
_TAGS = (0x8100, 0x88A8)
_MOST_TAGS = 2
_TCP = 6
_QUICK = 54  # Ethernet and IPv6 headers


def _native(ethertype: int) -> int:
    """An ethertype as it looks to who reads it in this machine's byte order."""
    return int.from_bytes(ethertype.to_bytes(2, "big"), sys.byteorder)


_NATIVE_TAGS = [_native(tag) for tag in _TAGS]
_IPV4, _IPV6 = _native(0x0800), _native(0x86DD)


class OwnTraffic:
    """Leaves out the frames to and from `endpoints` and counts them in `dropped`.

    Looks at Ethernet (with up to two VLAN tags) and raw IP, at IPv4 and at IPv6 without extension headers; not into
    tunnels. Fragments other than the first have no ports and stay.
    """

    def __init__(self, interfaces: Sequence[Interface], endpoints: Iterable[Endpoint]) -> None:
        self.dropped = 0
        self._interfaces = interfaces
        self._known, self._ethernet = 0, True  # interfaces looked at, and whether all of them are Ethernet
        self._anybodys = np.zeros(65536, dtype=np.bool_)
        self._pairs: list[tuple[bytes, int]] = []
        self.add(endpoints)

    def add(self, endpoints: Iterable[Endpoint]) -> None:
        """Leave these out as well, from the next block on."""
        for endpoint in endpoints:
            if isinstance(endpoint, int):
                self._anybodys[endpoint] = True
            else:
                pair = (ipaddress.ip_address(endpoint[0].partition("%")[0]).packed, endpoint[1])
                self._pairs += [] if pair in self._pairs else [pair]
        self._any_port = bool(self._anybodys.any())
        self._tails = {
            width: {int.from_bytes(address[-4:], sys.byteorder) for address, _ in self._pairs if len(address) == width}
            for width in (4, 16)
        }

    def drop(self, block: Block) -> Block:
        """The block without own traffic; the block itself where there is none."""
        likely = self._likely(block)
        if likely is None:
            own = self._own(block)
        elif likely.any():
            own = np.flatnonzero(likely)[self._own(pick(block, likely))]
        else:
            return block
        if not len(own):
            return block
        self.dropped += len(own)
        keep = np.ones(len(block), dtype=np.bool_)
        keep[own] = False
        return pick(block, keep)

    def _likely(self, block: Block) -> NDArray[np.bool_] | None:
        """Which frames have to be looked at, by Ethernet's type and the ends of the IP addresses; None for all.

        This is the only look that most frames get: it has to be a quick one.
        """
        new, self._known = self._interfaces[self._known :], len(self._interfaces)
        self._ethernet = self._ethernet and all(interface.linktype == _ETHERNET for interface in new)
        if self._any_port or not self._ethernet or not len(block):
            return None
        if (library := kernel.load()) is not None:
            return self._likely_compiled(library, block)
        if block.offset.max() + _QUICK > len(block.data):
            return None
        kind = words(block.data, "=u2")[block.offset + 12]
        likely: NDArray[np.bool_] = (kind == _NATIVE_TAGS[0]) | (kind == _NATIVE_TAGS[1])
        for ethertype, tails, lies in ((_IPV4, self._tails[4], (26, 30)), (_IPV6, self._tails[16], (34, 50))):
            mine = kind == ethertype if tails else likely[:0]
            if mine.all() and len(mine):
                likely |= _any_of(block, block.offset, lies, tails)
            elif mine.any():
                likely[mine] = _any_of(block, block.offset[mine], lies, tails)
        return likely

    def _likely_compiled(self, library: Any, block: Block) -> NDArray[np.bool_]:
        data, offset, likely = block.data, np.ascontiguousarray(block.offset), np.empty(len(block), dtype=np.bool_)
        tails = np.array([*self._tails[4], *self._tails[16]], dtype=np.uint32)
        library.nodetap_own(
            built.address(data), len(data), built.address(offset), len(offset),
            built.address(tails), len(self._tails[4]), len(self._tails[16]), built.address(likely),
        )  # fmt: skip
        return likely

    def _own(self, block: Block) -> NDArray[np.int64]:
        """Which frames of the block are own traffic."""
        found = [np.zeros(0, dtype=np.int64)]
        chosen, at, end = _network(block, np.array([interface.linktype for interface in self._interfaces]))
        version = block.data[at] >> 4
        for number, header, width, source in ((4, 20, 4, 12), (6, 40, 16, 8)):
            mine = np.flatnonzero((version == number) & (at + header + 4 <= end))
            place = at[mine]
            ports = _ports(block.data, place, number)
            fine = (ports >= 0) & (ports + 4 <= end[mine])
            mine, place, ports = mine[fine], place[fine], ports[fine]
            found.append(chosen[mine[self._matches(block.data, place + source, ports, width)]])
        return np.concatenate(found)

    def _matches(
        self, data: NDArray[np.uint8], addresses: NDArray[np.int64], ports: NDArray[np.int64], width: int
    ) -> NDArray[np.bool_]:
        """Which segments are own traffic, from where their two addresses (source first) and two ports lie."""
        view = words(data, ">u2")
        hit = np.zeros(len(ports), dtype=np.bool_)
        for side in (0, 1):
            port = view[ports + 2 * side]
            hit |= self._anybodys[port]
            for address, number in self._pairs:
                if len(address) == width:
                    candidates = np.flatnonzero(port == number)
                    lies = (addresses[candidates] + side * width)[:, None] + np.arange(width)
                    hit[candidates] |= (data[lies] == np.frombuffer(address, dtype=np.uint8)).all(axis=1)
        return hit


def _any_of(block: Block, offset: NDArray[np.int64], lies: Iterable[int], tails: Iterable[int]) -> NDArray[np.bool_]:
    """Which frames have one of `tails` in one of the places, 4 bytes as this machine reads them."""
    found = np.zeros(len(offset), dtype=np.bool_)
    for at in lies:
        tail = words(block.data, "=u4")[offset + at]
        for wanted in tails:
            found |= tail == wanted
    return found


def _network(
    block: Block, linktypes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The frames that may hold IP: which they are, where the network header starts, where the frame ends."""
    kind = linktypes[block.iface]
    end = block.offset + block.cap_len
    raw = np.flatnonzero((kind == _RAW_IP) & (block.cap_len > 0))
    ethernet = np.flatnonzero((kind == _ETHERNET) & (block.cap_len > 14))
    at, view = block.offset[ethernet] + 12, words(block.data, ">u2")
    for _ in range(_MOST_TAGS):
        tagged = np.isin(view[at], _TAGS) & (at + 6 < end[ethernet])
        at = np.where(tagged, at + 4, at)
    chosen = np.concatenate([raw, ethernet])
    return chosen, np.concatenate([block.offset[raw], at + 2]), end[chosen]


def _ports(data: NDArray[np.uint8], place: NDArray[np.int64], version: int) -> NDArray[np.int64]:
    """Where the TCP ports lie behind IP headers at `place`; -1 where there is no TCP header."""
    if version == 6:
        return np.where(data[place + 6] == _TCP, place + 40, -1)
    header = (data[place] & 0x0F).astype(np.int64) * 4
    first = words(data, ">u2")[place + 6] & 0x1FFF == 0
    return np.where((data[place + 9] == _TCP) & first & (header >= 20), place + header, -1)


def drop_own(block: Block, interfaces: Sequence[Interface], endpoints: Iterable[Endpoint]) -> tuple[Block, int]:
    """The block without the frames to and from `endpoints`, and how many they were."""
    own = OwnTraffic(interfaces, endpoints)
    return own.drop(block), own.dropped
