"""Which packets belong together: keys of flows, groups of equal keys in a block, and the index of the open ones.

A key is six 64-bit words. Both directions of a conversation have the same key: of the two endpoints the smaller one,
as an integer, comes first, and `swapped` says which packets came from the other.

    word 0   layers that are part of the key | interface << 32 | proto << 56
    word 1   second port | first port << 16 | ethertype << 32 (frames without IP)
    2 and 3  first endpoint: an address, or for frames without IP a MAC address in word 3
    4 and 5  second endpoint

Keys are found through 64-bit hashes seeded anew in every run, and always compared in full: two keys with the same hash
cost time and never mix.
"""

from __future__ import annotations

import secrets
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.columns import Columns, Dict
from protocol.schema import Has

Words: TypeAlias = NDArray[np.uint64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

WORDS = 6
IP_LAYERS = int(Has.IP | Has.IPV4 | Has.IPV6 | Has.TCP | Has.UDP | Has.SCTP)
L2_LAYERS = int(Has.ETH | Has.ETHERTYPE | Has.ARP)
_U64 = np.uint64
_IP = _U64(int(Has.IP))


def random_seeds() -> Words:
    """Odd multipliers for `hash_keys`, new in every run, so that nobody outside can choose colliding keys."""
    return np.array([secrets.randbits(64) | 1 for _ in range(WORDS)], dtype=np.uint64)


def interface_ids(column: Dict, known: dict[str, int]) -> Words:
    """The number in `known` of each of the column's interfaces, by code; `known` grows by the names that are new."""
    return np.array([known.setdefault(name, len(known)) for name in column.values], dtype=np.uint64)


def _endpoints(columns: Columns, layers: Words, ip: Bools) -> tuple[Words, Words]:
    """Source and destination of every packet as two words each, shape (n, 2)."""
    src, dst = (np.ascontiguousarray(columns[name]).view(np.uint64) for name in ("src", "dst"))
    if bool(ip.all()):
        return src, dst
    macs = np.zeros((2, len(ip), 2), dtype=np.uint64)
    eth = ~ip & ((layers & _U64(int(Has.ETH))) != 0)
    macs[0, :, 1] = np.where(eth, _plain(columns["eth_src"]), _U64(0))
    macs[1, :, 1] = np.where(eth, _plain(columns["eth_dst"]), _U64(0))
    return np.where(ip[:, None], src, macs[0]), np.where(ip[:, None], dst, macs[1])


def keys_of(columns: Columns, interfaces: Words) -> tuple[Words, Bools]:
    """Keys (n, 6) of the packets in `columns` (table packets), and which of them go from second to first endpoint."""
    layers: Words = np.asarray(columns["layers"])
    ip = (layers & _IP) != 0
    source, target = _endpoints(columns, layers, ip)
    from_port, to_port = (_plain(columns[name]).astype(np.uint64) for name in ("src_port", "dst_port"))
    a0, a1, b0, b1 = source[:, 0], source[:, 1], target[:, 0], target[:, 1]
    swapped = (a0 > b0) | ((a0 == b0) & ((a1 > b1) | ((a1 == b1) & (from_port > to_port))))
    keys = np.empty((len(ip), WORDS), dtype=np.uint64)
    kept = np.where(ip, layers & _U64(IP_LAYERS), layers & _U64(L2_LAYERS))
    keys[:, 0] = kept | (interfaces << _U64(32)) | (_plain(columns["proto"]).astype(np.uint64) << _U64(56))
    ports = np.where(swapped, (to_port << _U64(16)) | from_port, (from_port << _U64(16)) | to_port)
    keys[:, 1] = ports | np.where(ip, _U64(0), _plain(columns["ethertype"]).astype(np.uint64) << _U64(32))
    keys[:, 2], keys[:, 3] = np.where(swapped, b0, a0), np.where(swapped, b1, a1)
    keys[:, 4], keys[:, 5] = np.where(swapped, a0, b0), np.where(swapped, a1, b1)
    return keys, swapped


def _plain(value: Any) -> NDArray[Any]:
    return np.asarray(value)


def hash_keys(keys: Words, seeds: Words) -> Words:
    """64-bit hashes (n,) of keys (n, 6): multiply, fold, next word."""
    hashes = np.full(len(keys), seeds[0], dtype=np.uint64)
    for word in range(WORDS):
        hashes ^= keys[:, word]
        hashes *= seeds[word]
        hashes ^= hashes >> _U64(32)
    return hashes


def _differ(keys: Words) -> Bools:
    """Whether each key but the first differs from the one before."""
    different: Bools = keys[1:, 0] != keys[:-1, 0]
    for word in range(1, WORDS):
        different |= keys[1:, word] != keys[:-1, word]
    return different


def group(keys: Words, hashes: Words) -> tuple[Ints, Ints]:
    """An order in which packets of one key stand together, as they arrived, and where in it each key begins.

    At least one packet. Sorting the values `hash | position` is stable and much faster than a stable argsort.
    """
    bits = _U64(max(1, (len(keys) - 1).bit_length()))
    low = (_U64(1) << bits) - _U64(1)
    packed = (hashes & ~low) | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    order = (packed & low).astype(np.int64)
    packed >>= bits
    different = _differ(keys[order])
    if bool((different != (packed[1:] != packed[:-1])).any()):  # two keys share a hash
        order = np.lexsort(tuple(keys.T)).astype(np.int64)
        different = _differ(keys[order])
    return order, np.flatnonzero(np.concatenate(([True], different)))


class Index:
    """Where the record of a key is: hashes in rising order, and the slot of each."""

    def __init__(self) -> None:
        self._hashes = np.zeros(0, dtype=np.uint64)
        self._slots = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    def find(self, hashes: Words, keys: Words, stored: Words) -> Ints:
        """The slot of each key (k, 6), -1 where it has none. `stored` are the keys by slot."""
        found = np.full(len(hashes), -1, dtype=np.int64)
        at = np.searchsorted(self._hashes, hashes)
        todo = np.arange(len(hashes))
        while len(todo):  # once, and once more for each further key with the same hash
            todo = todo[at[todo] < len(self._hashes)]
            todo = todo[self._hashes[at[todo]] == hashes[todo]]
            slots = self._slots[at[todo]]
            hit = (stored[slots] == keys[todo]).all(axis=1)
            found[todo[hit]] = slots[hit]
            todo = todo[~hit]
            at[todo] += 1
        return found

    def insert(self, hashes: Words, slots: Ints) -> None:
        """Add keys that are not there."""
        order = np.argsort(hashes)
        at = np.searchsorted(self._hashes, hashes[order])
        self._hashes = np.insert(self._hashes, at, hashes[order])
        self._slots = np.insert(self._slots, at, slots[order])

    def keep(self, alive: Bools) -> None:
        """Drop the slots that are not `alive` (a mask over all slots)."""
        kept = alive[self._slots]
        self._hashes, self._slots = self._hashes[kept], self._slots[kept]
