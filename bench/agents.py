"""One hub and many agents: what a hub needs while they stream, while they are still, and what it says of each.

The same rows a second come from 10, 100 and 1,000 agents (`bench.load`), so that what an agent costs and what a row
costs can be told apart: `model` does, and extends it to more.
"""

from __future__ import annotations

import itertools
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from procs import Hub, ending, until

from agent.seal import age_of
from bench.load import Load
from bench.recording import SEGMENT
from bench.usage import cpu_of, memory_of, threads_of, until_quiet
from hub.ingest.budget import Budget
from hub.store.store import Store

COUNTS = (10, 100, 1_000)
ROWS = 105_000.0
"""Packet rows a second of all agents together: 70 % of what a hub takes from 1,000 that share two cores with it."""
VICTIMS = {"frozen": "stalled", "killed": "gone", "left": "left"}
"""What is done to some of the agents, and what the hub shall say of them."""
SEGMENTS, FRAMES = 32, 250_000
"""Different segments that agents send, and frames of the capture that are enough for the small groups."""


@dataclass(frozen=True)
class Run:
    """One hub with so many agents. CPU in seconds, `idle` as a share of a core, latencies in seconds."""

    agents: int
    asked: float
    rows: int
    batches: int
    seconds: float
    idle: float
    cpu: float
    with_merges: float
    threads: dict[str, float]
    rss: int
    rss_peak: int
    p50: float
    p99: float
    late: float
    bytes: float
    all_bytes: float
    verdicts_right: int
    balanced: bool


