"""Asking for parts: slow, busy, silent, lying and lost agents cost their own parts only, and memory is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hub.pcap import gather as module
from hub.pcap.fetcher import Fetcher
from hub.pcap.gather import Gather, Question
from hub.pcap.merge import Merge
from protocol.messages import Fetch, Fetched
from tests.hub.test_pcap_merge import NEVER, T0, part_of

Script = Callable[["Agent", Fetch], Awaitable[Fetched | None]]


class Agent:
    """An agent's connection whose answers are a script."""

    unsent = 0

    def __init__(self, name: str, fetcher: Fetcher, script: Script) -> None:
        self.agent, self.fetcher, self.script = name, fetcher, script
        self.answers = ["pcap"]
        self.asked: list[Fetch] = []
        self.ended: list[int] = []

    def post(self, fetch: Fetch) -> None:
        if fetch.part == 0:
            self.ended.append(fetch.id)
            return
        self.asked.append(fetch)
        task = asyncio.ensure_future(self._answer(fetch))
        TASKS.add(task)
        task.add_done_callback(TASKS.discard)

    async def _answer(self, fetch: Fetch) -> None:
        fetched = await self.script(self, fetch)
        if fetched is not None:
            self.fetcher.arrived(self, fetched)


TASKS: set[asyncio.Task[None]] = set()


def reply(fetch: Fetch, count: int, last: int, size: int = 60) -> Fetched:
    """Part n has frames of time n; `last` is the last part's number."""
    at = T0 + fetch.part
    final = fetch.part >= last
    made, _ = part_of([(at, bytes(size), 0)] * count, [["eth0", 1]], NEVER if final else at + 1, final)
    return Fetched(fetch.id, fetch.part, made.frames, made.body, made.interfaces, made.reached, made.last)


def good(parts: int = 3, count: int = 10, size: int = 60) -> Script:
    async def script(agent: Agent, fetch: Fetch) -> Fetched:
        return reply(fetch, count, parts, size)

    return script


async def silent(agent: Agent, fetch: Fetch) -> None:
    return None


def after(parts: int, then: Script) -> Script:
    async def script(agent: Agent, fetch: Fetch) -> Fetched | None:
        return reply(fetch, 10, 99) if fetch.part <= parts else await then(agent, fetch)

    return script


def run(
    scripts: dict[str, Script], deadline: float = 0.3, seconds: float = 30.0, **caps: int
) -> tuple[Gather, dict[str, Agent], list[bytes]]:
    """One answer from these agents."""

    async def answer() -> tuple[Gather, dict[str, Agent], list[bytes]]:
        fetcher = Fetcher()
        agents = {name: Agent(name, fetcher, script) for name, script in scripts.items()}
        made = gather_of(fetcher, agents, deadline, seconds, **caps)
        chunks = [chunk async for chunk in made.chunks()]
        assert fetcher.waiting == 0
        return made, agents, chunks

    return asyncio.run(answer())


def gather_of(fetcher: Fetcher, agents: dict[str, Any], deadline: float, seconds: float, **caps: int) -> Gather:
    async def thread(work: Callable[[], Any]) -> Any:
        return work()

    merge = Merge(agents, "test", **caps)
    return Gather(fetcher, dict(agents), Question("", 0, NEVER, deadline, seconds), merge, lambda name: 0.0, thread)


def test_all_parts_of_all_agents() -> None:
    made, agents, _ = run({"a": good(), "b": good(5)})
    assert made.missing == []
    assert made.merge.frames == 80
    assert [fetch.part for fetch in agents["b"].asked] == [1, 2, 3, 4, 5]
    assert not agents["a"].ended
    assert {fetch.within <= 0.3 for fetch in agents["a"].asked} == {True}


@pytest.mark.parametrize(("script", "reason"), [
    (silent, "no_answer"),
    (after(2, silent), "no_answer"),
])  # fmt: skip
def test_a_silent_agent_costs_its_own_part(script: Script, reason: str) -> None:
    made, agents, _ = run({"a": good(), "b": script, "c": good()})
    assert [(each.agent, each.reason) for each in made.missing] == [("b", reason)]
    assert made.merge.frames == 60 + 10 * (len(agents["b"].asked) - 1)
    assert agents["b"].ended == [agents["b"].asked[0].id]


async def _lost(agent: Agent, fetch: Fetch) -> None:
    agent.fetcher.left(agent)


async def _liar(agent: Agent, fetch: Fetch) -> Fetched:
    return Fetched(fetch.id, fetch.part, frames=3, body=b"x" * 50)


async def _backwards(agent: Agent, fetch: Fetch) -> Fetched:
    return Fetched(fetch.id, fetch.part + 5, last=1)


async def _refuses(agent: Agent, fetch: Fetch) -> Fetched:
    return Fetched(fetch.id, fetch.part, last=1, refused="failed", detail="disk")


