"""The link's table in Promela: `link.pml` includes what `table()` gives, so the model's agent is the agent's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.uplink.machine import FIRST, TABLE, Command, Event, State

Table = Mapping[tuple[State, Event], tuple[State, Sequence[Command]]]


def table(of: Table = TABLE) -> str:
    """The states, `begin()`, and `on_EVENT()` for each event: its transitions and commands, or an error."""
    parts = ["mtype = { " + ", ".join(state.upper() for state in State) + " };", f"mtype state = {FIRST[0].upper()};"]
    parts.append(f"inline begin() {{ {_calls(FIRST[1])} }}")
    for event in Event:
        rows = [
            f"  :: state == {old.upper()} -> state = {new.upper()}; {_calls(commands)}"
            for (old, it), (new, commands) in of.items()
            if it is event
        ]
        parts += [f"inline on_{event}() {{", "  if", *rows, "  :: else -> assert(false)", "  fi", "}"]
    return "\n".join(parts) + "\n"


def _calls(commands: Sequence[Command]) -> str:
    return "; ".join([*(f"{command}()" for command in commands), "skip"])
