"""Packets into records by the compiled kernel (`agent.kernel`): the same records as numpy makes, a packet at a time.

Two figures may differ, and are then those of the packets one by one: where one block moves a sequence number by more
than 2**31, and in what order records come out that begin at the same time.
"""

from __future__ import annotations

import ctypes

import numpy as np

from agent import flow_seq, kernel
from agent.flow_items import EARLIEST, KEEP_NS, LATEST, NAMES, NEVER, SHOWN, Records
from agent.flow_keys import IP_LAYERS, L2_LAYERS, WORDS, Words
from agent.flow_store import Store, by_name
from protocol.built import address, complain
from protocol.columns import Array, Columns

COLUMNS = {
    "layers": "u8",
    "time": "i8",
    "iface": "u4",
    "src": "u1",
    "dst": "u1",
    "src_port": "u2",
    "dst_port": "u2",
    "proto": "u1",
    "ethertype": "u2",
    "eth_src": "u8",
    "eth_dst": "u8",
    "len": "u4",
    "tcp_flags": "u2",
    "tcp_seq": "u4",
    "tcp_ack": "u4",
    "tcp_window": "u2",
    "tcp_len": "u4",
}
"""What is read of a block, in the order of `struct flows`; of `iface` the codes."""
_MEMBERS = (
    *("n", *COLUMNS, "interfaces", "flow_only", "last_time", "timed"),
    *("keys", "records", "states", "alive", "slots", "index", "mask", "spare", "spares"),
    *("ended_keys", "ended", "room", "ends"),
    *("seeds", "ip_layers", "l2_layers", "shown", "needed"),
    *("active", "idle", "keep", "earliest", "latest", "never", "fast", "round_trip"),
)
_PLACE = {name: place for place, name in enumerate(_MEMBERS)}
ROOM = 512
"""Records that may end before the kernel comes back."""


def load(store: Store, seeds: Words, active_ns: int, idle_ns: int) -> Compiled | None:
    """The kernel's way into `store`, or None where there is no kernel or its words are not ours."""
    library = kernel.load()
    if library is None:
        return None
    if library.nodetap_flow_words().decode().split() != ours():
        complain("the compiled kernel is not used for flows: its records have other words")
        return None
    return Compiled(library, store, seeds, active_ns, idle_ns)


def ours() -> list[str]:
    """The words of records and of each direction, as `nodetap_flow_words` says them."""
    return [*(f"record.{name}" for name in NAMES), *(f"way.{name}" for name in flow_seq.WAY)]


class Compiled:
    """The kernel over one store, with an index of its own by hashes of the keys (`seeds`)."""

    def __init__(self, library: ctypes.CDLL, store: Store, seeds: Words, active_ns: int, idle_ns: int) -> None:
        self._run, self._make_index = library.nodetap_flows, library.nodetap_flows_index
        self._store, self._seeds = store, seeds
        self._index, self._spare = np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.int64)
        self._keys, self._ended = np.empty((ROOM, WORDS), np.uint64), np.empty((ROOM, len(NAMES)), np.int64)
        self._state = np.zeros(len(_MEMBERS), dtype=np.int64)
        self._at = address(self._state)
        self._set(
            ended_keys=address(self._keys),
            ended=address(self._ended),
            room=ROOM,
            seeds=address(seeds),
        )
        self._set(ip_layers=IP_LAYERS, l2_layers=L2_LAYERS, shown=SHOWN, needed=int(flow_seq.NEEDED))
        self._set(active=active_ns, idle=idle_ns, keep=max(KEEP_NS, idle_ns))
        self._set(earliest=EARLIEST, latest=LATEST, never=NEVER)
        self._set(fast=flow_seq.FAST_NS, round_trip=flow_seq.ROUND_TRIP_NS)

    def forget(self) -> None:
        """Slots were given up."""
        self._index = self._index[:0]

    def add(
        self, columns: Columns, codes: Array, numbers: Words, flow_only: int, last_time: int | None
    ) -> tuple[list[tuple[Words, Records]], int]:
        """Count the packets of a block (table packets, at least one), on the interfaces `numbers[codes]`.

        Gives the records that ended, keys with each, and the time of the last packet.
        """
        values = [
            np.ascontiguousarray(codes if name == "iface" else columns[name], dtype=kind)
            for name, kind in COLUMNS.items()
        ]
        rows, row, ended = len(codes), 0, []
        self._state[: len(values) + 1] = [rows, *map(address, values)]
        self._set(
            interfaces=address(numbers),
            flow_only=flow_only,
            last_time=last_time or 0,
            timed=last_time is not None,
        )
        while True:
            self._prepare()
            row = self._run(self._at, row)
            count = self._get("ends")
            if count:
                ended.append((self._keys[:count].copy(), by_name(self._ended[:count].copy())))
            if row == rows:
                return ended, self._get("last_time")
            if count < ROOM:  # it is slots that were missing
                assert self._get("spares") == 0
                self._store.grow(len(self._store) + 1)

    def _prepare(self) -> None:
        """Say where the table is and which slots are free, where that has changed."""
        store, slots = self._store, len(self._store.alive)
        self._set(ends=0)
        if len(self._index) <= slots or self._get("slots") != slots:
            self._index = np.empty(1 << (2 * slots + 1).bit_length(), dtype=np.uint32)
            self._spare = store.spare()
            self._set(keys=address(store.keys), records=address(store.rows))
            self._set(states=address(store.states), alive=address(store.alive))
            self._set(spare=address(self._spare), spares=len(self._spare))
            self._set(slots=slots, index=address(self._index), mask=len(self._index) - 1)
            self._make_index(self._at)

    def _set(self, **members: int) -> None:
        for name, value in members.items():
            self._state[_PLACE[name]] = value

    def _get(self, name: str) -> int:
        return int(self._state[_PLACE[name]])
