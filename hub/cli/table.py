"""Which columns fit, how wide they are, and a row as a line. Pure: rows and a width in, text out.

A column is a header and a function from a row to its cell. Where the terminal is too narrow, columns are dropped by
their rank, then the widest are cut. Without a width (a pipe) nothing is dropped or cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Row = Mapping[str, Any]

GAP = "  "
MIN_CUT = 8
"""No column is cut below this width, as long as there is another to drop."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `drop` is its rank when the width runs out: the highest goes first, 0 never goes.

    A `flexible` column takes what is left; it is worth showing from `least` characters on. `style` is rich's.
    """

    header: str
    cell: Callable[[Row], str]
    right: bool = False
    drop: int = 0
    flexible: bool = False
    least: int = MIN_CUT
    style: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns chosen and their widths; a width of 0 is open-ended (the last column in a pipe)."""

    columns: tuple[Column, ...]
    widths: tuple[int, ...]

    def header(self) -> list[str]:
        """The cells of the header line, padded."""
        return self._pad([column.header for column in self.columns])

    def cells(self, row: Row) -> list[str]:
        """The cells of a row, padded and cut to their widths."""
        return self._pad([clean(column.cell(row)) for column in self.columns])

    def _pad(self, cells: Sequence[str]) -> list[str]:
        return [
            fit(cell, width, column.right) for cell, width, column in zip(cells, self.widths, self.columns, strict=True)
        ]


def clean(text: str) -> str:
    """`text` with what a terminal would obey written out: names and info lines come from the network."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def fit(text: str, width: int, right: bool = False) -> str:
    """`text` at exactly `width` characters, cut with an ellipsis; 0 leaves it alone."""
    if not width:
        return text
    if len(text) > width:
        return text[: width - 1] + "…"
    return text.rjust(width) if right else text.ljust(width)


def layout(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> Layout:
    """The columns that fit into `width` characters (None: all) and their widths, measured on `rows`."""
    natural = [_natural(column, rows) for column in columns]
    if width is None:
        widths = [
            0 if i == len(columns) - 1 and not c.right else n
            for i, (c, n) in enumerate(zip(columns, natural, strict=True))
        ]
        return Layout(tuple(columns), tuple(widths))
    kept = _choose(columns, natural, width)
    widths = _shrink([columns[i] for i in kept], [natural[i] for i in kept], width)
    return Layout(tuple(columns[i] for i in kept), tuple(widths))


def _natural(column: Column, rows: Sequence[Row]) -> int:
    return max([len(column.header), *(len(clean(column.cell(row))) for row in rows)])


def _gaps(count: int) -> int:
    return len(GAP) * (count - 1)


def _choose(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """Which columns stay: the highest `drop` goes until the rest fits, flexible ones at their least."""
    kept = list(range(len(columns)))

    def needed() -> int:
        return sum(min(natural[i], columns[i].least) if columns[i].flexible else natural[i] for i in kept)

    while needed() + _gaps(len(kept)) > width:
        droppable = [i for i in kept if columns[i].drop]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda i: (columns[i].drop, i)))
    return kept


def _shrink(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """Widths whose sum fits: the flexible columns give first, then the widest, one character at a time."""
    widths = list(natural)
    spare = width - _gaps(len(widths))
    floors = [c.least if c.flexible else n for c, n in zip(columns, natural, strict=True)]
    for lowest in (floors, [MIN_CUT] * len(widths), [1] * len(widths)):
        while sum(widths) > spare:
            widest = max(range(len(widths)), key=lambda i: (widths[i] - lowest[i], widths[i]))
            if widths[widest] <= lowest[widest]:
                break
            widths[widest] -= 1
    return widths


def field_column(name: str, right: bool = False) -> Column:
    """A column that shows one public field under its own name."""
    return Column(name, lambda row: value(row.get(name)), right=right)


def value(item: Any) -> str:
    """A JSON value as a cell: absent is empty, several values are joined by commas."""
    if item is None:
        return ""
    if isinstance(item, list):
        return ",".join(value(part) for part in item)
    if isinstance(item, bool):
        return "1" if item else "0"
    if isinstance(item, dict):
        return " ".join(f"{key}={value(part)}" for key, part in item.items())
    return str(item)


HUB = Column("hub", lambda row: value(row.get("hub")), drop=1, style="blue")


def with_hub(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns, and behind the first the hub, where rows are those of several."""
    return [*columns[:1], *([HUB] if any("hub" in row for row in rows) else []), *columns[1:]]


def without_constant(columns: Sequence[Column], rows: Sequence[Row], header: str) -> list[Column]:
    """The columns, with that of `header` first to go where it says the same in every row.

    A first column stays: it is what the rows are about.
    """
    return [
        *columns[:1],
        *(
            replace(c, drop=100) if c.header == header and len({c.cell(row) for row in rows}) < 2 else c
            for c in columns[1:]
        ),
    ]
