#!/usr/bin/env python3
"""Many agents in few processes: the real link and outbox of each over a socket of its own, and recorded batches.

    bench/load.py --hub ws://127.0.0.1:8470 --agents 1000 --rate 350 --seconds 60 --capture .bench/bench.pcap

Each agent says hello, sends batches as its windows allow, is acknowledged, asks for echoes, pings and reports, all by
`agent.uplink`; what is not there is the capture (`bench.recording`) and the watchdog's threads. The agents are quiet
until SIGUSR1 and again from SIGUSR2 on (`--seconds`: at once, for so long); SIGTERM has them drain and leave. One JSON
line a quarter of a second says how they are; what each went through goes to `--out`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time_ns
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from procs import Process, until  # noqa: E402

from agent.uplink.link import LinkConfig, Uplink  # noqa: E402
from agent.uplink.machine import State  # noqa: E402
from agent.uplink.outbox import Outbox  # noqa: E402
from bench.recording import Segment, added, record  # noqa: E402
from protocol.delivery import Item  # noqa: E402
from protocol.ledger import Report  # noqa: E402
from protocol.logs import configure, logger  # noqa: E402
from protocol.messages import Tombstone  # noqa: E402
from protocol.ranges import Ranges  # noqa: E402

BOUND = 64 << 20
"""Bytes of an outbox, as agents have by default; beyond, packet rows are shed as they are there."""
STATES = 0.25
SPREAD = 10.0
"""Seconds over which agents begin to connect; all at once they would be let in as a herd is, later."""


class TimedOutbox(Outbox):
    """An outbox that knows how long after it was put each batch was acknowledged."""

    def __init__(self, bound: int) -> None:
        super().__init__(bound)
        self.waits = array("f")

    def ack(self, epoch: int, held: Ranges, window: tuple[int, int]) -> list[Item]:
        """See `Sender.ack`."""
        done = super().ack(epoch, held, window)
        now = monotonic()
        self.waits.extend(now - item.offered for item in done)
        return done


@dataclass
class Life:
    """One agent. Its segments are the recording's, begun at another place than its neighbours'."""

    name: str
    segments: list[Segment]
    number: int
    hub: str
    outbox: TimedOutbox = field(init=False)
    uplink: Uplink = field(init=False)
    report: Report = field(default_factory=Report)
    late: float = 0.0
    rows: int = 0
    seq: int = 0
    _epoch: int = field(default_factory=lambda: random.getrandbits(63) + 1)
    _cast: int = 0
    _begin: float = 0.0  # of the segment, by the loop's clock
    _before: Report = field(default_factory=Report)
    _next: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.outbox = TimedOutbox(BOUND)
        self.uplink = Uplink(
            LinkConfig((self.hub,), self.name, self.name, self._epoch), self.outbox, logger(program="load"),
            status=self._status, stop_capture=lambda: None, free=lambda: None,
        )  # fmt: skip
        self.outbox.on_put = self.uplink.notify

    def _status(self) -> dict[str, Any]:
        evidence = {"oldest_ns": int(self.outbox.oldest_age() * 1e9)}
        return {"level": "packets", "evidence": evidence, "ledger": self.report.to_map()}

    @property
    def _segment(self) -> Segment:
        return self.segments[self.number % len(self.segments)]

    def start(self) -> None:
        """Begin to send, at any moment of an agent's beat; where it was paused, from there on."""
        loop = asyncio.get_running_loop()
        at = self._segment.casts[self._cast].at if self._cast else 0.0
        self._begin = loop.time() - at + random.uniform(0.0, 1.0)
        self._plan()

    def pause(self) -> None:
        """Send nothing new."""
        if self._next is not None:
            self._next.cancel()

    def _plan(self) -> None:
        loop = asyncio.get_running_loop()
        self._next = loop.call_at(self._begin + self._segment.casts[self._cast].at, self._put)

    def _put(self) -> None:
        cast, now = self._segment.casts[self._cast], asyncio.get_running_loop().time()
        self.late = max(self.late, now - self._begin - cast.at)
        begin_ns = time_ns() - int((now - self._begin) * 1e9)
        self.seq += 1
        batch = cast.sent(self.name, self._epoch, self.seq, begin_ns, self._before)
        self.report = Report.from_map(batch.ledger)
        self.rows += batch.rows if batch.kind == "packets" else 0
        self.outbox.put(batch, wait=False)
        self._cast += 1
        if self._cast == len(self._segment.casts):
            self._before = added(self._before, self._segment.report)
            self._begin += self._segment.seconds
            self._cast, self.number = 0, self.number + 1
        self._plan()

    def finish(self) -> None:
        """Send the last report, and leave once all is acknowledged."""
        self.pause()
        ledger = self.report.to_map()
        self.outbox.put(Tombstone(self.name, self._epoch, self.seq + 1, "report", final=1, ledger=ledger), wait=False)
        self.outbox.finish()
        self.uplink.stop()

    def told(self) -> dict[str, Any]:
        """What it went through."""
        return {
            "name": self.name, "rows": self.rows, "batches": self.seq, "lost": self.outbox.lost,
            "left": self.outbox.batches, "drained": self.uplink.drained, "late": round(self.late, 3),
            "waits": [round(wait, 4) for wait in self.outbox.waits],
        }  # fmt: skip


