"""The state of one block's walk: where each frame stands, what was found, which layer comes next.

Handlers take the rows (frame indices) that stand at their layer. They may read only bytes below `cap`; `head` checks
that for a whole header and drops the rows that are too short, so no handler indexes beyond the block. Every handler
moves its rows forward, and `MAX_LAYERS` bounds how often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.capture import Block
from agent.decode.kinds import ETHERTYPE, Kind
from protocol.built import address
from protocol.columns import NUMPY, Columns, Dict, Lists, absent, cut, empty
from protocol.schema import PACKETS, Has

Array: TypeAlias = NDArray[Any]
Handler: TypeAlias = "Callable[[Walk, Array], None]"

MAX_LAYERS = 48
"""Layers walked per frame; a frame with more is malformed. VLAN tags, MPLS labels and extension headers count."""

MAPPED = np.uint32(0xFFFF0000)
"""Bytes 8 to 11 of an IPv4 address mapped into IPv6, as a little-endian word (RFC 4291, 2.5.5.2)."""

TUNNELS: tuple[str, ...] = (
    *("", "vxlan", "vxlan-gpe", "geneve", "gre", "gretap", "erspan", "pptp", "ipip", "6in4", "4in6", "6in6"),
    *("gtpu", "mpls", "pppoe", "etherip", "nsh", "l2tp", "teredo", "lisp", "pbb", "pim", "ethernet"),
)
TUNNEL = {name: code for code, name in enumerate(TUNNELS)}
"""The column `tunnel_type`: its strings, and the code of each."""

_LISTS = ("vlan_id", "mpls_label")
_PLAIN = (*NUMPY, "addr")


def record(size: int, **fields: tuple[str, int]) -> np.dtype[Any]:
    """A header of `size` bytes: name -> (numpy type, offset). Fields may overlap."""
    names = list(fields)
    formats, offsets = [f[0] for f in fields.values()], [f[1] for f in fields.values()]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


PLAIN = [column for column in PACKETS.columns if column.wire in _PLAIN]
_OTHERS = [column for column in PACKETS.columns if column.wire not in _PLAIN]
MOST_ROWS = 1 << 24
"""More than a block has."""
_ABSENT = {column.wire: absent(column, MOST_ROWS) for column in _OTHERS}


@lru_cache(maxsize=128)
def _absent(rows: int) -> Columns:
    """Columns that decoding does not write, in no memory."""
    parts = {wire: cut(value, 0, rows) for wire, value in _ABSENT.items()}
    return {column.name: parts[column.wire] for column in _OTHERS}


@dataclass(frozen=True, slots=True, eq=False)
class Payloads:
    """Where the TCP or UDP payload of every described packet is in `data`: first byte and captured bytes, shape (n,).

    Length 0 where there is none: no such layer, nothing captured of it, a fragment that is not the first.
    """

    data: Array
    start: Array
    length: Array


class Sheet:
    """Memory for the plain columns of some rows, zeros at first.

    What blocks take of it one after the other lies one after the other: `protocol.columns.join` need not copy it.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.left = rows
        """Rows that nobody has taken."""
        self._columns: dict[str, Any] = {column.name: empty(column, rows) for column in PLAIN}
        self._addresses = np.array([address(array) for array in self._columns.values()], dtype=np.int64)
        self._widths = np.array([array.strides[0] for array in self._columns.values()])

    def take(self, rows: int) -> tuple[Columns, Array]:
        """The next rows, and where each column's begin in memory; there are so many left."""
        start = self.rows - self.left
        self.left -= rows
        columns: Columns = {name: array[start : start + rows] for name, array in self._columns.items()}
        return columns, self._addresses + start * self._widths