async def _busy(agent: Agent, fetch: Fetch) -> Fetched:
    return Fetched(fetch.id, fetch.part, last=1, refused="busy", detail="later")


@pytest.mark.parametrize(("script", "reason", "detail"), [
    (_lost, "connection_lost", "ended"),
    (after(1, _lost), "connection_lost", "its frames are here up to 2023-11-14T22:13:20.000000002Z"),
    (_liar, "wrong_answer", ""),
    (_backwards, "no_answer", "0.3 s"),
    (_refuses, "refused", "failed: disk"),
    (_busy, "refused", "busy: later"),
])  # fmt: skip
def test_whatever_an_agent_does_the_others_are_whole(script: Script, reason: str, detail: str) -> None:
    made, _, _ = run({"a": good(), "b": script})
    assert [(each.agent, each.reason) for each in made.missing] == [("b", reason)]
    assert detail in made.missing[0].detail
    assert made.merge.frames >= 30


def test_a_busy_agent_is_asked_again() -> None:
    tries = 0

    async def script(agent: Agent, fetch: Fetch) -> Fetched:
        nonlocal tries
        tries += 1
        return await _busy(agent, fetch) if tries == 1 else reply(fetch, 10, 1)

    made, _, _ = run({"a": script}, deadline=5.0)
    assert made.missing == []
    assert made.merge.frames == 10


def test_an_agent_that_is_always_slow_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EASY", 0.01)

    async def slow(agent: Agent, fetch: Fetch) -> Fetched:
        await asyncio.sleep(0.1)
        return reply(fetch, 1, 99)

    made, agents, _ = run({"a": good(), "b": slow}, deadline=0.4)
    assert [(each.agent, each.reason) for each in made.missing] == [("b", "too_slow")]
    assert len(agents["b"].asked) < 20
    sizes = [fetch.size for fetch in agents["b"].asked]
    assert sizes[-1] < sizes[0]  # smaller parts before that
    alone, _, _ = run({"b": slow}, deadline=5.0)
    assert alone.missing == []  # nobody else waits


def test_the_whole_takes_no_longer_than_it_may() -> None:
    made, _, _ = run({"a": good(10**9)}, seconds=0.3)
    assert made.merge.cut == "seconds"
    made, _, _ = run({"a": silent}, deadline=60.0, seconds=0.3)
    assert made.merge.cut == "seconds"


def test_whoever_does_not_read_holds_everything_up() -> None:
    """No more than a few parts of each agent wait, however much there is."""

    async def answer() -> tuple[int, int]:
        fetcher = Fetcher()
        agents = {name: Agent(name, fetcher, good(10**9, 1000, 1000)) for name in "ab"}
        made = gather_of(fetcher, agents, 5.0, 60.0)
        chunks = made.chunks()
        await anext(chunks)
        for _ in range(100):
            await asyncio.sleep(0)
        before = [len(agent.asked) for agent in agents.values()]
        await asyncio.sleep(0.2)
        assert [len(agent.asked) for agent in agents.values()] == before
        await chunks.aclose()
        assert all(agent.ended for agent in agents.values())
        return max(before), fetcher.waiting

    most, waiting = asyncio.run(answer())
    assert most < 8
    assert waiting == 0


@pytest.mark.parametrize(("silence", "within"), [(60.0, 4.0), (0.0, 8.0)])
def test_who_is_known_to_be_silent_is_waited_for_less(silence: float, within: float) -> None:
    """As long as it is silent, and for its first part; an answer makes it as good as others again."""

    async def answer() -> None:
        fetcher = Fetcher()
        fetcher.habits.missed("a")
        agents = {"a": Agent("a", fetcher, good(3))}
        made = gather_of(fetcher, agents, 8.0, 30.0)
        made.silent = lambda name: silence
        assert [chunk async for chunk in made.chunks()]
        assert made.missing == []
        asked = [fetch.within for fetch in agents["a"].asked]
        assert within - 1 < asked[0] <= within
        assert all(7 < each <= 8 for each in asked[1:])
        assert fetcher.habits.within("a", 8.0) == 8.0

    asyncio.run(answer())


def test_an_answer_that_comes_late_but_in_the_time_of_others_is_good_enough() -> None:
    async def answer() -> None:
        fetcher = Fetcher()
        agent = Agent("a", fetcher, silent)
        for full, within in ((8.0, 8.0), (0.0, 4.0)):
            fetch = Fetch(fetcher.number(), 1, within=0.01)
            with pytest.raises(TimeoutError):
                await fetcher.fetch(agent, fetch, full)
            assert fetcher.habits.within("a", 8.0) == 4.0
            fetcher.arrived(agent, reply(fetch, 1, 1))
            assert fetcher.habits.within("a", 8.0) == within
            assert fetcher._overdue == {}

    asyncio.run(answer())
