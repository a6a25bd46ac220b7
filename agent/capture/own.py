"""The agent's own traffic: TCP with the hub, known by port or by address and port, left out and counted.

Done after capture and not in the kernel's filter: what a filter rejects is counted by nobody.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.capture import Block, Interface, pick
from agent.capture.chain import words

Endpoint = int | tuple[str, int]
"""A TCP port of anybody's, or an address and a port there."""

_ETHERNET, _RAW_IP = 1, 101
_TAGS = (0x8100, 0x88A8)
_MOST_TAGS = 2
_TCP = 6


class OwnTraffic:
    """Leaves out the frames to and from `endpoints` and counts them in `dropped`.

    Looks at Ethernet (with up to two VLAN tags) and raw IP, at IPv4 and at IPv6 without extension headers; not into
    tunnels. Fragments other than the first have no ports and stay.
    """

    def __init__(self, interfaces: Sequence[Interface], endpoints: Iterable[Endpoint]) -> None:
        self.dropped = 0
        self._interfaces = interfaces
        self._anybodys = np.zeros(65536, dtype=np.bool_)
        self._pairs: list[tuple[bytes, int]] = []
        for endpoint in endpoints:
            if isinstance(endpoint, int):
                self._anybodys[endpoint] = True
            else:
                self._pairs.append((ipaddress.ip_address(endpoint[0]).packed, endpoint[1]))

    def drop(self, block: Block) -> Block:
        """The block without own traffic; the block itself where there is none."""
        own = self._own(block)
        if not len(own):
            return block
        self.dropped += len(own)
        keep = np.ones(len(block), dtype=np.bool_)
        keep[own] = False
        return pick(block, keep)

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
