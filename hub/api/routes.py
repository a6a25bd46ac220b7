"""The route table: every row says method, path, who may call, handler, parameters, and what it is for."""

from __future__ import annotations

from dataclasses import dataclass

from hub.api import answers, capture, configure, doctor, follow, params, pcap, relay, resources
from hub.api.context import Handler
from hub.api.frames import MEDIA_TYPE
from hub.tokens import ADMIN, CAPTURE, READ

OPEN = "open"
"""Anybody may call; the others take a role, where the hub has tokens."""


@dataclass(frozen=True, slots=True)
class Row:
    """One route. `role` is what it takes, `kind` names those of which a client may have only so many open."""

    method: str
    path: str
    role: str
    handler: Handler
    summary: str
    params: tuple[params.Param, ...] = ()
    produces: tuple[str, ...] = ("application/json",)
    kind: str = ""


_ROWS = (
    "application/x-ndjson",
    "application/json",
    "text/csv",
    "application/vnd.apache.parquet",
    "application/vnd.apache.arrow.stream",
)

_RAW = (MEDIA_TYPE,)
_TEXT = ("text/plain",)

ROUTES = (
    Row("GET", "/v1/packets", READ, answers.packets, "packet rows", params.PACKETS, _ROWS, "ask"),
    Row("GET", "/v1/flows", READ, answers.flows, "flow records, or sums of them with by", params.FLOWS, _ROWS, "ask"),
    Row("GET", "/v1/calls", READ, answers.calls, "calls, or figures of them with by", params.CALLS, _ROWS, "ask"),
    Row("GET", "/v1/follow", READ, follow.follow, "rows as they are stored", params.FOLLOW, _ROWS[:1], "follow"),
    Row("GET", "/v1/pcap", CAPTURE, pcap.pcap, "raw frames of all agents that record", params.PCAP, _RAW, "frames"),
    Row("GET", "/v1/capture", CAPTURE, capture.capture, "raw frames as they come", params.CAPTURE, _RAW, "live"),
    Row("GET", "/v1/agents", READ, resources.agents, "one object per agent"),
    Row("DELETE", "/v1/agents/{name:path}", ADMIN, resources.forget, "forgets an agent that left", kind="forget"),
    Row("GET", "/v1/doctor", READ, doctor.doctor, "what is wrong and what to do", params.DOCTOR, kind="doctor"),
    Row("GET", "/v1/configure", READ, configure.show, "what is wanted of agents, and what they do"),
    Row("PUT", "/v1/configure", ADMIN, configure.change, "changes settings of agents", params.CONFIGURE, kind="set"),
    Row("DELETE", "/v1/configure", ADMIN, configure.reset, "takes such changes back", params.RESET),
    Row("GET", "/v1/ledger", READ, resources.ledger, "the books: what became of every packet"),
    Row("GET", "/v1/fields", READ, resources.fields, "what can be shown and filtered by"),
    Row("GET", "/v1/status", READ, resources.status, "version, store, readiness"),
    Row("GET", "/openapi.json", READ, resources.openapi, "this API, described"),
    Row("GET", "/healthz", OPEN, resources.healthz, "200 while the hub's loop runs", (), _TEXT),
    Row("GET", "/readyz", OPEN, resources.readyz, "200 while the hub takes work, else 503", (), _TEXT),
    Row("GET", "/metrics", READ, resources.metrics, "Prometheus metrics", (), _TEXT),
)
RELAY = Row("POST", "/v1/relay/{name:path}", CAPTURE, relay.relay, "raw frames for another hub", kind="relay")
"""For hubs alone: it is in no description."""
