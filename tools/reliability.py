#!/usr/bin/env python3
"""Write the table of docs/reliability.md from the figures that the fault tests left.

tools/reliability.py           writes the table
tools/reliability.py --check   writes nothing, exits 1 and names the scenarios that no test records

A row is what one test measured last. Figures of the full length stay until they are measured at full length again, rows
without new figures stay as they are, and rows of tests that are gone go.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
TESTS = ROOT / "tests" / "faults"
SCENARIOS = range(1, 23)
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
HEADER = ("#", "fault", "expected", "measured", "length", "on", "again")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table, cell by cell."""

    scenario: str
    fault: str
    expectation: str
    measured: str
    form: str
    day: str
    test: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What a newer figure has in common with the older one."""
        return self.scenario, self.test, self.fault

    @property
    def order(self) -> tuple[int, str, str, str]:
        """Scenarios by number, their parts by letter."""
        return number_of(self.scenario), *self.key

    @property
    def command(self) -> str:
        """How to measure it again."""
        return f"make {'faults-full' if self.form == 'full' else 'test'} ARGS={self.test}"


def number_of(scenario: str) -> int:
    """The scenario that a part ("6b") belongs to; ValueError where it is none of ours."""
    number = int(re.match(r"\d*", scenario)[0] or 0)  # type: ignore[index]
    if number not in SCENARIOS:
        raise ValueError(f"there is no scenario {scenario!r}: they are {SCENARIOS[0]} to {SCENARIOS[-1]}")
    return number


def measured(path: Path) -> list[Row]:
    """Figures in the order in which they were left; none where there is no file."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [Row(*(line[name] for name in Row.__dataclass_fields__)) for line in lines]


def written(page: str) -> list[Row]:
    """The rows that the page has now."""
    rows = []
    for line in between(page).splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == len(HEADER) and cells[-1].startswith("`make "):
            rows.append(Row(*cells[:-1], test=cells[-1].strip("`").partition("ARGS=")[2]))
    return rows


def between(page: str) -> str:
    """What stands between the markers."""
    return page.partition(BEGIN)[2].partition(END)[0]


def newest(rows: Iterable[Row]) -> list[Row]:
    """One row a test and fault, the last; of a test that was run at full length only those of that length."""
    best: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        if row.form == "full" or row.key not in best or best[row.key].form != "full":
            best[row.key] = row
    full = {(row.scenario, row.test) for row in best.values() if row.form == "full"}
    shown = (row for row in best.values() if row.form == "full" or (row.scenario, row.test) not in full)
    return sorted(shown, key=lambda row: row.order)


def table(rows: Iterable[Row]) -> str:
    """The table in Markdown."""
    lines = [HEADER, ("---",) * len(HEADER)]
    lines += [(*astuple(row)[:-1], f"`{row.command}`") for row in rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def recorded(folder: Path = TESTS) -> dict[str, set[str]]:
    """The scenarios (parts too) that tests record, each with the functions that do, as pytest names them."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.py")):
        for function in ast.parse(path.read_text()).body:
            if isinstance(function, ast.FunctionDef):
                for scenario in _scenarios_in(function):
                    found.setdefault(scenario, set()).add(f"tests/faults/{path.name}::{function.name}")
    return found


def _scenarios_in(function: ast.FunctionDef) -> Iterable[str]:
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "record" and call.args:
            words = (str(c.value) for c in ast.walk(call.args[0]) if isinstance(c, ast.Constant))
            yield from (word for word in words if re.fullmatch(r"\d+[a-z]?", word))


def missing() -> list[int]:
    """The scenarios that no test records."""
    have = {number_of(scenario) for scenario in recorded()}
    return [number for number in SCENARIOS if number not in have]


def exists(row: Row) -> bool:
    """Whether the test of a row is still there."""
    file, _, function = row.test.partition("::")
    return (ROOT / file).exists() and f"def {function}(" in (ROOT / file).read_text()


def main() -> int:
    """Write the page, or check."""
    for number in missing():
        print(f"scenario {number} has no test that records it", file=sys.stderr)
    if "--check" not in sys.argv[1:]:
        figures = Path(os.environ.get("NODETAP_FIGURES", ROOT / ".bench" / "reliability.jsonl"))
        page = PAGE.read_text()
        rows = newest(row for row in [*written(page), *measured(figures)] if exists(row))
        head, tail = page.partition(BEGIN)[0], page.partition(END)[2]
        PAGE.write_text(f"{head}{BEGIN}\n{table(rows)}{END}{tail}")
    return 1 if missing() else 0


if __name__ == "__main__":
    sys.exit(main())
