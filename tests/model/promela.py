"""The link's table in Promela: `link.pml` includes what `table()` gives, so the model's agent is the agent's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.uplink.machine import FIRST, TABLE, Command, Event, State

Table = Mapping[tuple[State, Event], tuple[State, Sequence[Command]]]

COUNTER = """c_decl {
  static char taken[256];
  __attribute__((destructor)) static void tell_taken(void) { printf("taken: %s\\n", taken); }
}
"""


def table(of: Table = TABLE, *, count: bool = False) -> str:
    """The states, `begin()`, and `on_EVENT()` for each event: its transitions and commands, or an error.

    With `count` the search prints `taken: ` at its end and a character for each transition up to the last one that was
    taken, `y` or `n`, in the order of the table.
    """
    parts = ["mtype = { " + ", ".join(state.upper() for state in State) + " };", f"mtype state = {FIRST[0].upper()};"]
    parts.append(f"inline begin() {{ {_calls(FIRST[1])} }}")
    for event in Event:
        rows = [
            f"  :: state == {old.upper()} -> {_mark(place) if count else ''}state = {new.upper()}; {_calls(commands)}"
            for place, ((old, it), (new, commands)) in enumerate(of.items())
            if it is event
        ]
        parts += [f"inline on_{event}() {{", "  if", *rows, "  :: else -> assert(false)", "  fi", "}"]
    return (COUNTER if count else "") + "\n".join(parts) + "\n"


def _mark(place: int) -> str:
    return f"c_code {{ int i; for (i = 0; i < {place}; i++) if (!taken[i]) taken[i] = 'n'; taken[{place}] = 'y'; }}; "


def _calls(commands: Sequence[Command]) -> str:
    return "; ".join([*(f"{command}()" for command in commands), "skip"])
