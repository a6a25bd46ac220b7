"""The register of agents: who is connected, what of each run is stored, what the books say.

Belongs to the hub's loop: only the loop's thread calls it. It is built from the store at start, so that a restart of
the hub forgets nothing that was ever acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

from hub.ingest.run import Run
from hub.ingest.turned import TurnedAway
from hub.ingest.verdict import Known, judge
from hub.store.books import Entry, Key, Line, Past, StoredEpoch
from protocol.delivery import Receiver
from protocol.filter.times import rfc3339_ms, rfc3339_ns
from protocol.ledger import is_count
from protocol.messages import Hello, Positions, Status

EXPIRE_NS = 24 * 3600 * 10**9
"""How long an agent that left or is gone stays in the list."""
MAX_REPLAYS = 200
"""Replays that are over and stay in the list, the newest: each has a name of its own, and may take but a second."""

MAX_BLANK = 64
"""Runs of an agent that are remembered although they brought nothing: the ledger is not complete by them. An agent that
starts again and again must not fill the hub with them."""
MAX_STRANGERS = 4_096
"""Names that are remembered although nothing was ever stored under them and they are not connected: the newest."""


class Live(Protocol):
    """What the register needs of a connection."""

    number: int
    connection: str
    answers: list[str]


@dataclass(slots=True)
class Agent:
    """One agent by name: its runs, its present connection, what it last said."""

    name: str
    node: str
    runs: dict[int, Run] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)  # the newest of the runs, by epoch
    live: Live | None = None
    epoch: int = 0
    session: int = 0
    software: str = ""
    source: str = "live"
    seen_ns: int = 0
    since_ns: int = 0
    reconnects: int = 0
    status: Status | None = None  # of its present connection
    captured: int = 0
    captured_ns: int = 0
    level: str = ""  # as it said last
    level_since_ns: int = 0
    taken_back_ns: int = 0  # when a run came back to a name that another run had meanwhile

    def run(self, epoch: int) -> Run:
        """The run of that epoch, made where it is new; of those that brought nothing only the newest stay."""
        if epoch not in self.runs:
            self.runs[epoch] = Run(StoredEpoch(self.name, epoch, self.node, self.source))
            self.new.append(epoch)
            while len(self.new) > MAX_BLANK:
                old = self.new.pop(0)
                if old not in (epoch, self.epoch) and self.runs[old].receiver.blank:
                    del self.runs[old]
        return self.runs[epoch]

    @property
    def blank(self) -> bool:
        """Whether nothing of it is stored or queued."""
        return all(run.receiver.blank for run in self.runs.values())

    def shift(self, step_ns: int) -> None:
        """The hub's clock was set by so much."""
        if self.live is not None:
            self.seen_ns += step_ns
            self.since_ns += step_ns
            self.captured_ns += step_ns
            self.level_since_ns += step_ns if self.level_since_ns else 0
            self.taken_back_ns += step_ns if self.taken_back_ns else 0

    def unreported(self, run: Run) -> bool:
        """Whether a run ended without saying its last word: what it captured last is unknown."""
        return not run.stored.final and not (self.live is not None and run.stored.epoch == self.epoch)


def _goes_on(told: Mapping[str, Any] | None, run: Run) -> bool:
    """Whether a run is one that another hub says is connected to it."""
    return told is not None and told.get("epoch") == f"{run.stored.epoch:016x}"


STEP_NS = 500_000_000
"""A wall clock that moved by more than this against the steady one was set."""


