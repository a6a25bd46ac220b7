"""Twenty agents, one hub, faults 1 to 8 at random: what a soak does to them, and what it looks at afterwards.

Everything runs in a network namespace of its own, two of the agents in a second one behind a veth pair that can be cut.
Ten agents capture datagrams on `lo`, ten read numbered captures again and again. The hub is started again whenever it
ends, as a supervisor would. Restarts of the hub are drawn in the first third only, so that one life of it is long
enough to see whether its memory grows.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from live.netns import Netns
from numbered import write_pcap
from procs import Agent, Hub, Process, free_port, until

STALL = 3.0
LIVE, REPLAYS, FAR = 10, 10, 2
TROUBLE = {"stalled", "lagging", "gone"}
SESSIONS = "nodetap_hub_sessions"
RECOVER = 90.0
"""Seconds within which all stream again after a fault has ended: the machine runs twenty-one Pythons at once."""
FRAMES, RATE = 3_000, 150
COMMON = ("--stall-timeout", str(STALL), "--echo-interval", "2", "--backoff-max", "2", "--buffer-bytes", str(8 << 20))


@dataclass(frozen=True, slots=True)
class Use:
    """What a process uses at one moment. Bytes, and counts."""

    at: float
    rss: int
    fds: int
    threads: int


def use(pid: int) -> Use:
    words = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    fds = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Use(time.monotonic(), int(words["RssAnon"].split()[0]) * 1024, fds, int(words["Threads"]))


def slope(uses: list[Use]) -> float:
    """Bytes an hour by which anonymous memory grows: the median of the slopes between all pairs (Theil-Sen)."""
    pairs = [(a, b) for n, a in enumerate(uses) for b in uses[n + 1 :] if b.at - a.at > 1.0]
    return median((b.rss - a.rss) / (b.at - a.at) for a, b in pairs) * 3600 if pairs else 0.0


class Soak:
    """The processes and what is done to them. Call inside the namespace `here`; `far` is the one that is cut off."""

    def __init__(self, folder: Path, here: Netns, far: Netns, seed: int) -> None:
        self.folder, self.here, self.far = folder, here, far
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self.uses: list[Use] = []  # of the hub's present life, each at a calm moment
        self.epochs = 0  # replays that ended, each with all of its packets stored
        self.flags = {name: folder / name for name in ("ingest_hang", "store_slow")}
        self.env = {"NODETAP_FAILPOINT": ",".join(f"{name}={path}" for name, path in self.flags.items())}
        port = free_port()
        self.hub = Hub(folder, "--agents", f"0.0.0.0:{port}", "--insecure", agents=port, env=self.env)
        self.hub.ready()
        self.capture = write_pcap(folder / "numbered.pcap", FRAMES, flows=50)
        self.ports = [free_port() for _ in range(LIVE)]
        self.live = [self._run(n) for n in range(LIVE)]
        self.replays = [self._replay(n) for n in range(REPLAYS)]
        self.faults: dict[str, Callable[[], Iterator[None]]] = {
            "hub stopped": self._hub_stopped,
            "ingest hangs": self._ingest_hangs,
            "half-open": self._half_open,
            "hub restarted": self._hub_restarted,
            "store is slow": self._store_slow,
            "loop blocked": self._loop_blocked,
            "capture hangs": self._capture_hangs,
        }

    def _run(self, number: int) -> Agent:
        name = f"run{number}"
        points = {point: self.folder / f"{name}.{point}" for point in ("capture_hang", "loop_block", "loop_gil")}
        far = number >= LIVE - FAR
        hub = f"ws://{self.here.address}:{self.hub.agents_port}" if far else self.hub.ws
        return Agent(
            self.folder, "run", "--hub", hub, "--interface", "lo", "--filter", f"udp port {self.ports[number]}",
            "--node", name, "--ring-bytes", str(2 << 20), "--insecure", *COMMON, name=name,
            env={"NODETAP_FAILPOINT": ",".join(f"{point}={path}" for point, path in points.items())},
            prefix=self.far.command() if far else (),
        )  # fmt: skip

    def _replay(self, number: int) -> Agent:
        return Agent(
            self.folder, "replay", str(self.capture), "--hub", self.hub.ws, "--speed", str(RATE), "--node",
            f"replay{number}", "--connect-timeout", "600", *COMMON, name=f"replay{number}",
        )  # fmt: skip

    # -- traffic and supervision -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def traffic(self, per_second: int = 200) -> Iterator[None]:
        """Datagrams for each live agent, each now and then silent, until the block ends."""
        halt, sockets = threading.Event(), []
        for number, port in enumerate(self.ports):
            with (self.far if number >= LIVE - FAR else self.here).entered():
                source, sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
            sink.bind(("127.0.0.1", port))
            sockets.append((source, sink, port))

        def work() -> None:
            turn = 0
            while not halt.wait(0.05):
                turn += 1
                for number, (source, _, port) in enumerate(sockets):
                    if (turn // 100 + number) % 4:  # five seconds of silence in twenty
                        for _ in range(per_second // 20):
                            source.sendto(b"x" * 200, ("127.0.0.1", port))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            halt.set()
            thread.join(10)
            for source, sink, _ in sockets:
                source.close()
                sink.close()

    def supervise(self) -> None:
        """Start again what ended: the hub whatever its code, a replay once it is done."""
        if self.hub.popen.poll() is not None:
            self.hub, self.uses = self.hub.again(env=self.env), []
        for number, agent in enumerate(self.replays):
            if (code := agent.popen.poll()) is not None:
                assert code == 0, agent.text[-2000:]
                self.epochs += 1
                self.replays[number] = self._replay(number)
        for agent in self.live:
            assert agent.popen.poll() is None, agent.text[-2000:]

    def ailing(self, seen: set[str]) -> dict[str, str]:
        """Who is not well, and why: every live agent streams, every replay did since this was asked first (`seen`),
        and none is in trouble."""
        self.supervise()
        try:
            now = {a["node"]: a for a in self.hub.agents().values() if a["state"] == "streaming"}
            sessions = self.hub.metric(SESSIONS)
        except OSError as error:
            return {"hub": str(error)}
        seen |= now.keys()
        ill = {n: f"{a['verdict']}: {a['evidence']}" for n, a in now.items() if a["verdict"] in TROUBLE}
        ill |= dict.fromkeys({f"run{n}" for n in range(LIVE)} - now.keys(), "does not stream")
        ill |= dict.fromkeys({f"replay{n}" for n in range(REPLAYS)} - seen, "did not stream")
        return ill | ({} if sessions >= LIVE else {"hub": f"{sessions} sessions"})

    def calm(self, timeout: float = RECOVER) -> None:
        """Wait until all is well, then look at what the hub uses."""
        seen: set[str] = set()
        ill: dict[str, str] = {}

        def well() -> bool:
            nonlocal ill
            ill = self.ailing(seen)
            return not ill

        try:
            until("all is well", well, timeout, 0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}: {ill}") from None
        self.uses.append(use(self.hub.popen.pid))

    # -- faults: begin, and at `next` end ----------------------------------------------------------------------------

    def _hub_stopped(self) -> Iterator[None]:
        self.hub.send(signal.SIGSTOP)
        yield
        self.hub.send(signal.SIGCONT)

    def _ingest_hangs(self) -> Iterator[None]:
        yield from self._flag(self.flags["ingest_hang"], "")

    def _store_slow(self) -> Iterator[None]:
        yield from self._flag(self.flags["store_slow"], "500")

    def _flag(self, path: Path, text: str) -> Iterator[None]:
        path.write_text(text)
        yield
        path.unlink(missing_ok=True)

    def _half_open(self) -> Iterator[None]:
        routes = [(self.here, self.far), (self.far, self.here)]
        for netns, other in routes:
            netns.run("ip", "route", "add", "blackhole", f"{other.address}/32")
        yield
        for netns, other in routes:
            netns.run("ip", "route", "del", "blackhole", f"{other.address}/32")

    def _hub_restarted(self) -> Iterator[None]:
        self.hub.send(self.rng.choice((signal.SIGTERM, signal.SIGKILL)))
        self.hub.wait(60)
        self.supervise()
        yield

    def _loop_blocked(self) -> Iterator[None]:
        for number in self.rng.sample(range(LIVE), 3):
            told = self.folder / "told"
            told.write_text(str(self.rng.randint(2, 6)))
            told.rename(self.folder / f"run{number}.{self.rng.choice(('loop_block', 'loop_gil'))}")
        yield

    def _capture_hangs(self) -> Iterator[None]:
        chosen = [self.folder / f"run{number}.capture_hang" for number in self.rng.sample(range(LIVE), 3)]
        for path in chosen:
            path.touch()
        yield
        for path in chosen:
            path.unlink()

    # -- the whole -------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Faults, one or two at a time, each until all is well again."""
        began = time.monotonic()
        self.calm(120)
        while (passed := time.monotonic() - began) < seconds:
            names = [n for n in self.faults if n != "hub restarted" or passed < seconds / 3]
            chosen = self.rng.sample(names, self.rng.choice((1, 1, 2)))
            if "hub restarted" in chosen:
                chosen = ["hub restarted"]
            print(f"{passed:7.1f} s  {' + '.join(chosen):40}", end=" ", flush=True)
            going = [self.faults[name]() for name in chosen]
            for fault in going:
                next(fault)
            self._pass(self.rng.uniform(2.0, 9.0))
            for fault in going:
                next(fault, None)
            self.done.update(chosen)
            over = time.monotonic()
            self.calm()
            self.recoveries.append(time.monotonic() - over)
            self._pass(self.rng.uniform(1.0, 4.0))
            print(f"well again after {self.recoveries[-1]:5.1f} s", flush=True)

    def _pass(self, seconds: float) -> None:
        """The fault lasts, or nothing does: time that is part of the experiment."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.supervise()
            time.sleep(0.2)

    def leave(self) -> dict[str, Any]:
        """Every agent stops in good order, then the hub: the last ledger."""
        for agent in self.replays:  # the last ones may just have been started
            until("it hears signals", lambda agent=agent: self.hears(agent), RECOVER)  # type: ignore[misc]
        for agent in (*self.live, *self.replays):
            agent.send(signal.SIGTERM)
        for agent in (*self.live, *self.replays):
            assert agent.wait(60) == 0, agent.text[-2000:]
        ledger = self.hub.ledger()
        assert self.hub.stop() == 0
        return ledger

    def hears(self, agent: Agent) -> bool:
        """Whether it has started so far that a signal tells it to leave; or has ended."""
        return agent.popen.poll() is not None or agent.metric("nodetap_agent_captured_packets_total") >= 0

    def end(self) -> None:
        """Nothing of it is left running."""
        self.hub.send(signal.SIGCONT)
        for process in self.processes():
            process.kill()

    def processes(self) -> list[Process]:
        return [*self.live, *self.replays, self.hub]
