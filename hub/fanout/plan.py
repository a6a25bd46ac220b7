"""Whom to ask, how long to wait for each, and the words for those who are missing. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SILENT = 4.0
"""Seconds without a message after which an agent that does not answer has stalled; it reports every three."""
SHORTEST = 0.25
"""Seconds that an agent has at least, however often it was late."""

MISSING: dict[str, str] = {
    "not_connected": "it has no connection to this hub",
    "too_old": "its version cannot be asked this",
    "no_answer": "no answer came in time",
    "stalled": "no answer came in time, and nothing else either",
    "refused": "it said why it does not answer",
    "connection_lost": "its connection ended before it answered",
    "hub_silent": "it is connected to another hub, which did not answer",
}
"""Why there is no part of an agent in an answer."""


@dataclass(frozen=True, slots=True)
class Missing:
    """An agent without a part in the answer. `reason` is one of MISSING; `detail` is a line for people."""

    agent: str
    reason: str
    detail: str

    def to_map(self) -> dict[str, str]:
        """As the API shows it."""
        return {"agent": self.agent, "reason": self.reason, "detail": self.detail}


def plan(
    agents: Iterable[Mapping[str, Any]], knows: Mapping[str, Collection[str]], about: str
) -> tuple[list[str], list[Missing]]:
    """Who is to be asked, and who is missing already. Who left in good order is neither.

    `agents` as the register lists them; `knows` what each connected one may be asked about.
    """
    ask: list[str] = []
    missing: list[Missing] = []
    for agent in agents:
        name, verdict = str(agent["agent"]), agent["verdict"]
        if name in knows:
            if about in knows[name]:
                ask.append(name)
            else:
                missing.append(Missing(name, "too_old", f"version {agent.get('software') or 'unknown'}"))
        elif verdict != "left":
            missing.append(Missing(name, "not_connected", f"last seen {agent['last_seen']}"))
    return ask, missing


def late(agent: str, within: float, silent: float) -> Missing:
    """Who did not answer `within` seconds; nothing at all came from it for `silent` seconds."""
    reason = "stalled" if silent > SILENT else "no_answer"
    return Missing(agent, reason, f"no answer within {within:g} s; its last message came {silent:.1f} s ago")


class Habits:
    """How long to wait for whom: half as long for each time in a row that an agent gave no answer."""

    def __init__(self) -> None:
        self._missed: dict[str, int] = {}

    def within(self, agent: str, full: float) -> float:
        """Seconds that this agent is given where others are given `full`."""
        return max(min(SHORTEST, full), full / (1 << min(self._missed.get(agent, 0), 10)))

    def missed(self, agent: str) -> None:
        """It did not answer, or not in time."""
        self._missed[agent] = self._missed.get(agent, 0) + 1

    def answered(self, agent: str) -> None:
        """It answered, as fast as is asked of others."""
        self._missed.pop(agent, None)

    def keep(self, agents: Collection[str]) -> None:
        """Forget all others."""
        for agent in [agent for agent in self._missed if agent not in agents]:
            del self._missed[agent]