class Bench:
    """A hub, its agents, and three small groups of them to which something happens."""

    def __init__(self, folder: Path, capture: Path, agents: int, rows: float) -> None:
        self.hub = Hub(folder).ready()
        self.agents = agents
        few, rate = max(1, agents // 100), rows / agents
        counts = {"load": agents - len(VICTIMS) * few, **dict.fromkeys(VICTIMS, few)}
        firsts = itertools.accumulate(counts.values(), initial=0)
        frames, age = int(rate * SEGMENT * SEGMENTS), age_of(_window(agents)) / 1e9
        self.loads = {}
        for (name, count), first in zip(counts.items(), firsts, strict=False):
            some = frames if name == "load" else min(FRAMES, frames)
            options = ("--first", str(first), "--age", str(age), "--frames", str(some))
            self.loads[name] = Load(folder, self.hub.ws, capture, count, rate, name, *options)

    @property
    def pid(self) -> int:
        """The hub's."""
        return self.hub.popen.pid

    def owed(self) -> float:
        """Batches that are not acknowledged."""
        return self.told("owed")

    def told(self, what: str) -> float:
        """`rows` or `batches` sent so far, or batches `owed`."""
        return sum(load.now(what) for load in self.loads.values())

    def harm(self) -> int:
        """Freeze, kill and end some; of how many agents the hub says the right thing within half a minute."""
        self.loads["frozen"].send(signal.SIGSTOP)
        self.loads["killed"].popen.kill()
        self.loads["left"].popen.terminate()
        right = 0
        for _ in range(60):
            time.sleep(0.5)
            said = {name: told["verdict"] for name, told in self.hub.agents().items()}
            right = sum(VICTIMS.get(name.rpartition("-")[0], "healthy") == verdict for name, verdict in said.items())
            if right == self.agents:
                break
        self.loads["frozen"].send(signal.SIGCONT)
        return right


def _window(agents: int) -> int:
    """Batches that a hub grants each of so many agents that all send."""
    budget = Budget()
    budget.sessions = budget.active = agents
    return budget.window()[0]


@contextmanager
def bench(folder: Path, capture: Path, agents: int, rows: float) -> Iterator[Bench]:
    """All of them, gone afterwards."""
    made = Bench(folder, capture, agents, rows)
    with ending(made.hub, *made.loads.values()):
        for load in made.loads.values():
            load.all_streaming(300)
        yield made


def run(capture: Path, agents: int, rows: float, seconds: float, idle: float) -> Run:
    """One hub with so many agents that together send `rows` a second for some seconds."""
    with tempfile.TemporaryDirectory(prefix="nodetap-bench-") as name:
        folder = Path(name)
        with bench(folder, capture, agents, rows) as made:
            still = _idle(made.pid, idle)
            load = _loaded(made, seconds, still)
            for each in made.loads.values():
                each.begin()
            right = made.harm()
            told = {name: each.told() for name, each in made.loads.items() if name != "killed"}
            ledger = made.hub.ledger()
            made.hub.stop(120)
        sizes = _sizes(folder / "store")
    waits = np.sort(np.concatenate([np.array(agent["waits"], "f4") for agent in told["load"]]))
    return Run(
        agents=agents, asked=rows, idle=still, **load, p50=float(waits[len(waits) // 2]),
        p99=float(waits[len(waits) * 99 // 100]), late=max(agent["late"] for agent in told["load"]),
        bytes=sizes[0], all_bytes=sizes[1], verdicts_right=right, balanced=ledger["balanced"],
    )  # fmt: skip


def _idle(pid: int, seconds: float) -> float:
    """Share of a core that a process takes."""
    time.sleep(min(seconds, 5.0))  # hellos are not idleness
    begin, before = time.monotonic(), cpu_of(pid)
    time.sleep(seconds)
    return (cpu_of(pid) - before) / (time.monotonic() - begin)


def _loaded(made: Bench, seconds: float, idle: float) -> dict[str, Any]:
    """Have all send for some seconds, and wait until everything is stored and merged. What they cost while they are
    still (`idle`, a share of a core) counts until all is acknowledged."""
    pid = made.pid
    before, threads, begin = cpu_of(pid), threads_of(pid), time.monotonic()
    for load in made.loads.values():
        load.begin()
    rss = []
    while time.monotonic() < begin + seconds:
        time.sleep(0.5)
        rss.append(memory_of(pid))
    for load in made.loads.values():
        load.pause()
    time.sleep(1.0)
    until("all is acknowledged", lambda: made.owed() == 0, 600)
    took, cpu = time.monotonic() - begin, cpu_of(pid) - before
    whole = until_quiet(lambda: cpu_of(pid), idle) - before
    spent = threads_of(pid) - threads
    return {
        "rows": int(made.told("rows")), "batches": int(made.told("batches")), "seconds": took, "cpu": cpu,
        "with_merges": whole, "threads": {name: round(value, 2) for name, value in spent.items()},
        "rss": int(np.median(rss)), "rss_peak": memory_of(pid, "VmHWM"),
    }  # fmt: skip


def _sizes(path: Path) -> tuple[float, float]:
    """Bytes on disk a packet row: of the packets alone, and of everything."""
    store = Store(f"chdb://{path}")
    store.open(time.time_ns())
    tables = store.statistics()
    store.close()
    rows = tables["packets"]["rows"]
    return tables["packets"]["bytes"] / rows, sum(table["bytes"] for table in tables.values()) / rows


def bench_agents(capture: Path, quick: bool) -> list[dict[str, Any]]:
    """A run for each number of agents; quick: two small ones."""
    plans = [(7, 4_000.0, 4.0, 3.0), (14, 4_000.0, 4.0, 3.0)] if quick else [(n, ROWS, 60.0, 60.0) for n in COUNTS]
    return [asdict(run(capture, *plan)) for plan in plans]


# -- the model -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """CPU of a hub in seconds: of an agent in a second, of a batch, of a packet row with the flows and calls it has."""

    agent: float
    batch: float
    row: float

    def cores(self, agents: float, rows: float, batches: float) -> float:
        """Cores that a hub needs for so many agents, rows and batches a second."""
        return self.agent * agents + self.batch * batches + self.row * rows


def fitted(runs: Sequence[dict[str, Any]]) -> Model:
    """The model that is nearest to some runs: an idle agent from the largest, batches and rows by least squares."""
    largest = max(runs, key=lambda r: r["agents"])
    agent = largest["idle"] / largest["agents"]
    weights = np.array([[r["batches"], r["rows"]] for r in runs], float)
    spent = np.array([r["with_merges"] - agent * r["agents"] * r["seconds"] for r in runs])
    (batch, row), *_ = np.linalg.lstsq(weights / spent[:, None], np.ones(len(runs)), rcond=None)
    if min(batch, row) < 0:  # too much noise to tell them apart
        batch, row = 0.0, np.mean(spent / weights[:, 1])
    return Model(agent, float(batch), float(row))


def agents_table(runs: Sequence[dict[str, Any]]) -> str:
    """The runs and the model as Markdown."""
    head = ["", *(f"{r['agents']:,} agents" for r in runs), "target"]
    model = fitted(runs)

    def cpu(r: dict[str, Any]) -> float:
        return float(r["with_merges"] / r["rows"] * 1e6)

    def predicted(r: dict[str, Any]) -> float:
        spent = model.cores(r["agents"] * r["seconds"], r["rows"], r["batches"])
        return spent / r["rows"] * 1e6

    lines = [
        ("packet rows a second asked for", lambda r: f"{r['asked']:,.0f}", ""),
        ("sent", lambda r: f"{r['rows'] / r['seconds']:,.0f}", ""),
        ("batches a second", lambda r: f"{r['batches'] / r['seconds']:,.0f}", ""),
        ("hub CPU, s per million rows", lambda r: f"{r['cpu'] / r['rows'] * 1e6:.2f}", ""),
        ("the same until merges are done", lambda r: f"{cpu(r):.2f}", "≤ 2.0"),
        ("the same by the model", lambda r: f"{predicted(r):.2f}", ""),
        ("acknowledged, p50 / p99, s", lambda r: f"{r['p50']:.2f} / {r['p99']:.2f}", "p99 < 3"),
        ("generator late by at most, s", lambda r: f"{r['late']:.2f}", ""),
        ("hub RSS, median / peak, MB", lambda r: f"{r['rss'] / 1e6:.0f} / {r['rss_peak'] / 1e6:.0f}", "< 1,000"),
        ("idle, share of a core", lambda r: f"{r['idle']:.1%}", "< 10 %"),
        ("bytes a packet row / with all tables", lambda r: f"{r['bytes']:.1f} / {r['all_bytes']:.1f}", "≤ 22"),
        ("verdicts right", lambda r: f"{r['verdicts_right']:,}", "all"),
        ("ledger", lambda r: "balanced" if r["balanced"] else "not balanced", "balanced"),
    ]
    rows = [head, ["---", *("---:" for _ in runs), "---"]]
    rows += [[name, *(show(r) for r in runs), target] for name, show, target in lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{model_text(model, runs)}"


def model_text(model: Model, runs: Sequence[dict[str, Any]]) -> str:
    """The model in words, and what it says of ten thousand nodes."""
    largest = max(runs, key=lambda r: r["agents"])
    many, scale = 10_000, 10_000 / largest["agents"]
    idle = model.cores(many, 0, 0)
    rows, batches = (largest[name] / largest["seconds"] * scale for name in ("rows", "batches"))
    cores = model.cores(many, rows, batches)
    each = largest["agents"]
    return (
        f"The model: an agent {model.agent * 1e6:,.0f} µs a second, a batch {model.batch * 1e6:,.0f} µs, a packet row "
        f"with its flows and calls {model.row * 1e6:.2f} µs. For {many:,} nodes that send as each of {each:,} did, "
        f"{rows:,.0f} rows a second together, {cores:.1f} cores; idle, {idle:.1f}."
    )
