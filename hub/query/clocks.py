"""Agents whose clocks are off: their rows carry times that are as wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MOST = 2.0
"""Seconds that an agent's clock may be away from the hub's before people are told."""


def clocks_off(agents: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`{"agent", "offset"}` of those that are connected and off by more than MOST.

    `offset` is the hub's clock minus the agent's, seconds: add it to a time of the agent's to have the hub's.
    """
    return [
        {"agent": agent["agent"], "offset": agent["clock_offset"]}
        for agent in agents
        if isinstance(agent.get("clock_offset"), int | float) and abs(agent["clock_offset"]) > MOST
    ]
