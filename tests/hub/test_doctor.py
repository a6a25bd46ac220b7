"""The doctor's questions to agents that answer as they should not, on real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.error
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from procs import Hub, ending, until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from hub.doctor.checks import AGENT, HERE, HUB
from hub.doctor.finding import examine
from hub.fanout.asker import MOST_AT_ONCE, MOST_BYTES
from protocol.codec import decode, encode
from protocol.messages import Answer, Ask, Hello, Refuse, Status, Welcome

DEADLINE = 1.0
Reply = Callable[[ClientConnection, Ask], Awaitable[None]]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("doctor"))
    with ending(hub):
        yield hub.ready()


@asynccontextmanager
async def agent(
    hub: Hub, name: str, reply: Reply, about: tuple[str, ...] = ("doctor",), link: dict[str, Any] | None = None
) -> AsyncIterator[None]:
    """A connected agent that does `reply` when it is asked."""
    async with connect(hub.ws, compression=None, ping_interval=None, proxy=None) as ws:
        await ws.send(encode(Hello([1], name, "node", 7, [7], connection="c1", answers=list(about))))
        assert isinstance(decode(await ws.recv(), "hub")[0], Welcome)
        await ws.send(encode(Status("streaming", link=link or {})))
        work = asyncio.create_task(_answer(ws, reply))
        try:
            yield
        finally:
            work.cancel()


async def _answer(ws: ClientConnection, reply: Reply) -> None:
    try:
        while True:
            message = decode(await ws.recv(), "hub")[0]
            if isinstance(message, Ask):
                await reply(ws, message)
    except ConnectionClosed:
        pass


def says(body: dict[str, Any], times: int = 1, after: float = 0.0) -> Reply:
    async def reply(ws: ClientConnection, ask: Ask) -> None:
        await asyncio.sleep(after)
        for _ in range(times):
            await ws.send(encode(Answer(ask.id, body)))

    return reply


async def silent(ws: ClientConnection, ask: Ask) -> None:
    """Say nothing."""


async def leaves(ws: ClientConnection, ask: Ask) -> None:
    await ws.close()


async def refuses(ws: ClientConnection, ask: Ask) -> None:
    await ws.send(encode(Answer(ask.id, refused="busy", detail="not now")))


async def invents(ws: ClientConnection, ask: Ask) -> None:
    """Answers to what nobody asked, and to what others were asked."""
    for number in {*range(200), 2**64 - 1, ask.id - 1, ask.id + 1} - {ask.id}:
        await ws.send(encode(Answer(number, {"level": "flows"})))
    await ws.send(encode(Answer(ask.id, {"level": "packets"})))


ODD = {
    "level": ["x"],
    "outbox": {"bytes": "x", "bound": 0},
    "link": 7,
    "captured": None,
    "interfaces": "\x1b[2J",
    "live": 1,
}
AGENTS: dict[str, Reply] = {
    "fine": says({"level": "packets"}),
    "huge": says({str(n): "x" * 1000 for n in range(MOST_BYTES // 1000 + 1)}),
    "inventive": invents,
    "late": says({"level": "flows"}, after=DEADLINE + 0.5),
    "leaving": leaves,
    "odd": says({**ODD, "error": "\x1b]0;title\x07" + "e" * 5000}),
    "refusing": refuses,
    "silent": silent,
    "twice": says({"level": "packets"}, times=3),
}


async def ask(hub: Hub, deadline: float = DEADLINE) -> tuple[dict[str, Any], float]:
    begun = time.monotonic()
    answer = await asyncio.to_thread(hub.get, f"/v1/doctor?deadline={deadline:g}")
    return answer, time.monotonic() - begun


def test_whatever_agents_answer_the_others_are_heard(hub: Hub) -> None:
    async def play() -> None:
        async with AsyncExitStack() as stack:
            for name, reply in AGENTS.items():
                await stack.enter_async_context(agent(hub, name, reply))
            await stack.enter_async_context(agent(hub, "old", silent, about=()))
            before = await asyncio.to_thread(tasks, hub)  # `leaving` is gone after it
            answer, seconds = await ask(hub)
            assert seconds < DEADLINE + 1.0
            assert list(answer["agents"]) == ["fine", "inventive", "odd", "twice"]
            missing = {part["agent"]: (part["reason"], part["detail"]) for part in answer["missing"]}
            assert {name: reason for name, (reason, _) in missing.items()} == {
                "huge": "refused", "late": "no_answer", "leaving": "not_connected", "old": "too_old",
                "refusing": "refused", "silent": "no_answer",
            }  # fmt: skip
            assert "too_large" in missing["huge"][1]
            assert missing["refusing"][1] == "busy: not now"
            assert answer["facts"]["agents"]["inventive"]["level"] == "packets"
            where = [found["where"] for found in answer["findings"] if found["where"] != "the hub"]
            assert where == sorted(where)
            assert max(len(f["what"]) for f in answer["findings"]) <= 1000
            done = await asyncio.to_thread(hub.cli, "doctor", "--deadline", "1", "-o", "wide", check=False)
            assert done.returncode == 1
            assert "\x1b" not in done.stdout
            for _ in range(5):
                answer, _ = await ask(hub, 0.3)
            assert answer["facts"]["hub"]["tasks"] <= before
            names = sorted([*AGENTS, "old"])
            assert sorted([*answer["agents"], *(part["agent"] for part in answer["missing"])]) == names

    asyncio.run(play())


def test_who_leaves_while_asked_is_missing_at_once(hub: Hub) -> None:
    async def play() -> None:
        async with agent(hub, "brief", leaves), agent(hub, "steady", says({})):
            answer, seconds = await ask(hub, 20.0)
            part = next(part for part in answer["missing"] if part["agent"] == "brief")
            assert part["reason"] == "connection_lost"
            assert seconds < 10.0

    asyncio.run(play())


def test_an_agent_that_answers_late_but_within_the_full_time_has_it_back(hub: Hub) -> None:
    """It misses a deadline and is given half the time; takes more than that, and is given the whole again."""
    full, heard, said = 3.0, 0, asyncio.Event()

    async def slow(ws: ClientConnection, ask: Ask) -> None:
        nonlocal heard
        heard += 1
        if heard > 1:
            await asyncio.sleep(0.55 * full)
            await ws.send(encode(Answer(ask.id, {})))
            said.set()

    async def play() -> None:
        async with agent(hub, "slow", slow):
            for expected in ("within 3 s", "within 1.5 s"):
                answer, _ = await ask(hub, full)
                assert expected in next(part["detail"] for part in answer["missing"] if part["agent"] == "slow")
            await said.wait()
            answer, _ = await ask(hub, full)
            assert "slow" in answer["agents"]

    asyncio.run(play())


@pytest.mark.parametrize("name", ["\x1b[2Jred", "two\nlines", "\u202egnp", ""])
def test_an_agent_whose_name_a_terminal_would_obey_is_not_let_in(hub: Hub, name: str) -> None:
    async def play() -> Refuse:
        async with connect(hub.ws, compression=None, ping_interval=None, proxy=None) as ws:
            hello = encode(Hello([1], "name", "node", 7, [7], answers=["doctor"]))
            raw = name.encode()
            await ws.send(hello.replace(b"\xa5agent\xa4name", b"\xa5agent" + bytes([0xA0 + len(raw)]) + raw))
            message = decode(await ws.recv(), "hub")[0]
            assert isinstance(message, Refuse)
            return message

    assert asyncio.run(play()).code == "bad_key"


def test_clients_that_go_away_cost_no_more_than_the_deadline(hub: Hub) -> None:
    """Nobody tells a handler that its client is gone: questions are few, and each has an end."""

    async def play() -> None:
        async with agent(hub, "mute", silent):
            before = await asyncio.to_thread(tasks, hub)
            for number in range(3 * MOST_AT_ONCE):  # of several clients, as one may not ask them all
                origin = f"127.0.0.{2 + number % 4}", 0
                with socket.create_connection(("127.0.0.1", hub.api_port), source_address=origin) as client:
                    client.sendall(b"GET /v1/doctor?deadline=60 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await asyncio.to_thread(until, "a refusal", lambda: refusal(hub)) == (503, "busy")
        await asyncio.to_thread(until, "a question is taken", lambda: refusal(hub) is None)
        await asyncio.to_thread(until, "nothing is left of them", lambda: tasks(hub) <= before)

    asyncio.run(play())


def tasks(hub: Hub) -> int:
    return int(hub.get("/v1/doctor?deadline=0.1")["facts"]["hub"]["tasks"])


def refusal(hub: Hub) -> tuple[int, str] | None:
    """The status and code with which a question is refused, None where it is not."""
    try:
        hub.get("/v1/doctor?deadline=0.1")
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["code"]
    return None


def test_what_agents_say_of_their_links_is_numbers_or_nothing(hub: Hub) -> None:
    """Also in the metrics, which have one series an agent, and reasons without end are cut."""
    reasons = {f"reason {number}": number for number in range(100)}
    link = {"round_trip": "x", "jitter": 0.25, "pings": [], "pongs": 1e300, "clock_offset": -7.5, "ended": reasons}

    async def play() -> str:
        async with agent(hub, 'li"ar', silent, link=link):
            await asyncio.to_thread(until, "its status", lambda: "jitter" in hub.agents().get('li"ar', {}))
            told = hub.agents()['li"ar']
            assert (told["jitter"], told["clock_offset"], len(told["ended"])) == (0.25, -7.5, 16)
            assert not {"round_trip", "pings", "pongs"} & set(told)
            for output in ("table", "wide", "json"):
                done = await asyncio.to_thread(hub.cli, "agents", "-o", output)
                assert "the clock of li\"ar is 7.5 s ahead of the hub's" in done.stderr
            assert "reason 15:15" in (await asyncio.to_thread(hub.cli, "agents", "-o", "wide")).stdout
            assert hub.metric('nodetap_hub_agent_clock_offset_seconds{agent="li\\"ar"}') == -7.5
            assert hub.metric('nodetap_hub_agent_round_trip_seconds{agent="li\\"ar"}') == -1
        return ""

    asyncio.run(play())


@pytest.mark.parametrize("facts", [{}, ODD, {"verdict": [], "evidence": 3, "link": {"clock_offset": 2**63}}])
def test_no_facts_break_a_check(facts: dict[str, Any]) -> None:
    for checks in (AGENT, HUB, HERE):
        examine("x", facts, checks)
