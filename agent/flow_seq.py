"""What sequence numbers say about a flow: segments sent again, and segments that came out of order.

The definitions are Wireshark's (`tcp.analysis.retransmission`, which takes in fast and spurious ones, and
`tcp.analysis.out_of_order`; packet-tcp.c, tcp_analyze_sequence_number), worked out for a whole block at once. A segment
with data, SYN or FIN that does not go beyond what its sender has sent is, in this order:

* nothing, where it is a keep-alive: at most one byte, one below the next one expected;
* sent again, where the other side has acknowledged all of its data;
* sent again, where two duplicate acknowledgements asked for it, at most `FAST_NS` ago;
* out of order, where it comes within a round trip of the segment that went furthest, and does not end where that did;
* else sent again.

All of it is judged within a *session*: the packets of one key from a SYN that begins a new connection on. What is known
of a session at the end of a block is a row of `STATE` words, handed in again with the session's next packets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from agent.flow_keys import Bools, Ints
from protocol.columns import Columns
from protocol.schema import Has

FAST_NS = 20_000_000
ROUND_TRIP_NS = 3_000_000
"""Taken for the round trip where the handshake was not seen."""

WAY = ("NEXT", "TOP", "ISN", "ACK", "LAST", "WINDOW", "DUPLICATES", "SYN_LAST")
NEXT, TOP, ISN, ACK, LAST, WINDOW, DUPLICATES, SYN_LAST = range(len(WAY))
"""Words of each direction: the next sequence number expected (-1: nothing seen in the session), when the segment came
that went furthest, the sequence number of the last SYN, else of what stood before the first segment (-1: none); and of
the last segment the acknowledgement, time, window, how often it said the same again, and whether it was a SYN."""
_WORDS = 8
ROUND_TRIP = 2 * _WORDS
"""Word behind both directions: from SYN to the acknowledgement of its answer, ns; -1 where not seen."""
STATE = ROUND_TRIP + 1

_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
NEEDED = np.uint64(int(Has.TCP_SEQ | Has.TCP_ACK | Has.TCP_FLAGS | Has.TCP_WINDOW | Has.TCP_LEN))
_MASK = 0xFFFFFFFF
_APART = 34  # bits: further than any two relative sequence numbers and a length can be

States: TypeAlias = Ints
"""Shape (n, STATE)."""


def unknown(rows: int) -> States:
    """States of sessions of which nothing was seen."""
    return np.full((rows, STATE), -1, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """Segments of one kind: where they are among the items, and which were sent by the second endpoint."""

    items: Ints
    second: Bools


def _signed(difference: Ints) -> Ints:
    """Differences of sequence numbers modulo 2**32, as the nearest (RFC 9293, 3.4)."""
    signed: Ints = difference.astype(np.uint32).view(np.int32).astype(np.int64)
    return signed


class Segments:
    """The TCP segments of a block's items: those of the first endpoint, then those of the second, as they came.

    `source` is the packet of every item, `heads` where a key's items begin, `at` the items that are no packet but what
    was known of their key before: `states` (len(at), STATE). `second` says which items the second endpoint sent.
    """

    def __init__(
        self, columns: Columns, source: Ints, time: Ints, second: Bools, heads: Bools, at: Ints, states: States
    ) -> None:
        chosen = ((np.asarray(columns["layers"]) & NEEDED) == NEEDED)[source]
        chosen[at] = False
        ways = [chosen & ~second, chosen & second]
        known = [states[:, NEXT] >= 0, states[:, _WORDS + NEXT] >= 0]
        for way, seen in zip(ways, known, strict=True):
            way[at[seen]] = True
        places = [np.flatnonzero(way) for way in ways]
        self._ways = ways
        self.split = len(places[0])
        self.items = np.concatenate(places)
        self._known = np.concatenate(
            [np.searchsorted(places[0], at[known[0]]), self.split + np.searchsorted(places[1], at[known[1]])]
        )
        self._was = np.concatenate([states[known[0], :_WORDS], states[known[1], _WORDS : 2 * _WORDS]])
        self._at, self._round_trips = at, states[:, ROUND_TRIP]
        self._groups = np.cumsum(heads) - 1
        self._isn = np.full((int(self._groups[-1]) + 1, 2), -1, dtype=np.int64)
        self._isn[self._groups[at]] = states[:, (ISN, _WORDS + ISN)]
        self._first = self._changes(self._groups[self.items])
        self._read(columns, source[self.items], time)
        self._begin((np.asarray(columns["tcp_flags"])[source[self.items]] & _SYN) != 0)

    def _read(self, columns: Columns, packets: Ints, time: Ints) -> None:
        names = ("tcp_seq", "tcp_ack", "tcp_flags", "tcp_window", "tcp_len")
        seq, ack, flags, window, length = (np.asarray(columns[name])[packets].astype(np.int64) for name in names)
        self.time = time[packets]
        flags[self._known] = length[self._known] = 0
        for value, word in ((seq, NEXT), (ack, ACK), (window, WINDOW), (self.time, LAST)):
            value[self._known] = self._was[:, word]
        self.seq, self.ack, self.window, self.length = seq, ack, window, length
        self.control = (flags & (_SYN | _FIN)) != 0
        self.plain = (flags & (_SYN | _FIN | _RST)) == 0
        self.syn = (flags & (_SYN | _ACK)) == _SYN
        self.syn[self._known] = self._was[:, SYN_LAST] == 1
        self._acknowledges = (flags & (_SYN | _RST | _ACK)) == _ACK

    def _begin(self, with_syn: Bools) -> None:
        """The first sequence number of each direction, `begins`, at its anchors: SYNs, and the first that is known."""
        syn = self.syn.copy()
        syn[self._known] = False
        self._anchors = np.flatnonzero(self._first | syn)
        first = self._first[self._anchors]
        self._begins = ((self.seq - ~with_syn) & _MASK)[self._anchors]
        heads = self._anchors[first]
        before = np.empty(len(first), dtype=np.int64)
        before[first] = self._isn[self._groups[self.items[heads]], (heads >= self.split).astype(np.int64)]
        self._begins[first & (before >= 0) & ~syn[self._anchors]] = before[first & (before >= 0) & ~syn[self._anchors]]
        later = np.flatnonzero(~first)
        before[later] = self._begins[later - 1]
        self._anew = syn[self._anchors] & (before >= 0) & (before != self._begins)

    def _changes(self, of: Ints) -> Bools:
        """Where a value differs from the one before, or the other endpoint's segments begin."""
        out = np.ones(len(of), dtype=np.bool_)
        np.not_equal(of[1:], of[:-1], out=out[1:])
        out[self.split : self.split + 1] = True
        return out

    def connections(self) -> Ints:
        """Items that begin a connection: SYNs that are not the first segment known of their sender, and have another
        sequence number than its last SYN."""
        begun: Ints = self.items[self._anchors[self._anew]]
        return begun

    def judge(self, sessions: Bools) -> tuple[Events, Events, States]:
        """Segments sent again, segments out of order, and the state of every key after its last item.

        `sessions` says at which items sessions begin.
        """
        of_item = np.cumsum(sessions) - 1
        groups = int(self._groups[-1]) + 1
        if not len(self.items):
            none = Events(self.items, np.zeros(0, dtype=np.bool_))
            return none, none, self._carried(groups)
        self._session = of_item[self.items]
        self._answered, self._other = self._others()
        self._order()
        self._count_duplicates()
        round_trips = self._handshakes(of_item)
        again, late = self._suspects(round_trips)
        return self._events(again), self._events(late), self._states(of_item, groups, round_trips)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _others(self) -> tuple[Bools, Ints]:
        """Per segment whether the other side has sent one before in the session, and its last one."""
        first, second = (np.cumsum(way) for way in self._ways)
        split = self.split
        count = np.concatenate((second[self.items[:split]], first[self.items[split:]]))
        other = count - 1
        other[:split] += split
        other[count == 0] = 0
        return (count > 0) & (self._session[other] == self._session), other

    def _order(self) -> None:
        """`rel` and `top`: sequence numbers and the furthest end so far, relative to the session's first segment.

        One running maximum over all: the values of later directions and sessions lie above those of earlier ones.
        """
        self._heads = self._changes(self._session)
        self._segment = np.cumsum(self._heads) - 1
        self.base = self.seq[self._heads][self._segment]
        self.rel = _signed(self.seq - self.base)
        end = self.rel + self.length + self.control
        probes = np.flatnonzero(self.length == 1)  # of a window that is zero: they do not count as sent
        probes = probes[self._answered[probes] & (self.window[self._other[probes]] == 0)]
        end[probes] = self.rel[probes]
        above = self._segment << _APART
        self._rising = np.maximum.accumulate(end + above)
        self.top = self._rising - above
        self.behind = np.zeros(len(end), dtype=np.int64)  # below zero: not beyond what was sent before
        self.behind[1:] = self.rel[1:] - self.top[:-1]
        self.behind[self._heads] = 0
        self._reached = self.time.copy()
        self._reached[self._known] = self._was[:, TOP]

    def _count_duplicates(self) -> None:
        """`duplicates`: how many acknowledgements in a row, up to each segment, said what the one before them said."""
        same = np.zeros(len(self.ack), dtype=np.bool_)
        np.equal(self.ack[1:], self.ack[:-1], out=same[1:])
        same &= ~self._heads
        repeats = same & self.plain & (self.length == 0) & (self.behind == 0) & (self.window > 0)
        repeats[1:] &= self.window[1:] == self.window[:-1]
        counts = repeats.astype(np.int64)
        counts[self._known] = self._was[:, DUPLICATES]
        total = np.cumsum(counts)
        self.duplicates = total - np.maximum.accumulate(np.where(same, 0, total - counts))

    def _handshakes(self, of_item: Ints) -> Ints:
        """Per session the time from a SYN to its sender's next acknowledgement, ns; -1 where not seen."""
        round_trips = np.full(int(of_item[-1]) + 1, -1, dtype=np.int64)
        asked = np.flatnonzero(self.syn[:-1])
        asked = asked[~self._heads[asked + 1] & self._acknowledges[asked + 1]]
        asked = asked[self.time[asked + 1] >= self.time[asked]]
        asked = asked[np.argsort(-self.items[asked + 1])]  # the first one stays
        self._shaken = np.zeros(len(round_trips), dtype=np.int64)  # the item that says it
        self._shaken[self._session[asked]] = self.items[asked + 1]
        round_trips[self._session[asked]] = self.time[asked + 1] - self.time[asked]
        known = self._round_trips >= 0
        sessions = of_item[self._at[known]]
        round_trips[sessions], self._shaken[sessions] = self._round_trips[known], self._at[known]
        return round_trips

    def _suspects(self, round_trips: Ints) -> tuple[Ints, Ints]:
        """Segments sent again and segments out of order. Suspects are few: what follows has a row for each of them."""
        keep_alive = (self.behind == -1) & (self.length <= 1) & self.plain
        acknowledged = (self.length > 0) & self._answered & (self.ack[self._other] != 0)
        acknowledged &= _signed(self.seq + self.length - self.ack[self._other]) <= 0
        back = (self.behind < 0) & ((self.length > 0) | self.control)
        back &= (self.behind < -1) | (self.length <= 1)
        suspects = np.flatnonzero((back | acknowledged) & ~keep_alive)
        if not len(suspects):
            return suspects, suspects
        spurious = acknowledged[suspects]
        late = ~spurious & ~self._asked_for(suspects) & self._in_time(suspects, round_trips)
        return suspects[~late], suspects[late]

    def _asked_for(self, suspects: Ints) -> Bools:
        """Which of the suspects the other side has just asked for."""
        other = self._other[suspects]
        asked: Bools = self._answered[suspects] & (self.duplicates[other] >= 2)
        asked &= (self.ack[other] == self.seq[suspects]) & (self.time[suspects] - self.time[other] < FAST_NS)
        return asked

    def _in_time(self, suspects: Ints, round_trips: Ints) -> Bools:
        """Which of the suspects come soon after the segment that went furthest, and end elsewhere."""
        before = np.maximum(suspects, 1) - 1
        since = self.time[suspects] - self._reached[np.searchsorted(self._rising, self._rising[before])]
        sessions = self._session[suspects]
        known = (round_trips[sessions] > 0) & (self._shaken[sessions] < self.items[suspects])
        allowed = np.where(known, round_trips[sessions], ROUND_TRIP_NS)
        soon: Bools = since < allowed
        soon &= self.top[before] != self.rel[suspects] + self.length[suspects] + self.control[suspects]
        return soon

    def _events(self, segments: Ints) -> Events:
        return Events(self.items[segments], segments >= self.split)

    def _states(self, of_item: Ints, groups: int, round_trips: Ints) -> States:
        """What is known of each key after its last item: of a direction only where it was seen in the last session."""
        of_group = np.append(np.flatnonzero(np.diff(self._groups)), len(of_item) - 1)
        last_session = of_item[of_group]
        states = self._carried(groups)
        states[:, ROUND_TRIP] = round_trips[last_session]
        tails = np.append(np.flatnonzero(self._first)[1:], len(self.items)) - 1
        ways = (tails >= self.split).astype(np.int64)
        at = np.searchsorted(self._anchors, tails, side="right") - 1
        states[self._groups[self.items[tails]], ISN + _WORDS * ways] = self._begins[at]
        tails = tails[self._session[tails] == last_session[self._groups[self.items[tails]]]]
        words = np.empty((len(tails), _WORDS), dtype=np.int64)
        words[:, NEXT] = (self.base[tails] + self.top[tails]) & _MASK
        words[:, TOP] = self._reached[np.searchsorted(self._rising, self._rising[tails])]
        named = ((ACK, self.ack), (LAST, self.time), (WINDOW, self.window), (DUPLICATES, self.duplicates))
        for word, value in (*named, (SYN_LAST, self.syn)):
            words[:, word] = value[tails]
        rows, first = self._groups[self.items[tails]], tails < self.split
        words[:, ISN] = states[rows, np.where(first, ISN, ISN + _WORDS)]
        states[rows[first], :_WORDS] = words[first]
        states[rows[~first], _WORDS : 2 * _WORDS] = words[~first]
        return states

    def _carried(self, groups: int) -> States:
        """States that know the first sequence numbers of before, and nothing else."""
        states = unknown(groups)
        states[:, ISN], states[:, _WORDS + ISN] = self._isn[:, 0], self._isn[:, 1]
        return states
