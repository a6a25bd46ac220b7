"""Requests and responses become calls: one row of the table calls for each request, with the time it waited.

A response answers the request of the other side of its connection that has its key; where the protocol has none, the
oldest. A request without a response goes out unanswered, latency -1, after `timeout_ns`, at the end, or when more than
`max_open` wait. What is no call: a response whose request was not seen (it is counted, `unasked`); and over UDP a
repetition of a request that waits, as resolvers send them.

Without a key no response is given to a request that may not be its own:

- a response that does not acknowledge the oldest request answers one that was not seen;
- where bytes of the side that asks were missed, nobody knows how many requests wait behind those that were seen: the
  next ones go out unanswered. So it is after a request had no response in time: a late one would answer the next;
- where bytes of either side were missed, each of the requests that waited may have been answered unseen: the next
  response takes one of them away unanswered, but answers the last one where it acknowledges that and no more.

A connection is in step again when it begins anew, when no request was seen for `timeout_ns`, or at the next request
where `ALONE` times in a row just one was asked between two responses, and never more: who asks like that does not ask
while something waits. What was asked before the first packet seen is not known.

Pure: the time is an argument. The work is one step per request and response, none per packet.
"""

from __future__ import annotations

import gc
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.flow_items import EARLIEST, LATEST
from agent.l7 import UDP, Mark, Turn
from protocol.columns import Columns, Dict, text_of
from protocol.schema import Has

if TYPE_CHECKING:
    from agent.l7.engine import Said

TIMEOUT_NS = 60_000_000_000
MAX_OPEN = 16_384
"""Requests that may wait for a response: about 600 bytes each."""
ALONE = 32
"""Requests answered one by one from which on a connection is taken to go on so."""
RETRIES = 8
"""Requests of one key that are compared with a new one."""
MAX_SIDES = 16_384
"""Sides of connections that ask without keys and of which is remembered what was missed."""

NEVER = -(1 << 62)
_UDP_HEADER = 8
_ACK = 16
_WORD, _HALF = (1 << 32) - 1, 1 << 31
_KEPT = int(
    Has.IP | Has.IPV4 | Has.IPV6 | Has.TCP | Has.UDP | Has.SCTP
    | Has.DNS | Has.TLS | Has.DTLS | Has.QUIC | Has.HTTP | Has.HTTP2 | Has.SSH
)  # fmt: skip

Key: TypeAlias = "tuple[int, int, int | str | None]"
"""Connection, side that asked, the protocol's own key."""


class _Packet(NamedTuple):
    """What a call takes from the packet that carried its request or response."""

    time: int
    layers: int
    iface: str
    src: bytes
    dst: bytes
    proto: int
    src_port: int
    dst_port: int
    l7: str
    payload: int  # bytes, this turn's share
    begin: int  # of TCP, as the next two: the sequence number of the segment; -1 of others
    end: int  # the one behind it
    ack: int  # what has arrived of the other side, as the sender knows; -1 where it does not say


class _Open(NamedTuple):
    """A request that waits."""

    key: Key
    packet: _Packet
    operation: str


@dataclass(slots=True)
class _Side:
    """What is known of a side that asks without keys."""

    acked: int = -1  # how far the other side has acknowledged it
    unseen: bool = False  # whether requests that were not seen may wait
    last: int = 0  # when they were missed, or something was asked since
    doubt: int = 0  # how many of the requests that wait, from the oldest on, may have been answered unseen
    missed: bool = False  # whether bytes were, since the last response
    asked: int = 0  # requests since then
    alone: int = 0  # responses in a row with one request before each; NEVER once that was not so

    def count(self) -> None:
        """A response was seen."""
        if self.asked == 1:
            self.alone += 1
        elif not self.missed:
            self.alone = NEVER
        self.asked, self.missed = 0, False

    def acknowledge(self, ack: int) -> None:
        """The other side has told what it received."""
        if ack >= 0:
            self.acked = ack

    def lose_step(self, now: int) -> None:
        """Requests that were not seen may wait, behind those that were."""
        self.unseen, self.last = True, now


class _Call(NamedTuple):
    """A row: a request, and what came of it."""

    packet: _Packet
    operation: str
    latency: int = -1
    status: str = ""
    error: bool = False
    response_bytes: int = 0


_time = attrgetter("packet.time")


