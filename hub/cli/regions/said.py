"""What several hubs say of themselves, as one: completeness, agents, books, findings. Pure.

An `Outcome` is what a hub answered, or why it did not. Where a hub is missing nothing is complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

Outcome: TypeAlias = "dict[str, Any] | str"
Outcomes: TypeAlias = "Mapping[str, Outcome]"
"""By the hub's URL."""
Answer: TypeAlias = "dict[str, Any]"


def _answers(outcomes: Outcomes) -> dict[str, Answer]:
    return {url: told for url, told in outcomes.items() if not isinstance(told, str)}


def missing(outcomes: Outcomes) -> list[dict[str, str]]:
    """The hubs that did not answer, or not to the end, and why."""
    return [{"hub": url, "reason": told} for url, told in outcomes.items() if isinstance(told, str)]


def _all(answers: Mapping[str, Answer], name: str) -> list[Any]:
    """The members of a list of all hubs, objects with the hub they are from."""
    return [
        {**item, "hub": url} if isinstance(item, dict) else item
        for url, told in answers.items()
        for item in told.get(name, ())
    ]


def _common(outcomes: Outcomes, answers: Mapping[str, Answer]) -> Answer:
    """What the completeness of rows and that of raw frames both have."""
    first = next(iter(answers.values()), {})
    lost: Counter[str] = Counter()
    for told in answers.values():
        lost.update(told.get("lost", {}))
    return {
        "since": first.get("since"),
        "until": first.get("until"),
        "agents": sorted(_all(answers, "agents")),
        "missing": [*missing(outcomes), *_all(answers, "missing")],
        "gaps": _all(answers, "gaps"),
        "lost": dict(lost),
    }


def completeness(outcomes: Outcomes) -> Answer:
    """How complete the answers are together, and each by itself under `hubs`."""
    answers = _answers(outcomes)
    return {
        **_common(outcomes, answers),
        "flow_only": sum(told.get("flow_only") or 0 for told in answers.values()),
        "clocks": _all(answers, "clocks"),
        "expired": sum(told.get("expired") or 0 for told in answers.values()),
        "rounded": min((told["rounded"] for told in answers.values() if told.get("rounded")), default=None),
        "cut": next((told["cut"] for told in answers.values() if told.get("cut")), None),
        "complete": _whole(outcomes, answers),
        "hubs": [_hub(url, told) for url, told in outcomes.items()],
    }


def _hub(url: str, told: Outcome) -> Answer:
    if isinstance(told, str):
        return {"hub": url, "complete": False, "reason": told}
    return {"hub": url, "complete": bool(told.get("complete")), "agents": len(told.get("agents", ()))}


def after(before: Answer, told: Answer) -> Answer:
    """What a hub says that was away since it said `before`: what was missing then still is."""
    return {
        **told,
        "since": before.get("since"),
        "gaps": [*before.get("gaps", ()), *told.get("gaps", ())],
        "lost": dict(Counter(before.get("lost", {})) + Counter(told.get("lost", {}))),
    }


def frames(outcomes: Outcomes, away: Mapping[str, float], **figures: Any) -> Answer:
    """How complete a file of raw frames of several hubs is, as `/v1/pcap` and `/v1/capture` say it of one.

    `away` has the seconds for which hubs were not there. `figures` are those of the file: `frames`, `bytes`, `cut`, and
    whether it is `complete` as far as hubs are.
    """
    answers = _answers(outcomes)
    return {
        **_common(outcomes, answers),
        "waiting": sorted(_all(answers, "waiting")),
        "begins": {agent: time for told in answers.values() for agent, time in told.get("begins", {}).items()},
        **figures,
        "cut": figures["cut"] or next((told["cut"] for told in answers.values() if told.get("cut")), None),
        "complete": figures["complete"] and _whole(outcomes, answers) and not away,
        "hubs": [
            _hub(url, told) | ({"complete": False, "away": away[url]} if url in away else {})
            for url, told in outcomes.items()
        ],
    }


def _whole(outcomes: Outcomes, answers: Mapping[str, Answer]) -> bool:
    return len(answers) == len(outcomes) and all(told.get("complete") for told in answers.values())


def agents(outcomes: Outcomes) -> Answer:
    """Every agent of every hub, with its hub."""
    found = _all(_answers(outcomes), "agents")
    return {"agents": sorted(found, key=lambda agent: str(agent["agent"])), "hubs_missing": missing(outcomes)}


def configure(outcomes: Outcomes) -> Answer:
    """Every agent of every hub with its settings; under `hubs` what is wanted at each."""
    answers = _answers(outcomes)
    return {
        "wishes": {name: wish for told in reversed(answers.values()) for name, wish in told["wishes"].items()},
        "agents": sorted(_all(answers, "agents"), key=lambda agent: str(agent["agent"])),
        "waiting": sorted(_all(answers, "waiting")),
        "hubs": [*({"hub": url, "wishes": told["wishes"]} for url, told in answers.items()), *missing(outcomes)],
    }


BOOKS = ("balanced", "complete", "not_storing")
"""What the books of one hub say of all of its runs."""


def ledger(outcomes: Outcomes) -> Answer:
    """The books of all hubs."""
    answers = _answers(outcomes)
    return {
        "balanced": all(told["balanced"] for told in answers.values()),
        "complete": len(answers) == len(outcomes) and all(told["complete"] for told in answers.values()),
        "agents": _all(answers, "agents"),
        "hubs": [
            *({"hub": url, **{name: told[name] for name in BOOKS if name in told}} for url, told in answers.items()),
            *({**each, "complete": False} for each in missing(outcomes)),
        ],
    }


def doctor(outcomes: Outcomes) -> Answer:
    """The findings about all hubs and their agents; a hub that does not answer is one."""
    answers = _answers(outcomes)
    silent = missing(outcomes)
    findings = [
        {"level": "bad", "where": each["hub"], "check": "answer", "what": each["reason"], "todo": "see whether it runs"}
        for each in silent
    ]
    for url, told in answers.items():
        findings += [
            {**each, "where": url if each["where"] == "the hub" else each["where"]} for each in told["findings"]
        ]
    return {
        "findings": findings,
        "agents": {name: seconds for told in answers.values() for name, seconds in told["agents"].items()},
        "missing": [
            *({"agent": each["hub"], "reason": "no_answer", "detail": each["reason"]} for each in silent),
            *_all(answers, "missing"),
        ],
        "facts": {url: told["facts"] for url, told in answers.items()},
    }
