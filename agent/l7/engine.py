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
from agent.l7 import HEAD, TCP, UDP, Batch, Conn, Findings, Heads, Parser, Summary, Turn, sctp
from agent.l7 import columns as l7_columns
from agent.l7.keys import connections
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
    """One half of a call, with the row of the block and the connection it was seen on."""

    row: int
    connection: int
    side: int
    turn: Turn


class _Row(NamedTuple):
    """One payload, or the end of a connection, in Python's numbers."""

    row: int
    claims: int  # bit set of parsers whose probe took it
    key: int
    way: int  # 0 or 1
    tcp: bool
    start: int
    length: int
    sport: int
    dport: int
    flags: int
    seq: int
    wire: int  # payload bytes on the wire
    time: int


class _Picked(NamedTuple):
    """Rows of a block that are read, rising, and what is known of each; shape (n,)."""

    rows: Ints
    claims: NDArray[np.uint64]  # bit set of the parsers that claim it
    keys: NDArray[np.uint64]  # its connection
    ways: NDArray[np.bool_]
    perhaps: NDArray[np.bool_]  # whether a parser may keep the connection

    def part(self, at: Any) -> _Picked:
        """Some of them: a slice, places or a mask."""
        return _Picked(*(array[at] for array in self))


class Engine:
    """Reads the payloads of one run's blocks.

    `parsers` in the order in which they are asked; `rest` reads what none of them claims. URL query strings are
    stripped unless `keep_query`. `budget` is the CPU time of live sources, None without bounds.
    """

    def __init__(
        self,
        parsers: Sequence[Parser],
        *,
        rest: Rest | None = None,
        keep_query: bool = False,
        budget: Budget | None = None,
        with_turns: bool = False,
    ) -> None:
        self.counts = Counts()
        self.turns: list[Said] = []
        """Halves of calls in the block added last, where `with_turns` asks for them."""
        self._parsers = list(parsers)
        self._bits = {1 << i: parser for i, parser in enumerate(self._parsers)}
        self._stateful = sum(1 << i for i, parser in enumerate(self._parsers) if parser.stateful)
        # the bound methods of those that read many payloads together, in the order of their bits
        self._together: dict[int, Callable[[Batch], Findings]] = {
            bit: parser.feed_all
            for bit, parser in self._bits.items()
            if not parser.stateful and hasattr(parser, "feed_all")
        }
        self._rest, self._keep_query, self._budget, self._with_turns = rest, keep_query, budget or Budget(), with_turns
        self._tracks = Tracks()
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
        claims = self._probe(columns, payloads, rows)
        keys, ways = connections(columns, rows, self._seeds)
        new = keys[(claims & np.uint64(self._stateful)) != 0]
        perhaps = self._tracks.perhaps(keys, new)
        chosen = np.flatnonzero((claims != 0) | perhaps)
        picked = _Picked(rows[chosen], claims[chosen], keys[chosen], ways[chosen], perhaps[chosen])
        said: l7_columns.Said = []
        parts: list[l7_columns.Part] = []
        for first in range(0, len(chosen), STEP):
            if not self._budget.open():
                left = picked.rows[first:]
                self._skip(columns, left[payloads.length[left] > 0])
                break
            self._step(columns, payloads, picked.part(slice(first, first + STEP)), said, parts)
            self._budget.spend()
        self.turns.sort(key=itemgetter(0))
        self.counts.said += len(said) + sum(len(found.at) for _, found in parts)
        return said, parts

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

    def _probe(self, columns: Columns, payloads: Payloads, rows: Ints) -> NDArray[np.uint64]:
        """Per row the bit set of the parsers that claim its payload."""
        claims = np.zeros(len(rows), dtype=np.uint64)
        tcp = (np.asarray(columns["layers"])[rows] & np.uint64(int(Has.TCP))) != 0
        some = payloads.length[rows] > 0
        for transport, mask in ((TCP, tcp & some), (UDP, ~tcp & some)):
            at = np.flatnonzero(mask)
            if len(at):
                claims[at] = self._claims(transport, gather(columns, payloads, rows[at]))
        return claims

    def _claims(self, transport: int, heads: Heads) -> NDArray[np.uint64]:
        found = np.zeros(len(heads.length), dtype=np.uint64)
        for bit, parser in self._bits.items():
            if transport not in parser.transports:
                continue
            try:
                claimed = parser.probe(heads)
                if claimed.any():
                    found[claimed] |= np.uint64(bit)
            except Exception:  # a parser's bug must not cost a block
                self.counts.failed += 1
        return found

    # -- reading rows ----------------------------------------------------------------------------------------------

    def _feed_all(
        self, columns: Columns, payloads: Payloads, bit: int, picked: _Picked, parts: list[l7_columns.Part]
    ) -> NDArray[np.bool_]:
        """Have one parser read rows together; which of them it said something of."""
        rows, data = picked.rows, payloads.data.data
        start = payloads.start[rows]
        stop = start + np.minimum(payloads.length[rows], MAX_PAYLOAD)
        texts = [bytes(data[a:b]) for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
        sport, dport = (np.asarray(columns[name])[rows] for name in ("src_port", "dst_port"))
        done = np.zeros(len(rows), dtype=np.bool_)
        try:
            found: Findings = self._together[bit](Batch(texts, sport, dport, self._with_turns))
        except Exception:  # a parser's bug must not cost a block
            self.counts.failed += 1
            return done
        self.counts.fed += len(rows)
        done[found.at] = True
        if found.at:
            parts.append((rows, found))
        if self._with_turns and found.turns:
            at, keys, sides = rows.tolist(), picked.keys.tolist(), picked.ways.astype(np.uint8).tolist()
            self.turns += [Said(at[i], keys[i], sides[i], turn) for i, turn in found.turns]
        return done

    def _feed(self, rows: list[Plain], data: memoryview, said: l7_columns.Said) -> None:
        """Read some payloads one by one."""
        known = self._tracks.get
        for plain in rows:
            row, claims, key, _, _, _, length, _, _, _, _, _, _ = plain
            if known(key) is not None or (claims and length):
                summary = self._one(_Row._make(plain), data)
                if summary is not None:
                    said.append((row, summary))

    def _skip(self, columns: Columns, rows: Ints) -> None:
        """These rows keep what the decoder saw; what their connections were in the middle of is lost."""
        self.counts.skipped += len(rows)
        layers: Any = columns["layers"]
        layers[rows] |= np.uint64(int(Has.SKIPPED))

    def _one(self, row: _Row, data: memoryview) -> Summary | None:
        """Read one payload by its connection's parser, else by those that claim it."""
        track = self._tracks.get(row.key)
        if track is not None and (row.flags & _RST or row.flags & (_SYN | _ACK) == _SYN) and row.tcp:
            self._tracks.forget(row.key)
            track = None
        if not row.length:
            self._end(row, track)
            return None
        if track is None and not row.claims:
            return None
        length = row.length
        payload = bytes(data[row.start : row.start + (length if length < MAX_PAYLOAD else MAX_PAYLOAD)])
        self.counts.fed += 1
        summary = self._continue(track, row, payload) if track is not None else None
        if summary is None and row.claims:
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
        conn = track.conn
        if row.tcp:
            seen = track.place(side, row.seq, row.wire)
            if seen >= row.wire:
                conn = Conn()  # a repetition is read like any other, but not into the connection's state
            elif seen:
                payload = payload[seen:]
        turns = len(self.turns)
        summary = self._call(track.parser, payload, side, row, conn)
        if conn is not track.conn:
            del self.turns[turns:]  # and is no second call
            return summary
        if row.length < row.wire or row.length > MAX_PAYLOAD:
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
            track = Track(parser, row.way, row.time)
            track.next[0] = (row.seq + row.wire) & 0xFFFFFFFF
            summary = self._call(parser, payload, 0, row, track.conn)
            if row.length < row.wire or row.length > MAX_PAYLOAD:
                track.lost(0)
            if summary is not None or (known is None and track.conn.pending[0]):
                track.spoken = summary is not None
                self._tracks.open(row.key, track)
                self._tracks.used(row.key, track, row.time)
                return summary
        return None

    def _call(self, parser: Parser, payload: Data, side: int, row: _Row, conn: Conn) -> Summary | None:
        try:
            summary = parser.feed(payload, side, row.sport, row.dport, conn)
        except Exception:  # a parser's bug must not cost a row
            self.counts.failed += 1
            return None
        if summary is not None:
            self._turn(summary, row.row, row.key, side)
        return summary

    def _turn(self, summary: Summary, row: int, key: int, side: int) -> None:
        if self._with_turns and summary.turns:
            self.turns += [Said(row, key, side, turn) for turn in summary.turns]

    def _read_rest(self, columns: Columns, payloads: Payloads, rows: Ints, done: Ints) -> l7_columns.Said:
        """What no parser said anything of, by the dissector for the rest."""
        assert self._rest is not None
        said: l7_columns.Said = []
        left = rows[~np.isin(rows, done)]
        none = np.zeros(len(left), dtype=np.uint64)
        for row in map(_Row._make, _rows(columns, payloads, _Picked(left, none, none, none != 0, none != 0))):
            if not self._budget.open():
                self._skip(columns, left[left >= row.row])
                break
            payload = payloads.data[row.start : row.start + min(row.length, MAX_PAYLOAD)].tobytes()
            summary = self._rest(TCP if row.tcp else UDP, row.sport, row.dport, payload)
            if summary is not None:
                said.append((row.row, summary))
            self._budget.spend()
        return said


def gather(columns: Columns, payloads: Payloads, rows: Ints) -> Heads:
    """The beginnings of the payloads of these rows."""
    data, start, length = payloads.data, payloads.start[rows], payloads.length[rows]
    whole = start + HEAD <= len(data)
    first = np.zeros((len(rows), HEAD), dtype=np.uint8)
    if len(data) >= HEAD:
        slots = np.ndarray((len(data) - HEAD + 1,), f"V{HEAD}", data, 0, (1,))
        first.view(f"V{HEAD}")[whole, 0] = slots[start[whole]]
    for i in np.flatnonzero(~whole):
        tail = data[start[i] :]
        first[i, : len(tail)] = tail
    short = np.flatnonzero(length < HEAD)
    if len(short):
        first[short] *= np.arange(HEAD) < length[short, None]
    sport, dport = (np.asarray(columns[name])[rows] for name in ("src_port", "dst_port"))
    return Heads(first, length, sport, dport)


def _rows(columns: Columns, payloads: Payloads, picked: _Picked) -> list[Plain]:
    """Rows as Python's numbers, in the order of `_Row`."""
    at = picked.rows
    layers = np.asarray(columns["layers"])[at]
    wire = np.where((layers & np.uint64(int(Has.TCP_LEN))) != 0, np.asarray(columns["tcp_len"])[at], 0)
    length = payloads.length[at]
    plain = (np.asarray(columns[name])[at] for name in ("src_port", "dst_port", "tcp_flags", "tcp_seq"))
    arrays = (
        at,
        picked.claims,
        picked.keys,
        picked.ways.astype(np.uint8),
        (layers & np.uint64(int(Has.TCP))) != 0,
        payloads.start[at],
        length,
        *plain,
        np.maximum(wire, length),
        np.asarray(columns["time"])[at],
    )
    return list(zip(*(array.tolist() for array in arrays), strict=True))
