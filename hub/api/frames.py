"""What the routes that hand out raw frames share: whom to ask, and an answer that nobody holds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import structlog
from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from hub.api import params
from hub.api.context import Hub
from hub.api.problems import Problem
from hub.fanout.plan import Missing, plan
from hub.pcap.merge import Gap, Merge
from hub.pcap.whom import columns_of, may_match
from hub.query.window import format_ns
from protocol.schema import PARTS

log = structlog.get_logger()

MEDIA_TYPE = "application/x-pcapng"
MOST_GAPS = 100
"""Gaps that are told one by one behind an answer."""
STALLED = 60.0
"""Seconds for which whoever reads an answer may take nothing of it."""
_UNKNOWN = {"frame_number": "frame.number: choose them by time"} | {
    column.name: f"{column.name.replace('_', '.')}: agents know no names of Kubernetes, choose them by address"
    for column in PARTS
}
"""Columns that a raw frame does not have, by what to do instead."""


def filter_of(values: Mapping[str, Any]) -> Any:
    """The tree of the filter, None where there is none. Raises Problem `bad_filter`, FilterError."""
    node = params.filter_of(values, "packets")
    for column in columns_of(node) & _UNKNOWN.keys():
        raise Problem("bad_filter", f"raw frames have no {_UNKNOWN[column]}", column=1, suggestion=None)
    return node


def whom(
    hub: Hub, node: Any, about: str, cannot: str, remote: Callable[[str], Any]
) -> tuple[dict[str, Any], list[Missing]]:
    """The connections to ask, by agent, and who is missing already; `cannot` says why who cannot be asked `about` it,
    `remote` is what stands for a connection to another hub.

    Neither are replays, who left in good order, and whom the filter cannot mean.
    """
    every = hub.register.agents(hub.now_ns())
    agents = [each for each in every if each.get("source") != "replay" and may_match(node, str(each["agent"]))]
    names = [str(agent["agent"]) for agent in agents]
    lines = {name: line for name in names if (line := hub.register.live(name) or remote(name)) is not None}
    chosen, missing = plan(agents, {name: line.answers for name, line in lines.items()}, about)
    reason, _, detail = cannot.partition(": ")
    missing = [Missing(each.agent, reason, detail) if each.reason == "too_old" else each for each in missing]
    return {name: lines[name] for name in chosen}, missing


def silent_for(hub: Hub, name: str) -> float:
    """Seconds since anything came from an agent; 0 where nobody knows it any more."""
    known = hub.register.live(name) is not None or name in hub.register.elsewhere
    return hub.register.silent_for(name, hub.now_ns()) if known else 0.0


def missed(merge: Merge) -> dict[str, Any]:
    """What is in a file and what is not, as completeness says it."""
    return {
        "frames": merge.frames,
        "bytes": merge.bytes,
        "cut": merge.cut or None,
        "lost": dict(merge.lost),
        "gaps": [_gap(gap) for gap in merge.gaps[:MOST_GAPS]],
    }


def _gap(gap: Gap) -> dict[str, Any]:
    times = {"first": format_ns(gap.first), "last": format_ns(gap.last)}
    return {"agent": gap.agent, **times, "frames": gap.frames, "reason": gap.reason}


class Patient(StreamingResponse):
    """A streamed answer that ends where nobody takes any of it for `STALLED` seconds: it holds frames of all agents."""

    def __init__(self, body: AsyncGenerator[bytes, None]) -> None:
        super().__init__(body, media_type=MEDIA_TYPE)
        self._body = body

    async def stream_response(self, send: Send) -> None:
        """Send it all. Raises TimeoutError."""

        async def patient(message: Message) -> None:
            async with asyncio.timeout(STALLED):
                await send(message)

        try:
            await super().stream_response(patient)
        except TimeoutError:
            log.warning("raw frames are not taken; ended", seconds=STALLED)
        finally:
            await self._body.aclose()
