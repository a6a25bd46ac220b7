"""Many agents' links in one process: the real `Uplink` and `Outbox` of each over real sockets, batches from a mould.

As a program (`python herd.py JSON`) it runs the agents until SIGTERM, lets them drain, and writes what each went
through to a file; one line a quarter of a second says how many stream. `Herd` starts it for a test. Times are
`time.monotonic()`, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from procs import ROOT, Process, until

from agent.uplink.link import LinkConfig, Uplink
from agent.uplink.machine import Event, State
from agent.uplink.outbox import Outbox
from agent.watchdog import LOOP_LATE, TICK, Limits, Signs, judge
from hub.store.store import Store
from protocol.codec import pack_body
from protocol.columns import empty, text_of
from protocol.delivery import Item
from protocol.logs import configure, logger
from protocol.messages import Batch, Tombstone
from protocol.ranges import Ranges
from protocol.schema import TABLES


@dataclass(frozen=True)
class Plan:
    """What a herd does. `interval` seconds between an agent's batches, 0 for as fast as its outbox takes them;
    `batches` of each agent, 0 for as many as come until SIGTERM; `text` bytes of noise in each row."""

    hub: str
    out: str
    agents: int
    prefix: str = "herd"
    rows: int = 20
    text: int = 20
    interval: float = 2.0
    batches: int = 0
    bound: int = 1 << 20
    stall_timeout: float = 10.0
    backoff_max: float = 30.0
    drain_timeout: float = 60.0


def mould(rows: int, text: int) -> Batch:
    """The batch that all are cast from: numbered packets whose info does not compress."""
    noise = np.random.default_rng(7)
    columns = {c.name: empty(c, rows) for c in TABLES["packets"].columns}
    columns["frame_number"] = np.arange(1, rows + 1, dtype="<u8")
    columns["time"] = np.arange(rows, dtype="<i8") + 1_700_000_000 * 10**9
    columns["src_port"] = noise.integers(0, 65536, rows).astype("<u2")
    columns["info"] = text_of(["".join(map(chr, noise.integers(33, 127, text))) for _ in range(rows)])
    body, size, zstd = pack_body("packets", columns)
    return Batch("mould", 1, 1, "packets", rows, rows, 0, 0, 1, size, zstd, body)


class TimedOutbox(Outbox):
    """An outbox that writes down when each batch was acknowledged and how long after it was put."""

    def __init__(self, bound: int) -> None:
        super().__init__(bound)
        self.acks: list[tuple[float, float]] = []

    def ack(self, epoch: int, held: Ranges, window: tuple[int, int]) -> list[Item]:
        done = super().ack(epoch, held, window)
        now = monotonic()
        self.acks += [(round(now, 4), round(now - item.offered, 4)) for item in done]
        return done


@dataclass
class Life:
    """One agent: its link, its batches, what it went through."""

    plan: Plan
    name: str
    epoch: int
    mould: Batch
    outbox: TimedOutbox = field(init=False)
    uplink: Uplink = field(init=False)
    connects: list[float] = field(default_factory=list)
    streams: list[float] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    shed: int = 0
    seq: int = 0
    halt: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        plan = self.plan
        self.outbox = TimedOutbox(plan.bound)
        config = LinkConfig(
            (plan.hub,), self.name, self.name, self.epoch,
            stall_timeout=plan.stall_timeout, backoff_max=plan.backoff_max, drain_timeout=plan.drain_timeout,
        )  # fmt: skip
        self.uplink = Uplink(
            config, self.outbox, logger(program="herd"), status=lambda: {"ledger": self.ledger()},
            stop_capture=lambda: None, free=lambda: None, on_transition=self._moved,
        )  # fmt: skip
        self.outbox.on_put = self.uplink.notify

    def ledger(self) -> dict[str, int]:
        rows = self.seq * self.plan.rows
        return {"captured": rows, "rows": rows}

    def _moved(self, old: State, event: Event, new: State) -> None:
        if new is State.CONNECTING:
            self.connects.append(monotonic())
        if new is State.STREAMING:
            self.streams.append(monotonic())

    async def run(self) -> None:
        feeding = asyncio.ensure_future(self._feed())
        watching = asyncio.ensure_future(self._watch())
        await self.uplink.run()
        watching.cancel()
        await feeding

    async def _feed(self) -> None:
        plan = self.plan
        await self._pause(random.uniform(0, plan.interval))  # agents do not beat in time
        while not self.halt.is_set() and (self.seq < plan.batches or not plan.batches):
            full = self.outbox.bytes + len(self.mould.body) > plan.bound
            if not full:
                self._put()
            await self._pause(plan.interval or (0.01 if full else 0.0))
        self.seq += 1  # the number is the report's
        ledger = {name: count - plan.rows for name, count in self.ledger().items()}
        self.outbox.put(Tombstone(self.name, self.epoch, self.seq, "report", final=1, ledger=ledger), wait=False)
        self.seq -= 1
        self.outbox.finish()
        self.uplink.stop()

    def _put(self) -> None:
        self.seq += 1
        batch = replace(self.mould, agent=self.name, epoch=self.epoch, seq=self.seq, ledger=self.ledger())
        self.outbox.put(batch, wait=False)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.halt.wait()
        except TimeoutError:
            pass

    async def _watch(self) -> None:
        """The agent's own judge, without its thread; a loop that was late blames nobody, and gives everybody time."""
        grace = 0.0
        while True:
            asleep = monotonic()
            await asyncio.sleep(TICK)
            if (late := monotonic() - asleep - TICK) > LOOP_LATE:
                grace = monotonic() + min(late, self.plan.stall_timeout) + TICK
            verdict = judge(self._signs())
            if verdict is not None and monotonic() > grace:
                self.stalls.append(monotonic())
                self.uplink.stalled(self.uplink.view.connection, verdict.detector, verdict.evidence)

    def _signs(self) -> Signs:
        view, now, least, quality = self.uplink.view, monotonic(), self.plan.stall_timeout, self.uplink.quality
        streaming = view.state in (State.STREAMING, State.DRAINING)
        return Signs(
            streaming=streaming,
            limits=Limits(
                quality.progress.patience(least), quality.echo.patience(least), quality.ping.patience(least), 1e9
            ),
            loop_age=0.0,
            waiting=self.outbox.waiting(),
            echo_age=now - view.echo_sent if view.echo_sent else 0.0,
            pong_age=now - view.pong if streaming and view.pong else 0.0,
            capture_age=0.0,
            outstanding=self.outbox.outstanding,
            oldest_age=self.outbox.oldest_age(),
            acked_age=now - view.acked,
        )

    def told(self) -> dict[str, Any]:
        return {
            "name": self.name, "captured": self.seq * self.plan.rows, "lost": self.outbox.lost,
            "left": self.outbox.batches, "drained": self.uplink.drained, "connects": self.connects,
            "streams": self.streams, "stalls": self.stalls, "acks": self.outbox.acks,
        }  # fmt: skip


