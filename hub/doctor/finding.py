"""Findings, and how a table of checks makes them of facts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

OK, WARN, BAD = "ok", "warn", "bad"
MOST_SAID = 1_000
"""Characters that are kept of what was found: agents choose their words."""

Facts: TypeAlias = "Mapping[str, Any]"
"""Numbers and words about one place; agents send them, of any version."""
Said: TypeAlias = "tuple[str, str, str]"
"""Level, what was found, what to do about it (empty where all is well)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, what it is about, and the judgment; None where it does not apply."""

    name: str
    about: str
    judge: Callable[[Facts], Said | None]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check said of one place: an agent's name, `the hub` or `here`."""

    level: str
    where: str
    check: str
    what: str
    todo: str = ""

    def to_map(self) -> dict[str, str]:
        """As JSON shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


def examine(where: str, facts: Facts, checks: Iterable[Check]) -> list[Finding]:
    """The findings of all checks that apply. Facts that are not there, or of another type, apply to nothing."""
    found: list[Finding] = []
    for check in checks:
        try:
            said = check.judge(facts)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError):
            continue  # from an agent of another version
        if said is not None:
            found.append(Finding(said[0], where, check.name, said[1][:MOST_SAID], said[2][:MOST_SAID]))
    return found


def by_limit(value: float, warn: float, bad: float) -> str:
    """The level of a number that should be small."""
    return BAD if value > bad else WARN if value > warn else OK


def size(count: float) -> str:
    """Bytes for people: `512 B`, `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """A time for people: `0.4 ms`, `2.5 s`, `3 min`, `1.5 h`, `12 days`."""
    seconds = abs(seconds)
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86_400:.0f} days"


def apart(offset: float, other: str) -> str:
    """Two clocks in words; `offset` is the other's minus ours, seconds."""
    if abs(offset) < 1e-3:
        return f"less than 1 ms from {other}"
    return f"{span(offset)} {'behind' if offset > 0 else 'ahead of'} {other}"
