"""The flow table: one record per conversation and interval, over blocks of packets, without a loop over either.

A record covers both directions of one key (`agent.flow_keys`) on one interface. It ends `active_ns` after its first
packet, after `idle_ns` without one, and when the conversation is over: FIN both ways or RST, then `LINGER_NS` of
silence, so that the last acknowledgements still count to it, or a new SYN. Its source is the sender of the first SYN
without ACK that it saw, else the sender of its first packet.

Every packet added is in exactly one record that comes out, once: also where times run backwards, where hashes collide
and where the table is full (then the records not seen for longest come out early).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.flow_cuts import FIN_FIRST, FIN_SECOND, RESET, active_cuts, finished, idle_cuts, reuse_cuts
from agent.flow_keys import WORDS, Bools, Index, Ints, Words, group, hash_keys, interface_ids, keys_of, random_seeds
from protocol.columns import Columns, Dict
from protocol.schema import Has

ACTIVE_NS = 10_000_000_000
IDLE_NS = 5_000_000_000
LINGER_NS = 1_000_000_000
MAX_FLOWS = 131_072
"""Records in the table by default: about 200 bytes each."""

_EARLIEST, _LATEST = -(1 << 61), 1 << 62  # the years 1896 and 2116: no difference of two times overflows
_NEVER = _EARLIEST - 1
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_TCP_FLAGS = int(Has.TCP_FLAGS)
_SHOWN = int(Has.ETHERTYPE | Has.TCP_FLAGS)  # in a row's layers, not in its key

Records: TypeAlias = "dict[str, Ints]"
"""Records as columns. `_1` is from the first to the second endpoint of the key, `_2` the other way.