async def _live(plan: Plan) -> None:
    cast = mould(plan.rows, plan.text)
    lives = [Life(plan, f"{plan.prefix}-{n}", random.getrandbits(63) + 1, cast) for n in range(plan.agents)]

    def halt() -> None:
        for life in lives:
            life.halt.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, halt)
    running = [asyncio.ensure_future(life.run()) for life in lives]
    while not all(task.done() for task in running):
        await asyncio.wait(running, timeout=0.25)
        states = [life.uplink.view.state for life in lives]
        line = {"t": monotonic(), "streaming": states.count(State.STREAMING), "stopped": states.count(State.STOPPED)}
        print(json.dumps(line), flush=True)
    await asyncio.gather(*running)
    Path(plan.out).write_text(json.dumps([life.told() for life in lives]))


class Herd(Process):
    """The program above, started."""

    def __init__(self, folder: Path, hub: str, agents: int, prefix: str = "herd", **plan: Any) -> None:
        self.agents = agents
        self.out = folder / f"{prefix}.json"
        whole = {"hub": hub, "out": str(self.out), "agents": agents, "prefix": prefix, **plan}
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        super().__init__([sys.executable, __file__, json.dumps(whole)], folder / f"{prefix}.log", paths)

    def _said(self, what: str) -> int:
        lines = [line for line in self.text.splitlines() if line.startswith('{"t"') and line.endswith("}")]
        return int(json.loads(lines[-1])[what]) if lines else 0

    @property
    def streaming(self) -> int:
        """How many stream now, as it last said."""
        return self._said("streaming")

    @property
    def stopped(self) -> int:
        """How many have got rid of everything and are done."""
        return self._said("stopped")

    def all_streaming(self, timeout: float = 60.0) -> None:
        until(f"{self.agents} agents stream", lambda: self.streaming == self.agents, timeout)

    def told(self, timeout: float = 90.0) -> list[dict[str, Any]]:
        """What each agent went through, once the program has ended well."""
        assert self.wait(timeout) == 0, self.text[-2000:]
        return list(json.loads(self.out.read_text()))