class Register:
    """All agents this hub knows. With `steady_ns`, a clock that nobody sets, ages survive a wall clock that is set."""

    def __init__(
        self,
        stored: Iterable[StoredEpoch] = (),
        steady_ns: Callable[[], int] | None = None,
        past: Past | None = None,
    ) -> None:
        self._agents: dict[str, Agent] = {}
        self._strangers: deque[str] = deque()  # names that were new when they joined, the newest last
        self._steady_ns = steady_ns
        self._between: int | None = None  # the wall clock minus the steady one, when last looked at
        self.past = past or Past()
        """Runs whose rows have expired."""
        self._sessions = self.past.session
        self._committed = asyncio.Condition()
        self.commit = 0
        self.elsewhere: dict[str, dict[str, Any]] = {}
        """Agents that are connected to another hub over the same store, as it describes them; by name."""
        self.turned_away = TurnedAway()
        self.dropped: Mapping[Key, int] = {}
        """Packet rows of each run that retention dropped, as the store says."""
        for epoch in stored:
            self._load(epoch)

    def _load(self, stored: StoredEpoch) -> None:
        agent = self._agents.setdefault(stored.agent, Agent(stored.agent, stored.node, source=stored.source))
        agent.runs[stored.epoch] = Run(deepcopy(stored))  # the store goes on counting in its own
        if stored.last_stored >= agent.seen_ns:
            agent.seen_ns, agent.epoch, agent.node = stored.last_stored, stored.epoch, stored.node
        self._sessions = max(self._sessions, stored.session)

    def fold(self, before_ns: int) -> None:
        """Leave of runs to which nothing was added since then, and that are not connected, only the sums."""
        for agent in list(self._agents.values()):
            for epoch, run in list(agent.runs.items()):
                present = agent.live is not None and epoch == agent.epoch
                if not present and run.receiver.idle and 0 < run.stored.last_stored < before_ns:
                    self.past.add(agent.runs.pop(epoch).stored)
            agent.new = [epoch for epoch in agent.new if epoch in agent.runs]
            if not agent.runs and agent.live is None:
                del self._agents[agent.name]

    def folded(self, agent: str, epochs: Iterable[int]) -> list[int]:
        """Those of an agent's runs that were left out."""
        return [epoch for epoch in epochs if self.past.has((agent, epoch)) and not self._knows(agent, epoch)]

    def _knows(self, agent: str, epoch: int) -> bool:
        return agent in self._agents and epoch in self._agents[agent].runs

    def recall(self, stored: Iterable[StoredEpoch]) -> None:
        """Runs that were left out are of interest again."""
        for run in stored:
            if not self._knows(run.agent, run.epoch):
                self.past.remove(run)
                self._load(run)

    def _heed_clock(self, now_ns: int) -> None:
        """Where the wall clock was set, move what was noted of connections by as much: nobody was silent for it."""
        if self._steady_ns is None:
            return
        between = now_ns - self._steady_ns()
        step = 0 if self._between is None else between - self._between
        if abs(step) > STEP_NS:
            for agent in self._agents.values():
                agent.shift(step)
        if self._between is None or abs(step) > STEP_NS:
            self._between = between

    # -- connections -----------------------------------------------------------------------------------------------

    def join(self, hello: Hello, live: Live, now_ns: int) -> Live | None:
        """A connection said hello. Gives it its session number; returns the older one of that name, if any."""
        self._heed_clock(now_ns)
        self._sessions += 1
        live.number = self._sessions
        if hello.agent not in self._agents:
            self._agents[hello.agent] = Agent(hello.agent, hello.node)
            self._strangers.append(hello.agent)
            self._forget_strangers()
        agent = self._agents[hello.agent]
        older, agent.live = agent.live, live
        if older is not None and hello.epoch != agent.epoch and hello.epoch in agent.runs:
            agent.taken_back_ns = now_ns
        agent.node, agent.epoch, agent.source = hello.node, hello.epoch, hello.source
        agent.session, agent.software = live.number, hello.software
        agent.seen_ns = agent.since_ns = agent.captured_ns = now_ns
        agent.reconnects += older is not None or hello.epoch in agent.runs
        agent.status, agent.level = None, ""
        agent.run(hello.epoch)
        return older

    def _forget_strangers(self) -> None:
        """Called when there is one more: two looks make room for it."""
        for _ in range(min(2, len(self._strangers) - MAX_STRANGERS)):
            name = self._strangers.popleft()
            agent = self._agents.get(name)
            if agent is not None and agent.blank:
                if agent.live is None:
                    del self._agents[name]
                else:
                    self._strangers.append(name)

    def positions(self, name: str, epochs: Iterable[int]) -> Positions:
        """What is held of each of these epochs, as a welcome carries it."""
        runs = self._agents[name].runs
        return {epoch: list(runs[epoch].receiver.position()) if epoch in runs else [0, []] for epoch in epochs}

    def seen(self, name: str, now_ns: int) -> None:
        """Something came from this agent."""
        self._heed_clock(now_ns)
        self._agents[name].seen_ns = now_ns

    def status(self, name: str, status: Status, now_ns: int) -> None:
        """The agent said how it is."""
        agent = self._agents[name]
        if agent.live is None:
            return  # it was a connection that another one took the name from
        if agent.level != status.level:
            agent.level, agent.level_since_ns = status.level, now_ns
        agent.status = status
        said = status.ledger.get("captured")
        captured = said if is_count(said) else 0
        if captured != agent.captured:
            agent.captured, agent.captured_ns = captured, now_ns

    def leave(self, name: str, live: Live, now_ns: int, *, heard: bool = True) -> None:
        """A connection ended, by word or sign of the agent where it was `heard`. Those that were superseded do not
        matter any more."""
        self._heed_clock(now_ns)
        agent = self._agents.get(name)
        if agent is not None and agent.live is live:
            agent.live = agent.status = None
            agent.seen_ns = now_ns if heard else agent.seen_ns

    def live(self, name: str) -> Live | None:
        """The present connection of an agent."""
        agent = self._agents.get(name)
        return agent.live if agent else None

    def silent_for(self, name: str, now_ns: int) -> float:
        """Seconds since anything came from an agent."""
        self._heed_clock(now_ns)
        agent, told = self._agents.get(name), self.elsewhere.get(name)
        if told is None or (agent is not None and agent.live is not None):
            return (now_ns - self._agents[name].seen_ns) / 1e9
        return (now_ns - rfc3339_ns(str(told.get("last_seen")))) / 1e9

    @property
    def sessions(self) -> list[Live]:
        """All present connections."""
        return [agent.live for agent in self._agents.values() if agent.live is not None]

    # -- batches ---------------------------------------------------------------------------------------------------

    def receiver(self, name: str, epoch: int) -> Receiver:
        """What is held and queued of one run."""
        return self._agents[name].run(epoch).receiver

    def committed(self, entries: Iterable[Entry], commit: int, now_ns: int) -> None:
        """These are durable."""
        for entry in entries:
            agent = self._agents.setdefault(entry.message.agent, Agent(entry.message.agent, entry.node))
            agent.run(entry.message.epoch).add(entry, commit, now_ns)
        self.commit = max(self.commit, commit)

    def learn(self, lines: Iterable[Line], commit: int) -> None:
        """Other hubs over the same store stored these; up to that commit everything may be shown."""
        for line in lines:
            agent = self._agents.setdefault(line.agent, Agent(line.agent, line.node, source=line.source))
            agent.run(line.epoch).learn(line)
            if agent.live is None and line.stored_at >= agent.seen_ns:
                agent.seen_ns, agent.epoch, agent.node = line.stored_at, line.epoch, line.node or agent.node
        self.commit = max(self.commit, commit)

    async def announce(self) -> None:
        """Wake those who wait for a commit."""
        async with self._committed:
            self._committed.notify_all()

    async def wait_commit(self, after: int, timeout: float) -> int:
        """The newest commit, as soon as it is beyond `after`, or after `timeout` seconds whatever it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._committed:
                await self._committed.wait_for(lambda: self.commit > after)
        return self.commit

    # -- what people ask -------------------------------------------------------------------------------------------

    def forget(self, name: str) -> bool:
        """Take an agent that is not connected off the list. Its rows and books stay."""
        agent = self._agents.get(name)
        if agent is None or agent.live is not None:
            return False
        agent.seen_ns = 0
        return True

    def agents(self, now_ns: int) -> list[dict[str, Any]]:
        """Each agent that has not expired, as `nodetap agents -o json` prints it."""
        self._heed_clock(now_ns)
        here = {agent.name: _describe(agent, now_ns) for agent in self._listed(now_ns) if self._told(agent) is None}
        there = {name: _public(told) for name, told in self.elsewhere.items() if name not in here}
        return [described for _, described in sorted((here | there).items())]

    def _listed(self, now_ns: int) -> list[Agent]:
        here = [agent for agent in self._agents.values() if agent.live is not None]
        away = [a for a in self._agents.values() if a.live is None and now_ns - a.seen_ns < EXPIRE_NS]
        over = sorted((agent for agent in away if agent.source == "replay"), key=lambda agent: agent.seen_ns)
        return [*here, *(agent for agent in away if agent.source != "replay"), *over[-MAX_REPLAYS:]]

    def connected(self, now_ns: int) -> list[dict[str, Any]]:
        """Each agent that is connected here, likewise, and what it may be asked: for the other hubs."""
        self._heed_clock(now_ns)
        return [
            {**_describe(agent, now_ns), "answers": list(agent.live.answers)}
            for agent in self._agents.values()
            if agent.live is not None
        ]

    def _told(self, agent: Agent) -> dict[str, Any] | None:
        """What another hub says of an agent that is not connected here, if one does."""
        return self.elsewhere.get(agent.name) if agent.live is None else None

    def ledger(self) -> dict[str, Any]:
        """The books of every run."""
        books = [run.told(self._rows(run), unreported) for run, unreported in self._runs()]
        books.sort(key=lambda b: (b["agent"], b["first_stored"] or "", b["epoch"]))
        return {
            "balanced": all(b["balanced"] for b in books) and not self.past.unbalanced,
            "complete": all(b["complete"] for b in books) and not self.past.incomplete,
            "agents": books,
            **({"past": self.past.to_map()} if self.past.keys else {}),
        }

    def tally(self) -> tuple[int, int]:
        """Runs whose books do not balance, and runs that are not complete, the old ones included."""
        unbalanced, incomplete = self.past.unbalanced, self.past.incomplete
        for run, unreported in self._runs():
            unbalanced += not run.balances(self._rows(run))
            incomplete += unreported or not run.stored.whole
        return unbalanced, incomplete

    def unreported(self) -> list[dict[str, Any]]:
        """Runs that ended without their last word, as the ledger names them."""
        return [run.name(unreported) for run, unreported in self._runs() if unreported]

    def _runs(self) -> Iterator[tuple[Run, bool]]:
        """Every run, and whether it ended without its last word."""
        for agent in self._agents.values():
            for run in agent.runs.values():
                yield run, agent.unreported(run) and not _goes_on(self._told(agent), run)

    def _rows(self, run: Run) -> int:
        """Packet rows of a run that are there."""
        return run.stored.held.rows - self.dropped.get((run.stored.agent, run.stored.epoch), 0)


def _public(told: Mapping[str, Any]) -> dict[str, Any]:
    """What another hub says of an agent, without what is for hubs alone."""
    return {name: value for name, value in told.items() if name != "answers"}


def _describe(agent: Agent, now_ns: int) -> dict[str, Any]:
    status = agent.status
    run = agent.run(agent.epoch)
    captured = run.stored.known.captured
    verdict, evidence = judge(_known(agent, run, now_ns))
    return {
        "agent": agent.name,
        "node": agent.node,
        "epoch": f"{agent.epoch:016x}",
        "session": agent.session,
        "connection": agent.live.connection if agent.live else None,
        "source": agent.source,
        "state": status.state if status else ("streaming" if agent.live else "stopped"),
        "verdict": verdict,
        "evidence": evidence,
        "last_seen": rfc3339_ms(agent.seen_ns),
        "since": rfc3339_ms(agent.since_ns) if agent.since_ns else None,
        "level": agent.level or "packets",
        "captured": max(agent.captured, captured) if agent.live else captured,
        "stored_rows": run.stored.held.rows,
        "outbox_bytes": status.outbox_bytes if status else 0,
        "reconnects": agent.reconnects,
        "software": agent.software,
        **_link(agent),
    }


LINK = ("round_trip", "jitter", "pings", "pongs", "echoes", "echo_replies", "clock_offset")
"""Numbers that an agent tells of its link, and the hub passes on (`agent.uplink.quality`)."""
MOST = 10**15
"""No number of a link is as large."""
MOST_REASONS = 16
"""Reasons for which an agent's links ended that are shown; agents count a dozen apart."""


