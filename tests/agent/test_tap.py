"""Live captures of an agent: every frame once, what is missing is told, and nothing is left when nobody asks on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.recorder.segment import Gap
from agent.tap import catch as catch_module
from agent.tap import serving as serving_module
from agent.tap import tap as tap_module
from agent.tap.catch import LATE, Catch, blocks_of
from agent.tap.raw import Raw
from agent.tap.serving import Live
from agent.tap.tap import BUSY, KERNEL, MOST_OPEN, Tap
from protocol.messages import CAPTURE, Fetch, Fetched
from protocol.parts import unpack
from tests.agent.test_recorder import FACES, T0, block_of
from tests.agent.test_recorder_search import numbers_of
from tests.agent.test_spool import Log
from tests.procs import until

T = TypeVar("T")
AGAIN = 5


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5000), st.integers(1, 12)), max_size=30))
def test_what_is_caught_is_taken_once_and_in_order(steps: list[tuple[int, int, int]]) -> None:
    catch, put, taken = Catch(T0), 0, []
    for count, size, frames in steps:
        catch.add(blocks_of(block_of(put, count)))
        put += count
        part, gaps = catch.take(size, frames)
        assert part is not None
        assert len(part) == 1 or (len(part.blocks) + 12 * len(part) <= size and len(part) <= frames)
        assert gaps == []
        taken += numbers_of(part)
        if catch.bytes:
            assert catch.promise <= T0 + taken[-1] + 1
    while (rest := catch.take(1 << 30, 1 << 30)[0]) is not None:
        taken += numbers_of(rest)
    assert taken == list(range(put))
    assert catch.bytes == 0


def test_what_does_not_fit_is_one_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catch_module, "BOUND", 5000)
    catch = Catch(T0)
    for first in range(0, 50, 5):
        catch.add(blocks_of(block_of(first, 5)))
    part, gaps = catch.take(1 << 20, 1 << 20)
    assert part is not None
    assert numbers_of(part) == list(range(10))
    assert gaps == [Gap(T0 + 10, T0 + 49, 40, LATE)]
    assert (catch.caught, catch.lost, catch.bytes) == (10, 40, 0)


def test_frames_of_a_block_are_put_in_order() -> None:
    block = block_of(0, 5)
    turned = replace(block, time=block.time[::-1].copy())
    assert numbers_of(blocks_of(turned)) == [4, 3, 2, 1, 0]


class Node:
    """A tap with its serving, for tests on a loop."""

    def __init__(self) -> None:
        self.log, self.dropped = Log(), 0
        self.tap = Tap(list(FACES), "00000000000000aa", self.log)
        self.live = Live(self.tap, list(FACES), "n1", self.log, lambda: self.dropped)

    def put(self, first: int, count: int, hurry: bool = False, **more: int) -> None:
        self.tap.put(block_of(first, count, **more), self.dropped, hurry)

    async def ask(self, part: int, id: int = 1, connection: str = "c1", **more: Any) -> Fetched:
        asked = {"within": 5.0, "live": 2000, **more}
        return await self.live.answer(connection, Fetch(id, part, **asked))

    async def numbers(self, count: int, first_part: int = 2, id: int = 1) -> list[int]:
        """The frames of the next parts, until there are so many."""
        found: list[int] = []
        while len(found) < count:
            found += numbers_of(unpack(await self.ask(first_part, id)))
            first_part += 1
        return found


def on_loop(work: Callable[[Node], Awaitable[T]]) -> T:
    async def main() -> T:
        node = Node()
        try:
            return await work(node)
        finally:
            node.live.left("c1")
            until("the thread ends", lambda: "tap" not in [thread.name for thread in threading.enumerate()])

    return asyncio.run(main())


def test_frames_come_as_they_are_captured() -> None:
    async def work(node: Node) -> None:
        node.put(0, 10)  # before anybody asks: nobody keeps it
        first = await node.ask(1, live=1)
        assert (first.frames, first.last, first.kept > T0, first.refused) == (0, 0, True, "")
        for number in range(10, 1000, 30):
            node.put(number, 30, face=number % 2)
        assert await node.numbers(990) == list(range(10, 1000))
        assert node.tap.look().captures == 1
        assert node.tap.look().caught == 990

    on_loop(work)


def test_interfaces_are_those_of_the_frames() -> None:
    async def work(node: Node) -> None:
        await node.ask(1, live=1)
        node.put(0, 3, face=1)
        fetched = await node.ask(2)
        assert fetched.interfaces == [["wg0", 101]]
        assert len(unpack(fetched)) == 3

    on_loop(work)


def test_two_captures_have_what_their_filters_say() -> None:
    async def work(node: Node) -> None:
        for id, text in ((1, "frame.len == 400"), (2, "frame.len > 100"), (3, 'nodetap.agent == "other"')):
            assert (await node.ask(1, id, filter=text, live=1)).refused == ""
        node.put(0, 5)
        node.put(5, 5, size=300)
        assert await node.numbers(5, id=1) == list(range(5))
        assert await node.numbers(10, id=2) == list(range(10))
        nothing = await node.ask(2, 3, live=1)
        assert (nothing.frames, nothing.reached > T0) == (0, True)

    on_loop(work)


def test_frames_that_are_not_looked_at_are_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(node: Node) -> None:
        await node.ask(1, live=1)
        node.put(0, 5, hurry=True)
        node.put(5, 5, hurry=True)
        monkeypatch.setattr(tap_module, "WAITING", 1)
        node.put(10, 5)
        monkeypatch.undo()
        node.dropped = 7
        node.put(15, 5)
        fetched = await node.ask(2)
        while fetched.frames == 0:  # the gap may come by itself
            fetched = replace(await node.ask(fetched.part + 1), gaps=fetched.gaps)
        assert numbers_of(unpack(fetched)) == [15, 16, 17, 18, 19]
        assert [gap for gap in fetched.gaps if gap[3] == BUSY] == [[T0, T0 + 14, 15, BUSY]]
        assert [gap[2] for gap in fetched.gaps if gap[3] == KERNEL] == [7]
        assert node.tap.look().lost == {LATE: 0, BUSY: 15, KERNEL: 7, "not_decoded": 0}

    on_loop(work)


def test_a_capture_that_nobody_asks_on_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "GRACE", 0.0)
    monkeypatch.setattr(tap_module, "TICK", 0.01)

    async def work(node: Node) -> None:
        await node.ask(1, live=1, within=0.05)
        until("it ends", lambda: node.tap.look().captures == 0)
        assert (await node.ask(2)).refused in ("ended", "out_of_turn")
        assert ("live capture ended", "nobody asks for it any more") in [
            (text, more.get("reason")) for text, more in node.log.lines
        ]

    on_loop(work)


@pytest.mark.parametrize("end", ["part 0", "connection"])
def test_an_end_ends_it_also_while_a_part_is_waited_for(end: str) -> None:
    async def work(node: Node) -> None:
        await node.ask(1, live=1)
        waiting = asyncio.ensure_future(node.ask(2, live=10_000))
        await asyncio.sleep(0)
        if end == "connection":
            node.live.left("c1")
        else:
            await node.ask(0)
        assert (await waiting).refused == "ended"
        assert node.tap.look().captures == 0

    on_loop(work)


def test_refusals() -> None:
    async def work(node: Node) -> None:
        assert (await node.ask(2)).refused == "out_of_turn"
        bad = await node.ask(1, filter="tcp.prt == 1")
        assert (bad.refused, bad.last) == ("bad_filter", 1)
        for id in range(MOST_OPEN):
            assert (await node.ask(1, id, live=1)).refused == ""
        assert (await node.ask(1, 99)).refused == "busy"
        assert (await node.ask(3, 0)).refused == "out_of_turn"
        both = await asyncio.gather(node.ask(2, 0, live=100), node.ask(3, 0))
        assert [each.refused for each in both] == ["", "out_of_turn"]

    on_loop(work)


def test_nothing_is_given_away_that_was_not_allowed() -> None:
    async def work(node: Node) -> None:
        assert Raw().words == []
        assert (await Raw().answer("c1", Fetch(1, 1, live=1))).refused == "not_allowed"
        raw = Raw(live=node.live)
        assert raw.words == [CAPTURE]
        assert (await raw.answer("c1", Fetch(1, 1))).refused == "not_allowed"
        assert (await raw.answer("c1", Fetch(1, 1, within=5.0, live=1))).refused == ""

    on_loop(work)


def test_without_captures_there_is_no_thread_and_no_copy() -> None:
    async def work(node: Node) -> None:
        node.put(0, 10)
        assert node.tap.look() == tap_module.TapView()
        for _ in range(AGAIN):
            await node.ask(1, live=1)
            await node.ask(0)
        assert node.tap.look().captures == 0

    on_loop(work)
