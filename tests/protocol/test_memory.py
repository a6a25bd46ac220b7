"""Free memory goes back to the system, in a process of its own: how much one holds depends on all it did before."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

HOLES = """
from protocol.memory import give_back

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

kept = [bytearray(b"x" * 65_536) for _ in range(1600)]  # 100 MB below what malloc asks the system for piece by piece
full = resident()
del kept[:-1]  # the last one holds the heap where it is
holes = resident()
give_back()
print(full - holes, full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_what_is_free_below_what_is_not_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, timeout=60, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 50_000 < after, "KiB that went back by themselves, and with `give_back`"
