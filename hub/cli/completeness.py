"""How complete an answer is, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import click


def plural(count: int, noun: str) -> str:
    """`1 agent`, `2 agents`, `1,000 packets`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def sentence(answer: Mapping[str, Any]) -> str:
    """The last line of a table: `complete: 3 agents, no gaps`, or `INCOMPLETE: ` and what is not there, and why."""
    agents = plural(len(answer.get("agents", ())), "agent")
    if "hubs" in answer:
        agents += f" of {plural(sum('reason' not in hub for hub in answer['hubs']), 'hub')}"
    if answer.get("complete"):
        return "; ".join([f"complete: {agents}, no gaps", *_flow_only(answer), *_rounded(answer)])
    troubles = [*_cut(answer), *_missing(answer), *_gaps(answer), *_lost(answer), *_flow_only(answer)]
    troubles += [*_expired(answer), *_rounded(answer)]
    return f"INCOMPLETE: {'; '.join(troubles) or 'the hub does not say why'} ({agents})"


def clock_sentence(clock: Mapping[str, Any]) -> str:
    """One clock that is off, in words."""
    offset = float(clock.get("offset") or 0.0)
    way = "behind" if offset > 0 else "ahead of"
    return f"the clock of {clock.get('agent')} is {abs(offset):,.1f} s {way} the hub's"


def warn_of_clocks(clocks: Iterable[Mapping[str, Any]]) -> None:
    """Lines on stderr where clocks are off: the rows of these agents have times that are as wrong."""
    for clock in clocks:
        click.echo(f"nodetap: {clock_sentence(clock)}, and so are its times; set it, see nodetap doctor", err=True)


def _cut(answer: Mapping[str, Any]) -> list[str]:
    return [f"cut: this hub sends no more {answer['cut']} in one answer"] if answer.get("cut") else []


def _missing(answer: Mapping[str, Any]) -> list[str]:
    return [f"{_named(part)} missing ({part.get('reason')})" for part in answer.get("missing", ())]


def _named(part: Mapping[str, Any]) -> str:
    """An agent, or a hub of several."""
    return str(part["agent"]) if "agent" in part else f"hub {part.get('hub')}"


def warn_of_hubs(missing: Iterable[Mapping[str, str]]) -> None:
    """Lines on stderr about hubs that are missing from what several were asked."""
    for part in missing:
        click.echo(f"nodetap: hub {part['hub']} missing ({part['reason']})", err=True)


def _gaps(answer: Mapping[str, Any]) -> list[str]:
    count: Counter[str] = Counter()
    for gap in answer.get("gaps", ()):
        count[str(gap.get("agent"))] += gap["last"] - gap["first"] + 1
    return [
        f"{plural(batches, 'batch').replace('batchs', 'batches')} of {agent} not here"
        for agent, batches in count.items()
    ]


def _lost(answer: Mapping[str, Any]) -> list[str]:
    lost = {reason: packets for reason, packets in answer.get("lost", {}).items() if packets}
    if not lost:
        return []
    reasons = ", ".join(f"{reason} {packets:,}" for reason, packets in lost.items())
    return [f"{plural(sum(lost.values()), 'packet')} lost ({reasons})"]


def _flow_only(answer: Mapping[str, Any]) -> list[str]:
    packets = answer.get("flow_only") or 0
    return [f"{plural(packets, 'packet')} in flows only"] if packets else []


def _expired(answer: Mapping[str, Any]) -> list[str]:
    rows = answer.get("expired") or 0
    return [f"{plural(rows, 'row')} expired"] if rows else []


def _rounded(answer: Mapping[str, Any]) -> list[str]:
    step = answer.get("rounded")
    return [f"from sums of whole {step}s where rows have expired"] if step else []
