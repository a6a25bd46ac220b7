"""Runs programs in turn on one core: what disturbs the machine disturbs all of them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Entrant:
    """A program that reads `frames` frames of `capture`. `missing` says why it cannot be run."""

    name: str
    command: Sequence[str | Path] = ()
    frames: int = 0
    capture: Path = Path(os.devnull)
    env: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass
class Result:
    """`seconds` of each run, from start to exit; `problem` where there is no figure."""

    entrant: Entrant
    seconds: list[float] = field(default_factory=list)
    problem: str = ""

    @property
    def rate(self) -> float:
        """Frames per second, the median of all runs; 0 where there is no figure."""
        return 0.0 if self.problem else self.entrant.frames / statistics.median(self.seconds)

    @property
    def words(self) -> str:
        """The rate, or why there is none."""
        return self.problem or f"{self.rate:,.0f}"


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without what would change the programs' defaults."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith("NODETAP_")}, **(extra or {})}


def race(entrants: Sequence[Entrant], rounds: int, core: int) -> list[Result]:
    """Each of the entrants once, then each again: `rounds` times, every time a fresh process. One that fails once is
    out of the race."""
    results = [Result(entrant, problem=entrant.missing) for entrant in entrants]
    for number in range(rounds):
        for result in results:
            if not result.problem:
                _run(result, core)
                words = result.problem or f"{result.seconds[-1]:.2f} s"
                print(f"round {number + 1} of {rounds}: {result.entrant.name}: {words}", file=sys.stderr)
    return results


def into_page_cache(path: Path) -> None:
    """Read a file once: what is measured is the program, not a disk, nor what the kernel kept since the last round."""
    with path.open("rb", buffering=0) as file:
        chunk = bytearray(1 << 20)
        while file.readinto(chunk):
            pass


def _run(result: Result, core: int) -> None:
    entrant = result.entrant
    into_page_cache(entrant.capture)
    begin = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in entrant.command],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=clean_environment(entrant.env),
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # its children inherit it
    )
    result.seconds.append(time.perf_counter() - begin)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        result.problem = f"failed with {done.returncode}: {said[-1] if said else 'no word'}"
