"""Blocks of frames to the columns of `protocol.schema.PACKETS`: a walk over layers, many frames at a time.

`handlers` is the table of layers. What no handler knows (link types without an entry in `kinds.LINKTYPE`) goes to the
fallback dissector (`slow`) within its budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agent.capture import Block, Interface
from agent.decode import compiled, slow
from agent.decode.encap import ENCAP
from agent.decode.kinds import LINKTYPE, Kind
from agent.decode.walk import MOST_ROWS, Array, Payloads, Sheet, Walk
from protocol.columns import Columns, Dict, stretch
from protocol.schema import Has

SHEET = 32_768
"""Rows of a sheet (`agent.decode.walk.Sheet`): as many as a batch has."""


@dataclass(slots=True)
class Decoded:
    """Frames by the way they went: `slow` by the fallback, `skipped` where its budget was spent."""

    fast: int = 0
    slow: int = 0
    skipped: int = 0


class _Faces:
    """What the interfaces say of their frames: arrays with one item per interface (one of nothing where there is none).

    On a busy node interfaces come and go by the thousand, so this is made when one comes and not with each block.
    """

    def __init__(self, interfaces: list[Interface]) -> None:
        self.count = len(interfaces)
        faces = list(interfaces) or [Interface("", -1)]
        places = {name: place for place, name in enumerate(dict.fromkeys(face.name for face in faces))}
        self.names = tuple(places)
        self.codes = np.array([places[face.name] for face in faces], dtype="<u4")
        self.ids = np.array([face.id or 0 for face in faces], dtype="<u4")
        self.has = np.array([Has.IFACE_ID if face.id is not None else 0 for face in faces], dtype="<u8")
        self.encap = np.array([ENCAP.get(face.linktype, 0) for face in faces], dtype="<u2")
        self.kinds = np.array([_first(face.linktype) for face in faces], dtype=np.uint8)
        self.slow = np.array([face.linktype in slow.MODULES for face in faces])
        self.numbered = bool(self.has.any())
        self._single = len(faces) == 1
        if self._single:
            self.codes, self.encap = stretch(self.codes, MOST_ROWS), stretch(self.encap, MOST_ROWS)

    def each(self, values: Array, block: Block) -> Array:
        """What `values` say of each frame's interface; read-only where there is but one."""
        return values[: len(block)] if self._single else values[block.iface]


class Decoder:
    """Decodes the blocks of one source. `interfaces` is the source's own list, which may grow.

    `slow_budget` is the CPU time that the fallback may take, in seconds per second of `clock` (seconds that only rise,
    the driver's `time.monotonic`); None is unlimited, for files. `decoded` counts frames by the way they went.
    """

    def __init__(
        self,
        interfaces: list[Interface],
        *,
        slow_budget: float | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._interfaces = interfaces
        self._budget = slow.Budget(slow_budget, clock)
        self.decoded = Decoded()
        self._compiled = compiled.load()
        self._faces = _Faces(interfaces)
        self._sheet = Sheet(0)

    @property
    def room(self) -> int:
        """Frames whose columns would lie right behind those of the frames before them."""
        return self._sheet.left

    def turn(self) -> None:
        """What comes next need not lie behind what was: begin a new sheet, where this one is half used."""
        if 2 * self._sheet.left < self._sheet.rows:
            self._sheet = Sheet(0)

    def block(self, block: Block, first_number: int) -> Columns:
        """Every column of PACKETS for the frames of a block, numbered from `first_number`. Never raises on input."""
        return self._walk(Walk(block, sheet=self._sheet_for(block)), block, first_number)

    def with_payloads(self, block: Block, first_number: int) -> tuple[Columns, Payloads]:
        """As `block`, and where the payloads are; they lie in the block's memory."""
        walk = Walk(block, True, self._sheet_for(block))
        columns = self._walk(walk, block, first_number)
        assert walk.payloads is not None
        return columns, walk.payloads

    def _sheet_for(self, block: Block) -> Sheet:
        if len(block) > self._sheet.left:
            self._sheet = Sheet(max(SHEET, len(block)))
        return self._sheet

    def _walk(self, walk: Walk, block: Block, first_number: int) -> Columns:
        if self._faces.count != len(self._interfaces):  # they only ever grow
            self._faces = _Faces(self._interfaces)
        self._frame_columns(walk, block, first_number)
        _stripped_tag(walk, block)
        kinds = self._faces.kinds[block.iface]  # every frame stands at the layer that its interface's link type names
        slow_rows = self._fallback(walk, block, np.flatnonzero(kinds == Kind.NONE))
        self.decoded.fast += len(block) - slow_rows
        if self._compiled is not None:
            self._compiled.run(walk, kinds)
        else:
            walk.split(np.arange(walk.n), kinds)
        if walk.pending:
            from agent.decode.handlers import HANDLERS  # not needed where the kernel knows every layer

            walk.run(HANDLERS)
        return walk.finish()

    def _frame_columns(self, walk: Walk, block: Block, first_number: int) -> None:
        walk.array("frame_number")[:] = np.arange(first_number, first_number + len(block), dtype=np.uint64)
        walk.array("time")[:] = block.time
        walk.array("len")[:] = block.wire_len
        walk.array("cap_len")[:] = block.cap_len
        walk.layers[:] = Has.TIME
        if block.timeless is not None:
            walk.layers[block.timeless] = 0
            walk.array("time")[block.timeless] = 0
        faces = self._faces
        walk.columns["iface"] = Dict(faces.each(faces.codes, block), faces.names)
        if faces.numbered:
            walk.array("iface_id")[:] = faces.ids[block.iface]
            walk.layers |= faces.has[block.iface]
        walk.array("encap_type")[:] = faces.each(faces.encap, block)

    def _fallback(self, walk: Walk, block: Block, rows: Array) -> int:
        """Ask scapy where the network layer of these rows begins; how many rows were its to answer."""
        rows = rows[self._faces.slow[block.iface[rows]]]
        for row in rows:
            if self._budget.open():
                self._dissect(walk, block, row)
                self._budget.spend()
                self.decoded.slow += 1
            else:
                walk.found(np.array([row]), Has.SKIPPED)
                self.decoded.skipped += 1
        return len(rows)

    def _dissect(self, walk: Walk, block: Block, row: int) -> None:
        one = np.array([row])
        walk.found(one, Has.SLOW)
        frame = block.data[walk.off[row] : walk.cap[row]].tobytes()
        place = slow.locate(self._interfaces[block.iface[row]].linktype, frame)
        if place is None:
            return
        kind, offset = place
        walk.off[row] += offset
        if kind in slow.ETHERTYPES:
            walk.by_ethertype(one, slow.ETHERTYPES[kind])
        else:
            walk.go(one, kind)


def is_read(linktype: int) -> bool:
    """Whether frames of a LINKTYPE_* are looked into; others have their time and length alone."""
    return linktype in LINKTYPE or linktype in slow.MODULES


def _first(linktype: int) -> Kind:
    return LINKTYPE.get(linktype, Kind.NONE)


def _stripped_tag(walk: Walk, block: Block) -> None:
    """A tag that the kernel took off the frame is its outermost."""
    if block.vlan is None:
        return
    rows = np.flatnonzero(block.vlan >= 0)
    if len(rows):
        walk.append("vlan_id", rows, (block.vlan[rows] & 0x0FFF).astype(np.uint16))
        walk.found(rows, Has.VLAN)
