"""Merged rows in the formats that one hub would make of them itself: CSV, Arrow, Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from hub.cli.errors import USAGE, CliError

TABLE_ROWS = 1 << 14
"""Rows of one block of Arrow."""


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _joined(values: Iterable[Any] | None) -> str:
    return _quoted(",".join(map(str, values or ())))


def _map(value: Any) -> str:
    return _quoted(json.dumps(value, ensure_ascii=False, separators=(",", ":")) if value else "")


_CELLS: dict[str, Callable[[Any], str]] = {
    "uints": _joined, "texts": _joined, "map": _map,
    **dict.fromkeys(("text", "ip", "mac", "epoch"), lambda value: "" if value is None else _quoted(value)),
}  # fmt: skip
"""How ClickHouse prints a kind in CSV, where that is not as in JSON; what is absent is empty."""


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def csv(blocks: Iterable[bytes], columns: Sequence[tuple[str, str]]) -> Iterator[bytes]:
    """NDJSON lines as CSV with these columns, names and kinds."""
    yield ",".join(name for name, _ in columns).encode() + b"\n"
    cells = [(name, _CELLS.get(kind, _plain)) for name, kind in columns]
    for block in blocks:
        rows = map(json.loads, block.splitlines())
        yield "".join(",".join(cell(row.get(name)) for name, cell in cells) + "\n" for row in rows).encode()


def arrow(blocks: Iterable[bytes], head: bytes) -> Iterator[bytes]:
    """NDJSON lines as blocks of Arrow with the schema of `head`, a hub's answer without rows. Raises CliError."""
    try:
        import pyarrow
        from pyarrow import ipc
    except ImportError:
        raise CliError(
            "parquet and arrow of several hubs take pyarrow: pip install pyarrow, or ask one hub at a time", USAGE
        ) from None
    schema = ipc.open_stream(head).schema
    makers = [(field.name, _maker(field.type, pyarrow.types)) for field in schema]
    for rows in _tables(blocks):
        arrays = [
            pyarrow.array([make(row.get(name)) for row in rows], type=field.type)
            for (name, make), field in zip(makers, schema, strict=True)
        ]
        sink = pyarrow.BufferOutputStream()
        with ipc.new_stream(sink, schema) as writer:
            writer.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=schema))
        yield sink.getvalue().to_pybytes()


def _maker(kind: Any, types: Any) -> Callable[[Any], Any]:
    """From a JSON value to one of an Arrow type."""
    if types.is_decimal(kind):
        return lambda value: None if value is None else Decimal(value)
    if types.is_map(kind):
        return lambda value: list((value or {}).items())
    if types.is_list(kind):
        return lambda value: value or []
    return lambda value: value


def _tables(blocks: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    """Rows, TABLE_ROWS at a time; one without any where there are none, as its schema is wanted all the same."""
    rows: list[dict[str, Any]] = []
    first = True
    for block in blocks:
        rows += map(json.loads, block.splitlines())
        if len(rows) >= TABLE_ROWS:
            yield rows
            rows, first = [], False
    if rows or first:
        yield rows
