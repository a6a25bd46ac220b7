"""The flow table: one record per conversation and interval, over blocks of packets, without a loop over either.

A record covers both directions of one key (`agent.flow_keys`) on one interface. It ends `active_ns` after its first
packet, after `idle_ns` without one, and when the conversation is over: FIN both ways or RST, then `LINGER_NS` of
silence, so that the last acknowledgements still count to it, or a new SYN. A SYN with another sequence number than its
sender's last ends it as well: the ports are used again.

What a record needs to know of the conversation before it (`agent.flow_items`: who opened it, how long the handshake
took; `agent.flow_seq`: the sequence numbers) stays in the table when the record comes out: `KEEP_NS` for TCP that is
not over, else `idle_ns`. The source is the sender of the conversation's first SYN without ACK, from that SYN on, else
the sender of its first packet.

Every packet added is in exactly one record that comes out, once: also where times run backwards, where hashes collide
and where the table is full (then the records not seen for longest come out early).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent import flow_compiled
from agent.flow_cuts import finished
from agent.flow_items import COUNTS, EARLIEST, FLAGS, KEEP_NS, LATEST, NAMES, RARE, Items, Records
from agent.flow_keys import Bools, Index, Ints, Words, group, hash_keys, interface_ids, keys_of, random_seeds
from agent.flow_seq import States
from agent.flow_store import Store
from protocol.columns import Columns, Dict
from protocol.schema import Has

ACTIVE_NS = 10_000_000_000
IDLE_NS = 5_000_000_000
LINGER_NS = 1_000_000_000
MAX_FLOWS = 131_072
"""Records in the table by default: about 400 bytes each."""

_TCP = np.uint64(int(Has.TCP))
_U4 = 0xFFFFFFFF


class FlowTable:
    """Open records by key. Give it the packets of each block, ask `expire` for what is due, `flush` at the end."""

    def __init__(self, active_ns: int = ACTIVE_NS, idle_ns: int = IDLE_NS, max_flows: int = MAX_FLOWS) -> None:
        self.open_packets = 0
        """Packets added and not yet handed out in a record."""
        self.open_flow_only = 0
        """Those of them that have no row of their own."""
        self.last_time: int | None = None
        """Time of the packet added last; a packet without one has that of the one before it."""
        self._active_ns, self._idle_ns, self._max_flows = active_ns, idle_ns, max_flows
        self._seeds = random_seeds()
        self._interfaces: dict[str, int] = {}
        self._store = Store()
        self._index = Index()
        self._compiled = flow_compiled.load(self._store, self._seeds, active_ns, idle_ns)
        self._closed: list[tuple[Words, Records]] = []

    def __len__(self) -> int:
        """Open records, and conversations that are remembered beyond theirs."""
        return len(self._store)

    def add(self, columns: Columns, with_rows: bool) -> None:
        """Count the packets of one block (table packets). `with_rows` says whether they get rows of their own."""
        if not len(columns["layers"]):
            return
        interface = columns["iface"]
        assert isinstance(interface, Dict)
        numbers = interface_ids(interface, self._interfaces)
        flow_only, rows = 0 if with_rows else 1, len(columns["layers"])
        if self._compiled is not None:
            ended, self.last_time = self._compiled.add(columns, interface.codes, numbers, flow_only, self.last_time)
            self._closed += ended
        else:
            self._add(columns, numbers[interface.codes], flow_only)
        self.open_packets += rows
        self.open_flow_only += flow_only * rows
        self._make_room()

    def expire(self, now_ns: int) -> Columns | None:
        """Close the records that are due at `now_ns` and hand out all that are closed (table flows, by start)."""
        slots, records = self._store.taken(), self._store.records
        seen, base = records["seen"][slots], records["base"][slots]
        now = min(max(now_ns, EARLIEST), LATEST)
        silent = np.abs(now - seen)  # a record from the future is due as well: the clock was set back
        over = finished(records["state"][slots])
        keep_ns = max(KEEP_NS, self._idle_ns)
        keep = np.where(over, LINGER_NS, np.where((self._store.keys[slots, 0] & _TCP) != 0, keep_ns, self._idle_ns))
        gone = silent >= keep
        due = gone | (silent >= self._idle_ns) | (now - base >= self._active_ns)
        self._close(slots[due])
        self._drop(slots[gone])
        return self._take_closed()

    def flush(self) -> Columns | None:
        """Close all records and hand them out (table flows, by start); None where there are none."""
        slots = self._store.taken()
        self._close(slots)
        self._drop(slots)
        return self._take_closed()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _add(self, columns: Columns, interfaces: Words, flow_only: int) -> None:
        """Count the packets of a block with numpy."""
        store = self._store
        keys, swapped = keys_of(columns, interfaces)
        hashes = hash_keys(keys, self._seeds)
        order, heads = group(keys, hashes)
        firsts = order[heads]
        slots = self._index.find(hashes[firsts], keys[firsts], store.keys)
        time, known = _times(columns, self.last_time), slots[slots >= 0]
        items = Items(columns, time, swapped, flow_only, order, heads, slots, store.pick(known), store.states[known])
        group_of, records, states = items.reduce(self._active_ns, self._idle_ns)
        stays = np.append(group_of[1:] != group_of[:-1], True)
        open_records = {name: value[stays] for name, value in records.items()}
        self._write(hashes[firsts], keys[firsts], slots, open_records, states)
        if not bool(stays.all()):
            ended = {name: value[~stays] for name, value in records.items()}
            self._closed.append((keys[firsts][group_of[~stays]], ended))
        self.last_time = int(time[-1])

    def _write(self, hashes: Words, keys: Words, slots: Ints, records: Records, states: States) -> None:
        """Write the open record of every group of a block: to its slot, or to a free one where it has none."""
        new, store = np.flatnonzero(slots < 0), self._store
        if len(new):
            store.grow(len(store) + len(new))
            slots = slots.copy()
            slots[new] = store.spare()[: len(new)]
            store.alive[slots[new]] = True
            store.keys[slots[new]] = keys[new]
            self._index.insert(hashes[new], slots[new])
        for name, value in records.items():
            store.records[name][slots] = value
        store.states[slots] = states

    def _make_room(self) -> None:
        over, records = len(self._store) - self._max_flows, self._store.records
        if over > 0:
            slots = self._store.taken()
            age = records["seen"][slots] - records["shell"][slots] * LATEST  # what is only remembered first
            slots = slots[np.argpartition(age, over - 1)[:over]]
            self._close(slots)
            self._drop(slots)

    def _close(self, slots: Ints) -> None:
        """Take the records out of these slots; their conversations stay, until they are dropped."""
        store = self._store
        slots = slots[store.records["shell"][slots] == 0]
        if len(slots):
            self._closed.append((store.keys[slots], store.pick(slots)))
            for name in (*COUNTS, *RARE, *FLAGS):
                store.records[name][slots] = 0
            store.records["shell"][slots] = 1

    def _drop(self, slots: Ints) -> None:
        if len(slots):
            self._store.alive[slots] = False
            if self._compiled is not None:
                self._compiled.forget()
            else:
                self._index.keep(self._store.alive)

    def _take_closed(self) -> Columns | None:
        if not self._closed:
            return None
        keys = np.concatenate([part for part, _ in self._closed])
        records = {name: np.concatenate([part[name] for _, part in self._closed]) for name in NAMES}
        order = np.argsort(records["start"], kind="stable")
        keys, records = keys[order], {name: value[order] for name, value in records.items()}
        self._closed = []
        self.open_packets -= int(records["packets_1"].sum() + records["packets_2"].sum())
        self.open_flow_only -= int(records["flow_only"].sum())
        return _rows(keys, records, tuple(self._interfaces))


def _times(columns: Columns, before: int | None) -> Ints:
    """Capture times (n,); a frame without one has that of the frame before it, the first ones that of the next."""
    time = np.clip(np.asarray(columns["time"], dtype=np.int64), EARLIEST, LATEST)
    timed = (np.asarray(columns["layers"]) & np.uint64(int(Has.TIME))) != 0
    if bool(timed.all()):
        return time
    if before is None:
        before = int(time[int(np.argmax(timed))]) if bool(timed.any()) else 0
    last = np.maximum.accumulate(np.where(timed, np.arange(len(time)), -1))
    return np.where(last >= 0, time[last], before)


_BOTH_WAYS = {"packets": "<u8", "bytes": "<u8", "flags": "<u2", "retransmissions": "<u4", "out_of_order": "<u4"}


def _rows(keys: Words, records: Records, interfaces: tuple[str, ...]) -> Columns:
    """Records as columns of the table flows."""
    turned = records["from_second"] != 0
    layers = (keys[:, 0] & np.uint64(0xFFFFFFFF)) | records["layers"].astype(np.uint64)
    ip = (layers & np.uint64(int(Has.IP))) != 0
    source = np.where(turned[:, None], keys[:, 4:6], keys[:, 2:4])
    target = np.where(turned[:, None], keys[:, 2:4], keys[:, 4:6])
    first, second = (keys[:, 1] >> np.uint64(16)) & np.uint64(0xFFFF), keys[:, 1] & np.uint64(0xFFFF)
    used, codes = np.unique((keys[:, 0] >> np.uint64(32)) & np.uint64(0xFFFFFF), return_inverse=True)
    columns: Columns = {
        "start": records["start"],
        "end": records["end"],
        "layers": layers,
        "iface": Dict(codes.astype("<u4"), tuple(interfaces[int(code)] for code in used)),
        "ethertype": records["ethertype"].astype("<u2"),
        "eth_src": np.where(ip, np.uint64(0), source[:, 1]),
        "eth_dst": np.where(ip, np.uint64(0), target[:, 1]),
        "src": _addresses(source, ip),
        "dst": _addresses(target, ip),
        "proto": (keys[:, 0] >> np.uint64(56)).astype("u1"),
        "src_port": np.where(turned, second, first).astype("<u2"),
        "dst_port": np.where(turned, first, second).astype("<u2"),
        "flow_only": records["flow_only"].astype("<u8"),
        "zero_windows": np.minimum(records["zero_windows"], _U4).astype("<u4"),
        "resets": np.minimum(records["resets"], _U4).astype("<u4"),
        "rtt": records["rtt"],
    }
    for name, kind in _BOTH_WAYS.items():
        forth, back = records[f"{name}_1"], records[f"{name}_2"]
        public = "tcp_flags" if name == "flags" else name
        columns[public] = np.where(turned, back, forth).astype(kind)
        columns[f"{public}_rev"] = np.where(turned, forth, back).astype(kind)
    return columns


def _addresses(words: Words, ip: Bools) -> NDArray[Any]:
    return np.ascontiguousarray(np.where(ip[:, None], words, np.uint64(0))).view(np.uint8)
