"""The table that benchmarks print and put into docs/performance.md and docs/scale.md."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


@dataclass(frozen=True)
class Figure:
    """One line of the table; `target` is a bound or empty, `met` whether it is kept (None: no bound)."""

    name: str
    value: str
    target: str = ""
    met: bool | None = None


def at_least(name: str, value: float, bound: float, form: str = ",.0f") -> Figure:
    """A figure that is better the larger it is."""
    return Figure(name, format(value, form), f"≥ {bound:,}", value >= bound)


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    words = {True: "met", False: "**missed**", None: ""}
    rows = [("figure", "measured", "target", ""), ("---", "---:", "---", "---")]
    rows += [(f.name, f.value, f.target, words[f.met]) for f in figures]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine() -> str:
    """Where this was measured."""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )


def write_page(text: str, marks: tuple[str, str], page: Path = PAGE) -> None:
    """Replace what stands between two marks of a page."""
    before, _, rest = page.read_text().partition(marks[0])
    page.write_text(f"{before}{marks[0]}\n{text}\n{marks[1]}{rest.partition(marks[1])[2]}")
