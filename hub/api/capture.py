"""`/v1/capture`: raw frames of all agents that allow it, as they are captured, as one pcapng file without an end."""

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
from hub.pcap.live import Live, Wish
from hub.pcap.merge import Merge
from hub.query.window import format_ns
from protocol import ending
from protocol.messages import CAPTURE

log = structlog.get_logger()

MOST_AT_ONCE = 8
"""Captures at once; agents have bounds of their own."""
CANNOT = "not_allowed: it gives no live frames (nodetap-agent run --allow-capture or --recorder DIR)"
_NEVER = (1 << 63) - 1


@dataclass(slots=True)
class _Answer:
    """One capture on its way. `agents` took part at some time."""

    hub: Hub
    live: Live
    who: Who
    agents: set[str] = field(default_factory=set)
    outcome: str = "aborted"
    begun: float = field(default_factory=monotonic)


async def capture(hub: Hub, request: Request) -> Response:
    """The frames that match, as they come."""
    values = params.read(request, params.CAPTURE, hub.now_ns())
    node = frames.filter_of(values)
    if hub.live >= MOST_AT_ONCE:
        raise Problem("busy", f"{MOST_AT_ONCE} live captures are running")
    merge = Merge(
        (), f"nodetap {hub.version}", most_frames=values["limit"] or _NEVER, most_bytes=values["bytes"] or _NEVER
    )
    remote = hub.peers.lines(audit.caller(request))
    live = Live(
        hub.fetcher,
        Wish(values["filter"] or "", values["deadline"], float(values["seconds"]) or None),
        merge,
        lambda: frames.whom(hub, node, CAPTURE, CANNOT, remote),
        lambda name: frames.silent_for(hub, name),
        hub.runner.thread,
        hub.now_ns(),
    )
    answer = _Answer(hub, live, audit.who(request))
    live.progress = lambda: ending.pack({"nodetap.progress": completeness(answer)})
    return frames.Patient(_body(answer))


async def _body(answer: _Answer) -> AsyncGenerator[bytes, None]:
    """The file, and behind it how complete it is, or why it broke off."""
    hub, live = answer.hub, answer.live
    hub.live += 1
    audit.did(answer.who, "raw frames are captured", filter=live.wish.filter)
    try:
        async with aclosing(live.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
        said = completeness(answer)
        answer.outcome = live.merge.cut
        yield ending.pack({"nodetap.completeness": said})
    except Exception as error:
        answer.outcome = "failed"
        log.exception("a live capture broke off")
        yield ending.pack({"nodetap.error": problem_of(error).to_map()})
    finally:
        hub.live -= 1
        audit.did(
            answer.who, "raw frames were captured", filter=live.wish.filter, agents=sorted(answer.agents),
            outcome=answer.outcome, frames=live.merge.frames, bytes=live.merge.bytes,
            seconds=round(monotonic() - answer.begun, 3),
        )  # fmt: skip


def completeness(answer: _Answer) -> dict[str, Any]:
    """What the file has so far, and what it has not."""
    live, merge = answer.live, answer.live.merge
    answer.agents.update(live.agents)
    return {
        "complete": not (live.missing or merge.gaps or merge.cut == "hub_stopped"),
        "since": format_ns(live.begun),
        "until": format_ns(answer.hub.now_ns()),
        "agents": live.agents,
        "waiting": live.waiting,
        "reached": None if live.reached is None else format_ns(live.reached),
        "missing": [each.to_map() for each in live.missing],
        **frames.missed(merge),
    }
