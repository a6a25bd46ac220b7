"""`/v1/capture` over real sockets, with agents by script: what it says meanwhile, limits, and people who go away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import Served, serve, wait_for
from test_api_pcap import join, said
from test_pcap_gather import Agent, good, silent

from hub.api import capture, frames
from hub.cli.blocks import Blocks
from protocol.messages import CAPTURE, PCAP, Fetch, Fetched
from tests.hub.test_pcap_merge import part_of

T0 = 1_700_000_000_000_000_000


def steady(size: int = 60, count: int = 1) -> Any:
    """An agent that has so many frames for each part."""

    async def script(agent: Agent, fetch: Fetch) -> Fetched:
        await asyncio.sleep(0.01)
        at = T0 + 1000 * fetch.part
        made, _ = part_of([(at, bytes(size), 0)] * count, [["eth0", 1]], at + 1, False)
        return replace(made, id=fetch.id, part=fetch.part, kept=T0)

    return script


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path) as served:
        yield served


def live(api: Served) -> int:
    return int(api.app.state.hub.live)


def test_it_says_how_it_goes_and_how_it_ended(api: Served) -> None:
    agent = join(api, "a", steady(), (CAPTURE,))
    join(api, "b", good(2, 10), answers=(PCAP,))
    join(api, "file/replay-1", silent, answers=(), source="replay")
    response = api.get("/v1/capture", limit="20")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-pcapng")
    blocks = Blocks()
    _, told = blocks.feed(response.content)
    assert blocks.frames == 20
    assert {next(iter(each)) for each in told[:-1]} == {"nodetap.progress"}
    complete = told[-1]["nodetap.completeness"]
    assert complete == said(response)["nodetap.completeness"]
    assert (complete["frames"], complete["cut"], complete["agents"]) == (20, "frames", ["a"])
    assert [(each["agent"], each["reason"]) for each in complete["missing"]] == [("b", "not_allowed")]
    assert complete["complete"] is False
    wait_for(lambda: live(api) == 0 and len(agent.ended) == 1)


@pytest.mark.parametrize(("params", "code"), [
    ({"filter": "tcp.prt == 1"}, "bad_filter"),
    ({"filter": "frame.number == 1"}, "bad_filter"),
    ({"filter": 'k8s.src.pod == "a"'}, "bad_filter"),
    ({"since": "5m"}, "bad_parameter"),
    ({"deadline": "99"}, "bad_parameter"),
    ({"bytes": "-1"}, "bad_parameter"),
])  # fmt: skip
def test_refusals_name_the_place(api: Served, params: dict[str, str], code: str) -> None:
    response = api.get("/v1/capture", **params)
    assert (response.status_code, response.json()["code"]) == (400, code)


def test_whoever_goes_away_ends_it(api: Served) -> None:
    agent = join(api, "a", steady(), (CAPTURE,))
    with httpx.stream("GET", f"{api.url}/v1/capture") as response:
        chunks = response.iter_bytes()  # httpx ends the answer with its iterator
        next(chunks)
        wait_for(lambda: live(api) == 1 and len(agent.asked) > 3)
    wait_for(lambda: bool(agent.ended))
    wait_for(lambda: live(api) == 0 and api.app.state.hub.fetcher.waiting == 0)


@pytest.mark.parametrize("path", ["/v1/capture", "/v1/pcap"])
def test_whoever_stays_and_reads_nothing_is_given_up(api: Served, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(frames, "STALLED", 0.5)
    big = steady(1000, 1000) if path == "/v1/capture" else good(10**9, 1000, 1000)
    agent, hub = join(api, "a", big, (CAPTURE, PCAP)), api.app.state.hub
    with httpx.stream("GET", api.url + path, params={"bytes": "0"}) as response:
        chunks = response.iter_bytes()
        next(chunks)
        wait_for(lambda: bool(agent.ended), 30)
        wait_for(lambda: hub.live == hub.captures == hub.fetcher.waiting == 0)


def test_only_so_many_at_once(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "MOST_AT_ONCE", 2)
    join(api, "a", steady(), (CAPTURE,))
    with ExitStack() as open_:
        streams = [open_.enter_context(httpx.stream("GET", f"{api.url}/v1/capture")).iter_bytes() for _ in range(2)]
        assert all(map(next, streams))
        wait_for(lambda: live(api) == 2)
        refused = api.get("/v1/capture")
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    wait_for(lambda: live(api) == 0)
