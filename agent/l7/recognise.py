"""Which parsers claim which payloads of a block: their probes, over the beginnings of the payloads.

Most payloads are the middle of something. Their first byte and their ports rule out most parsers (`Signs`), all at once
by two tables per transport, and a probe is asked about what is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.decode.walk import Payloads
from agent.l7 import HEAD, SCTP, TCP, UDP, Heads, Parser, Signs
from protocol.columns import Columns
from protocol.schema import Has

TRANSPORTS = {TCP: np.uint64(int(Has.TCP)), UDP: np.uint64(int(Has.UDP)), SCTP: np.uint64(int(Has.SCTP))}

Ints = NDArray[np.int64]
Bits = NDArray[np.uint64]


class Recogniser:
    """Asks the probes of `parsers`; number i of them has bit 1 << i. `failed` is called when one raises."""

    def __init__(self, parsers: Sequence[Parser], failed: Callable[[], None]) -> None:
        self._failed = failed
        self._tables = {transport: _Table(parsers, transport) for transport in TRANSPORTS}

    def claims(self, columns: Columns, payloads: Payloads, rows: Ints) -> Bits:
        """Per row the bit set of the parsers that claim its payload."""
        claims = np.zeros(len(rows), dtype=np.uint64)
        layers = np.where(payloads.length[rows] > 0, np.asarray(columns["layers"])[rows], np.uint64(0))
        for transport, bit in TRANSPORTS.items():
            at = np.flatnonzero(layers & bit)
            if len(at):
                claims[at] = self._ask(self._tables[transport], gather(columns, payloads, rows[at]))
        return claims

    def _ask(self, table: _Table, heads: Heads) -> Bits:
        found = np.zeros(len(heads.length), dtype=np.uint64)
        shown = table.shown(heads)
        for bit, parser in table.parsers:
            at = np.flatnonzero((shown & bit) != 0)
            if not len(at):
                continue
            try:
                claimed = at[parser.probe(heads if len(at) == len(shown) else heads.part(at))]
            except Exception:  # a parser's bug must not cost a block
                self._failed()
                continue
            found[claimed] |= np.uint64(bit)
        return found


class _Table:
    """The parsers of one transport, and what payloads must show for each."""

    def __init__(self, parsers: Sequence[Parser], transport: int) -> None:
        word = np.min_scalar_type((1 << len(parsers)) - 1).type
        self.parsers = [(word(1 << i), parser) for i, parser in enumerate(parsers) if transport in parser.transports]
        self._first, self._ports = (np.zeros(size, dtype=word) for size in (256, 65536))
        for bit, parser in self.parsers:
            signs = getattr(parser, "signs", Signs(range(256)))
            self._first[list(signs.first)] |= bit
            self._ports[list(signs.ports)] |= bit

    def shown(self, heads: Heads) -> NDArray[Any]:
        """Per payload the bit set of the parsers whose signs it shows."""
        shown: NDArray[Any] = self._first[heads.first[:, 0]] | self._ports[heads.sport] | self._ports[heads.dport]
        return shown


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
