"""Where rows meet the terminal: colours, widths, progress. In a pipe: whole cells, no colours, no ornaments."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from hub.cli.table import GAP, Column, Layout, Row, layout, without_constant

if TYPE_CHECKING:
    from rich.text import Text

MEASURED = 1000
"""Rows whose widths decide those of the table."""


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is, None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def moving() -> bool:
    """Whether stdout is a terminal that can show one thing in the place of another."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def coloured() -> bool:
    """Whether stdout may get colours: a terminal, and nobody who set NO_COLOR (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def print_table(columns: Sequence[Column], rows: Iterable[Row], sample: Sequence[Row] = ()) -> int:
    """Print rows as a table, as they come; how many there were. No rows, no header.

    Widths are measured on the first rows, or on `sample` where one is given (rows that come slowly).
    """
    rows = iter(rows)
    measured = list(islice(rows, 1 if sample else MEASURED))
    if not measured:
        return 0
    chosen = layout(without_constant(columns, [*measured, *sample], "agent"), [*measured, *sample], terminal_width())
    write = _writer(chosen)
    write(chosen.header(), True)
    count = 0
    for row in chain(measured, rows):
        write(chosen.cells(row), False)
        count += 1
        if sample:
            sys.stdout.flush()
    return count


def _writer(chosen: Layout) -> Callable[[list[str], bool], None]:
    """What prints one line of cells, the header or not."""
    if not coloured():
        return lambda cells, _: _write(GAP.join(cells).rstrip() + "\n")
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    styles = [column.style for column in chosen.columns]
    return lambda cells, header: console.print(_styled(cells, ["bold"] * len(cells) if header else styles))


def _styled(cells: Sequence[str], styles: Sequence[str]) -> Text:
    from rich.text import Text

    line = Text()
    for i, (cell, style) in enumerate(zip(cells, styles, strict=True)):
        line.append(GAP if i else "")
        line.append(cell, style)
    return line


def _own(column: Column, row: Row) -> str:
    return column.style


def drawn(
    columns: Sequence[Column], rows: Sequence[Row], width: int, style: Callable[[Column, Row], str] = _own
) -> list[Text]:
    """A table as lines for a live display of that width: its header, and a line per row with cells in that `style`."""
    chosen = layout(columns, rows, width)
    header = _styled(chosen.header(), ["bold"] * len(chosen.columns))
    return [header, *(_styled(chosen.cells(row), [style(c, row) for c in chosen.columns]) for row in rows)]


def _write(text: str) -> None:
    sys.stdout.write(text)


def wrapped(text: str, width: int) -> list[str]:
    """A line as those it takes in a terminal, broken between words alone."""
    broken = textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return broken or [text]


def note(text: str, style: str = "") -> None:
    """A line on stdout below a table; a terminal's are wrapped at words."""
    if width := terminal_width():
        text = "\n".join(wrapped(text, width))
    if not coloured():
        _write(text + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False, soft_wrap=True).print(Text(text, style))


@contextlib.contextmanager
def progress(wanted: bool) -> Iterator[Callable[[bytes], None]]:
    """A counter of rows and bytes on stderr for a long export, where it is `wanted` and stderr is a terminal."""
    if not wanted or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda block: None
        return
    from rich.console import Console
    from rich.progress import (
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("export", total=None, rows=0)

        def advance(block: bytes) -> None:
            rows = bar.tasks[0].fields["rows"] + block.count(b"\n")
            bar.update(task, advance=len(block), rows=rows)

        yield advance


def describe(values: Mapping[str, Any]) -> str:
    """A JSON value as one line."""
    import json

    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
