"""A block's packets as items: sorted into groups of one key, each led by what is known of its key.

What is known, the open record of the key, is an item like a packet, only heavier; so the rules of where a record ends
and what it sums up are written once. A *session* is a conversation: the records of one key until a SYN begins a new
connection, or until it is over. Who opened it and how long its handshake took holds for all its records from then on.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from agent.flow_cuts import FIN_FIRST, FIN_SECOND, RESET, active_cuts, idle_cuts, reuse_cuts
from agent.flow_keys import Bools, Ints
from agent.flow_seq import Segments, States
from protocol.columns import Columns
from protocol.schema import Has

EARLIEST, LATEST = -(1 << 61), 1 << 62
"""Times that a capture says are held within these, the years 1896 and 2116: no difference of two overflows."""
NEVER = EARLIEST - 1
"""The time of what did not happen: before all times."""
KEEP_NS = 60_000_000_000
"""Silence after which a TCP conversation is forgotten: what comes then is a new one."""
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_TCP, _TCP_FLAGS = int(Has.TCP), int(Has.TCP_FLAGS)
SHOWN = int(Has.ETHERTYPE | Has.TCP_FLAGS)
"""Bits of a row's layers that are not in its key."""

Records: TypeAlias = "dict[str, Ints]"
"""Records as columns. `_1` is from the first to the second endpoint of the key, `_2` the other way.

`base` is the time of the first packet that came, `seen` of the last, `start` and `end` the extremes; `syn` is the time
of the session's last SYN or `NEVER`, `syn_second` is 1 where the second endpoint sent it, `state` the bits of
`flow_cuts` since then; `from_second` is 1 where the second endpoint opened the session. `shell` is 1 where the record
came out and only its session is remembered.
"""

COUNTS = ("packets_1", "packets_2", "bytes_1", "bytes_2", "flow_only")
RARE = ("zero_windows", "resets", "retransmissions_1", "retransmissions_2", "out_of_order_1", "out_of_order_2")
"""What is counted only of some packets."""
FLAGS = ("flags_1", "flags_2")
TIMES = ("base", "seen", "start", "end")
NAMES = (
    *TIMES,
    *COUNTS,
    *RARE,
    *FLAGS,
    "layers",
    "ethertype",
    "state",
    "syn",
    "syn_second",
    "rtt",
    "from_second",
    "shell",
)