`base` is the time of the first packet that came, `seen` of the last, `start` and `end` the extremes; `syn` is the time
of the last SYN or `_NEVER`, `state` the bits of `flow_cuts` since then; `from_second` is 1 where the second endpoint is
the source.
"""

_SUMS = ("packets_1", "packets_2", "bytes_1", "bytes_2", "flow_only", "zero_windows")
_ORS = ("flags_1", "flags_2")
_NAMES = ("base", "seen", "start", "end", *_SUMS, *_ORS, "layers", "ethertype", "state", "syn", "rtt", "from_second")


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
        self._index = Index()
        self._alive: Bools = np.zeros(0, dtype=np.bool_)
        self._keys: Words = np.zeros((0, WORDS), dtype=np.uint64)
        self._records: Records = {name: np.zeros(0, dtype=np.int64) for name in _NAMES}
        self._closed: list[tuple[Words, Records]] = []

    def __len__(self) -> int:
        """Open records."""
        return len(self._index)

    def add(self, columns: Columns, with_rows: bool) -> None:
        """Count the packets of one block (table packets). `with_rows` says whether they get rows of their own."""
        if not len(columns["layers"]):
            return
        interface = columns["iface"]
        assert isinstance(interface, Dict)
        keys, swapped = keys_of(columns, interface_ids(interface, self._interfaces))
        hashes = hash_keys(keys, self._seeds)
        order, heads = group(keys, hashes)
        firsts = order[heads]
        slots = self._index.find(hashes[firsts], keys[firsts], self._keys)
        time = _times(columns, self.last_time)
        items = _Items(
            columns, time, swapped, 0 if with_rows else 1, order, heads, self._pick(slots[slots >= 0]), slots
        )
        cuts = items.cuts(self._active_ns, self._idle_ns)
        records = items.reduce(cuts)
        group_of = np.cumsum(items.heads)[cuts] - 1
        stays = np.append(group_of[1:] != group_of[:-1], True)
        self._store(hashes[firsts], keys[firsts], slots, {name: value[stays] for name, value in records.items()})
        if not bool(stays.all()):
            ended = {name: value[~stays] for name, value in records.items()}
            self._closed.append((keys[firsts][group_of[~stays]], ended))
        self.last_time = int(time[-1])
        self.open_packets += len(time)
        self.open_flow_only += 0 if with_rows else len(time)
        self._make_room()

    def expire(self, now_ns: int) -> Columns | None:
        """Close the records that are due at `now_ns` and hand out all that are closed (table flows, by start)."""
        slots = np.flatnonzero(self._alive)
        seen, base = self._records["seen"][slots], self._records["base"][slots]
        now = min(max(now_ns, _EARLIEST), _LATEST)
        silent = np.abs(now - seen)  # a record from the future is due as well: the clock was set back
        due = (silent >= self._idle_ns) | (now - base >= self._active_ns)
        due |= (silent >= LINGER_NS) & finished(self._records["state"][slots])
        self._close(slots[due])
        return self._take_closed()

    def flush(self) -> Columns | None:
        """Close all records and hand them out (table flows, by start); None where there are none."""
        self._close(np.flatnonzero(self._alive))
        return self._take_closed()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _pick(self, slots: Ints) -> Records:
        return {name: value[slots] for name, value in self._records.items()}

    def _store(self, hashes: Words, keys: Words, slots: Ints, records: Records) -> None:
        """Write the open record of every group of a block: to its slot, or to a free one where it has none."""
        new = np.flatnonzero(slots < 0)
        if len(new):
            self._grow(len(self._index) + len(new))
            slots = slots.copy()
            slots[new] = np.flatnonzero(~self._alive)[: len(new)]
            self._alive[slots[new]] = True
            self._keys[slots[new]] = keys[new]
            self._index.insert(hashes[new], slots[new])
        for name, value in records.items():
            self._records[name][slots] = value

    def _grow(self, needed: int) -> None:
        if needed <= len(self._alive):
            return
        more = max(needed, 2 * len(self._alive), 1024) - len(self._alive)
        zeros = np.zeros(more, dtype=np.int64)
        keys = np.concatenate((self._keys, np.zeros((more, WORDS), dtype=np.uint64)))
        records = {name: np.append(value, zeros) for name, value in self._records.items()}
        self._alive = np.append(self._alive, np.zeros(more, dtype=np.bool_))
        self._keys, self._records = keys, records

    def _make_room(self) -> None:
        over = len(self._index) - self._max_flows
        if over > 0:
            slots = np.flatnonzero(self._alive)
            self._close(slots[np.argpartition(self._records["seen"][slots], over - 1)[:over]])

    def _close(self, slots: Ints) -> None:
        if len(slots):
            self._closed.append((self._keys[slots], self._pick(slots)))
            self._alive[slots] = False
            self._index.keep(self._alive)

    def _take_closed(self) -> Columns | None:
        if not self._closed:
            return None
        keys = np.concatenate([part for part, _ in self._closed])
        records = {name: np.concatenate([part[name] for _, part in self._closed]) for name in _NAMES}
        order = np.argsort(records["start"], kind="stable")
        keys, records = keys[order], {name: value[order] for name, value in records.items()}
        self._closed = []
        self.open_packets -= int(records["packets_1"].sum() + records["packets_2"].sum())
        self.open_flow_only -= int(records["flow_only"].sum())
        return _rows(keys, records, tuple(self._interfaces))


def _times(columns: Columns, before: int | None) -> Ints:
    """Capture times (n,); a frame without one has that of the frame before it, the first ones that of the next."""
    time = np.clip(np.asarray(columns["time"], dtype=np.int64), _EARLIEST, _LATEST)
    timed = (np.asarray(columns["layers"]) & np.uint64(int(Has.TIME))) != 0
    if bool(timed.all()):
        return time
    if before is None:
        before = int(time[int(np.argmax(timed))]) if bool(timed.any()) else 0
    last = np.maximum.accumulate(np.where(timed, np.arange(len(time)), -1))
    return np.where(last >= 0, time[last], before)


class _Items:
    """A block's packets sorted into groups, each led by the open record of its key where there is one.

    The record is an item like a packet, only heavier; so the rules of where a record ends and what it sums up are
    written once.
    """

    def __init__(
        self,
        columns: Columns,
        time: Ints,
        swapped: Bools,
        flow_only: int,
        order: Ints,
        heads: Ints,
        open_records: Records,
        slots: Ints,
    ) -> None:
        led = slots >= 0
        starts = heads + np.cumsum(led) - led
        total = len(order) + int(led.sum())
        self.heads = np.zeros(total, dtype=np.bool_)
        self.heads[starts] = True
        self._at = starts[led]  # where the records are
        self._open = open_records
        self._source = np.zeros(total, dtype=np.int64)  # a record's place gets any packet, then its own values
        packets = np.ones(total, dtype=np.bool_)
        packets[self._at] = False
        self._source[packets] = order
        self._read(columns, time, swapped, flow_only)

    def _read(self, columns: Columns, time: Ints, swapped: Bools, flow_only: int) -> None:
        layers = np.asarray(columns["layers"])[self._source].astype(np.int64)
        has_flags = (layers & _TCP_FLAGS) != 0
        flags = np.where(has_flags, np.asarray(columns["tcp_flags"])[self._source].astype(np.int64), 0)
        second = swapped[self._source].astype(np.int64)
        size = np.asarray(columns["len"])[self._source].astype(np.int64)
        when = time[self._source]
        no_window = (layers & int(Has.TCP_WINDOW)) != 0
        no_window &= (np.asarray(columns["tcp_window"])[self._source] == 0) & ((flags & _RST) == 0)
        flags[self._at] = 0
        self.syn_ack = (flags & (_SYN | _ACK)) == _SYN | _ACK
        self.syn = (flags & (_SYN | _ACK)) == _SYN
        state = np.where((flags & _FIN) != 0, np.where(second != 0, FIN_SECOND, FIN_FIRST), 0)
        state[(flags & _RST) != 0] |= RESET
        to_second, to_first = flags * (1 - second), flags * second
        self.values: Records = {
            "base": when,
            "seen": when.copy(),
            "start": when.copy(),
            "end": when.copy(),
            "packets_1": 1 - second,
            "packets_2": second.copy(),
            "bytes_1": size * (1 - second),
            "bytes_2": size * second,
            "flow_only": np.full(len(second), flow_only, dtype=np.int64),
            "zero_windows": no_window.astype(np.int64),
            "flags_1": to_second,
            "flags_2": to_first,
            "layers": layers & _SHOWN,
            "ethertype": np.asarray(columns["ethertype"])[self._source].astype(np.int64),
            "state": state,
            "from_second": second,
        }
        for name, value in self.values.items():
            value[self._at] = self._open[name]

    def cuts(self, active_ns: int, idle_ns: int) -> Ints:
        """Where records begin, among the items."""
        values = self.values
        cuts = idle_cuts(self.heads, values["base"], values["seen"], idle_ns)
        cuts, values["state"] = reuse_cuts(cuts, self.syn, values["state"])
        return np.flatnonzero(active_cuts(cuts, values["base"], active_ns))

    def reduce(self, cuts: Ints) -> Records:
        """One record for the items from each cut to the next."""
        values = self.values
        tails = np.append(cuts[1:], len(self.heads)) - 1
        records = {name: values[name][cuts] for name in ("base", "ethertype")}
        records |= {name: values[name][tails] for name in ("seen", "state")}
        records |= {name: np.add.reduceat(values[name], cuts) for name in _SUMS}
        records |= {name: np.bitwise_or.reduceat(values[name], cuts) for name in _ORS}
        records["start"] = np.minimum.reduceat(values["start"], cuts)
        records["end"] = np.maximum.reduceat(values["end"], cuts)
        any_flags = np.bitwise_or.reduceat(values["layers"], cuts) & _TCP_FLAGS
        records["layers"] = values["layers"][cuts] | any_flags
        return records | self._handshakes(cuts)

    def _handshakes(self, cuts: Ints) -> Records:
        """Time of the last SYN, round trip and source of each record. SYNs are few: nothing here has a row per item."""
        base, second = self.values["base"], self.values["from_second"]
        syn_time = np.full(len(cuts), _NEVER, dtype=np.int64)
        source = second[cuts]
        has_syn = self.syn.copy()
        has_syn[self._at] = self._open["syn"] > _NEVER
        syns = np.flatnonzero(has_syn)
        times = base[syns]
        times[np.isin(syns, self._at)] = self._open["syn"][self._open["syn"] > _NEVER]
        record = np.searchsorted(cuts, syns, side="right") - 1
        syn_time[record] = times  # the last one stays
        source[record[::-1]] = second[syns[::-1]]  # the first one stays
        return {"syn": syn_time, "from_second": source, "rtt": self._round_trips(cuts, syns, times)}

    def _round_trips(self, cuts: Ints, syns: Ints, times: Ints) -> Ints:
        """The first SYN-ACK of each record less the last SYN before it from the other side; -1 where there is none."""
        base, second = self.values["base"], self.values["from_second"]
        rtt = np.full(len(cuts), -1, dtype=np.int64)
        answers = np.flatnonzero(self.syn_ack)
        before = np.searchsorted(syns, answers) - 1
        answers, before = answers[before >= 0], before[before >= 0]
        record = np.searchsorted(cuts, answers, side="right") - 1
        asked = syns[before]
        fits = (asked >= cuts[record]) & (second[asked] != second[answers]) & (base[answers] >= times[before])
        rtt[record[fits][::-1]] = (base[answers] - times[before])[fits][::-1]
        known = self._open["rtt"] >= 0
        rtt[np.searchsorted(cuts, self._at[known], side="right") - 1] = self._open["rtt"][known]
        return rtt


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
        "zero_windows": np.minimum(records["zero_windows"], 0xFFFFFFFF).astype("<u4"),
        "rtt": records["rtt"],
    }
    for name, kind in (("packets", "<u8"), ("bytes", "<u8"), ("flags", "<u2")):
        forth, back = records[f"{name}_1"], records[f"{name}_2"]
        public = "tcp_flags" if name == "flags" else name
        columns[public] = np.where(turned, back, forth).astype(kind)
        columns[f"{public}_rev"] = np.where(turned, forth, back).astype(kind)
    return columns


def _addresses(words: Words, ip: Bools) -> NDArray[Any]:
    return np.ascontiguousarray(np.where(ip[:, None], words, np.uint64(0))).view(np.uint8)