async def live(lives: list[Life], seconds: float | None) -> None:
    """Run them until they have drained: told to by SIGTERM, or `seconds` after the last one streams."""
    loop = asyncio.get_running_loop()

    def every(do: Callable[[Life], None]) -> None:
        for life in lives:
            do(life)

    for number, do in ((signal.SIGUSR1, Life.start), (signal.SIGUSR2, Life.pause), (signal.SIGTERM, Life.finish)):
        loop.add_signal_handler(number, every, do)
    running = []
    spread = min(SPREAD, len(lives) / 50)
    for life in lives:
        running.append(asyncio.ensure_future(life.uplink.run()))
        await asyncio.sleep(spread / len(lives))
    while not all(task.done() for task in running):
        await asyncio.wait(running, timeout=STATES)
        states = [life.uplink.view.state for life in lives]
        streaming = states.count(State.STREAMING)
        if seconds is not None and streaming == len(lives):
            every(Life.start)
            loop.call_later(seconds, every, Life.finish)
            seconds = None
        owed, late = sum(life.outbox.batches for life in lives), max(life.late for life in lives)
        line = {"t": monotonic(), "streaming": streaming, "rows": sum(life.rows for life in lives), "owed": owed}
        print(json.dumps({**line, "batches": sum(life.seq for life in lives), "late": late}), flush=True)
    await asyncio.gather(*running)


class Load(Process):
    """The program above, started; `rate` in packet rows a second of each agent."""

    def __init__(
        self, folder: Path, hub: str, capture: Path, agents: int, rate: float, prefix: str = "load", *options: str
    ) -> None:  # fmt: skip
        self.agents = agents
        self.out = folder / f"{prefix}.json"
        given = {"--hub": hub, "--agents": agents, "--rate": rate, "--prefix": prefix, "--out": self.out}
        command = [sys.executable, __file__, "--capture", str(capture.resolve())]
        command += [str(word) for pair in given.items() for word in pair] + list(options)
        super().__init__(command, folder / f"{prefix}.log")

    def now(self, what: str) -> float:
        """`streaming`, `rows`, `batches`, `owed` (batches) or `late` (seconds), as it last said."""
        lines = [line for line in self.text[-4096:].splitlines() if line.startswith('{"t"') and line.endswith("}")]
        return float(json.loads(lines[-1])[what]) if lines else 0.0

    def all_streaming(self, timeout: float) -> None:
        """Wait until all agents stream. Fails after `timeout` seconds."""
        until(f"{self.agents} agents stream", lambda: self.now("streaming") == self.agents, timeout)

    def begin(self) -> None:
        """Have them send."""
        self.send(signal.SIGUSR1)

    def pause(self) -> None:
        """Have them send nothing new."""
        self.send(signal.SIGUSR2)

    def told(self, timeout: float = 120.0) -> list[dict[str, Any]]:
        """Have them leave; what each agent went through, once all have."""
        if self.popen.poll() is None:
            self.popen.terminate()
        if self.wait(timeout):
            raise RuntimeError(f"the load generator failed: {self.text[-2000:]}")
        return list(json.loads(self.out.read_text()))


def main() -> None:
    """Read the arguments, record, live."""
    parser = argparse.ArgumentParser(description="many agents with recorded batches")
    parser.add_argument("--hub", required=True)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--agents", type=int, default=10)
    parser.add_argument("--rate", type=float, default=350.0, help="packet rows a second of each agent")
    parser.add_argument("--frames", type=int, help="of the capture; default: all, or as many as a segment each needs")
    parser.add_argument("--age", type=float, default=0.5, help="seconds after which a batch is closed")
    parser.add_argument("--l7", choices=("off", "fast", "all"), default="fast")
    parser.add_argument("--seconds", type=float, help="send for so long and leave; default: wait for signals")
    parser.add_argument("--prefix", default="load", help="what the agents' names begin with")
    parser.add_argument("--first", type=int, default=0, help="number of the first agent")
    parser.add_argument("--out", type=Path, help="what each went through, JSON")
    given = parser.parse_args()
    configure("error", "json")
    segments = record(given.capture, given.rate, given.l7, given.frames, age_ns=int(given.age * 1e9))
    numbers = range(given.first, given.first + given.agents)
    lives = [Life(f"{given.prefix}-{n}", segments, n, given.hub) for n in numbers]
    asyncio.run(live(lives, given.seconds))
    if given.out:
        given.out.write_text(json.dumps([life.told() for life in lives]))


if __name__ == "__main__":
    main()
