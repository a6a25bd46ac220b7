"""Application protocols: one file per protocol, each a `Parser`, and the registry that knows them (`registry`).

Lives here: recognising a protocol by its bytes and reading what a summary needs of it. May not live here: frames,
blocks, I/O, clocks. A parser sees one payload at a time and keeps its state in the `Conn` it is handed; it never
raises on input, never loops over more than the payload, and never returns bodies, credentials or values.

How a payload gets to a parser: for each block the engine gathers the first `HEAD` bytes of every payload into `Heads`,
asks each parser's `probe` (numpy, whole block), and calls `feed` for the rows that a parser claims, and for those of
connections that it claimed before. Content decides first, ports second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

HEAD = 16
"""Bytes of each payload that probes may look at."""
PENDING = 32_768
"""Most bytes that a connection keeps of an unfinished message, each way."""

TURNS = 64
"""Most requests or responses that are told of one payload."""

TCP, UDP, SCTP = 6, 17, 132

Value: TypeAlias = "int | str | list[int] | list[str]"
Cells: TypeAlias = "dict[str, tuple[Sequence[int] | NDArray[np.int64], list[Any]]]"
"""Values by column: the number of each value's payload, rising, and the values."""


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """The beginnings of n payloads: `first` (n, HEAD) uint8, zeros behind the end; the others have shape (n,).

    `length` is the captured payload's length in bytes.
    """

    first: NDArray[np.uint8]
    length: NDArray[np.int64]
    sport: NDArray[np.uint16]
    dport: NDArray[np.uint16]

    def word(self, at: int, size: int) -> NDArray[np.uint64]:
        """The big-endian integer of `size` bytes at `at` of every payload, shape (n,)."""
        if size in (1, 2, 4, 8):
            return self.first[:, at : at + size].view(f">u{size}")[:, 0].astype(np.uint64)
        value = np.zeros(len(self.length), dtype=np.uint64)
        for i in range(at, at + size):
            value = (value << np.uint64(8)) | self.first[:, i]
        return value

    def port(self, *ports: int) -> NDArray[np.bool_]:
        """Where either port is one of these."""
        chosen = port_table(ports)
        return chosen[self.sport] | chosen[self.dport]

    def part(self, at: NDArray[np.int64]) -> Heads:
        """Some of them."""
        return Heads(self.first.take(at, axis=0), self.length[at], self.sport[at], self.dport[at])  # [at] takes longer


@cache
def port_table(ports: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which ports are among these: shape (65536,)."""
    table = np.zeros(65536, dtype=np.bool_)
    table[list(ports)] = True
    return table


class Signs(NamedTuple):
    """What a payload shows, or its parser is not asked: one of these first bytes, or one of these ports, either way."""

    first: Iterable[int] = ()
    ports: Iterable[int] = ()


@dataclass(slots=True)  # not frozen: that costs a microsecond each
class Turn:
    """One half of a call: a request or a response. Halves with the same `key` of one connection belong together.

    Where a protocol has no key, responses answer requests in order and `key` is None. `operation` is of the request
    (verb, query type, method and path without its query string), `status` of the response.
    """

    request: bool
    operation: str = ""
    status: str = ""
    error: bool = False
    key: int | str | None = None


class Mark(Enum):
    """What happened to a connection before the turns that follow."""

    MISSED = "missed"  # bytes of that side were not read
    BEGAN = "began"  # it is another one, between the same ends


@dataclass(slots=True)
class Summary:
    """What one payload says. `fields` are typed columns of the packets table by column name (`protocol.schema`);
    `rest` are the field names of protocols without columns of their own, Wireshark's where it has them."""

    l7: str
    info: str = ""
    fields: dict[str, Value] = field(default_factory=dict)
    rest: dict[str, str] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()


class Batch(NamedTuple):
    """Many payloads of packets that belong to no connection which a parser keeps, in order."""

    payloads: list[bytes]
    sport: NDArray[np.uint16]
    dport: NDArray[np.uint16]
    turns: bool
    """Whether somebody asks for turns."""


@dataclass(slots=True)
class Findings:
    """What the payloads of a `Batch` say: what `Summary` is of one. `at` are the numbers of those that say something,
    rising; `l7` and `info` go with them. Of `cells`, `rest` and `turns` each value has its payload's number beside it,
    rising as well."""

    at: list[int]
    l7: list[str] = field(default_factory=list)
    info: list[str] = field(default_factory=list)
    cells: Cells = field(default_factory=dict)
    rest: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    turns: list[tuple[int, Turn]] = field(default_factory=list)


@dataclass(slots=True)
class Conn:
    """What is remembered of one connection (TCP), or of one UDP 5-tuple where a parser asks for it.

    `pending` are the bytes of an unfinished message, each way, at most `room`: where that is 0, each segment is read on
    its own. `missing` are the bytes of the present payload that were not captured behind those that were. `state` is
    the parser's own; it must stay small.
    """

    state: Any = None
    pending: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    room: int = PENDING
    missing: int = 0

    def join(self, side: int, payload: bytes) -> bytes:
        """What is pending of a side, with `payload` behind it; nothing is pending afterwards."""
        if not self.pending[side]:
            return payload
        whole = bytes(self.pending[side]) + payload
        self.pending[side].clear()
        return whole

    def keep(self, side: int, rest: bytes) -> bool:
        """Keep the beginning of an unfinished message; False, and nothing kept, where there is no room for it."""
        self.pending[side].clear()
        if len(rest) > self.room:
            return False
        self.pending[side].extend(rest)
        return True


class Parser(Protocol):
    """One protocol (or a family that shares a header).

    A parser may also have `signs`: payloads without them are never its protocol's, and most are ruled out so.
    A stateful one may also have `lost(conn, side)`: bytes of that side were missed, cut off or freed. A stateless
    one may also have `feed_all(batch) -> Findings`, which says the same as `feed` of each payload, for less.
    """

    name: str
    transports: frozenset[int]  # of TCP, UDP, SCTP
    stateful: bool  # later payloads of a claimed connection come too, whatever they begin with

    def probe(self, heads: Heads) -> NDArray[np.bool_]:
        """Which payloads are surely, or by port and plausible content, of this protocol. Shape (n,). Vectorised."""

    def feed(self, payload: bytes, side: int, sport: int, dport: int, conn: Conn) -> Summary | None:
        """Read one payload sent by `side` (0 or 1) of the connection; None where it says nothing or is not ours.

        Never raises. `payload` is what was captured, which may be cut.
        """
