"""Summaries become columns: `l7`, `info`, the typed columns, the map of the rest, and the bits of `layers`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain, compress
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.l7 import Findings, Summary
from protocol.columns import LIST_ITEM, MAX_COUNT, Columns, Dict, Lists, Maps, Text, Texts, maps_of, starts_of, text_of
from protocol.schema import PACKETS, Has

MAX_INFO = 512
"""Characters of an info line."""

Ints: TypeAlias = NDArray[np.int64]
Said: TypeAlias = "list[tuple[int, Summary]]"
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

_QUERY = re.compile(r"\?\S*")
_WIRES = {column.name: column.wire for column in PACKETS.columns}


Part: TypeAlias = "tuple[Ints, Findings]"
"""The rows of payloads that were read together, by a payload's number, and what they say."""


def write(columns: Columns, said: Said, parts: Sequence[Part] = (), keep_query: bool = False) -> None:
    """Put what was said into the columns of a block: of single payloads, and of many together.

    The query strings of URLs, which carry values and secrets, are taken out unless `keep_query`. A value that its
    column cannot hold is left out; never raises.
    """
    parts = [(np.fromiter((row for row, _ in said), dtype=np.int64, count=len(said)), _findings(said)), *parts]
    size = len(columns["layers"])
    rows, order = _ordered([rows[_numbers(found.at)] for rows, found in parts])
    _names(columns, rows, order([found.l7 for _, found in parts]), size)
    lines = order([found.info for _, found in parts])
    for name, cells in _by_column(parts).items():
        at, order = _ordered([at for at, _ in cells])
        values = order([values for _, values in cells])
        if name == "http_uri" and not keep_query:
            _strip(at, values, rows, lines)
        columns[name] = _COLUMN[_WIRES[name]](_WIRES[name], at, values, size)
    _rest(columns, parts, size)
    info = text_of([line[:MAX_INFO] for line in lines])
    columns["info"] = Text(_spread(info.lengths, rows, size), info.data)
    _carried(columns, size)


def _findings(said: Said) -> Findings:
    """Summaries as findings, numbered from 0."""
    summaries = [summary for _, summary in said]
    cells: dict[str, tuple[list[int], list[Any]]] = {}
    for number, summary in enumerate(summaries):
        for name, value in summary.fields.items():
            at, values = cells.get(name) or cells.setdefault(name, ([], []))
            if type(value) is list:
                at += [number] * len(value)
                values += value
            else:
                at.append(number)
                values.append(value)
    found = Findings(list(range(len(said))), [s.l7 for s in summaries], [s.info for s in summaries])
    found.cells.update(cells)
    found.rest = [(number, s.rest) for number, s in enumerate(summaries) if s.rest]
    return found


def _numbers(numbers: Sequence[int] | Ints) -> Ints:
    return np.asarray(numbers, dtype=np.int64)


def _ordered(rows: Sequence[Ints]) -> tuple[Ints, Callable[[Sequence[list[Any]]], list[Any]]]:
    """These rows in rising order, and what puts lists that go with them, piece by piece, into that order."""
    at = np.concatenate(rows)
    if (at[1:] >= at[:-1]).all():
        return at, lambda pieces: list(chain.from_iterable(pieces))
    index = np.argsort(at, kind="stable")
    places = index.tolist()

    def order(pieces: Sequence[list[Any]]) -> list[Any]:
        flat = list(chain.from_iterable(pieces))
        return [flat[place] for place in places]

    return at[index], order


def _by_column(parts: Sequence[Part]) -> dict[str, list[tuple[Ints, list[Any]]]]:
    """Per column the row of each value, and the values, in pieces."""
    found: dict[str, list[tuple[Ints, list[Any]]]] = {}
    for rows, findings in parts:
        for name, (numbers, values) in findings.cells.items():
            if _WIRES.get(name) in _COLUMN and values:
                found.setdefault(name, []).append((rows[_numbers(numbers)], values))
    return found


