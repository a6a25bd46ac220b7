"""One live capture: parts asked for as they come, put in order as far as a short wait does, and handed out at once.

Agents come, go and come back while it runs. Where one was not there the next frame of it bears a mark, and whoever
reads the answer is told once a second who is missing now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from time import monotonic_ns as _ns
from typing import Any, TypeVar

from hub.fanout.plan import SILENT, Missing, late
from hub.pcap.fetcher import Fetcher, Line, LineLost
from hub.pcap.gather import LARGEST, ROOM, SMALLEST, Thread
from hub.pcap.merge import Disorder, Gap, Merge
from hub.pcap.reorder import Reorder
from protocol.errors import WrongMessage
from protocol.messages import Fetch, Fetched
from protocol.parts import Part, unpack

T = TypeVar("T")

TICK = 0.1
"""Seconds between two looks at what may go out."""
LOOK = 0.5
"""Seconds between two looks at who is there."""
SETTLE = 1.0
"""Seconds that frames wait at the begin for agents that have not answered yet."""
BEAT = 1.0
"""Seconds between two words on how it goes."""
AGAIN = 1.0
"""Seconds until an agent that did not answer, or could not, is asked again."""
LULL = 0.1
"""Seconds after which an agent says that it has nothing; with more than 25 agents more, so that the hub keeps up."""
AWAY = "agent_away"
SOON = 256 << 10
"""Bytes that are dealt with in the loop: in less time than it takes to hand them to a thread and back."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: `deadline` seconds for each part, `seconds` for all, None without an end."""

    filter: str
    deadline: float
    seconds: float | None


@dataclass(slots=True)
class _Seat:
    """One agent as it takes part: over which connection, under which number, and what is wrong with it."""

    line: Line
    id: int
    part: int = 0
    reached: int | None = None
    trouble: Missing | None = None
    again: float = 0.0


