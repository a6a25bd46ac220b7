"""What fault tests may use: how busy the machine is while they look at the clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from herd import Lateness


@pytest.fixture
def machine() -> Iterator[Lateness]:
    """How late the machine is while a test runs. Where it is overrun by others, times say nothing about nodetap."""
    with Lateness() as lateness:
        yield lateness
