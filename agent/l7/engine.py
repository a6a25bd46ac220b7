"""The way from a block's payloads to its L7 columns: who reads what, within which bounds.

For a block the engine gathers the payloads' heads, asks every parser's probe once, adds the payloads of connections
that a stateful parser has claimed before, and feeds these rows, one by one and in order; those that need no connection
many together, where their parser can. All other rows cost numpy time only. Pure but for the budget's clock; one thread
calls it.
"""

from __future__ import annotations

import gc
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.decode.slow import Budget
from agent.decode.walk import Payloads
from agent.l7 import PENDING, TURNS, Batch, Conn, Findings, Mark, Parser, Summary, Turn, sctp
from agent.l7 import columns as l7_columns
from agent.l7.keys import connections
from agent.l7.recognise import Recogniser
from agent.l7.sequence import Segments, Sequences
from agent.l7.track import QUIET, Track, Tracks
from protocol.columns import Columns
from protocol.schema import Has

MODES = ("off", "fast", "all")
STEP = 1024
"""Rows between two looks at the budget: some milliseconds."""
MAX_PAYLOAD = 65_536
"""Bytes of one payload that a parser gets; offloaded segments can be larger."""

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16

Ints = NDArray[np.int64]
Data = bytes
Plain: TypeAlias = "tuple[Any, ...]"  # a `_Row` that is not one yet: making them takes longer than reading most of them
Rest = Callable[[int, int, int, Data], Summary | None]
"""What reads what no parser claims: transport, source port, destination port, payload."""


@dataclass(slots=True)
class Counts:
    """Payloads since the start: `fed` to parsers, `said` something of, `skipped` for want of CPU time; `failed` in a
    parser that raised, which is a bug of it."""

    fed: int = 0
    said: int = 0
    skipped: int = 0
    failed: int = 0


class Said(NamedTuple):
    """One half of a call, or what explains that one is missing, with the row of the block and its connection."""

    row: int
    connection: int
    side: int  # 0 or 1, one of the two ends
    turn: Turn | Mark


class _Row(NamedTuple):
    """One payload, or the end of a connection, in Python's numbers."""

    row: int
    claims: int  # bit set of parsers whose probe took it
    key: int
    way: int  # 0 or 1
    tcp: bool
    start: int
    stop: int
    cut: int  # bytes by which its payload went on, on the wire
    sport: int
    dport: int
    flags: int
    ahead: int  # `Places.ahead`
    time: int


class _Picked(NamedTuple):
    """Rows of a block that are read, rising, and what is known of each; shape (n,)."""

    rows: Ints
    claims: NDArray[np.uint64]  # bit set of the parsers that claim it
    keys: NDArray[np.uint64]  # its connection
    ways: NDArray[np.bool_]
    ahead: Ints  # `Places.ahead`
    perhaps: NDArray[np.bool_]  # whether a parser may keep the connection

    def part(self, at: Any) -> _Picked:
        """Some of them: a slice, places or a mask."""
        return _Picked(*(array[at] for array in self))