@dataclass(slots=True)
class Live:
    """One capture.

    `look` says whom to ask now and who is missing; `silent` how many seconds ago an agent said anything.
    `begun` is when it began (ns since 1970), `progress` makes the block that says how it goes.
    """

    fetcher: Fetcher
    wish: Wish
    merge: Merge
    look: Callable[[], tuple[Mapping[str, Line], list[Missing]]]
    silent: Callable[[str], float]
    thread: Thread
    begun: int
    progress: Callable[[], bytes] = bytes
    reached: int | None = None
    """All frames before this time went out, ns since 1970, as far as clocks are right; None before there are any."""
    absent: list[Missing] = field(default_factory=list)
    _seats: dict[str, _Seat] = field(default_factory=dict)
    _away: dict[str, int] = field(default_factory=dict)  # since when frames of these are missing
    _flying: dict[asyncio.Task[Fetched], tuple[str, int]] = field(default_factory=dict)
    _order: Reorder = field(default_factory=lambda: Reorder(0))
    _settle: float = field(default_factory=lambda: monotonic() + SETTLE)  # until then frames wait for who is new
    _looked: float = 0.0
    _said: tuple[float, Any] = (0.0, None)  # when a word was said last, and of what

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The file with words on how it goes, but for what is said behind it. Closing it ends the capture."""
        stop = None if self.wish.seconds is None else monotonic() + self.wish.seconds
        try:
            self._enlist(monotonic())
            yield self.merge.begin()
            while not self.merge.cut and not self._over(now := monotonic(), stop):
                if now >= self._looked + LOOK:
                    self._enlist(now)
                if data := await self._ripe(now):
                    yield data
                if word := self._word(now):
                    yield word
                if self.merge.cut:
                    break
                self._ask()
                await self._hear(TICK if stop is None else min(TICK, max(0.0, stop - now)))
            yield await self._done(self.merge.held, self._rest)
        finally:
            await self._close()

    @property
    def missing(self) -> list[Missing]:
        """Who does not take part now, and why."""
        troubled = [seat.trouble for seat in self._seats.values() if seat.trouble is not None]
        return sorted([*self.absent, *troubled], key=lambda each: each.agent)

    @property
    def agents(self) -> list[str]:
        """Who takes part now."""
        return sorted(name for name, seat in self._seats.items() if seat.trouble is None and seat.reached is not None)

    @property
    def waiting(self) -> list[str]:
        """Who was asked and has not said anything yet."""
        return sorted(name for name, seat in self._seats.items() if seat.trouble is None and seat.reached is None)

    # -- inside: what goes out -------------------------------------------------------------------------------------

    async def _ripe(self, now: float) -> bytes:
        """The frames that may go out now."""
        if self.waiting and now < self._settle:
            return b""
        self._settle = now
        self.reached, overdue = self._order.release(_ns())
        return await self._done(self.merge.held, partial(self.merge.release, self.reached, overdue))

    def _word(self, now: float) -> bytes:
        """How it goes, where that has changed or is due."""
        state = self.agents, self.waiting, self.missing
        if now < self._said[0] + BEAT and state == self._said[1]:
            return b""
        self._said = now, state
        return self.progress()

    # -- inside: who takes part ------------------------------------------------------------------------------------

    def _enlist(self, now: float) -> None:
        """Take up who is new or back, let go who left."""
        self._looked = now
        lines, self.absent = self.look()
        for name in [name for name in self._seats if name not in lines]:
            self._leave(name)
        for each in self.absent:
            self._away.setdefault(each.agent, self.begun)
        for name, line in lines.items():
            seat = self._seats.get(name)
            if seat is None or seat.line is not line or (seat.trouble and now >= seat.again and self._stirs(name)):
                if seat is not None:
                    self._away.setdefault(name, seat.reached or self.begun)
                self._seats[name] = _Seat(line, self.fetcher.number())
                self.merge.join(name)
        lull = max(LULL, len(self._seats) / 250)
        self._order.window = int(1e9 * (1 + 2 * lull))

    def _stirs(self, name: str) -> bool:
        return self.silent(name) <= SILENT

    def _leave(self, name: str) -> None:
        seat = self._seats.pop(name)
        self._order.gone(name)
        self._away.setdefault(name, seat.reached or self.begun)
        self.fetcher.end(seat.line, seat.id, live=1)

    def _fail(self, name: str, reason: str, detail: str, again: float = AGAIN) -> None:
        """Nothing comes of an agent for now."""
        seat = self._seats[name]
        seat.trouble, seat.again = Missing(name, reason, detail), monotonic() + again
        self._away.setdefault(name, seat.reached or self.begun)
        self._order.gone(name)
        self.fetcher.end(seat.line, seat.id, live=1)

    # -- inside: what they are asked, and what comes ---------------------------------------------------------------

    def _over(self, now: float, stop: float | None) -> bool:
        return self.fetcher.stopped or (stop is not None and now >= stop)

    def _ask(self) -> None:
        if self.merge.held > ROOM:
            return
        flying = {name for name, _ in self._flying.values()}
        size = max(SMALLEST, min(LARGEST, ROOM // (4 * max(1, len(self._seats)))))
        lull = int(1000 * max(LULL, len(self._seats) / 250))
        for name, seat in self._seats.items():
            if seat.trouble is None and name not in flying:
                seat.part += 1
                fetch = Fetch(
                    seat.id, seat.part, self.wish.filter, size=size, within=self.wish.deadline, live=min(lull, 5000)
                )
                asking = self.fetcher.fetch(seat.line, fetch, self.wish.deadline)
                self._flying[asyncio.ensure_future(asking)] = name, seat.id

    async def _done(self, size: int, work: Callable[[], T]) -> T:
        """What comes of work on so many bytes."""
        return work() if size <= SOON else await self.thread(work)

    async def _hear(self, seconds: float) -> None:
        """Enter what came within that time."""
        if not self._flying:
            await asyncio.sleep(seconds)
            return
        done, _ = await asyncio.wait(self._flying, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            name, number = self._flying.pop(task)
            seat = self._seats.get(name)
            if self.fetcher.stopped:
                task.exception()  # the hub itself ends the connections
            elif seat is not None and seat.id == number and seat.trouble is None:
                await self._enter(name, seat, task)
            elif not task.cancelled():
                task.exception()  # looked at: it is of a connection that is over

    async def _enter(self, name: str, seat: _Seat, task: asyncio.Task[Fetched]) -> None:
        """What became of a fetch."""
        try:
            fetched = task.result()
            if fetched.refused:
                final = fetched.refused == "bad_filter"
                self._fail(name, "refused", f"{fetched.refused}: {fetched.detail}", float("inf") if final else AGAIN)
                return
            part: Part = await self._done(len(fetched.body), partial(unpack, fetched))
            self._back(name, fetched)
            self.merge.add(name, fetched, part)
        except TimeoutError:
            missing = late(name, self.wish.deadline, self.silent(name))
            self._fail(name, missing.reason, missing.detail)
        except LineLost as error:
            if why := str(error):  # its hub may pass on the next
                self._fail(name, "hub_silent", why, AGAIN)
            else:
                self._fail(name, "connection_lost", "its connection ended", float("inf"))
        except (WrongMessage, Disorder) as error:
            self._fail(name, "wrong_answer", f"{type(error).__name__}: {error}", float("inf"))
        else:
            seat.reached = fetched.reached
            newest = int(part.time[-1]) if len(part) else None
            self._order.heard(name, fetched.reached, newest, _ns())

    def _back(self, name: str, fetched: Fetched) -> None:
        """An agent answers: what it captured before this is missing where it had been asked already."""
        since = self._away.pop(name, None)
        if since is not None:
            self.merge.miss(Gap(name, min(since, fetched.kept), fetched.kept, None, AWAY))

    # -- inside: the end -------------------------------------------------------------------------------------------

    def _rest(self) -> bytes:
        """All that is held, and the end of the file."""
        rest = self.merge.release(None)
        if not self.merge.cut:
            self.merge.cut = "hub_stopped" if self.fetcher.stopped else "seconds"
        for each in self.missing:
            self.merge.join(each.agent)
            self.merge.remark(each.agent, f"agent {each.agent} is missing: {each.detail}")
        return rest + self.merge.end()

    async def _close(self) -> None:
        for seat in self._seats.values():  # first: what waits may be cancelled
            if seat.part and seat.trouble is None:
                self.fetcher.end(seat.line, seat.id, live=1)
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)