class Calls:
    """The requests that wait, and the calls that are complete. Give it each block's turns, then `take` the rows."""

    def __init__(self, timeout_ns: int = TIMEOUT_NS, max_open: int = MAX_OPEN) -> None:
        self.unasked = 0
        """Responses whose request was not seen."""
        self._timeout_ns, self._max_open = timeout_ns, max_open
        self._count = 0
        self._open: OrderedDict[int, _Open] = OrderedDict()  # by number, the oldest first
        self._waiting: dict[Key, deque[int]] = {}  # their numbers, the oldest first
        self._sides: OrderedDict[Key, _Side] = OrderedDict()  # of keys that are None
        self._done: list[_Call] = []

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._open)

    def add(self, columns: Columns, said: Sequence[Said]) -> None:
        """Take the requests and responses of a block (`columns`: table packets), in the order they were seen."""
        collecting = gc.isenabled()
        gc.disable()  # thousands of tuples come at once, and none is part of a cycle
        try:
            for one, packet in zip(said, _packets(columns, said), strict=True):
                turn = one.turn
                if isinstance(turn, Mark):
                    self._mark(turn, one, packet)
                elif turn.request:
                    self._ask(one, turn, packet)
                else:
                    self._answer(one, turn, packet)
        finally:
            if collecting:
                gc.enable()

    def take(self, now_ns: int) -> Columns | None:
        """The rows of calls that are answered, or unanswered for too long at `now_ns`; None where there are none."""
        while self._open:
            oldest = next(iter(self._open.values()))
            if abs(now_ns - oldest.packet.time) < self._timeout_ns:  # a request from the future is due as well
                break
            self._give_up(now_ns)
        return self._rows()

    def flush(self) -> Columns | None:
        """The rows of all calls, those that wait unanswered."""
        while self._open:
            self._drop(next(iter(self._open.values())).key)
        return self._rows()

    def clear(self) -> None:
        """Forget the requests that wait: their responses will not be seen, and that says nothing of them."""
        self._open.clear()
        self._waiting.clear()
        self._sides.clear()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _mark(self, mark: Mark, said: Said, packet: _Packet) -> None:
        """Bytes of a side were missed, or the connection is another one."""
        for way in (said.side, 1 - said.side):
            key = (said.connection, way, None)
            if mark is Mark.BEGAN:
                self._drain(key)
                self._sides.pop(key, None)
                continue
            side = self._side(key)
            side.doubt, side.missed = len(self._waiting.get(key, ())), True
            if way == said.side:
                side.lose_step(packet.time)
            else:
                side.acknowledge(packet.ack)

    def _side(self, key: Key) -> _Side:
        side = self._sides.get(key)
        if side is None:
            side = self._sides[key] = _Side()
            if len(self._sides) > MAX_SIDES:
                self._sides.popitem(last=False)
        return side

    def _in_step(self, key: Key, packet: _Packet) -> bool:
        """Whether all that waits before a request was seen."""
        side = self._side(key)
        self._sides.move_to_end(key)
        side.asked += 1
        if key not in self._waiting:
            side.doubt = 0
        if side.acked >= 0 and (side.acked - packet.end) & _WORD < _HALF:
            side.lose_step(packet.time)  # it arrived before it was seen, and so may its response have
        if not side.unseen:
            return True
        if side.alone < ALONE and abs(packet.time - side.last) < self._timeout_ns:
            side.last = packet.time
            return False
        self._drain(key)
        side.unseen, side.doubt = False, 0
        return True

    def _ask(self, said: Said, turn: Turn, packet: _Packet) -> None:
        key = (said.connection, said.side, turn.key)
        if turn.key is None and not self._in_step(key, packet):
            self._done.append(_Call(packet, turn.operation))
            return
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = deque()
        elif packet.proto == UDP and turn.key is not None and self._asks_again(turn.operation, waiting):
            return
        self._count += 1
        waiting.append(self._count)
        self._open[self._count] = _Open(key, packet, turn.operation)
        if len(self._open) > self._max_open:
            self._give_up(packet.time)

    def _asks_again(self, operation: str, waiting: deque[int]) -> bool:
        """Whether one of the newest requests that wait asked for the same."""
        return any(self._open[number].operation == operation for number in islice(reversed(waiting), RETRIES))

    def _answer(self, said: Said, turn: Turn, packet: _Packet) -> None:
        key = (said.connection, 1 - said.side, turn.key)
        waiting = self._waiting.get(key)
        if (turn.key is None and not self._sure(key, waiting, packet)) or not waiting:
            self.unasked += 1
            return
        _, asked, operation = self._close(waiting[0])
        latency = max(0, packet.time - asked.time)  # clocks of two interfaces, or a file out of order
        self._done.append(_Call(asked, operation, latency, turn.status, turn.error, packet.payload))

    def _sure(self, key: Key, waiting: deque[int] | None, packet: _Packet) -> bool:
        """Whether a response answers the oldest request that waits, those gone that it shows to have been answered."""
        side = self._side(key)
        side.count()
        side.acknowledge(packet.ack)
        if not waiting or not self._acknowledged(waiting[0], packet):
            return False
        if not side.doubt:
            return True
        if side.alone >= ALONE:
            while len(waiting) > 1 and self._acknowledged(waiting[1], packet):
                self._drop(key)
            side.doubt = 0
            return True
        side.doubt = min(side.doubt, len(waiting) - 1)  # one of those that wait is answered now
        if side.doubt or self._open[waiting[0]].packet.end != packet.ack:
            self._drop(key)
            return False
        return True

    def _acknowledged(self, number: int, packet: _Packet) -> bool:
        """Whether who sent a packet has something of a request; True where nobody says it."""
        begin = self._open[number].packet.begin
        return packet.ack < 0 or begin < 0 or 0 < (packet.ack - begin) & _WORD < _HALF

    def _give_up(self, now: int) -> None:
        """The oldest request goes out unanswered. Its response may still come, so those behind it go as well."""
        key = next(iter(self._open.values())).key
        self._drop(key)
        if key[2] is None:
            self._drain(key)
            self._side(key).lose_step(now)

    def _drain(self, key: Key) -> None:
        """The requests of a key go out unanswered."""
        while key in self._waiting:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        """The oldest request of a key goes out unanswered."""
        request = self._close(self._waiting[key][0])
        self._done.append(_Call(request.packet, request.operation))

    def _close(self, number: int) -> _Open:
        request = self._open.pop(number)
        waiting = self._waiting[request.key]
        waiting.popleft()  # of one key the oldest is always the first to go
        if not waiting:
            del self._waiting[request.key]
        return request

    def _rows(self) -> Columns | None:
        if not self._done:
            return None
        calls, self._done = sorted(self._done, key=_time), []
        return _columns(calls)


