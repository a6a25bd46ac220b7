"""One stand-in for ClickHouse for all tests that do not end it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from procs import ending
from standin import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not end it; each takes a database of its own."""
    one = Server(tmp_path_factory.mktemp("clickhouse"))
    with ending(one):
        yield one
