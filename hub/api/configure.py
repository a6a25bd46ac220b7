"""`/v1/configure`: what people want of running agents, and what these do."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hub.api import audit, params
from hub.api.context import Hub
from hub.api.problems import Problem
from hub.configure import MOST, Configurer, Refused

WITHIN = 3.0
"""Seconds that other hubs have to say what their agents do."""


async def show(hub: Hub, request: Request) -> Response:
    """The wishes, and each agent with its settings."""
    state = _state(hub.configurer)
    told = await hub.peers.ask(audit.caller(request), "/v1/configure", {}, WITHIN)
    shown = [
        *state["agents"],
        *(each for answer in told.values() if not isinstance(answer, str) for each in answer["agents"]),
    ]
    return JSONResponse({**state, "agents": sorted(shown, key=lambda each: str(each["agent"]))})


async def change(hub: Hub, request: Request) -> Response:
    """Add to the wishes for one agent, the agents of a node, or all."""
    given = params.read(request, params.CONFIGURE, hub.now_ns())
    settings = {name: given[name] for name in ("filter", "detail", "l7") if given[name] is not None}
    if not settings:
        raise Problem("contradiction", "nothing to change: give filter, detail or l7")
    return await _changed(hub, request, given["agent"], settings)


async def reset(hub: Hub, request: Request) -> Response:
    """Take the wishes for one name back."""
    given = params.read(request, params.RESET, hub.now_ns())
    return await _changed(hub, request, given["agent"], None)


async def _changed(hub: Hub, request: Request, name: str, settings: dict[str, str] | None) -> Response:
    configurer = hub.configurer
    if settings is not None and name not in configurer.wishes and len(configurer.wishes) >= MOST:
        raise Problem("contradiction", f"{MOST} agents have settings of their own already: reset some")
    asker = audit.who(request)
    try:
        waiting = await configurer.change(name, settings)
    except Refused as error:
        audit.did(asker, "settings were refused", agent=name, settings=settings, reason=str(error)[:1000])
        raise Problem("bad_setting", f"nothing was changed: {str(error)[:1000]}") from None
    audit.did(asker, "settings were changed", agent=name, settings=settings)
    return JSONResponse({**_state(configurer), "waiting": waiting})


def _state(configurer: Configurer) -> dict[str, Any]:
    return {"wishes": configurer.wishes, "agents": configurer.shown()}
