"""How many threads a program has before it does anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = "import {}, numpy, os; print(len(os.listdir('/proc/self/task')))"


@pytest.mark.parametrize("module", ["agent.daemon", "agent.worker", "hub.store.store"])
def test_numpy_starts_no_threads(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", COUNT.format(module)], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
