"""Live captures: agents that come, go, fall silent and come back cost their own frames only, and are named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from hub.fanout.plan import Missing
from hub.pcap import live as module
from hub.pcap.fetcher import Fetcher
from hub.pcap.live import Live, Wish
from hub.pcap.merge import Merge
from protocol.messages import Fetch, Fetched
from tests.hub.test_pcap_gather import Agent, silent
from tests.hub.test_pcap_merge import T0, part_of

MS = 1_000_000


class World:
    """Agents by script, each frame a millisecond after the one before, of all agents in turn."""

    def __init__(self) -> None:
        self.fetcher = Fetcher()
        self.agents: dict[str, Agent] = {}
        self.absent: list[Missing] = []
        self.silence: dict[str, float] = {}
        self.clock = T0

    def join(self, name: str, script: Any) -> Agent:
        self.agents[name] = Agent(name, self.fetcher, script)
        return self.agents[name]

    def leave(self, name: str) -> None:
        self.fetcher.left(self.agents.pop(name))

    def capture(self, seconds: float | None = 30.0, deadline: float = 1.0, **caps: int) -> Live:
        async def thread(work: Callable[[], Any]) -> Any:
            return work()

        return Live(
            self.fetcher, Wish("", deadline, seconds), Merge((), "test", **caps),
            lambda: (dict(self.agents), list(self.absent)), lambda name: self.silence.get(name, 0.0), thread, T0,
        )  # fmt: skip

    async def steady(self, agent: Agent, fetch: Fetch) -> Fetched:
        """A frame in each part."""
        await asyncio.sleep(0.01)
        self.clock += MS
        made, _ = part_of([(self.clock, agent.agent.encode(), 0)], [["eth0", 1]], self.clock + 1, False)
        return replace(made, id=fetch.id, part=fetch.part, kept=self.clock - 10)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK", "AGAIN", "TICK"):
        monkeypatch.setattr(module, name, 0.02)


async def until(live: Live, done: Callable[[], bool]) -> bytes:
    """What comes until that is so; then the capture is closed."""
    chunks, out = live.chunks(), b""
    async with asyncio.timeout(20):
        async for chunk in chunks:
            out += chunk
            if done():
                break
    await chunks.aclose()
    assert live.fetcher.waiting == 0
    return out


def run(work: Callable[[World], Awaitable[None]]) -> None:
    asyncio.run(work(World()))


def test_frames_come_as_they_are_captured_until_it_is_closed() -> None:
    async def work(world: World) -> None:
        a, b = world.join("a", world.steady), world.join("b", world.steady)
        live = world.capture()
        await until(live, lambda: live.merge.frames >= 20)
        assert live.agents == ["a", "b"]
        assert live.missing == []
        assert live.merge.gaps == []
        assert a.ended == [a.asked[0].id]
        assert b.ended == [b.asked[0].id]
        assert {fetch.live > 0 for fetch in a.asked} == {True}
        assert [fetch.part for fetch in a.asked] == list(range(1, len(a.asked) + 1))

    run(work)


def test_a_silent_agent_is_named_and_holds_up_nobody_for_long() -> None:
    async def work(world: World) -> None:
        world.join("a", world.steady)
        frozen = world.join("f", silent)
        world.silence["f"] = 60.0
        live = world.capture()
        await until(live, lambda: bool(live.missing) and live.merge.frames >= 10)
        assert [(each.agent, each.reason) for each in live.missing] == [("f", "stalled")]
        assert len(frozen.asked) == 1  # and not again before it says something
        assert live.agents == ["a"]

    run(work)


def test_an_agent_that_answers_again_is_taken_up_again_with_a_mark() -> None:
    async def work(world: World) -> None:
        mute = [False]

        async def sometimes(agent: Agent, fetch: Fetch) -> Fetched | None:
            return None if mute[0] else await world.steady(agent, fetch)

        world.join("a", world.steady)
        world.join("s", sometimes)
        live, seen = world.capture(), []

        def done() -> bool:
            if not seen and live.merge.frames >= 10:
                mute[0] = True
                seen.append("mute")
            if seen == ["mute"] and live.missing:
                mute[0] = False
                seen.append(live.missing[0].reason)
            return len(seen) == 2 and not live.missing and len(live.merge.gaps) == 1

        out = await until(live, done)
        assert seen == ["mute", "no_answer"]
        assert [(gap.agent, gap.frames, gap.reason) for gap in live.merge.gaps] == [("s", None, "agent_away")]
        assert live.agents == ["a", "s"]
        assert live.fetcher.habits.within("s", 8.0) == 8.0
        assert out.count(b"eth0 of s") == 1  # the same interface as before

    run(work)


@pytest.mark.parametrize("back", [True, False])
def test_agents_come_and_go(back: bool) -> None:
    async def work(world: World) -> None:
        world.join("a", world.steady)
        world.join("b", world.steady)
        live, steps = world.capture(), []

        def done() -> bool:
            if not steps and live.merge.frames >= 10:
                world.leave("b")
                world.join("new", world.steady)
                steps.append("left")
            elif steps == ["left"] and live.agents == ["a", "new"]:
                if back:
                    world.join("b", world.steady)
                steps.append("new")
            return len(steps) == 2 and (not back or (live.agents == ["a", "b", "new"] and bool(live.merge.gaps)))

        await until(live, done)
        assert [(gap.agent, gap.reason) for gap in live.merge.gaps] == ([("b", "agent_away")] if back else [])

    run(work)


def test_an_agent_that_is_busy_is_asked_again_and_one_that_cannot_read_the_filter_is_not() -> None:
    async def work(world: World) -> None:
        async def refuse(agent: Agent, fetch: Fetch) -> Fetched:
            word = agent.agent if len(agent.asked) < 4 or agent.agent != "busy" else ""
            return Fetched(fetch.id, fetch.part, last=1, refused=word) if word else await world.steady(agent, fetch)

        busy, bad = world.join("busy", refuse), world.join("bad_filter", refuse)
        live = world.capture()
        await until(live, lambda: live.merge.frames >= 3)
        assert len(busy.asked) >= 4
        assert len(bad.asked) == 1
        assert [each.agent for each in live.missing] == ["bad_filter"]

    run(work)


async def _liar(agent: Agent, fetch: Fetch) -> Fetched:
    return Fetched(fetch.id, fetch.part, frames=3, body=b"x" * 50)


def test_who_lies_is_not_asked_again() -> None:
    async def work(world: World) -> None:
        liar = world.join("liar", _liar)
        world.join("a", world.steady)
        live = world.capture()
        await until(live, lambda: live.merge.frames >= 10)
        assert len(liar.asked) == 1
        assert [(each.agent, each.reason) for each in live.missing] == [("liar", "wrong_answer")]

    run(work)


@pytest.mark.parametrize("what", ["frames", "bytes", "seconds", "hub_stopped"])
def test_what_ends_it(what: str) -> None:
    async def work(world: World) -> None:
        caps = {"frames": {"most_frames": 5}, "bytes": {"most_bytes": 200}}.get(what, {})
        world.join("a", world.steady)
        live = world.capture(0.2 if what == "seconds" else 30.0, **caps)

        def stop() -> bool:
            live.fetcher.stopped = what == "hub_stopped" and live.merge.frames > 3
            return False

        out = await until(live, stop)
        assert live.merge.cut == what
        assert out.count(b"eth0 of a") == 1
        if what == "frames":
            assert live.merge.frames == 5

    run(work)


def test_whoever_was_missing_from_the_start_has_a_mark_when_it_comes() -> None:
    async def work(world: World) -> None:
        world.absent = [Missing("late", "not_connected", "last seen yesterday")]
        world.join("a", world.steady)
        live, came = world.capture(), []

        def done() -> bool:
            if not came and live.merge.frames >= 3:
                assert [each.agent for each in live.missing] == ["late"]
                world.absent = []
                came.append(world.join("late", world.steady))
            return bool(live.merge.gaps)

        await until(live, done)
        assert [(gap.agent, gap.first) for gap in live.merge.gaps] == [("late", T0)]

    run(work)


def test_whoever_does_not_read_holds_it_up() -> None:
    """Nothing more is asked for while nobody takes what there is."""

    async def work(world: World) -> None:
        a = world.join("a", world.steady)
        live = world.capture()
        chunks = live.chunks()
        while live.merge.frames < 5:
            await anext(chunks)
        before = len(a.asked)
        await asyncio.sleep(0.2)
        assert len(a.asked) == before
        await chunks.aclose()
        assert a.ended == [a.asked[0].id]

    run(work)