class Engine:
    """Reads the payloads of one run's blocks.

    `parsers` in the order in which they are asked; `rest` reads what none of them claims. URL query strings are
    stripped unless `keep_query`. `budget` is the CPU time of live sources, None without bounds. Without `reassemble`
    each TCP segment is read on its own: messages over several are not put together, what was sent again is read again.
    """

    def __init__(
        self,
        parsers: Sequence[Parser],
        *,
        rest: Rest | None = None,
        keep_query: bool = False,
        budget: Budget | None = None,
        with_turns: bool = False,
        reassemble: bool = True,
    ) -> None:
        self.counts = Counts()
        self.turns: list[Said] = []
        """Halves of calls in the block added last, where `with_turns` asks for them."""
        self._recogniser = Recogniser(parsers, self._failed)
        self._bits = {1 << i: parser for i, parser in enumerate(parsers)}
        self._stateful = sum(bit for bit, parser in self._bits.items() if parser.stateful)
        # the bound methods of those that read many payloads together, in the order of their bits
        self._together: dict[int, Callable[[Batch], Findings]] = {
            bit: parser.feed_all
            for bit, parser in self._bits.items()
            if not parser.stateful and hasattr(parser, "feed_all")
        }
        self._rest, self._keep_query, self._budget, self._with_turns = rest, keep_query, budget or Budget(), with_turns
        self._tracks, self._sequences = Tracks(), Sequences()
        self._reassemble, self._room = reassemble, PENDING if reassemble else 0
        self._none = Conn()  # what stateless parsers are handed
        self._seeds = np.array([secrets.randbits(64) | 1 for _ in range(4)], dtype=np.uint64)

    @property
    def bytes(self) -> int:
        """Memory held in unfinished messages. 0 after `free`."""
        return self._tracks.bytes

    def free(self) -> None:
        """Give up all unfinished messages."""
        self._tracks.free()

    def clear(self) -> None:
        """Forget all connections: what follows is read anew."""
        self._tracks.clear()
        self._sequences.clear()

    def add(self, columns: Columns, payloads: Payloads) -> None:
        """Fill the L7 columns of a block (all of PACKETS, as decoded). Never raises on input."""
        collecting = gc.isenabled()
        gc.disable()  # thousands of summaries live for one block, and none is part of a cycle: a tenth of the time
        try:
            self._add(columns, payloads)
        finally:
            if collecting:
                gc.enable()

    def _add(self, columns: Columns, payloads: Payloads) -> None:
        self.turns = []
        sctp.narrow(columns, payloads)
        ends = (np.asarray(columns["tcp_flags"]) & np.uint16(_FIN | _SYN | _RST)) != 0
        rows = np.flatnonzero((payloads.length > 0) | ends)
        if not len(rows):
            return
        said, parts = self._read(columns, payloads, rows)
        if self._rest is not None:
            done = [at[found.at] for at, found in parts]
            done.append(np.array([row for row, _ in said], dtype=np.int64))
            said += self._read_rest(columns, payloads, rows, np.concatenate(done))
        if said or parts:
            l7_columns.write(columns, said, parts, self._keep_query)
        self._tracks.expire(int(np.asarray(columns["time"])[-1]))

    @property
    def connections(self) -> int:
        """Connections remembered."""
        return len(self._tracks)

    # -- choosing rows ---------------------------------------------------------------------------------------------

    def _read(self, columns: Columns, payloads: Payloads, rows: Ints) -> tuple[l7_columns.Said, list[l7_columns.Part]]:
        claims = self._recogniser.claims(columns, payloads, rows)
        keys, ways = connections(columns, rows, self._seeds)
        new = keys[(claims & np.uint64(self._stateful)) != 0]
        perhaps = self._tracks.perhaps(keys, new)
        picked = _Picked(rows, claims, keys, ways, np.zeros(len(rows), dtype=np.int64), perhaps)
        if self._reassemble:
            self._place(columns, payloads, picked)
        chosen = np.flatnonzero((claims != 0) | perhaps)
        picked = picked.part(chosen)
        said: l7_columns.Said = []
        parts: list[l7_columns.Part] = []
        for first in range(0, len(chosen), STEP):
            if not self._budget.open():
                left = picked.part(slice(first, None))
                left = left.part(payloads.length[left.rows] > 0)
                self._skip(columns, left.rows)
                self._miss(left.part(_has(columns, Has.TCP, left.rows)))
                break
            self._step(columns, payloads, picked.part(slice(first, first + STEP)), said, parts)
            self._budget.spend()
        self.turns.sort(key=itemgetter(0))
        self.counts.said += len(said) + sum(len(found.at) for _, found in parts)
        return said, parts

    def _place(self, columns: Columns, payloads: Payloads, picked: _Picked) -> None:
        """Find the segments that were sent again: they have no payload any more. What was missed is told."""
        syn = (np.asarray(columns["tcp_flags"])[picked.rows] & np.uint16(_SYN)) != 0
        at = np.flatnonzero(_has(columns, Has.TCP, picked.rows) & (syn | (payloads.length[picked.rows] > 0)))
        if not len(at):
            return
        rows = picked.rows[at]
        size = _sizes(columns, payloads, rows)
        segments = Segments(picked.keys[at], picked.ways[at], np.asarray(columns["tcp_seq"])[rows], size, syn[at])
        claimed = picked.perhaps[at] | (picked.claims[at] != 0)
        ahead, began = self._sequences.place(segments, segments.syn | claimed)
        picked.ahead[at] = ahead
        seen = at[-ahead >= np.maximum(size, 1)]
        picked.claims[seen] = payloads.length[picked.rows[seen]] = 0
        picked.perhaps[at[ahead < 0]] = True  # what is new of a segment is read by one who knows what was before
        if self._with_turns:
            self._mark(Mark.MISSED, picked, at[ahead > 0])
            self._mark(Mark.BEGAN, picked, at[began])

    def _mark(self, mark: Mark, picked: _Picked, at: Ints) -> None:
        rows, keys, ways = picked.rows[at].tolist(), picked.keys[at].tolist(), picked.ways[at].astype(np.uint8).tolist()
        self.turns += [Said(*each, mark) for each in zip(rows, keys, ways, strict=True)]

    def _step(
        self,
        columns: Columns,
        payloads: Payloads,
        picked: _Picked,
        said: l7_columns.Said,
        parts: list[l7_columns.Part],
    ) -> None:
        """Read some rows: many together what its parser can read so, then the others in order."""
        alone = np.ones(len(picked.rows), dtype=np.bool_)
        first = np.where(picked.perhaps, np.uint64(0), picked.claims & (~picked.claims + np.uint64(1)))
        for bit in self._together:
            at = np.flatnonzero(first == np.uint64(bit))
            if len(at):
                alone[at] = ~self._feed_all(columns, payloads, bit, picked.part(at), parts)
                picked.claims[at] ^= np.uint64(bit)
        alone &= picked.perhaps | (picked.claims != 0)
        if alone.any():
            self._feed(_rows(columns, payloads, picked.part(alone)), payloads.data.data, said)

    # -- reading rows ----------------------------------------------------------------------------------------------

    def _feed_all(
        self, columns: Columns, payloads: Payloads, bit: int, picked: _Picked, parts: list[l7_columns.Part]
    ) -> NDArray[np.bool_]:
        """Have one parser read rows together; which of them it said something of."""
        rows, data = picked.rows, payloads.data.data
        start, stop, cut = _spans(columns, payloads, rows)
        texts = [bytes(data[a:b]) for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
        sport, dport = (np.asarray(columns[name])[rows] for name in ("src_port", "dst_port"))
        done = np.zeros(len(rows), dtype=np.bool_)
        try:
            found: Findings = self._together[bit](Batch(texts, sport, dport, self._with_turns))
        except Exception:  # a parser's bug must not cost a block
            self._failed()
            return done
        self.counts.fed += len(rows)
        done[found.at] = True
        if found.at:
            parts.append((rows, found))
        if self._with_turns and found.turns:
            at, keys, sides = rows.tolist(), picked.keys.tolist(), picked.ways.astype(np.uint8).tolist()
            self.turns += [Said(at[i], keys[i], sides[i], turn) for i, turn in found.turns]
            count = np.bincount([i for i, _ in found.turns], minlength=len(rows))
            self._mark(Mark.MISSED, picked, np.flatnonzero((count >= TURNS) | ((cut > 0) & (count > 1))))
        return done

    def _feed(self, rows: list[Plain], data: memoryview, said: l7_columns.Said) -> None:
        """Read some payloads one by one."""
        known = self._tracks.get
        for plain in rows:
            row, claims, key, _, _, start, stop, _, _, _, _, _, _ = plain
            if known(key) is not None or (claims and start < stop):
                summary = self._one(_Row._make(plain), data)
                if summary is not None:
                    said.append((row, summary))

    def _skip(self, columns: Columns, rows: Ints) -> None:
        """These rows keep what the decoder saw."""
        self.counts.skipped += len(rows)
        layers: Any = columns["layers"]
        layers[rows] |= np.uint64(int(Has.SKIPPED))

    def _miss(self, picked: _Picked) -> None:
        """What the connections of segments that are skipped were in the middle of is lost."""
        _, at = np.unique((picked.keys & ~np.uint64(1)) | picked.ways, return_index=True)
        for key, way in zip(picked.keys[at].tolist(), picked.ways[at].tolist(), strict=True):
            track = self._tracks.get(key)
            if track is not None:
                track.lost(int(way != track.way))
        if self._with_turns:
            self._mark(Mark.MISSED, picked, at)

    def _one(self, row: _Row, data: memoryview) -> Summary | None:
        """Read one payload by its connection's parser, else by those that claim it."""
        track = self._tracks.get(row.key)
        begins = row.flags & (_SYN | _ACK) == _SYN and row.ahead >= 0
        if track is not None and (row.flags & _RST or begins) and row.tcp:
            self._tracks.forget(row.key)
            track = None
        if row.start == row.stop:
            self._end(row, track)
            return None
        if track is None and row.ahead < 0:
            if self._with_turns:
                self.turns.append(Said(row.row, row.key, row.way, Mark.MISSED))
            return None
        if track is None and not row.claims:
            return None
        payload = bytes(data[row.start : row.stop])
        self.counts.fed += 1
        summary = self._continue(track, row, payload) if track is not None else None
        if summary is None and row.claims and row.ahead >= 0:
            summary = self._begin(track, row, payload)
        if track is not None:
            self._end(row, track)
        return summary

    def _end(self, row: _Row, track: Track | None) -> None:
        if track is not None and row.tcp and row.flags & _FIN:
            track.fins |= 1 << (row.way != track.way)
            if track.fins == 3:
                self._tracks.forget(row.key)

    def _continue(self, track: Track, row: _Row, payload: Data) -> Summary | None:
        """A payload of a connection that a parser has."""
        side = int(row.way != track.way)
        if row.ahead > 0:
            track.lost(side)
        summary = self._call(track.parser, payload[max(0, -row.ahead) :], side, row, track.conn)
        if row.cut:
            track.lost(side)
        if summary is not None:
            track.spoken, track.quiet = True, 0
        else:
            track.quiet += 1
            if not track.spoken and track.quiet > QUIET and not track.held:
                self._tracks.forget(row.key)
                return None
        self._tracks.used(row.key, track, row.time)
        return summary

    def _begin(self, known: Track | None, row: _Row, payload: Data) -> Summary | None:
        """A payload that parsers claim: the first that says something, or waits for more, has the connection."""
        left = row.claims
        while left:
            bit = left & -left
            left ^= bit
            parser = self._bits[bit]
            if known is not None and parser is known.parser:
                continue
            if not parser.stateful:
                summary = self._call(parser, payload, row.way, row, self._none)
                if summary is not None:
                    return summary
                continue
            track = Track(parser, row.way, row.time, Conn(room=self._room))
            summary = self._call(parser, payload, 0, row, track.conn)
            if row.cut:
                track.lost(0)
            if summary is not None or (known is None and track.conn.pending[0]):
                track.spoken = summary is not None
                self._tracks.open(row.key, track)
                self._tracks.used(row.key, track, row.time)
                return summary
        return None

    def _call(self, parser: Parser, payload: Data, side: int, row: _Row, conn: Conn) -> Summary | None:
        conn.missing = row.cut
        try:
            summary = parser.feed(payload, side, row.sport, row.dport, conn)
        except Exception:  # a parser's bug must not cost a row
            self._failed()
            return None
        if summary is not None and summary.turns and self._with_turns:
            turns = summary.turns
            self.turns += [Said(row.row, row.key, row.way, turn) for turn in turns]
            if len(turns) >= TURNS or (row.cut and len(turns) > 1):  # there may have been more
                self.turns.append(Said(row.row, row.key, row.way, Mark.MISSED))
        return summary

    def _failed(self) -> None:
        self.counts.failed += 1

    def _read_rest(self, columns: Columns, payloads: Payloads, rows: Ints, done: Ints) -> l7_columns.Said:
        """What no parser said anything of, by the dissector for the rest."""
        assert self._rest is not None
        said: l7_columns.Said = []
        left = rows[~np.isin(rows, done) & (payloads.length[rows] > 0)]
        names = ("proto", "src_port", "dst_port")
        start, stop, _ = _spans(columns, payloads, left)
        arrays = [left, start, stop, *(np.asarray(columns[name])[left] for name in names)]
        for row, begin, end, proto, sport, dport in zip(*(array.tolist() for array in arrays), strict=True):
            if not self._budget.open():
                self._skip(columns, left[left >= row])
                break
            summary = self._rest(proto, sport, dport, payloads.data[begin:end].tobytes())
            if summary is not None:
                said.append((row, summary))
            self._budget.spend()
        return said


def _rows(columns: Columns, payloads: Payloads, picked: _Picked) -> list[Plain]:
    """Rows as Python's numbers, in the order of `_Row`."""
    at = picked.rows
    plain = (np.asarray(columns[name])[at] for name in ("src_port", "dst_port", "tcp_flags"))
    arrays: tuple[NDArray[Any], ...] = (
        at,
        picked.claims,
        picked.keys,
        picked.ways.astype(np.uint8),
        _has(columns, Has.TCP, at),
        *_spans(columns, payloads, at),
        *plain,
        picked.ahead,
        np.asarray(columns["time"])[at],
    )
    return list(zip(*(array.tolist() for array in arrays), strict=True))


def _has(columns: Columns, layer: Has, rows: Ints) -> NDArray[np.bool_]:
    """Which of these rows have a layer."""
    found: NDArray[np.bool_] = (np.asarray(columns["layers"])[rows] & np.uint64(int(layer))) != 0
    return found


def _sizes(columns: Columns, payloads: Payloads, rows: Ints) -> Ints:
    """Payload bytes on the wire, of which less may have been captured."""
    told = np.where(_has(columns, Has.TCP_LEN, rows), np.asarray(columns["tcp_len"])[rows], 0)
    return np.maximum(told, payloads.length[rows])


def _spans(columns: Columns, payloads: Payloads, rows: Ints) -> tuple[Ints, Ints, Ints]:
    """Where the payloads begin and end as far as they are read, and by how much they went on, on the wire."""
    start, length = payloads.start[rows], np.minimum(payloads.length[rows], MAX_PAYLOAD)
    return start, start + length, _sizes(columns, payloads, rows) - length