def _packets(columns: Columns, said: Sequence[Said]) -> Iterable[_Packet]:
    """The packets of some turns; the payload of a packet with several is shared among those."""
    rows = np.fromiter((one.row for one in said), dtype=np.int64, count=len(said))
    layers = np.asarray(columns["layers"])[rows]
    halves = rows[[not isinstance(one.turn, Mark) for one in said]]
    turns = np.bincount(halves, minlength=len(columns["layers"]))  # of each packet
    payload = _payloads(columns, rows, layers) // np.maximum(turns[rows], 1)
    src, dst = (np.ascontiguousarray(np.asarray(columns[name])[rows]).view("V16")[:, 0] for name in ("src", "dst"))
    time = np.clip(np.asarray(columns["time"])[rows], EARLIEST, LATEST).tolist()
    plain = [np.asarray(columns[name])[rows].tolist() for name in ("proto", "src_port", "dst_port")]
    kept = (layers & np.uint64(_KEPT)).tolist()
    names = [_names(columns[name], rows) for name in ("iface", "l7")]
    ends = (src.tolist(), dst.tolist(), *plain)
    tcp = _segments(columns, rows, layers)
    return map(_Packet._make, zip(time, kept, names[0], *ends, names[1], payload.tolist(), *tcp, strict=True))


def _segments(columns: Columns, rows: NDArray[np.int64], layers: NDArray[np.uint64]) -> tuple[list[int], ...]:
    """`begin`, `end` and `ack` of each row."""
    plain = (np.asarray(columns[name])[rows] for name in ("tcp_seq", "tcp_len", "tcp_ack", "tcp_flags"))
    seq, size, ack, flags = (values.astype(np.int64) for values in plain)
    known = (layers & np.uint64(int(Has.TCP_LEN))) != 0
    parts = (seq, (seq + size) & _WORD, np.where(flags & _ACK, ack, -1))
    return tuple(np.where(known, part, -1).tolist() for part in parts)


def _payloads(columns: Columns, rows: NDArray[np.int64], layers: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Bytes of payload on the wire, of each row."""
    tcp, udp = (np.asarray(columns[name])[rows].astype(np.int64) for name in ("tcp_len", "udp_length"))
    has_tcp, has_udp = ((layers & np.uint64(int(bit))) != 0 for bit in (Has.TCP_LEN, Has.UDP_LENGTH))
    return np.where(has_tcp, tcp, np.where(has_udp, np.maximum(udp - _UDP_HEADER, 0), 0))


def _names(column: Any, rows: NDArray[np.int64]) -> list[str]:
    return [column.values[code] for code in column.codes[rows].tolist()]


def _dict(names: Sequence[str]) -> Dict:
    index = {name: code for code, name in enumerate(dict.fromkeys(names))}
    return Dict(np.fromiter(map(index.__getitem__, names), dtype="<u4", count=len(names)), tuple(index))


def _columns(calls: Sequence[_Call]) -> Columns:
    """Calls as columns of the table calls."""
    packets, operations, latencies, statuses, errors, response_bytes = zip(*calls, strict=True)
    times, layers, ifaces, src, dst, proto, src_port, dst_port, l7, payload, *_ = zip(*packets, strict=True)
    start, latency = np.array(times, dtype=np.int64), np.array(latencies, dtype=np.int64)
    return {
        "start": start,
        "end": start + np.maximum(latency, 0),
        "latency": latency,
        "layers": np.array(layers, dtype="<u8"),
        "iface": _dict(ifaces),
        "src": np.frombuffer(b"".join(src), dtype=np.uint8).reshape(-1, 16),
        "dst": np.frombuffer(b"".join(dst), dtype=np.uint8).reshape(-1, 16),
        "proto": np.array(proto, dtype="u1"),
        "src_port": np.array(src_port, dtype="<u2"),
        "dst_port": np.array(dst_port, dtype="<u2"),
        "l7": _dict(l7),
        "operation": text_of(operations),
        "status": _dict(statuses),
        "error": np.array(errors, dtype="u1"),
        "request_bytes": np.array(payload, dtype="<u8"),
        "response_bytes": np.array(response_bytes, dtype="<u8"),
    }
