"""The walk over layers by the compiled kernel (`agent.kernel`): the same cells as the handlers in numpy write."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np

from agent import kernel
from agent.decode import kinds
from agent.decode.walk import MAX_LAYERS, PLAIN, TUNNELS, Array, Walk
from protocol.built import address, complain
from protocol.schema import PACKETS, Has

TABLES = (
    kinds.ETHERTYPE,
    kinds.IPV4_PROTOCOL,
    kinds.IPV6_NEXT,
    kinds.UDP_SOURCE,
    kinds.UDP_DESTINATION,
    kinds.PPP_ETHERTYPE,
)
"""In the order of `struct walk`."""


def load() -> Compiled | None:
    """The kernel's walk, or None where there is no kernel or its tables are not ours."""
    library = kernel.load()
    if library is None:
        return None
    theirs = library.nodetap_tables().decode().split()
    if wrong := set(theirs) - ours():
        complain(f"the compiled kernel is not used: it has {', '.join(sorted(wrong))}")
        return None
    return Compiled(library, [word[7:].partition("=")[0] for word in theirs if word.startswith("column.")])


def ours() -> set[str]:
    """Every number that kernel.h may name, as `nodetap_tables` words it; the kernel may know fewer."""
    return {
        f"max_layers={MAX_LAYERS}",
        *(f"kind.{kind.name}={kind.value}" for kind in kinds.Kind),
        *(f"has.{bit.name}={bit.bit_length() - 1}" for bit in Has),
        *(f"tunnel.{name.replace('-', '_') or 'none'}={code}" for code, name in enumerate(TUNNELS)),
        *(f"column.{column.name}={column.wire}" for column in PACKETS.columns),
    }


class Compiled:
    """The kernel's walk; `columns` are those that it writes, in the order of `struct walk`."""

    def __init__(self, library: ctypes.CDLL, columns: list[str]) -> None:
        self._walk = library.nodetap_walk
        names = [column.name for column in PLAIN]
        self._columns = np.array([names.index(name) for name in columns])
        self._tables = [address(table) for table in TABLES]

    def run(self, walk: Walk, kind: Array) -> None:
        """Walk every frame as far as the kernel knows its layers; the others stand where they were left.

        Frames begin at the layer `kind`, uint8 of shape (n,), which is used up; where that is NONE, where they stand.
        """
        for pending, parts in walk.take().items():
            kind[np.concatenate(parts)] = pending
        room = walk.n + MAX_LAYERS
        lists = {name: (np.empty(room, "<i8"), np.empty(room, "<u4")) for name in walk.lists}
        used = np.zeros(len(lists), "<i8")
        state = np.concatenate(([*self._state(walk, kind, lists, used)], walk.addresses[self._columns]))
        row = 0
        while row < walk.n:
            used[:] = 0
            row = self._walk(address(state), row)
            for (name, (rows, values)), count in zip(lists.items(), used, strict=True):
                if count:
                    walk.append(name, rows[:count].copy(), values[:count].copy())
        left = np.flatnonzero(kind)
        if len(left):
            walk.split(left, kind[left])

    def _state(self, walk: Walk, kind: Array, lists: dict[str, tuple[Array, Array]], used: Array) -> Iterator[int]:
        """The members of `struct walk`, in its order, up to the columns."""
        yield from (
            address(walk.data),
            len(walk.data),
            walk.n,
            address(walk.off),
            address(walk.cap),
            address(walk.end),
            address(kind),
        )
        payloads = walk.payloads
        yield from (0, 0) if payloads is None else (address(payloads.start), address(payloads.length))
        for place, (rows, values) in enumerate(lists.values()):
            yield from (address(rows), address(values), address(used[place:]))
        yield walk.n + MAX_LAYERS
        yield from self._tables
        yield address(walk.tunnels)
