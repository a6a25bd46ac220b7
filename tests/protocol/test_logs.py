"""A log line that cannot be written is dropped; the program goes on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from procs import environment

SPEAK = """
from protocol.logs import configure, logger
configure("info", "json")
for _ in range(3):
    logger(program="x").error("no room")
print("alive", flush=True)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_log_ends_nothing() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", SPEAK],
            stdout=subprocess.PIPE,
            stderr=full,
            env=environment(),
            timeout=20,
            check=False,
        )
    assert done.stdout == b"alive\n"
