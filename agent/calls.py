"""Requests and responses become calls: one row of the table calls for each request, with the time it waited.

A response answers the request of the other side of its connection that has its key; where the protocol has none, the
oldest. A request without a response goes out unanswered, latency -1, after `timeout_ns`, at the end, or when more than
`max_open` wait. What is no call: a response whose request was not seen (it is counted, `unasked`); a TCP
segment with the sequence number of the one before it with a turn, which was sent again; and over UDP a repetition of a
request that waits, as resolvers send them.

Pure: the time is an argument. The work is one step per request and response, none per packet.
"""

from __future__ import annotations

import gc
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.flow_items import EARLIEST, LATEST
from agent.l7 import TCP, UDP
from protocol.columns import Columns, Dict, text_of
from protocol.schema import Has

if TYPE_CHECKING:
    from agent.l7.engine import Said

TIMEOUT_NS = 60_000_000_000
MAX_OPEN = 16_384
"""Requests that may wait for a response: about 600 bytes each."""
RETRIES = 8
"""Requests of one key that are compared with a new one."""
MAX_PLACES = 16_384
"""Directions of connections of which the last segment is remembered."""

_UDP_HEADER = 8
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
    seq: int  # of TCP


class _Open(NamedTuple):
    """A request that waits."""

    key: Key
    packet: _Packet
    operation: str


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
        self._count = self._blocks = 0
        self._open: OrderedDict[int, _Open] = OrderedDict()  # by number, the oldest first
        self._waiting: dict[Key, deque[int]] = {}  # their numbers, the oldest first
        self._last: OrderedDict[tuple[int, int], tuple[int, int, int]] = OrderedDict()  # sequence number, block, row
        self._done: list[_Call] = []

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._open)

    def add(self, columns: Columns, said: Sequence[Said]) -> None:
        """Take the requests and responses of a block (`columns`: table packets), in the order they were seen."""
        self._blocks += 1
        collecting = gc.isenabled()
        gc.disable()  # thousands of tuples come at once, and none is part of a cycle
        try:
            for one, packet in zip(said, _packets(columns, said), strict=True):
                if packet.proto == TCP and self._repeated(one, packet.seq):
                    continue
                if one.turn.request:
                    self._ask(one, packet)
                else:
                    self._answer(one, packet)
        finally:
            if collecting:
                gc.enable()

    def take(self, now_ns: int) -> Columns | None:
        """The rows of calls that are answered, or unanswered for too long at `now_ns`; None where there are none."""
        while self._open:
            oldest = next(iter(self._open.values()))
            if abs(now_ns - oldest.packet.time) < self._timeout_ns:  # a request from the future is due as well
                break
            self._give_up()
        return self._rows()

    def flush(self) -> Columns | None:
        """The rows of all calls, those that wait unanswered."""
        while self._open:
            self._give_up()
        return self._rows()

    def clear(self) -> None:
        """Forget the requests that wait: their responses will not be seen, and that says nothing of them."""
        self._open.clear()
        self._waiting.clear()
        self._last.clear()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _repeated(self, said: Said, seq: int) -> bool:
        """Whether the segment was sent again; a parser that needs no connection reads every copy."""
        place, here = (said.connection, said.side), (seq, self._blocks, said.row)
        last = self._last.get(place, (-1, 0, 0))
        if last[0] == seq:
            return last != here  # one segment may carry several turns
        self._last[place] = here
        self._last.move_to_end(place)
        if len(self._last) > MAX_PLACES:
            self._last.popitem(last=False)
        return False

    def _ask(self, said: Said, packet: _Packet) -> None:
        key = (said.connection, said.side, said.turn.key)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = deque()
        elif packet.proto == UDP and said.turn.key is not None and self._asks_again(said.turn.operation, waiting):
            return
        self._count += 1
        waiting.append(self._count)
        self._open[self._count] = _Open(key, packet, said.turn.operation)
        if len(self._open) > self._max_open:
            self._give_up()

    def _asks_again(self, operation: str, waiting: deque[int]) -> bool:
        """Whether one of the newest requests that wait asked for the same."""
        return any(self._open[number].operation == operation for number in islice(reversed(waiting), RETRIES))

    def _answer(self, said: Said, packet: _Packet) -> None:
        turn = said.turn
        waiting = self._waiting.get((said.connection, 1 - said.side, turn.key))
        if not waiting:
            self.unasked += 1
            return
        _, asked, operation = self._close(waiting[0])
        latency = max(0, packet.time - asked.time)  # clocks of two interfaces, or a file out of order
        self._done.append(_Call(asked, operation, latency, turn.status, turn.error, packet.payload))

    def _give_up(self) -> None:
        """The oldest request goes out unanswered."""
        request = self._close(next(iter(self._open)))
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
    turns = np.bincount(rows, minlength=len(columns["layers"]))  # of each packet
    payload = _payloads(columns, rows, layers) // turns[rows]
    src, dst = (np.ascontiguousarray(np.asarray(columns[name])[rows]).view("V16")[:, 0] for name in ("src", "dst"))
    time = np.clip(np.asarray(columns["time"])[rows], EARLIEST, LATEST).tolist()
    plain = [np.asarray(columns[name])[rows].tolist() for name in ("proto", "src_port", "dst_port", "tcp_seq")]
    proto, src_port, dst_port, seq = plain
    kept = (layers & np.uint64(_KEPT)).tolist()
    names = [_names(columns[name], rows) for name in ("iface", "l7")]
    ends = (src.tolist(), dst.tolist(), proto, src_port, dst_port)
    return map(_Packet._make, zip(time, kept, names[0], *ends, names[1], payload.tolist(), seq, strict=True))


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
    times, layers, ifaces, src, dst, proto, src_port, dst_port, l7, payload, _ = zip(*packets, strict=True)
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
