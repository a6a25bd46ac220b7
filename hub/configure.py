"""What people want of running agents: kept beside the store or in it, told to agents as they come and when it changes.

A wish is for one agent, for the agents of a node, or for all (`*`); the narrower one counts, word by word. A change
that any agent refuses is taken back everywhere and not kept.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import time_ns
from typing import Any, Protocol, TypeAlias

from hub.store.home import write_durably
from protocol.logs import logger
from protocol.messages import CONFIGURE, Configure, Configured

EVERYONE = "*"
WITHIN = 10.0
"""Seconds that agents have to say whether they can."""
MOST = 10_000
"""Agents and nodes with wishes of their own."""

Wishes: TypeAlias = "dict[str, dict[str, str]]"
"""Agent, node or `*` -> setting -> value."""


class Line(Protocol):
    """What is needed of an agent's connection."""

    agent: str
    node: str
    answers: list[str]

    def post(self, message: Configure) -> None:
        """Queue a message to the agent."""


class Shared(Protocol):
    """What is needed of a store that keeps the wishes."""

    def wishes(self) -> tuple[int, Wishes]:
        """The wishes, and when they were said last."""

    def wish(self, name: str, settings: Mapping[str, str] | None, at: int) -> None:
        """Keep what is wanted of one name."""


@dataclass(slots=True)
class Told:
    """What one connection was told, and what it said."""

    wanted: dict[str, str]
    id: int
    settings: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    answered: bool = False


class Refused(Exception):
    """An agent cannot do it; `agents` says which and why. Nothing was changed."""

    def __init__(self, agents: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {why}" for name, why in agents.items()))
        self.agents = dict(agents)


def wanted_of(wishes: Wishes, agent: str, node: str) -> dict[str, str]:
    """What is wanted of one agent. Pure."""
    merged: dict[str, str] = {}
    for name in (EVERYONE, node, agent):
        merged |= wishes.get(name, {})
    return merged


def changed(wishes: Wishes, name: str, settings: Mapping[str, str] | None) -> Wishes:
    """The wishes with those for one name added to; without any, where `settings` is None. Pure."""
    others = {key: dict(value) for key, value in wishes.items() if key != name}
    if settings is None:
        return others
    return {**others, name: {**wishes.get(name, {}), **settings}}


class Configurer:
    """On the hub's loop. Without `open` the wishes are kept in memory alone."""

    def __init__(self, log: Any = None) -> None:
        self._log = log or logger()
        self._keep: Callable[[str, Wishes], None] | None = None
        self._said = 0  # when what is kept was said, where several hubs keep it
        self.wishes: Wishes = {}
        self._told: dict[Line, Told] = {}
        self._ids = count(1)
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()

    def open(self, path: Path) -> None:
        """Go on with the wishes in a file, and keep them there. Before any agent comes."""
        self.wishes = _read(path, self._log)
        self._keep = lambda name, wishes: _write(path, wishes)

    def share(self, store: Shared) -> None:
        """Go on with the wishes in a store, and keep them there for all its hubs. Raises what the store does."""
        self._said, self.wishes = store.wishes()

        def keep(name: str, wishes: Wishes) -> None:
            self._said = max(time_ns(), self._said + 1)
            store.wish(name, wishes.get(name), self._said)

        self._keep = keep

    async def heard(self, said: int, wishes: Wishes) -> None:
        """What the store has by now; another hub may have changed it."""
        if wishes == self.wishes or said < self._said:
            return
        async with self._turn:
            if said >= self._said:
                self._said, self.wishes = said, wishes
                self._tell_all(wishes)

    def came(self, line: Line) -> None:
        """A connection was welcomed: it is told what is wanted, also where that is nothing."""
        if CONFIGURE in line.answers:
            self._tell(line, self.wishes)

    def left(self, line: Line) -> None:
        """A connection ended."""
        self._told.pop(line, None)
        self._news.set()

    def answered(self, line: Line, configured: Configured) -> None:
        """From a connection. Answers to what was asked before the last are out of date."""
        told = self._told.get(line)
        if told is None or told.id != configured.id:
            return
        told.answered, told.settings = True, dict(configured.settings)
        told.refused = configured.detail or configured.refused
        if told.refused:
            self._log.warning("agent refused its settings", agent=line.agent, wanted=told.wanted, reason=told.refused)
        self._news.set()

    def of(self, agent: str) -> dict[str, Any]:
        """What `nodetap agents` tells of one agent's settings; nothing where it has none to change."""
        told = next((told for line, told in self._told.items() if line.agent == agent), None)
        return {} if told is None else {"settings": told.settings, "settings_refused": told.refused or None}

    def shown(self) -> list[dict[str, Any]]:
        """Each agent that can be configured: what it does, what is wanted of it, why not."""
        return [
            {"agent": line.agent, "node": line.node, "settings": told.settings, "wanted": told.wanted,
             "refused": told.refused}
            for line, told in sorted(self._told.items(), key=lambda item: item[0].agent)
        ]  # fmt: skip

    async def change(self, name: str, settings: Mapping[str, str] | None, within: float = WITHIN) -> list[str]:
        """Add to the wishes for one name, or with None take them back; the agents that have not answered in time.

        Those are told again when they come anew. Raises Refused, OSError where it cannot be kept.
        """
        async with self._turn:
            before, after = self.wishes, changed(self.wishes, name, settings)
            lines = self._tell_all(after)
            refused = await self._wait(lines, within)
            try:
                if refused:
                    raise Refused(refused)
                if self._keep is not None:
                    await asyncio.to_thread(self._keep, name, after)
            except BaseException:
                self._tell_all(before)
                raise
            self.wishes = after
            self._tell_all(after)  # who came meanwhile
            return sorted(line.agent for line in lines if line in self._told and not self._told[line].answered)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _tell_all(self, wishes: Wishes) -> list[Line]:
        """Tell those for whom something changes, who they are."""
        changes = [line for line, told in self._told.items() if wanted_of(wishes, line.agent, line.node) != told.wanted]
        for line in changes:
            self._tell(line, wishes)
        return changes

    def _tell(self, line: Line, wishes: Wishes) -> None:
        wanted = wanted_of(wishes, line.agent, line.node)
        before = self._told.get(line)
        self._told[line] = Told(wanted, next(self._ids), before.settings if before else {})
        line.post(Configure(self._told[line].id, dict(wanted)))

    async def _wait(self, lines: list[Line], within: float) -> dict[str, str]:
        """Until all of these have answered or are gone, at most so long; who refused, and why."""
        try:
            async with asyncio.timeout(within):
                while any(line in self._told and not self._told[line].answered for line in lines):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        told = {line.agent: self._told[line].refused for line in lines if line in self._told}
        return {agent: why for agent, why in sorted(told.items()) if why}


def _read(path: Path, log: Any) -> Wishes:
    """The wishes in a file; none, and a line in the log, where it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): {str(k): str(v) for k, v in settings.items()} for name, settings in values.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        log.error(
            "the agents' settings cannot be read; they run as they were started", path=str(path), reason=str(error)
        )
        return {}


def _write(path: Path, wishes: Wishes) -> None:
    write_durably(path, json.dumps(wishes, indent=1, sort_keys=True))
