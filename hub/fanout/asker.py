"""The asking: questions out, answers in, on the hub's loop. No tasks of its own: a timer for each question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from time import monotonic, time_ns
from typing import Any, Protocol

from hub.fanout.plan import Habits, Missing, late, plan
from protocol.messages import Answer, Ask

MOST_UNSENT = 32
"""Messages that may wait for an agent's socket when it is asked: one that does not read is not sent more."""
MOST_BYTES = 64 << 10
"""Size of an answer. Ours have three thousand bytes; all agents may answer at once."""
MOST_AT_ONCE = 16
"""People who may wait for answers at once: nobody tells us of one who went away."""


class TooMany(Exception):
    """As many questions are asked as may be at once."""


class Line(Protocol):
    """What is needed of an agent's connection."""

    agent: str
    answers: list[str]

    @property
    def unsent(self) -> int:
        """Messages that wait for its socket."""

    def post(self, message: Ask) -> None:
        """Queue a message to the agent."""


class Register(Protocol):
    """What is needed of the register of agents."""

    def agents(self, now_ns: int) -> list[dict[str, Any]]:
        """Every agent."""

    def live(self, name: str) -> Any:
        """Its present connection."""

    def silent_for(self, name: str, now_ns: int) -> float:
        """Seconds since anything came from it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One agent's answer, and after how many seconds it came."""

    body: dict[str, Any]
    seconds: float


class Gathering:
    """The outcomes of one question to several agents."""

    def __init__(self, asked: list[str], missing: list[Missing]) -> None:
        self.parts: dict[str, Part] = {}
        self.missing = missing
        self._done = asyncio.get_running_loop().create_future()
        self._waiting = set(asked)

    async def wait(self) -> None:
        """Until each of those asked has a part or is missing; then both are in the order of the names."""
        if self._waiting:
            await self._done
        self.parts = dict(sorted(self.parts.items()))
        self.missing.sort(key=lambda missing: missing.agent)

    def enter(self, agent: str, outcome: Part | Missing) -> None:
        """What became of the question to one agent."""
        if isinstance(outcome, Part):
            self.parts[agent] = outcome
        else:
            self.missing.append(outcome)
        self._waiting.discard(agent)
        if not self._waiting and not self._done.done():  # whoever waited may have been cancelled a moment ago
            self._done.set_result(None)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A question as it was sent. Others are given `full` seconds, this agent `within`."""

    id: int
    line: Line
    within: float
    full: float
    at: float = field(default_factory=monotonic)


@dataclass(frozen=True, slots=True)
class _Question:
    """A question that somebody waits for."""

    sent: _Sent
    gathering: Gathering
    timer: asyncio.TimerHandle


class Asker:
    """Asks all agents of a register at once. `now_ns` is the clock of the register's times; `habits` may be shared."""

    def __init__(self, register: Register, now_ns: Callable[[], int] = time_ns, habits: Habits | None = None) -> None:
        self._register, self._now_ns = register, now_ns
        self._habits = habits or Habits()
        self._ids = count(1)
        self._open: dict[int, _Question] = {}
        self._overdue: dict[str, _Sent] = {}  # by agent, the last one that it was late for
        self._asking = 0

    async def ask(self, about: str, within: float) -> Gathering:
        """Ask all; what came back, once every agent has answered or its deadline, at most `within` seconds, is over.

        Raises TooMany.
        """
        if self._asking >= MOST_AT_ONCE:
            raise TooMany
        agents = self._register.agents(self._now_ns())
        self._forget({agent["agent"] for agent in agents})
        lines = {agent["agent"]: line for agent in agents if (line := self._register.live(agent["agent"])) is not None}
        asked, missing = plan(agents, {name: line.answers for name, line in lines.items()}, about)
        gathering = Gathering(asked, missing)
        self._asking += 1
        try:
            for name in asked:
                self._put(lines[name], about, within, gathering)
            await gathering.wait()
        finally:  # also where whoever asked is gone
            self._asking -= 1
            for question in self._of(lambda question: question.gathering is gathering):
                self._close(question)
        return gathering

    def answered(self, line: Line, answer: Answer, size: int) -> None:
        """From a connection, in a message of `size` bytes. What comes too late is dropped, but for what it says of the
        agent's habits."""
        question, overdue = self._open.get(answer.id), self._overdue.get(line.agent)
        sent = question.sent if question is not None else overdue
        if sent is None or sent.id != answer.id or sent.line is not line:
            return
        seconds = monotonic() - sent.at
        if seconds <= sent.full and not answer.refused:
            self._habits.answered(line.agent)
        if sent is overdue:
            del self._overdue[line.agent]
        if question is not None:
            if answer.refused:  # as good as late: it is still at an earlier question, or cannot answer
                self._habits.missed(line.agent)
            self._close(question)
            question.gathering.enter(line.agent, _outcome(line.agent, answer, size, seconds))

    def left(self, line: Line) -> None:
        """A connection ended: nobody waits for it any longer."""
        for question in self._of(lambda question: question.sent.line is line):
            self._close(question)
            question.gathering.enter(
                line.agent, Missing(line.agent, "connection_lost", "its connection ended while it was asked")
            )
        if (overdue := self._overdue.get(line.agent)) is not None and overdue.line is line:
            del self._overdue[line.agent]

    # -- inside ----------------------------------------------------------------------------------------------------

    def _put(self, line: Line, about: str, full: float, gathering: Gathering) -> None:
        sent = _Sent(next(self._ids), line, self._habits.within(line.agent, full), full)
        timer = asyncio.get_running_loop().call_later(sent.within, self._late, sent.id)
        self._open[sent.id] = _Question(sent, gathering, timer)
        if line.unsent < MOST_UNSENT:
            line.post(Ask(sent.id, about, sent.within))

    def _late(self, number: int) -> None:
        question = self._open[number]
        agent, within = question.sent.line.agent, question.sent.within
        self._habits.missed(agent)
        self._overdue[agent] = question.sent
        self._close(question)
        question.gathering.enter(agent, late(agent, within, self._register.silent_for(agent, self._now_ns())))

    def _close(self, question: _Question) -> None:
        """Nobody waits for it from now on."""
        question.timer.cancel()
        del self._open[question.sent.id]

    def _of(self, which: Callable[[_Question], bool]) -> list[_Question]:
        return [question for question in self._open.values() if which(question)]

    def _forget(self, names: set[str]) -> None:
        """Keep nothing of agents that the register does not list any more."""
        self._habits.keep(names)
        for name in self._overdue.keys() - names:
            del self._overdue[name]


def _outcome(agent: str, answer: Answer, size: int, seconds: float) -> Part | Missing:
    """What an answer that came in time is worth."""
    if answer.refused:
        return Missing(agent, "refused", f"{answer.refused}: {answer.detail}")
    if size > MOST_BYTES:
        return Missing(agent, "refused", f"too_large: its answer has {size:,} bytes, {MOST_BYTES:,} are taken")
    return Part(answer.body, round(seconds, 3))
