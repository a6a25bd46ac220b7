"""What people want of agents: which wish counts, what a refusal undoes, what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.configure import Configurer, Refused, changed, wanted_of
from protocol.messages import CONFIGURE, Configure, Configured

SETTINGS = st.dictionaries(st.sampled_from(["filter", "detail", "l7"]), st.sampled_from(["a", "b", ""]))
WISHES = st.dictionaries(st.sampled_from(["*", "n", "n/w1", "other"]), SETTINGS)


class Line:
    """A connection; `refuses` are values that its agent does not take, `mute` where it says nothing."""

    def __init__(self, agent: str, node: str = "", *, refuses: str = "", mute: bool = False, old: bool = False) -> None:
        self.agent, self.node, self.refuses, self.mute = agent, node or agent, refuses, mute
        self.answers = [] if old else [CONFIGURE]
        self.holds: dict[str, Any] = {}
        self.configurer: Configurer

    def post(self, message: Configure) -> None:
        if self.mute:
            return
        wrong = self.refuses and self.refuses in message.settings.values()
        if not wrong:
            self.holds = message.settings
        reason = ("wrong_setting", "no such thing") if wrong else ("", "")
        answer = Configured(message.id, self.holds, *reason)
        asyncio.get_running_loop().call_soon(self.configurer.answered, self, answer)


def meet(configurer: Configurer, *lines: Line) -> None:
    for line in lines:
        line.configurer = configurer
        configurer.came(line)


@given(WISHES)
def test_the_narrower_wish_counts_word_by_word(wishes: dict[str, dict[str, str]]) -> None:
    wanted = wanted_of(wishes, "n/w1", "n")
    for name in ("filter", "detail", "l7"):
        said = [wishes[key][name] for key in ("n/w1", "n", "*") if name in wishes.get(key, {})]
        assert wanted.get(name) == (said[0] if said else None)


@given(WISHES, SETTINGS)
def test_a_reset_leaves_nothing_of_a_change(wishes: dict[str, dict[str, str]], settings: dict[str, str]) -> None:
    after = changed(wishes, "new", settings)
    assert after["new"] == settings
    assert changed(after, "new", None) == wishes


def test_agents_are_told_when_they_come_and_when_it_changes(tmp_path: Path) -> None:
    async def play() -> None:
        configurer = Configurer()
        configurer.open(tmp_path / "agents.json")
        one, two, old = Line("one"), Line("two/w1", "two"), Line("old", old=True)
        meet(configurer, one, old)
        assert await configurer.change("*", {"filter": "udp"}) == []
        assert await configurer.change("two", {"l7": "fast"}) == []
        meet(configurer, two)
        await asyncio.sleep(0)
        assert (one.holds, two.holds, old.holds) == ({"filter": "udp"}, {"filter": "udp", "l7": "fast"}, {})
        again = Configurer()
        again.open(tmp_path / "agents.json")
        assert again.wishes == {"*": {"filter": "udp"}, "two": {"l7": "fast"}}
        assert await configurer.change("*", None) == []
        assert (one.holds, two.holds) == ({}, {"l7": "fast"})

    asyncio.run(play())


def test_what_one_refuses_is_changed_nowhere(tmp_path: Path) -> None:
    async def play() -> None:
        configurer = Configurer()
        configurer.open(tmp_path / "agents.json")
        one, two = Line("one"), Line("two", refuses="vlan")
        meet(configurer, one, two)
        await configurer.change("*", {"filter": "udp"})
        with pytest.raises(Refused, match="two: no such thing"):
            await configurer.change("*", {"filter": "vlan"})
        await asyncio.sleep(0)
        assert one.holds == two.holds == {"filter": "udp"}
        assert configurer.wishes == {"*": {"filter": "udp"}}
        assert all(not row["refused"] for row in configurer.shown())

    asyncio.run(play())


def test_one_that_says_nothing_holds_up_nobody(tmp_path: Path) -> None:
    async def play() -> None:
        configurer = Configurer()
        one, mute = Line("one"), Line("mute", mute=True)
        meet(configurer, one, mute)
        assert await configurer.change("*", {"detail": "flows"}, within=0.05) == ["mute"]
        asyncio.get_running_loop().call_later(0.01, configurer.left, mute)
        assert await configurer.change("*", {"detail": "packets"}, within=10) == []
        assert one.holds == {"detail": "packets"}

    asyncio.run(play())


def test_a_file_that_cannot_be_read_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "agents.json").write_text("{")
    configurer = Configurer()
    configurer.open(tmp_path / "agents.json")
    assert configurer.wishes == {}


class Kept:
    """A store that several hubs share."""

    def __init__(self) -> None:
        self.said, self.known = 0, {"*": {"l7": "fast"}}

    def wishes(self) -> tuple[int, dict[str, dict[str, str]]]:
        return self.said, {name: dict(settings) for name, settings in self.known.items()}

    def wish(self, name: str, settings: Mapping[str, str] | None, at: int) -> None:
        self.said = at
        self.known = changed(self.known, name, settings)


def test_hubs_that_share_a_store_hear_of_each_others_changes() -> None:
    async def play() -> None:
        store, ours, others = Kept(), Configurer(), Configurer()
        ours.share(store)
        others.share(store)
        one, two = Line("one"), Line("two")
        meet(ours, one)
        meet(others, two)
        await asyncio.sleep(0)
        assert (one.holds, two.holds) == ({"l7": "fast"}, {"l7": "fast"})
        before = store.wishes()
        await ours.change("two", {"filter": "udp"})
        await ours.heard(*before)  # read before the change, heard after it
        await others.heard(*store.wishes())
        await asyncio.sleep(0)
        assert ours.wishes == others.wishes == {"*": {"l7": "fast"}, "two": {"filter": "udp"}}
        assert (one.holds, two.holds) == ({"l7": "fast"}, {"l7": "fast", "filter": "udp"})

    asyncio.run(play())