class Items:
    """The packets of `columns` in the order `order`, groups beginning at `heads`.

    `time` and `swapped` are of every packet; `slots` (a row per group) is below zero where nothing is known of its key,
    `known` and `states` have a row for each of the others.
    """

    def __init__(
        self,
        columns: Columns,
        time: Ints,
        swapped: Bools,
        flow_only: int,
        order: Ints,
        heads: Ints,
        slots: Ints,
        known: Records,
        states: States,
    ) -> None:
        led = slots >= 0
        starts = heads + np.cumsum(led) - led
        total = len(order) + int(led.sum())
        self.heads = np.zeros(total, dtype=np.bool_)
        self.heads[starts] = True
        self._at = starts[led]  # where the records are
        self._known = known
        self._source = np.zeros(total, dtype=np.int64)  # a record's place gets any packet, then its own values
        packets = np.ones(total, dtype=np.bool_)
        packets[self._at] = False
        self._source[packets] = order
        second = swapped[self._source]
        self._segments = Segments(columns, self._source, time, second, self.heads, self._at, states)
        self._read(columns, time, second.astype(np.int64), flow_only)

    def _read(self, columns: Columns, time: Ints, second: Ints, flow_only: int) -> None:
        layers = np.asarray(columns["layers"])[self._source].astype(np.int64)
        flags = np.where((layers & _TCP_FLAGS) != 0, np.asarray(columns["tcp_flags"])[self._source].astype(np.int64), 0)
        flags[self._at] = 0
        size = np.asarray(columns["len"])[self._source].astype(np.int64)
        when = time[self._source]
        self._tcp = (layers & _TCP) != 0
        self._syn = (flags & (_SYN | _ACK)) == _SYN
        self._syn_ack = (flags & (_SYN | _ACK)) == _SYN | _ACK
        reset = (flags & _RST) != 0
        closed = ((layers & int(Has.TCP_WINDOW)) != 0) & (np.asarray(columns["tcp_window"])[self._source] == 0) & ~reset
        closed[self._at] = False
        self._rare = {"zero_windows": np.flatnonzero(closed), "resets": np.flatnonzero(reset)}
        state = np.where((flags & _FIN) != 0, np.where(second != 0, FIN_SECOND, FIN_FIRST), 0)
        state[reset] |= RESET
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
            "flags_1": flags * (1 - second),
            "flags_2": flags * second,
            "layers": layers & SHOWN,
            "ethertype": np.asarray(columns["ethertype"])[self._source].astype(np.int64),
            "state": state,
            "from_second": second,
        }
        for name, value in self.values.items():
            value[self._at] = self._known[name]

    def reduce(self, active_ns: int, idle_ns: int) -> tuple[Ints, Records, States]:
        """The group of every record, the records, and the state of every group's last session."""
        cuts = self._cut(active_ns, idle_ns)
        again, late, states = self._segments.judge(self._sessions)
        for name, events in (("retransmissions", again), ("out_of_order", late)):
            self._rare[f"{name}_1"] = events.items[~events.second]
            self._rare[f"{name}_2"] = events.items[events.second]
        records = self._sum(cuts)
        groups = np.cumsum(self.heads)[cuts] - 1
        full = (records["packets_1"] + records["packets_2"]) > 0  # the others are shells
        return groups[full], {name: value[full] for name, value in records.items()}, states

    # -- inside ----------------------------------------------------------------------------------------------------

    def _cut(self, active_ns: int, idle_ns: int) -> Ints:
        """Where records begin, among the items; and where sessions do."""
        values = self.values
        idle = idle_cuts(self.heads, values["base"], values["seen"], idle_ns)
        begins = self.heads.copy()
        begins[self._segments.connections()] = True
        pauses = np.flatnonzero(idle & ~self.heads)
        silent = np.abs(values["base"][pauses] - values["seen"][pauses - 1])
        begins[pauses] |= ~self._tcp[pauses] | (silent >= max(KEEP_NS, idle_ns))
        self._sessions, values["state"] = reuse_cuts(begins, self._syn, values["state"])
        self._session = np.cumsum(self._sessions) - 1
        cuts = self._sessions | idle
        cuts[self._at[self._known["shell"] != 0] + 1] = True  # a packet always follows
        return np.flatnonzero(active_cuts(cuts, values["base"], active_ns))

    def _sum(self, cuts: Ints) -> Records:
        """One record for the items from each cut to the next."""
        values = self.values
        tails = np.append(cuts[1:], len(self.heads)) - 1
        records = {name: values[name][cuts] for name in ("base", "ethertype")}
        records |= {name: values[name][tails] for name in ("seen", "state")}
        records |= {name: np.add.reduceat(values[name], cuts) for name in COUNTS}
        records |= {name: np.bitwise_or.reduceat(values[name], cuts) for name in FLAGS}
        records["start"] = np.minimum.reduceat(values["start"], cuts)
        records["end"] = np.maximum.reduceat(values["end"], cuts)
        any_flags = np.bitwise_or.reduceat(values["layers"], cuts) & _TCP_FLAGS
        records["layers"] = values["layers"][cuts] | any_flags
        records["shell"] = np.zeros(len(cuts), dtype=np.int64)
        leaders = np.searchsorted(cuts, self._at)
        for name, items in self._rare.items():
            records[name] = np.bincount(_record(cuts, items), minlength=len(cuts))
            records[name][leaders] += self._known[name]
        return records | self._handshakes(cuts)

    def _handshakes(self, cuts: Ints) -> Records:
        """Time of the last SYN, round trip and source of each record. SYNs are few: nothing here has a row per item."""
        second = self.values["from_second"]
        asked = self._syn.copy()
        asked[self._at] = self._known["syn"] > NEVER
        syns = np.flatnonzero(asked)
        times = self.values["base"][syns]
        led, told = np.isin(syns, self._at), self._known["syn"] > NEVER
        times[led] = self._known["syn"][told]
        askers = second[syns]
        askers[led] = self._known["syn_second"][told]
        of_cut = self._session[cuts]
        last = np.full((2, int(self._session[-1]) + 1), NEVER, dtype=np.int64)
        last[:, self._session[syns]] = times, askers
        opened = second[self._sessions][of_cut]
        source = self._from_then(cuts, syns, second[syns], opened)
        answers, waits = self._round_trips(syns, times, askers)
        rtt = self._from_then(cuts, answers, waits, np.full(len(cuts), -1, dtype=np.int64))
        return {"syn": last[0, of_cut], "syn_second": last[1, of_cut], "from_second": source, "rtt": rtt}

    def _round_trips(self, syns: Ints, times: Ints, askers: Ints) -> tuple[Ints, Ints]:
        """SYN-ACKs with the time since the last SYN of the other side, after the records that know theirs; by item."""
        base, second = self.values["base"], self.values["from_second"]
        answers = np.flatnonzero(self._syn_ack)
        before = np.searchsorted(syns, answers) - 1
        answers, before = answers[before >= 0], before[before >= 0]
        asked = syns[before]
        fits = (self._session[asked] == self._session[answers]) & (askers[before] != second[answers])
        waits = base[answers] - times[before]
        fits &= waits >= 0
        known = self._known["rtt"] >= 0
        items = np.concatenate((self._at[known], answers[fits]))
        order = np.argsort(items)
        return items[order], np.concatenate((self._known["rtt"][known], waits[fits]))[order]

    def _from_then(self, cuts: Ints, items: Ints, values: Ints, before: Ints) -> Ints:
        """Per record the value of the first of `items` in its session, from that item's record on; else `before`."""
        sessions, session = int(self._session[-1]) + 1, self._session[items][::-1]
        since, value = np.full(sessions, len(cuts), dtype=np.int64), np.zeros(sessions, dtype=np.int64)
        since[session] = _record(cuts, items)[::-1]  # the first one stays
        value[session] = values[::-1]
        of_cut = self._session[cuts]
        return np.where(np.arange(len(cuts)) >= since[of_cut], value[of_cut], before)


def _record(cuts: Ints, items: Ints) -> Ints:
    return np.searchsorted(cuts, items, side="right") - 1
