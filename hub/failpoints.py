"""Where tests make a live hub misbehave (`NODETAP_FAILPOINT`, see `protocol.failpoints`).

ingest_hang[=FILE]      the writer takes work and finishes none, as long as the file exists; for ever without one
store_slow=FILE         the store takes only as many rows a second as the file says, as long as it exists
no_memory=FILE          there is no memory to unpack a batch with, as long as the file exists
rollup_hang=FILE        a roll stops before the statement at which the number in the file has been counted down to 0
throttle=AGENT:SECONDS  the batches of that agent leave the queue one at a time, so many seconds apart
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from protocol.failpoints import VARIABLE, parse

_NAMED = parse(os.environ.get(VARIABLE, ""))
STEP = 0.05


def hang() -> None:
    """In the writer's thread, before a commit."""
    if "ingest_hang" in _NAMED:
        while not _NAMED["ingest_hang"] or Path(_NAMED["ingest_hang"]).exists():
            time.sleep(STEP)


def slow(rows: int) -> None:
    """In the writer's thread, after an insert of so many rows."""
    if "store_slow" not in _NAMED:
        return
    path, began = Path(_NAMED["store_slow"]), time.monotonic()
    with contextlib.suppress(FileNotFoundError):
        while (time.monotonic() - began) * float(path.read_text() or 1) < rows:
            time.sleep(STEP)


def no_memory() -> None:
    """In the writer's thread, before a batch is unpacked. Raises MemoryError."""
    if "no_memory" in _NAMED and Path(_NAMED["no_memory"]).exists():
        raise MemoryError


def roll() -> None:
    """In the thread that rolls up, before each statement that writes."""
    if "rollup_hang" not in _NAMED:
        return
    path = Path(_NAMED["rollup_hang"])
    left = int(path.read_text()) - 1
    path.write_text(str(left))
    while not left:
        time.sleep(STEP)


def throttled() -> dict[str, float]:
    """Seconds that must lie between two batches of an agent."""
    agent, _, seconds = _NAMED.get("throttle", "").rpartition(":")
    return {agent: float(seconds)} if agent else {}
