"""Scenario 22: faults 1 to 8 at random on twenty agents; `make soak HOURS=2` is the long form."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from figures import record
from live.netns import pair
from soak import LIVE, Soak, Use, slope, use
from stored import Stored, stored

SECONDS = float(os.environ.get("NODETAP_SOAK_HOURS", 0.025)) * 3600
SEED = int(os.environ.get("NODETAP_SEED", "1"))
LONG = 600.0
"""Seconds of one life of the hub from which a slope of its memory means something."""
GROWTH = 0.10
"""Share of its memory that the hub may grow by in an hour."""


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 900)
def test_faults_at_random_on_twenty_agents(tmp_path: Path) -> None:
    with pair() as (here, far), here.entered():
        soak = Soak(tmp_path, here, far, SEED)
        try:
            with soak.traffic():
                soak.calm(120)
                before = [use(agent.popen.pid) for agent in soak.live]
                began = time.monotonic()
                soak.run(SECONDS)
                soak.calm()
                took = time.monotonic() - began
                after = [use(agent.popen.pid) for agent in soak.live]
            uses = soak.uses
            ledger = soak.leave()
        finally:
            soak.end()
        figures = tell(soak, uses, before, after, took)
        check_books(soak, ledger, stored(tmp_path))
        check_use(uses, before, after)
    record("22", f"{SECONDS / 60:g} min of faults 1 to 8 at random on 20 agents",
           "all well again unattended, memory flat, file descriptors and threads as before, books balanced",
           figures)  # fmt: skip


def tell(soak: Soak, uses: list[Use], before: list[Use], after: list[Use], took: float) -> str:
    """Show everything; the figures of the table."""
    life = uses[-1].at - uses[0].at
    print(f"{took:.0f} s, seed {SEED}: {dict(soak.done)}; {soak.epochs} replays ended by themselves")
    print(f"hub: last life {life:.0f} s, {uses[0].rss >> 20} -> {uses[-1].rss >> 20} MiB, "
          f"slope {slope(settled(uses)) / (1 << 20):+.1f} MiB/h; fds {uses[0].fds} -> {uses[-1].fds}, "
          f"threads {uses[0].threads} -> {uses[-1].threads}")  # fmt: skip
    for n, (one, other) in enumerate(zip(before, after, strict=True)):
        print(f"run{n}: {one.rss >> 20} -> {other.rss >> 20} MiB, fds {one.fds} -> {other.fds}, "
              f"threads {one.threads} -> {other.threads}")  # fmt: skip
    flat = f", hub's memory {slope(settled(uses)) / (1 << 20):+.1f} MiB/h" if life >= LONG else ""
    return (
        f"{soak.done.total()} faults, all well again after at most {max(soak.recoveries):.1f} s{flat}, "
        f"hub's descriptors {uses[0].fds} to {uses[-1].fds}, threads {uses[0].threads} to {uses[-1].threads}"
    )


def settled(uses: list[Use]) -> list[Use]:
    """The later two thirds of a life: caches are filled by then."""
    start = uses[0].at + (uses[-1].at - uses[0].at) / 3
    return [one for one in uses if one.at >= start]


def usual(uses: list[Use]) -> Use:
    """The least of each that a quarter of them stay below: a merge has hundreds of files open, for a moment."""
    at = len(uses) // 4
    rss, fds, threads = (sorted(getattr(one, name) for one in uses)[at] for name in ("rss", "fds", "threads"))
    return Use(uses[-1].at, rss, fds, threads)


def check_books(soak: Soak, ledger: dict[str, Any], found: Stored) -> None:
    """Invariant I: from the ledger and from the store."""
    found.check()
    assert ledger["balanced"], [b for b in ledger["agents"] if not b["balanced"]]
    names = {f"run{n}" for n in range(LIVE)}
    assert names <= {b["agent"] for b in ledger["agents"]}
    for books in ledger["agents"]:
        fates = books["row"] + books["flow_only"] + sum(books["lost"].values()) + books["quarantined"]
        assert books["captured"] == fates, books
        assert books["pending"] == 0
        assert books["complete"], books
        assert found.rows.get((books["agent"], int(books["epoch"], 16)), 0) == books["row"], books
    total = sum(b["captured"] for b in ledger["agents"])
    lost = sum(sum(b["lost"].values()) for b in ledger["agents"])
    dropped = sum(b["kernel_dropped"] for b in ledger["agents"])
    print(f"{total} packets captured in {len(ledger['agents'])} runs, {lost} lost, {dropped} dropped by the kernel")


def check_use(uses: list[Use], before: list[Use], after: list[Use]) -> None:
    """What agents use is as before; what the hub uses is, where one life was long enough for chDB's pools to fill."""
    for one, other in zip(before, after, strict=True):
        assert other.fds <= one.fds + 2
        assert other.threads <= one.threads + 1
        assert other.rss <= one.rss * 1.5 + (16 << 20)
    if uses[-1].at - uses[0].at >= LONG:
        late = settled(uses)
        early = [one for one in uses if one not in late]
        assert usual(late).fds <= usual(early).fds * 1.2 + 16
        assert usual(late).threads <= usual(early).threads + 8
        assert slope(settled(uses)) <= GROWTH * uses[-1].rss
