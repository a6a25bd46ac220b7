"""Imports point one way, `agent -> protocol <- hub`; tests can all be collected at once."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {"protocol": {"agent", "hub"}, "agent": {"hub"}, "hub": {"agent"}}


def imported(path: Path) -> set[str]:
    """The packages that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    paths = list((ROOT / package).rglob("*.py"))
    assert paths
    assert not {str(path.relative_to(ROOT)) for path in paths if imported(path) & FORBIDDEN[package]}


def test_no_two_files_of_tests_share_a_name() -> None:
    """Most folders of tests are no packages: pytest knows their files by name alone."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]
