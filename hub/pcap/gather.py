"""One answer: parts asked for as there is room, merged, and handed out, with who is missing and why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeAlias, TypeVar

from hub.fanout.plan import SILENT, Missing, late
from hub.pcap.fetcher import Fetcher, Line, LineLost
from hub.pcap.merge import Disorder, Merge
from hub.query.window import format_ns
from protocol.errors import WrongMessage
from protocol.messages import Fetch, Fetched
from protocol.parts import unpack

T = TypeVar("T")
Thread: TypeAlias = "Callable[[Callable[[], Any]], Awaitable[Any]]"

SMALLEST, LARGEST = 64 << 10, 1 << 20
"""Bytes of a part."""
ROOM = 64 << 20
"""Bytes that wait in one answer, in parts of all agents together."""
EASY = 1.0
"""Seconds that a part may take without being counted against its agent."""
AGAIN = 0.1
"""Seconds until an agent that is busy is asked again."""


def lost(agent: str, why: str) -> Missing:
    """Whose connection ended, or whose hub did not pass the question on."""
    if why:
        return Missing(agent, "hub_silent", why)
    return Missing(agent, "connection_lost", "its connection ended while it was asked")


class TooSlow(Exception):
    """An agent has held up the others for as long as it may."""


class Refused(Exception):
    """An agent says why it does not answer."""


@dataclass(slots=True)
class _Asked:
    """One agent that takes part."""

    line: Line
    id: int
    size: int
    deadline: float
    part: int = 0
    slow: float = 0.0  # seconds that its parts took longer than is easy
    last: bool = False
    kept: int = 0
    overwritten: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for. `deadline` seconds for each part of each agent, `seconds` for all."""

    filter: str
    since: int
    until: int
    deadline: float
    seconds: float


@dataclass(slots=True)
class Gather:
    """One answer. `silent` says how many seconds ago an agent said anything; `thread` runs what takes long."""

    fetcher: Fetcher
    lines: dict[str, Line]
    question: Question
    merge: Merge
    silent: Callable[[str], float]
    thread: Thread
    missing: list[Missing] = field(default_factory=list)
    _asked: dict[str, _Asked] = field(default_factory=dict)
    _flying: dict[asyncio.Task[Fetched], str] = field(default_factory=dict)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The file, but for what is said behind it. Closing it ends the questions."""
        most = max(SMALLEST, min(LARGEST, ROOM // (4 * max(1, len(self.lines)))))
        self._asked = {name: self._begin(name, line, most) for name, line in self.lines.items()}
        stop = monotonic() + self.question.seconds
        try:
            while True:
                self._ask(most)
                if data := await self.thread(self.merge.take):
                    yield data
                if self.merge.done:
                    break
                if monotonic() > stop:
                    self.merge.cut = "seconds"
                    break
                await asyncio.wait(self._flying, timeout=stop - monotonic(), return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in self._flying if task.done()]:
                    await self._enter(self._flying.pop(task), task)
            yield await self.thread(self.merge.end)
        finally:
            await self._close()

    @property
    def reach(self) -> dict[str, tuple[int, int]]:
        """By agent the time of the oldest frame it has, and of the newest that it had to remove; 0 for none."""
        return {name: (asked.kept, asked.overwritten) for name, asked in self._asked.items()}

    # -- inside ----------------------------------------------------------------------------------------------------

    def _begin(self, name: str, line: Line, size: int) -> _Asked:
        """Who is silent and often gave no answer has less time for its first part, but not less than is easy."""
        full = self.question.deadline
        learned = max(min(EASY, full), self.fetcher.habits.within(name, full))
        return _Asked(line, self.fetcher.number(), size, learned if self.silent(name) > SILENT else full)

    def _ask(self, most: int) -> None:
        flying = set(self._flying.values())
        for name in self.merge.hungry(2 * most):
            if name not in flying:
                self._flying[asyncio.ensure_future(self._part(name, most))] = name

    async def _part(self, name: str, most: int) -> Fetched:
        """The next part of an agent."""
        asked, question = self._asked[name], self.question
        asked.part += 1
        started, deadline = monotonic(), asked.deadline if asked.part == 1 else question.deadline
        while True:
            fetch = Fetch(
                asked.id, asked.part, question.filter, question.since, question.until,
                size=asked.size, within=max(0.001, started + deadline - monotonic()),
            )  # fmt: skip
            fetched = await self.fetcher.fetch(asked.line, fetch, question.deadline)
            if fetched.refused != "busy":
                break
            if monotonic() - started + AGAIN > deadline:
                raise Refused(f"{fetched.refused}: {fetched.detail}")
            await asyncio.sleep(AGAIN)
        if fetched.refused:
            raise Refused(f"{fetched.refused}: {fetched.detail}")
        took = monotonic() - started
        asked.size = min(most, asked.size * 2) if took < EASY / 4 else max(SMALLEST, asked.size // 2)
        asked.slow += max(0.0, took - EASY)
        if asked.slow > question.deadline and len(self._asked) > 1:
            raise TooSlow
        return fetched

    async def _enter(self, name: str, task: asyncio.Task[Fetched]) -> None:
        """What became of a fetch."""
        asked = self._asked[name]
        try:
            fetched = task.result()
            asked.kept, asked.overwritten = fetched.kept, fetched.overwritten
            await self.thread(lambda: self.merge.add(name, fetched, unpack(fetched)))
            asked.last = bool(fetched.last)
        except TimeoutError:
            within = asked.deadline if asked.part == 1 else self.question.deadline
            self._give_up(late(name, within, self.silent(name)))
        except LineLost as error:
            self._give_up(lost(name, str(error)))
        except TooSlow:
            self._give_up(Missing(name, "too_slow", f"it held up the others for {asked.slow:.1f} s in all"))
        except Refused as error:
            self._give_up(Missing(name, "refused", str(error)))
        except (WrongMessage, Disorder) as error:
            self._give_up(Missing(name, "wrong_answer", f"{type(error).__name__}: {error}"))

    def _give_up(self, missing: Missing) -> None:
        reached = self.merge.reached(missing.agent)
        if reached is not None:
            missing = Missing(
                missing.agent, missing.reason, f"{missing.detail}; its frames are here up to {format_ns(reached)}"
            )
        self.missing.append(missing)
        self.merge.give_up(missing.agent, f"agent {missing.agent} is missing: {missing.detail}")
        asked = self._asked[missing.agent]
        asked.last = True
        self.fetcher.end(asked.line, asked.id)

    async def _close(self) -> None:
        for asked in self._asked.values():  # first: what waits may be cancelled
            if asked.part and not asked.last:
                self.fetcher.end(asked.line, asked.id)
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)
