"""Where an agent answers questions: makers that hang, that fail, and several who ask at once."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from agent.uplink.desk import Desk
from protocol.messages import Answer, Ask


def test_who_asks_while_the_answer_is_made_gets_that_one() -> None:
    calls, go = [], threading.Event()

    def maker() -> dict[str, Any]:
        calls.append(1)
        go.wait(20)
        return {"calls": len(calls)}

    async def play() -> list[Answer]:
        desk = Desk({"doctor": maker})
        asked = [asyncio.ensure_future(desk.answer(Ask(number, "doctor", 20.0))) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        go.set()
        first = await asyncio.gather(*asked)
        return [*first, await desk.answer(Ask(4, "doctor", 20.0))]

    answers = asyncio.run(play())
    assert [(answer.id, answer.body) for answer in answers] == [(n, {"calls": 1}) for n in (1, 2, 3)] + [
        (4, {"calls": 2})
    ]


def test_a_maker_that_hangs_has_one_thread_however_often_it_is_asked() -> None:
    calls, go = [], threading.Event()

    def maker() -> dict[str, Any]:
        calls.append(1)
        go.wait(20)
        return {}

    async def play() -> tuple[list[Answer], Answer]:
        desk = Desk({"doctor": maker, "other": lambda: {"other": 1}})
        gone = asyncio.ensure_future(desk.answer(Ask(1, "doctor", 0.1)))
        await asyncio.sleep(0)
        gone.cancel()  # the connection that asked is over
        refused = [await desk.answer(Ask(number, "doctor", 0.02)) for number in (2, 3)]
        refused.append(await desk.answer(Ask(4, "other", 5.0)))
        go.set()
        return refused, await desk.answer(Ask(5, "doctor", 20.0))

    refused, last = asyncio.run(play())
    assert [(answer.id, answer.refused, answer.body) for answer in refused] == [
        (2, "busy", {}), (3, "busy", {}), (4, "", {"other": 1})
    ]  # fmt: skip
    assert (last.id, last.refused) == (5, "")
    assert len(calls) == 1  # the last one asked while the first was still being made


def test_a_maker_that_fails_says_so_and_is_asked_again() -> None:
    left = [OSError("no disk"), TimeoutError("late"), ValueError("x" * 5000)]

    def maker() -> dict[str, Any]:
        if left:
            raise left.pop(0)
        return {"fine": 1}

    async def play() -> list[Answer]:
        desk = Desk({"doctor": maker})
        return [await desk.answer(Ask(number, "doctor", 5.0)) for number in range(4)]

    answers = asyncio.run(play())
    assert [answer.refused for answer in answers] == ["failed", "failed", "failed", ""]
    assert answers[0].detail == "OSError: no disk"
    assert len(answers[2].detail) <= 1000


def test_what_is_not_known_is_named() -> None:
    answer = asyncio.run(Desk({"doctor": dict}).answer(Ask(1, "weather", 1.0)))
    assert (answer.refused, answer.detail) == ("unknown_question", "this agent knows doctor")