def memory(process: Process, what: str = "VmHWM") -> int:
    """Bytes of memory of a process, now (VmRSS) or at most so far (VmHWM)."""
    lines = Path(f"/proc/{process.popen.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


BUSY = 0.05
"""Where 1 % of short sleeps in a process that does little else end so late, the machine is overrun by others: what is
late then says nothing about nodetap."""


class Lateness:
    """How late this process comes back from short sleeps, in a `with` block: what the machine itself costs a loop."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._halt.is_set():
            asleep = monotonic()
            sleep(0.05)
            self._late.append(max(0.0, monotonic() - asleep - 0.05))

    def __enter__(self) -> Lateness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._halt.set()
        self._thread.join()

    @property
    def p99(self) -> float:
        """Seconds."""
        return sorted(self._late)[len(self._late) * 99 // 100]

    @property
    def overrun(self) -> bool:
        """Whether times measured meanwhile say nothing."""
        return self.p99 > BUSY

    def __str__(self) -> str:
        return f"sleeps on this machine p99 {self.p99 * 1000:.0f} ms late"


def check_invariant(folder: Path, ledger: dict[str, Any], told: list[dict[str, Any]]) -> None:
    """Invariant I: by the hub's books and by the rows in its store (the hub is down), against what the agents say."""
    books = {b["agent"]: b for b in ledger["agents"]}
    assert ledger["balanced"], [b for b in ledger["agents"] if not b["balanced"]]
    for agent in told:
        book = books[agent["name"]]
        assert agent["drained"], agent["name"]
        assert book["captured"] == agent["captured"], agent["name"]
        assert book["row"] + sum(book["lost"].values()) + book["quarantined"] == agent["captured"]
        assert (book["pending"], book["lost"]) == (0, agent["lost"])
    store = Store(f"chdb://{folder / 'store'}")
    store.open(1)
    try:
        with store.reader() as reader:
            torn = reader.rows(
                "SELECT b.agent, b.seq, b.rows, p.n FROM "
                "(SELECT agent, epoch, seq, rows FROM batches WHERE kind = 'packets' AND reason = '') AS b FULL JOIN "
                "(SELECT agent, epoch, seq, count() AS n FROM packets GROUP BY agent, epoch, seq) AS p "
                "ON b.agent = p.agent AND b.epoch = p.epoch AND b.seq = p.seq WHERE b.rows != p.n", {}, timeout=60,
            )  # fmt: skip
            twice = reader.rows(
                "SELECT agent, epoch, seq FROM batches GROUP BY agent, epoch, seq HAVING count() > 1", {}, timeout=60
            )
            rows = dict(reader.rows("SELECT agent, count() FROM packets GROUP BY agent", {}, timeout=60))
    finally:
        store.close()
    assert not torn
    assert not twice
    for agent in told:
        assert rows.get(agent["name"], 0) == books[agent["name"]]["row"], agent["name"]


if __name__ == "__main__":
    configure("error", "json")
    asyncio.run(_live(Plan(**json.loads(sys.argv[1]))))
