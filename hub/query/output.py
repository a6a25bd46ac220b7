"""How a public field leaves the store: SQL expressions that ClickHouse turns into JSON, CSV or Parquet.

No Python runs per row. A JSON row is a named tuple whose NULL members are left out by ClickHouse's own JSON writer; an
`Output` says which format to ask for and how to wrap the bytes that come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hub.query.arrow import arrow_stream, parquet_file
from hub.query.sql import SEVERAL, present, several
from protocol.schema import WRAP_NS, Field, Has, Table

SETTINGS: dict[str, int | str] = {
    "output_format_json_named_tuples_as_objects": 1,
    "output_format_json_skip_null_value_in_named_tuples": 1,
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_escape_forward_slashes": 0,
    "output_format_json_quote_decimals": 1,
    "output_format_decimal_trailing_zeros": 1,
    "format_csv_null_representation": "",
    "output_format_arrow_string_as_string": 1,
    "asterisk_include_alias_columns": 1,  # the parts of names, in questions that narrow rows down first
}
"""Of every query: JSON without absent members, 64-bit integers as numbers, times as strings with all their zeros."""

_MAPPED = 8  # characters of `::ffff:`, counted from 1


@dataclass(frozen=True, slots=True)
class Output:
    """One way to print: the store's format, the content type, and what makes one answer of the store's blocks.

    JSON rows are lines of text to the store.
    """

    store_format: str
    media_type: str
    joined: Callable[[Iterable[bytes]], Iterator[bytes]]


def whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, cut only at line ends; never an empty piece."""
    rest = b""
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if not end:
            rest += chunk
            continue
        yield rest + chunk[:end] if rest else chunk[:end]
        rest = chunk[end:]
    if rest:
        yield rest


OUTPUTS: dict[str, Output] = {
    "ndjson": Output("TSVRaw", "application/x-ndjson", whole_lines),
    "json": Output("TSVRaw", "application/json", whole_lines),
    "csv": Output("CSV", "text/csv; charset=utf-8", whole_lines),
    "parquet": Output("ArrowStream", "application/vnd.apache.parquet", parquet_file),
    "arrow": Output("ArrowStream", "application/vnd.apache.arrow.stream", arrow_stream),
}


def _address(field: Field, column: str) -> str:
    if field.need & (Has.IPV4 | Has.ARP_IPV4):
        return f"substring(toString({column}), {_MAPPED})"
    if field.need & Has.IPV6:
        return f"toString({column})"
    return (
        f"if(startsWith(toString({column}), '::ffff:'), substring(toString({column}), {_MAPPED}), toString({column}))"
    )


def _time(field: Field, column: str) -> str:
    wrap = f"toDecimal128('{WRAP_NS // 10**9}.{WRAP_NS % 10**9:09d}', 9)"
    return f"reinterpret({column}, 'Decimal64(9)') + if({column} < 0, {wrap}, toDecimal128('0', 9))"


_EXPRESSIONS: dict[str, Callable[[Field, str], str]] = {
    "uint": lambda field, column: column,
    "bool": lambda field, column: f"toUInt8(bitTest({column}, {field.shift}))",
    "time": _time,
    "seconds": lambda field, column: f"{column} / 1e9",
    "ip": _address,
    "mac": lambda field, column: f"lower(MACNumToString({column}))",
    "text": lambda field, column: f"toString({column})",
    "epoch": lambda field, column: f"leftPad(lower(hex({column})), 16, '0')",
    "uints": lambda field, column: several(field),
    "texts": lambda field, column: column,
    "map": lambda field, column: column,
}
_TYPES = {"bool": "UInt8", "time": "Decimal128(9)", "seconds": "Float64"}  # the rest: their column's, or String


def clickhouse_type(table: Table, field: Field) -> str:
    """The type of the field's expression."""
    if field.kind == "uint" or field.kind in SEVERAL:
        return table.column(field.column).clickhouse
    return _TYPES.get(field.kind, "String")


def expression(table: Table, field: Field) -> str:
    """The value of a field as people see it, NULL where it is absent (an empty array or map where it has several)."""
    value = _EXPRESSIONS[field.kind](field, f"`{field.column}`")
    if field.kind in SEVERAL:
        kind = clickhouse_type(table, field)
        return f"if({present(field)}, CAST({value}, '{kind}'), defaultValueOfTypeName('{kind}'))"
    condition = present(field)
    return value if condition == "1" else f"if({condition}, {value}, NULL)"


def json_row(members: Iterable[tuple[str, str, str]]) -> str:
    """One JSON object of (public name, expression, type); NULL members are left out. It holds no line end."""
    members = list(members)
    values = ", ".join(value for _, value, _ in members)
    types = ", ".join(f"`{name}` {clickhouse}" for name, _, clickhouse in members)
    return f"toJSONString(CAST(tuple({values}), 'Tuple({types})')) AS row"


def member(table: Table, field: Field) -> tuple[str, str, str]:
    """One field as a member of the JSON row."""
    kind = clickhouse_type(table, field)
    if field.kind in SEVERAL:  # an array or map cannot be NULL, a Variant of it can
        value = _EXPRESSIONS[field.kind](field, f"`{field.column}`")
        cast = f"CAST(CAST({value}, '{kind}'), 'Variant({kind})')"
        return field.name, f"if({present(field)}, {cast}, NULL)", f"Variant({kind})"
    return field.name, expression(table, field), f"Nullable({kind})"


def columns(table: Table, fields: Sequence[Field], output: str, extra: Sequence[tuple[str, str, str]] = ()) -> str:
    """The SELECT list of an answer: one JSON row, or a column per field."""
    if output in ("ndjson", "json"):
        return json_row((*extra, *(member(table, field) for field in fields)))
    return ", ".join(f"{_plain(table, field, output)} AS `{field.name}`" for field in fields)


def names_of(fields: Sequence[Field], output: str) -> str:
    """What `columns` calls what it selects."""
    return "row" if output in ("ndjson", "json") else ", ".join(f"`{field.name}`" for field in fields)


def _plain(table: Table, field: Field, output: str) -> str:
    value = expression(table, field)
    return _CSV[field.kind](value) if output == "csv" and field.kind in _CSV else value


_CSV: dict[str, Callable[[str], str]] = {
    "uints": lambda value: f"arrayStringConcat(arrayMap(v -> toString(v), {value}), ',')",
    "texts": lambda value: f"arrayStringConcat({value}, ',')",
    "map": lambda value: f"if(notEmpty({value}), toJSONString({value}), '')",
}
"""How several values stand in one CSV cell."""


def csv_header(names: Iterable[str]) -> bytes:
    """The first line of a CSV answer; public names need no quotes."""
    return ",".join(names).encode() + b"\n"