class Walk:
    """One block on its way into columns. `off`, `cap`, `end` are int64 positions in `data`, one per frame.

    `off` is where the next layer begins, `cap` where the captured bytes of the present layer end, `end` where its
    bytes ended on the wire (beyond `cap` where the frame was cut). Always `cap <= end` and `cap <= len(data)`.
    `addresses` says where in memory each column of PLAIN lies.
    """

    def __init__(self, block: Block, payloads: bool = False, sheet: Sheet | None = None) -> None:
        """`sheet` has the memory for the plain columns: rows enough for the block."""
        self.data = block.data
        self.n = len(block)
        self.off = block.offset.astype(np.int64)
        self.end = self.off + np.maximum(block.wire_len, block.cap_len)
        self.cap = np.minimum(self.off + block.cap_len, len(block.data))
        plain, self.addresses = (sheet or Sheet(self.n)).take(self.n)
        self.columns: Columns = {**_absent(self.n), **plain}
        self.layers = self.array("layers")
        self.payloads: Payloads | None = None  # noted only where somebody asks
        if payloads:
            self.payloads = Payloads(self.data, np.zeros(self.n, np.int64), np.zeros(self.n, np.int64))
        self.pending: dict[int, list[Array]] = {}
        self.lists: dict[str, list[tuple[Array, Array]]] = {name: [] for name in _LISTS}
        self.tunnels = np.zeros(self.n, dtype="<u4")
        self._views: dict[int, Array] = {}

    def array(self, name: str) -> Array:
        """A plain column."""
        value = self.columns[name]
        assert isinstance(value, np.ndarray)
        return value

    def words(self, name: str) -> Array:
        """An address column as four little-endian words a row, shape (n, 4)."""
        return self.array(name).view("<u4")

    # -- reading ---------------------------------------------------------------------------------------------------

    def gather(self, offsets: Array, layout: np.dtype[Any]) -> Array:
        """The `layout` at each offset, shape (len(offsets),); all must lie inside the block."""
        size = layout.itemsize
        view = self._views.get(size)
        if view is None:
            slots = max(0, len(self.data) - size + 1)
            view = np.ndarray((slots,), dtype=f"V{size}", buffer=self.data if slots else bytes(size), strides=(1,))
            self._views[size] = view
        return view[offsets].view(layout)

    def head(self, rows: Array, layout: np.dtype[Any], mark: bool = True) -> tuple[Array, Array, Array]:
        """The rows whose captured bytes hold a whole `layout`, its offset and its values per row.

        The others end here, with `mark` as malformed.
        """
        off = self.off[rows]
        whole = self.cap[rows] - off >= layout.itemsize
        if not whole.all():
            if mark:
                self.malformed(rows[~whole])
            rows, off = rows[whole], off[whole]
        return rows, off, self.gather(off, layout)

    # -- writing ---------------------------------------------------------------------------------------------------

    def put(self, name: str, rows: Array, values: Any) -> None:
        """Write a plain column."""
        self.array(name)[rows] = values

    def found(self, rows: Array, bits: int) -> None:
        """Set bits of `layers`."""
        self.layers[rows] |= np.uint64(bits)

    def malformed(self, rows: Array) -> None:
        """A header of these rows is cut or wrong."""
        self.found(rows, Has.MALFORMED)

    def append(self, name: str, rows: Array, values: Array) -> None:
        """Add one value to a list column of each row."""
        self.lists[name].append((rows, values))

    def tunnel(self, rows: Array, kind: str, ids: Any = 0) -> None:
        """Rows enter a tunnel: the outermost is kept, with the addresses of the IP header that carries it."""
        outermost = (self.layers[rows] & np.uint64(Has.TUNNEL)) == 0
        ids = np.broadcast_to(np.asarray(ids), rows.shape)[outermost]
        rows = rows[outermost]
        self.found(rows, Has.TUNNEL)
        self.tunnels[rows] = TUNNEL[kind]
        self.put("tunnel_id", rows, ids)
        carried = rows[(self.layers[rows] & np.uint64(Has.IP)) != 0]
        self.found(carried, Has.TUNNEL_IP)
        self.put("tunnel_src", carried, self.array("src")[carried])
        self.put("tunnel_dst", carried, self.array("dst")[carried])

    def trim(self, rows: Array, end: Array) -> None:
        """The present layer of these rows ends at `end` at the latest."""
        end = np.minimum(self.end[rows], end)
        self.end[rows] = end
        self.cap[rows] = np.minimum(self.cap[rows], end)

    def payload(self, rows: Array, start: Array, end: Array) -> None:
        """The payload of these rows lies between `start` and `end`, as far as it was captured."""
        if self.payloads is not None:
            self.payloads.start[rows] = start
            self.payloads.length[rows] = np.maximum(np.minimum(self.cap[rows], end) - start, 0)

    # -- going on --------------------------------------------------------------------------------------------------

    def go(self, rows: Array, kind: int) -> None:
        """These rows stand at a layer of that kind."""
        if len(rows):
            self.pending.setdefault(kind, []).append(rows)

    def split(self, rows: Array, kinds: Array) -> None:
        """Each row stands at a layer of its own kind."""
        counts = np.bincount(kinds, minlength=1)
        for kind in np.flatnonzero(counts):
            if kind != Kind.NONE:
                self.go(rows if counts[kind] == len(rows) else rows[kinds == kind], int(kind))

    def by_ethertype(self, rows: Array, types: Any) -> None:
        """Each row stands at the layer that its ethertype names, which is noted."""
        types = np.broadcast_to(np.asarray(types, dtype=np.uint16), rows.shape)
        self.put("ethertype", rows, types)
        self.found(rows, Has.ETHERTYPE)
        self.split(rows, ETHERTYPE[types])

    def take(self) -> dict[int, list[Array]]:
        """The rows that stand at each kind of layer; they are the caller's to walk on from there."""
        now, self.pending = self.pending, {}
        return now

    def run(self, handlers: Mapping[int, Handler]) -> None:
        """Walk until no row has a next layer."""
        for _ in range(MAX_LAYERS):
            if not self.pending:
                return
            for kind, parts in self.take().items():
                handlers[kind](self, parts[0] if len(parts) == 1 else np.concatenate(parts))
        for parts in self.pending.values():
            for rows in parts:
                self.malformed(rows)

    def finish(self) -> Columns:
        """The columns, lists and tunnel types filled in."""
        self.columns["tunnel_type"] = Dict(self.tunnels, TUNNELS)
        for name, pieces in self.lists.items():
            if pieces:
                self.columns[name] = _lists(pieces, self.n, self.columns[name])
        return self.columns


def _lists(pieces: list[tuple[Array, Array]], n: int, like: Any) -> Lists:
    """Values appended in rounds, as one list a row in the order of appending."""
    rows = np.concatenate([rows for rows, _ in pieces])
    values = np.concatenate([values for _, values in pieces]).astype(like.values.dtype)
    order = np.argsort(rows, kind="stable")
    return Lists(np.bincount(rows, minlength=n).astype("u1"), values[order])
