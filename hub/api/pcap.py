"""`/v1/pcap`: raw frames of all agents that record them, as one pcapng file, and a line in the log for each."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response

from hub.api import audit, frames, params
from hub.api.audit import Who
from hub.api.context import Hub
from hub.api.problems import Problem, problem_of
from hub.fanout.plan import Missing
from hub.pcap.gather import Gather, Question
from hub.pcap.merge import Merge
from hub.query.named import named, told
from hub.query.select import Question as Asked
from hub.query.window import format_ns
from hub.store.errors import StoreError
from protocol import ending
from protocol.messages import PCAP

log = structlog.get_logger()

MOST_AT_ONCE = 4
"""Answers at once: each holds frames of all agents in memory."""
CANNOT = "no_recorder: it records no frames (nodetap-agent run --recorder DIR)"
NAMING = 2.0
"""Seconds that the store has to say who had which address."""
_TIMES = (1 << 63) - 1


@dataclass(slots=True)
class _Answer:
    """One answer on its way."""

    gather: Gather
    absent: list[Missing]
    node: Any
    who: Who
    outcome: str = "aborted"
    begun: float = field(default_factory=monotonic)


async def pcap(hub: Hub, request: Request) -> Response:
    """The frames that match, in order of time."""
    values = params.read(request, params.PCAP, hub.now_ns())
    node = frames.filter_of(values)
    if hub.captures >= MOST_AT_ONCE:
        raise Problem("busy", f"{MOST_AT_ONCE} captures are being fetched")
    return frames.Patient(_body(hub, _plan(hub, values, node, request)))


def _plan(hub: Hub, values: dict[str, Any], node: Any, request: Request) -> _Answer:
    """Whom to ask, and who is missing already."""
    lines, absent = frames.whom(hub, node, PCAP, CANNOT, hub.peers.lines(audit.caller(request)))
    merge = Merge(
        lines, f"nodetap {hub.version}",
        most_frames=values["limit"] or _TIMES, most_bytes=values["bytes"] or _TIMES,
    )  # fmt: skip
    for each in absent:
        merge.remark(each.agent, f"agent {each.agent} is missing: {each.detail}")
    since = -_TIMES if values["since"] is None else values["since"]
    until = hub.now_ns() if values["until"] is None else values["until"]
    question = Question(values["filter"] or "", since, until, values["deadline"], values["seconds"])
    gather = Gather(hub.fetcher, lines, question, merge, lambda name: frames.silent_for(hub, name), hub.runner.thread)
    return _Answer(gather, absent, node, audit.who(request))


async def _body(hub: Hub, answer: _Answer) -> AsyncGenerator[bytes, None]:
    """The file, and behind it how complete it is, or why it broke off."""
    hub.captures += 1
    _log("raw frames are fetched", answer)
    try:
        await _name(hub, answer)
        async with aclosing(answer.gather.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
        said = completeness(answer)
        answer.outcome = "complete" if said["complete"] else "incomplete"
        yield ending.pack({"nodetap.completeness": said})
    except Exception as error:
        answer.outcome = "failed"
        log.exception("an answer of raw frames broke off")
        yield ending.pack({"nodetap.error": problem_of(error).to_map()})
    finally:
        hub.captures -= 1
        _log("raw frames were fetched", answer, outcome=answer.outcome, frames=answer.gather.merge.frames,
             bytes=answer.gather.merge.bytes, seconds=round(monotonic() - answer.begun, 3))  # fmt: skip


async def _name(hub: Hub, answer: _Answer) -> None:
    """Say in the file whose addresses there are, where the hub knows and can tell soon."""
    question = answer.gather.question
    query = named(Asked("packets", answer.node, question.since, question.until, commit=hub.store.committed()))
    try:
        rows = await hub.runner.call(lambda reader: reader.rows(query.sql, query.params, timeout=NAMING))
    except StoreError:
        return
    if text := told(rows):
        answer.gather.merge.remark("", text)


def _log(event: str, answer: _Answer, **more: Any) -> None:
    question = answer.gather.question
    audit.did(
        answer.who, event, filter=question.filter, since=format_ns(question.since),
        until=format_ns(question.until), agents=sorted(answer.gather.lines), **more,
    )  # fmt: skip


def completeness(answer: _Answer) -> dict[str, Any]:
    """What the file has, and what it has not."""
    gather, merge = answer.gather, answer.gather.merge
    missing = sorted([*answer.absent, *gather.missing], key=lambda each: each.agent)
    late = [each for each, (_, gone) in gather.reach.items() if gone and gone >= gather.question.since]
    return {
        "complete": not (missing or merge.gaps or merge.cut or late),
        "since": format_ns(gather.question.since),
        "until": format_ns(gather.question.until),
        "agents": sorted(gather.lines.keys() - {each.agent for each in missing}),
        "missing": [each.to_map() for each in missing],
        **frames.missed(merge),
        "begins": {each: format_ns(gather.reach[each][0]) for each in sorted(late)},
    }