def _numbers(told: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The numbers among what an agent, of any version and intent, says under these names."""
    found = ((name, told.get(name)) for name in names)
    return {name: number for name, number in found if isinstance(number, int | float) and abs(number) < MOST}


def _link(agent: Agent) -> dict[str, Any]:
    link = agent.status.link if agent.status else {}
    lag = agent.status.evidence.get("oldest_ns", 0) if agent.status else 0
    age = round(lag / 1e9, 3) if isinstance(lag, int) else 0.0
    since = rfc3339_ms(agent.level_since_ns) if agent.level_since_ns else None
    told = {"level_since": since, "oldest_unacknowledged": age, **_numbers(link, LINK)}
    ended = link.get("ended")
    return {**told, "ended": _numbers(ended, list(ended)[:MOST_REASONS])} if isinstance(ended, dict) else told


def _known(agent: Agent, run: Run, now_ns: int) -> Known:
    status = agent.status
    lag_ns = status.evidence.get("oldest_ns", 0) if status else 0
    return Known(
        connected=agent.live is not None,
        finished=run.stored.final,
        silent_for=(now_ns - agent.seen_ns) / 1e9,
        state=status.state if status else "streaming",
        level="packets" if status is None or _as_wanted(status) else status.level,
        lag=lag_ns / 1e9 if isinstance(lag_ns, int | float) else 0.0,
        packets_age=(now_ns - agent.captured_ns) / 1e9 if agent.captured_ns else 0.0,
        contested=(now_ns - agent.taken_back_ns) / 1e9 if agent.taken_back_ns else None,
        stall=str(status.evidence.get("stall", ""))[:20] if status else "",
        restarts=restarts if status and isinstance(restarts := status.evidence.get("capture_restarts"), int) else 0,
    )


def _as_wanted(status: Status) -> bool:
    """Whether an agent tells of flows alone because it was configured so, and not under pressure."""
    return status.evidence.get("detail") == status.level
