"""Settings of a running agent: changed whole or not at all, and what was not named goes back to the start."""

from __future__ import annotations

import asyncio
from typing import Any

from agent.capture import CaptureError
from agent.uplink.settings import Settings
from protocol.messages import Configure

BASE = {"filter": "udp", "detail": "packets", "l7": "off"}


class Source:
    """Knows a good filter when it sees one."""

    bpf: str | None = "udp"

    def filter_by(self, bpf: str | None, timeout: float) -> None:
        if bpf == "wrong":
            raise CaptureError("bad filter 'wrong'")
        if bpf == "late":
            raise TimeoutError
        self.bpf = bpf


class Worker:
    """What of the real one is needed; `looked` are the engines that it was told to look with."""

    detail = "packets"

    def __init__(self, source: Any) -> None:
        self.source = source
        self.looked: list[Any] = []

    def look_into(self, engine: Any, calls: Any) -> list[Any]:
        self.looked.append(engine)
        return []

    def change(self, make: Any) -> None:
        make()


class Log:
    """Says nothing."""

    def info(self, *args: Any, **values: Any) -> None:
        """Nothing."""


def told(settings: Settings, **wanted: str) -> tuple[dict[str, str], str, str]:
    answer = asyncio.run(settings.answer(Configure(1, wanted)))
    return answer.settings, answer.refused, answer.detail


def make(source: Any) -> tuple[Settings, Worker]:
    worker = Worker(source)

    def engine(mode: str) -> tuple[Any, Any]:
        if mode == "all":
            raise MemoryError("no room")
        return (None if mode == "off" else mode, None)

    return Settings(BASE, worker, worker, engine, Log()), worker  # type: ignore[arg-type]


def test_what_is_not_named_is_as_at_the_start() -> None:
    settings, worker = make(Source())
    assert told(settings, filter="tcp", l7="fast")[0] == {"filter": "tcp", "detail": "packets", "l7": "fast"}
    assert (worker.source.bpf, worker.looked) == ("tcp", ["fast"])
    assert told(settings, detail="flows")[0] == {"filter": "udp", "detail": "flows", "l7": "off"}
    assert (worker.source.bpf, worker.looked, worker.detail) == ("udp", ["fast", None], "flows")
    assert told(settings, filter="")[0] == {**BASE, "filter": ""}
    assert (worker.source.bpf, worker.detail) == (None, "packets")


def test_a_change_is_made_whole_or_not_at_all() -> None:
    settings, worker = make(Source())
    for wanted, why in (
        ({"filter": "wrong", "l7": "fast", "detail": "flows"}, "bad filter 'wrong'"),
        ({"filter": "late", "l7": "fast"}, "the capture thread is busy; try again"),
        ({"filter": "tcp", "l7": "all"}, "MemoryError: no room"),
        ({"filter": "tcp", "l7": "some"}, "l7 is one of off, fast, all, not 'some'"),
        ({"filter": "tcp", "colour": "red"}, "this agent has no setting 'colour'; it has filter, detail, l7"),
    ):
        now, refused, detail = told(settings, **wanted)
        assert (now, bool(refused), detail) == (BASE, True, why)
        assert (worker.source.bpf, worker.looked, worker.detail) == ("udp", [], "packets")


def test_a_source_that_cannot_filter_anew_says_so() -> None:
    settings, _ = make(object())
    assert told(settings, filter="tcp")[2] == "this agent's source cannot change its filter while it runs"
    assert told(settings, detail="flows")[0]["detail"] == "flows"


def test_an_agent_without_settings_does_not_offer_any() -> None:
    assert Settings().words == []
    assert make(Source())[0].words == ["configure"]
