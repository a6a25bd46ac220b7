"""`/v1/doctor`: what is wrong with the hub and its agents, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hub.api import audit, params
from hub.api.context import Hub
from hub.doctor.checks import AGENT, HUB
from hub.doctor.finding import BAD, WARN, Facts, Finding, examine
from hub.fanout.peers import OTHERS, Told
from hub.fanout.plan import Missing
from hub.query.window import format_ns

log = structlog.get_logger()

PATH = "/v1/doctor"
WHERE = "the hub"
"""The place of the hub's own findings; a node may well be called `hub`."""
TODO = {
    "not_connected": "start it again, or `nodetap agents forget {agent}` where it is gone for good",
    "too_old": "bring it to the hub's version",
    "no_answer": "ask again with a longer --deadline; if it stays, see its log",
    "stalled": "see whether the process runs (it may be stopped) and the network to it works",
    "refused": "ask again in a moment; if it stays, see its log",
    "connection_lost": "ask again; `nodetap agents -o wide` says why links end",
    "hub_silent": "see whether that hub runs, and whether this one reaches it there (its --advertise-api)",
}
"""What to do where there is no answer, by the reason (`hub.fanout.plan.MISSING`)."""


async def doctor(hub: Hub, request: Request) -> Response:
    """Findings about the hub and every agent, the facts behind them, and who did not answer. Raises TooMany."""
    deadline = params.read(request, params.DOCTOR, hub.now_ns())["deadline"]
    asker = audit.caller(request)
    looking = asyncio.create_task(_hub_facts(hub, deadline))
    others = asyncio.create_task(hub.peers.ask(asker, PATH, {"deadline": f"{deadline * OTHERS:.3f}"}, deadline))
    try:
        gathering = await hub.asker.ask("doctor", deadline)
        own, slow = await looking
        told = await others
    finally:
        looking.cancel()
        others.cancel()
    away = hub.register.elsewhere
    missing = [
        each for each in gathering.missing if each.reason != "not_connected" or not (asker.hop or each.agent in away)
    ]
    silent = {url: why for url, why in told.items() if isinstance(why, str)}
    missing += [
        Missing(name, "hub_silent", f"it is connected to the hub at {url}: {silent[url]}")
        for url, names in hub.peers.hubs.items()
        if url in silent
        for name in names
    ]
    now_ns = hub.now_ns()
    known = {agent["agent"]: agent for agent in hub.register.agents(now_ns)}
    facts = {
        name: {**part.body, **_seen(known.get(name, {})), "hub_software": hub.version, "now": now_ns / 1e9}
        for name, part in gathering.parts.items()
    }
    of_agents = [finding for name in facts for finding in examine(name, facts[name], AGENT)]
    of_agents += map(_absent, missing)
    of_agents += [Finding(**found) for answer in _heard(told) for found in answer["findings"]]
    findings = [*slow, *examine(WHERE, own, HUB), *sorted(of_agents, key=lambda finding: finding.where)]
    return JSONResponse(
        {
            "time": format_ns(now_ns),
            "deadline": deadline,
            "findings": [finding.to_map() for finding in findings],
            "agents": dict(sorted(_joined(told, "agents", {n: p.seconds for n, p in gathering.parts.items()}).items())),
            "missing": sorted(
                [
                    *(each.to_map() for each in missing),
                    *(each for answer in _heard(told) for each in answer["missing"]),
                ],
                key=lambda each: str(each["agent"]),
            ),
            "facts": {"hub": own, "agents": facts},
        }
    )


def _heard(told: Mapping[str, Told | str]) -> Iterator[Told]:
    """The answers of other hubs, what is said of them under their names."""
    for url, answer in told.items():
        if not isinstance(answer, str):
            names = {WHERE: f"{WHERE} at {url}"}
            found = [{**each, "where": names.get(each["where"], each["where"])} for each in answer["findings"]]
            yield {**answer, "findings": found}


def _joined(told: Mapping[str, Told | str], name: str, own: dict[str, Any]) -> dict[str, Any]:
    """A member of the answers of other hubs, and ours."""
    for answer in _heard(told):
        own = {**answer[name], **own}
    return own


def _seen(agent: Facts) -> dict[str, Any]:
    """What the hub thinks of an agent."""
    return {name: agent[name] for name in ("verdict", "evidence") if name in agent}


def _absent(missing: Missing) -> Finding:
    level, todo = WARN if missing.reason == "too_old" else BAD, TODO[missing.reason]
    said = f"not connected, {missing.detail}" if missing.reason == "not_connected" else missing.detail
    return Finding(level, missing.agent, "answer", said, todo.replace("{agent}", missing.agent))


async def _hub_facts(hub: Hub, deadline: float) -> tuple[dict[str, Any], list[Finding]]:
    """The hub's facts; a finding where the store or its disk did not tell in time."""
    ready, reason = hub.ready()
    unbalanced, incomplete = hub.register.tally()
    agents = hub.register.agents(hub.now_ns())
    now = asyncio.get_running_loop().time()
    facts: dict[str, Any] = {
        "software": hub.version,
        "ready": ready,
        "reason": reason,
        "ledger": {"balanced": not unbalanced, "complete": not incomplete},
        "tasks": len(asyncio.all_tasks()),
        "agents": {"connected": sum(agent["verdict"] not in ("left", "gone") for agent in agents)},
        "refused": [
            {"client": one.client, "code": one.code, "reason": one.reason, "times": one.times, "ago": now - one.at}
            for one in hub.register.turned_away.lately(now)
        ],
    }
    try:
        async with asyncio.timeout(deadline):
            return {**facts, **await hub.runner.thread(hub.facts)}, []
    except Exception as error:  # whatever it is, the others are to be told
        log.warning("the hub's own facts are missing", error=repr(error)[:300])
        said = f"the store or its disk did not tell: {error or type(error).__name__}"
        return facts, [Finding(BAD, WHERE, "disk", said, "see the hub's log and its disk")]
