"""Summaries become columns: `l7`, `info`, the typed columns, the map of the rest, and the bits of `layers`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.l7 import Summary
from protocol.columns import LIST_ITEM, MAX_COUNT, Columns, Dict, Lists, Maps, Text, Texts, maps_of, text_of, texts_of
from protocol.schema import PACKETS, Has

MAX_INFO = 512
"""Characters of an info line."""

Said = list[tuple[int, Summary]]
"""Rows of a block, rising, and what was said of each."""

BITS: dict[str, int] = {
    **dict.fromkeys(("DNS", "MDNS", "LLMNR"), int(Has.DNS)),
    **dict.fromkeys(("HTTP", "SSDP"), int(Has.HTTP)),
    **dict.fromkeys(("HTTP2", "gRPC"), int(Has.HTTP2)),
    "TLS": int(Has.TLS),
    "DTLS": int(Has.DTLS),
    "QUIC": int(Has.QUIC),
    "SSH": int(Has.SSH),
}
"""Names of protocols that have columns of their own, and the bit that makes these columns mean something."""

_WIRES = {column.name: column.wire for column in PACKETS.columns}


def write(columns: Columns, said: Said) -> None:
    """Put summaries into the columns of a block. A value that its column cannot hold is left out; never raises."""
    rows = np.fromiter((row for row, _ in said), dtype=np.int64, count=len(said))
    summaries = [summary for _, summary in said]
    size = len(columns["layers"])
    _names(columns, rows, [summary.l7 for summary in summaries], size)
    lines = [summary.info[:MAX_INFO] for summary in summaries]
    info = text_of(lines)
    columns["info"] = Text(_spread(info.lengths, rows, size), info.data)
    for name, (at, values) in _by_column(said).items():
        column = _COLUMN[_WIRES[name]](_WIRES[name], values)
        columns[name] = _placed(column, np.array(at, dtype=np.int64), size)
    layers: Any = columns["layers"]
    tls = np.zeros(size, dtype=np.bool_)
    for name in ("tls_handshake_type", "tls_sni"):
        value = columns[name]
        tls |= (value.counts if isinstance(value, Texts) else value.lengths) > 0  # type: ignore[union-attr]
    # QUIC carries TLS (RFC 9001); Wireshark shows its fields under TLS's names
    layers[tls & ((layers & np.uint64(int(Has.QUIC))) != 0)] |= np.uint64(int(Has.TLS))


def _names(columns: Columns, rows: NDArray[np.int64], l7: list[str], size: int) -> None:
    names = ("", *dict.fromkeys(l7))
    of = {name: code for code, name in enumerate(names)}
    codes = np.zeros(size, dtype="<u4")
    codes[rows] = [of[name] for name in l7]
    columns["l7"] = Dict(codes, names)
    layers: Any = columns["layers"]
    layers |= np.array([BITS.get(name, 0) for name in names], dtype=np.uint64)[codes]


def _by_column(said: Said) -> dict[str, tuple[list[int], list[Any]]]:
    """Per column the rows that have a value, and their values."""
    found: dict[str, tuple[list[int], list[Any]]] = {}
    for row, summary in said:
        for name, value in summary.fields.items():
            if name not in found:
                if _WIRES.get(name) not in _COLUMN:
                    continue
                found[name] = ([], [])
            at, values = found[name]
            at.append(row)
            values.append(value if type(value) is list else [value])
        if summary.rest:
            at, values = found.setdefault("l7_fields", ([], []))
            at.append(row)
            values.append(summary.rest)
    return found


def _spread(lengths: NDArray[Any], rows: NDArray[np.int64], size: int) -> NDArray[Any]:
    spread = np.zeros(size, dtype=lengths.dtype)
    spread[rows] = lengths
    return spread


def _placed(value: Lists | Texts | Maps, rows: NDArray[np.int64], size: int) -> Lists | Texts | Maps:
    if isinstance(value, Lists):
        return Lists(_spread(value.lengths, rows, size), value.values)
    if isinstance(value, Texts):
        return Texts(_spread(value.counts, rows, size), value.strings)
    return Maps(_spread(value.counts, rows, size), value.keys, value.values)


def _integers(wire: str, values: list[list[int]]) -> Lists:
    dtype = np.dtype(LIST_ITEM[wire])
    top = int(np.iinfo(dtype).max)
    try:
        flat = np.fromiter(chain.from_iterable(values), dtype=np.int64)
        lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
        fine = not len(flat) or (int(flat.min()) >= 0 and int(flat.max()) <= top and int(lengths.max()) <= MAX_COUNT)
    except (TypeError, ValueError, OverflowError):
        fine = False
    if not fine:
        return _integers(wire, [[v for v in row if isinstance(v, int) and 0 <= v <= top][:MAX_COUNT] for row in values])
    return Lists(lengths.astype("u1"), flat.astype(dtype))


def _strings(wire: str, values: list[list[str]]) -> Texts:
    try:
        return texts_of(values)
    except (TypeError, AttributeError):
        return texts_of([[v for v in row if isinstance(v, str)] for row in values])


def _maps(wire: str, values: Sequence[dict[str, str]]) -> Maps:
    try:
        return maps_of(values)
    except (TypeError, AttributeError):
        return maps_of([{str(key): str(value) for key, value in row.items()} for row in values])


_COLUMN: dict[str | None, Any] = {"list_u2": _integers, "list_u4": _integers, "list_text": _strings, "map": _maps}
