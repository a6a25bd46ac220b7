"""The agent's own traffic: frames of the link to the hub, which would make more of themselves if captured."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from agent.capture import Block, Interface

ETHERNET = 1
_IPV4, _IPV6, _TCP = 0x0800, 0x86DD, 6


class OwnTraffic:
    """Drops TCP frames from or to `ports` (either side), over plain IPv4 and IPv6 on Ethernet; counts them."""

    def __init__(self, interfaces: list[Interface], ports: Iterable[int]) -> None:
        self.dropped = 0
        self._interfaces = interfaces
        self._ports = np.array(sorted(ports), dtype=np.uint16)

    def drop(self, block: Block) -> Block:
        """The block without them."""
        own = self._own(block)
        count = int(own.sum())
        if not count:
            return block
        self.dropped += count
        keep = ~own
        return Block(
            data=block.data,
            offset=block.offset[keep],
            cap_len=block.cap_len[keep],
            wire_len=block.wire_len[keep],
            time=block.time[keep],
            iface=block.iface[keep],
            timeless=None if block.timeless is None else block.timeless[keep],
            vlan=None if block.vlan is None else block.vlan[keep],
        )

    def _own(self, block: Block) -> NDArray[np.bool_]:
        own = np.zeros(len(block), dtype=bool)
        ethernet = np.array([face.linktype == ETHERNET for face in self._interfaces] or [False])
        rows = np.flatnonzero(ethernet[block.iface] & (block.cap_len >= 14 + 40))
        at = block.offset[rows]
        data = block.data
        kind = _word(data, at + 12)
        four = kind == _IPV4
        tcp = np.where(four, data[at + 23], data[at + 20]) == _TCP
        start = at + 14 + np.where(four, (data[at + 14] & 15).astype(np.int64) * 4, 40)
        fits = tcp & (four | (kind == _IPV6)) & (start + 4 <= at + block.cap_len[rows])
        rows, start = rows[fits], start[fits]
        own[rows] = np.isin(_word(data, start), self._ports) | np.isin(_word(data, start + 2), self._ports)
        return own


def _word(data: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Big-endian 16-bit words."""
    high = data[at].astype(np.uint16)
    return (high << np.uint16(8)) | data[at + 1].astype(np.uint16)
