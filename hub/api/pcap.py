"""`/v1/pcap`: raw frames of all agents that record them, as one pcapng file, and a line in the log for each."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hub.api import params
from hub.api.context import Hub
from hub.api.problems import Problem, problem_of
from hub.fanout.plan import Missing, plan
from hub.pcap.gather import Gather, Question
from hub.pcap.merge import Merge
from hub.pcap.whom import columns_of, may_match
from hub.query.window import format_ns, rfc3339_ns
from protocol import ending
from protocol.messages import PCAP

log = structlog.get_logger()

MEDIA_TYPE = "application/x-pcapng"
MOST_AT_ONCE = 4
"""Answers at once: each holds frames of all agents in memory."""
MOST_GAPS = 100
"""Gaps that are told one by one behind an answer."""
_UNKNOWN = {"frame_number": "frame.number"}
"""Columns that a frame on disk does not have."""
_TIMES = (1 << 63) - 1


@dataclass(slots=True)
class _Answer:
    """One answer on its way."""

    gather: Gather
    absent: list[Missing]
    asked_by: str
    outcome: str = "aborted"
    begun: float = field(default_factory=monotonic)


async def pcap(hub: Hub, request: Request) -> Response:
    """The frames that match, in order of time."""
    values = params.read(request, params.PCAP, hub.now_ns())
    node = params.filter_of(values, "packets")
    for column in columns_of(node) & _UNKNOWN.keys():
        raise Problem(
            "bad_filter", f"frames on disk have no {_UNKNOWN[column]}: choose them by time", column=1, suggestion=None
        )
    if hub.captures >= MOST_AT_ONCE:
        raise Problem("busy", f"{MOST_AT_ONCE} captures are being fetched")
    answer = _plan(hub, values, node, request.client.host if request.client else "")
    return StreamingResponse(_body(hub, answer), media_type=MEDIA_TYPE)


def _plan(hub: Hub, values: dict[str, Any], node: Any, asked_by: str) -> _Answer:
    """Whom to ask, and who is missing already.

    Neither are replays, who left in good order, and whom the filter cannot mean.
    """
    every = hub.register.agents(hub.now_ns())
    agents = [each for each in every if each.get("source") != "replay" and may_match(node, str(each["agent"]))]
    names = [str(agent["agent"]) for agent in agents]
    lines = {name: line for name in names if (line := hub.register.live(name)) is not None}
    chosen, missing = plan(agents, {name: line.answers for name, line in lines.items()}, PCAP)
    absent = [_no_recorder(each) if each.reason == "too_old" else each for each in missing]
    merge = Merge(
        chosen, f"nodetap {hub.version}",
        most_frames=values["limit"] or _TIMES, most_bytes=values["bytes"] or _TIMES,
    )  # fmt: skip
    for each in absent:
        merge.remark(each.agent, f"agent {each.agent} is missing: {each.detail}")
    since = -_TIMES if values["since"] is None else values["since"]
    until = hub.now_ns() if values["until"] is None else values["until"]
    question = Question(values["filter"] or "", since, until, values["deadline"], values["seconds"])

    def silent(name: str) -> float:
        now = hub.now_ns()
        seen = next((agent["last_seen"] for agent in hub.register.agents(now) if agent["agent"] == name), None)
        return 0.0 if seen is None else (now - rfc3339_ns(seen)) / 1e9

    gather = Gather(hub.fetcher, {name: lines[name] for name in chosen}, question, merge, silent, hub.runner.thread)
    return _Answer(gather, absent, asked_by)


def _no_recorder(missing: Missing) -> Missing:
    return Missing(missing.agent, "no_recorder", "it records no frames (nodetap-agent run --recorder DIR)")


async def _body(hub: Hub, answer: _Answer) -> AsyncGenerator[bytes, None]:
    """The file, and behind it how complete it is, or why it broke off."""
    hub.captures += 1
    _log("raw frames are fetched", answer)
    try:
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


def _log(event: str, answer: _Answer, **more: Any) -> None:
    """A line about who gets payload to see."""
    question = answer.gather.question
    log.info(
        event, asked_by=answer.asked_by, filter=question.filter, since=format_ns(question.since),
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
        "frames": merge.frames,
        "bytes": merge.bytes,
        "cut": merge.cut or None,
        "lost": dict(merge.lost),
        "gaps": [
            {"agent": gap.agent, "first": format_ns(gap.first), "last": format_ns(gap.last), "frames": gap.frames,
             "reason": gap.reason}
            for gap in merge.gaps[:MOST_GAPS]
        ],
        "begins": {each: format_ns(gather.reach[each][0]) for each in sorted(late)},
    }  # fmt: skip