def _strip(at: Ints, uris: list[Any], rows: Ints, lines: list[str]) -> None:
    """Take the query strings out of URLs, and of the lines of these rows."""
    long = [i for i, uri in enumerate(uris) if type(uri) is str and "?" in uri]
    for i, line in zip(long, np.searchsorted(rows, at[long]).tolist() if long else (), strict=True):
        uris[i] = uris[i].partition("?")[0]
        lines[line] = _QUERY.sub("", lines[line])


def _names(columns: Columns, rows: NDArray[np.int64], l7: list[str], size: int) -> None:
    names = ("", *dict.fromkeys(l7))
    of = {name: code for code, name in enumerate(names)}
    codes = np.zeros(size, dtype="<u4")
    codes[rows] = [of[name] for name in l7]
    columns["l7"] = Dict(codes, names)
    layers: Any = columns["layers"]
    layers |= np.array([BITS.get(name, 0) for name in names], dtype=np.uint64)[codes]


def _rest(columns: Columns, parts: Sequence[Part], size: int) -> None:
    maps = [(int(rows[number]), rest) for rows, found in parts for number, rest in found.rest]
    if not maps:
        return
    maps.sort(key=itemgetter(0))
    plain = [rest for _, rest in maps]
    try:
        column = maps_of(plain)
    except (TypeError, AttributeError):
        column = maps_of([{str(key): str(value) for key, value in rest.items()} for rest in plain])
    rows = np.array([row for row, _ in maps], dtype=np.int64)
    columns["l7_fields"] = Maps(_spread(column.counts, rows, size), column.keys, column.values)


def _carried(columns: Columns, size: int) -> None:
    """QUIC carries TLS (RFC 9001); Wireshark shows its fields under TLS's names."""
    layers: Any = columns["layers"]
    tls = np.zeros(size, dtype=np.bool_)
    for name in ("tls_handshake_type", "tls_sni"):
        value = columns[name]
        tls |= (value.counts if isinstance(value, Texts) else value.lengths) > 0  # type: ignore[union-attr]
    layers[tls & ((layers & np.uint64(int(Has.QUIC))) != 0)] |= np.uint64(int(Has.TLS))


def _spread(lengths: NDArray[Any], rows: Ints, size: int) -> NDArray[Any]:
    spread = np.zeros(size, dtype=lengths.dtype)
    spread[rows] = lengths
    return spread


def _counts(at: Ints, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """How many values each row has, and where there are more than it can have, which of them it keeps."""
    counts = np.bincount(at, minlength=size)
    if not len(at) or int(counts.max()) <= MAX_COUNT:
        return counts.astype("u1"), None
    kept: NDArray[np.bool_] = np.arange(len(at)) - starts_of(counts)[at] < MAX_COUNT
    return np.minimum(counts, MAX_COUNT).astype("u1"), kept


def _integers(wire: str, at: Ints, values: list[Any], size: int) -> Lists:
    dtype = np.dtype(LIST_ITEM[wire])
    top = int(np.iinfo(dtype).max)
    try:
        flat = np.array(values, dtype=np.int64)
        fine = not len(flat) or (int(flat.min()) >= 0 and int(flat.max()) <= top)
    except (TypeError, ValueError, OverflowError):
        fine = False
    if not fine:
        kept = [isinstance(value, int) and 0 <= value <= top for value in values]
        return _integers(wire, at[np.array(kept)], list(compress(values, kept)), size)
    counts, some = _counts(at, size)
    return Lists(counts, (flat if some is None else flat[some]).astype(dtype))


def _strings(wire: str, at: Ints, values: list[Any], size: int) -> Texts:
    counts, some = _counts(at, size)
    try:
        return Texts(counts, text_of(values if some is None else list(compress(values, some.tolist()))))
    except (TypeError, AttributeError):
        kept = [isinstance(value, str) for value in values]
        return _strings(wire, at[np.array(kept)], list(compress(values, kept)), size)


_COLUMN: dict[str | None, Any] = {"list_u2": _integers, "list_u4": _integers, "list_text": _strings}
