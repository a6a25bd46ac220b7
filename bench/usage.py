"""CPU time and memory of a process, from /proc."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
MERGES = "MergeMutate"
"""What the engine calls its threads that merge."""
QUIET = 0.05
"""Share of a core below which nothing goes on behind the scenes."""


def cpu_seconds(stat: Path) -> float:
    """User and system time of a thread, by its `stat`."""
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_of(pid: int) -> float:
    """User and system time of a process in seconds, all its threads, also those that have ended: by its own clock
    (clock_getcpuclockid(3)), whose steps are nanoseconds where those of `stat` are 10 ms."""
    return time.clock_gettime(~pid << 3 | 2)


def threads_of(pid: int) -> Counter[str]:
    """User and system time by the name of threads; that of the first is `main`."""
    found: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, spent = (task / "comm").read_text().strip(), cpu_seconds(task / "stat")
        except OSError:  # it has ended
            continue
        found["main" if int(task.name) == pid else name] += spent
    return found


def memory_of(pid: int, what: str = "VmRSS") -> int:
    """Bytes of memory of a process, now (VmRSS) or at most so far (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


def until_quiet(spent: Callable[[], float], usual: float = 0.0, calm: float = 4.0, limit: float = 1800.0) -> float:
    """Wait until next to nothing beside what is `usual`, a share of a core, has been spent for `calm` seconds. What had
    been spent before, less what was usual meanwhile. Merges end so."""
    began = at = time.monotonic()
    before = spent()
    while at < began + limit:
        time.sleep(calm)
        now, then = spent(), time.monotonic()
        if now - before < (usual + QUIET) * (then - at):
            return before - usual * (at - began)
        before, at = now, then
    raise TimeoutError(f"still busy after {limit:.0f} s")
