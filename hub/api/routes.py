"""The route table: every row says method, path, who may call, handler, parameters, and what it is for."""

from __future__ import annotations

from dataclasses import dataclass

from hub.api import answers, capture, doctor, follow, params, pcap, resources
from hub.api.context import Handler
from hub.api.frames import MEDIA_TYPE

OPEN, TOKEN = "open", "token"
"""Who may call: anybody, or with a token configured who has it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One route."""

    method: str
    path: str
    who: str
    handler: Handler
    summary: str
    params: tuple[params.Param, ...] = ()
    produces: tuple[str, ...] = ("application/json",)


_ROWS = (
    "application/x-ndjson",
    "application/json",
    "text/csv",
    "application/vnd.apache.parquet",
    "application/vnd.apache.arrow.stream",
)

_RAW = (MEDIA_TYPE,)

ROUTES = (
    Row("GET", "/v1/packets", TOKEN, answers.packets, "packet rows", params.PACKETS, _ROWS),
    Row("GET", "/v1/flows", TOKEN, answers.flows, "flow records, or sums of them with by", params.FLOWS, _ROWS),
    Row("GET", "/v1/calls", TOKEN, answers.calls, "calls, or figures of them with by", params.CALLS, _ROWS),
    Row("GET", "/v1/follow", TOKEN, follow.follow, "rows as they are stored, resumable", params.FOLLOW, _ROWS[:1]),
    Row("GET", "/v1/pcap", TOKEN, pcap.pcap, "raw frames of all agents that record", params.PCAP, _RAW),
    Row("GET", "/v1/capture", TOKEN, capture.capture, "raw frames as they are captured", params.CAPTURE, _RAW),
    Row("GET", "/v1/agents", TOKEN, resources.agents, "one object per agent"),
    Row("DELETE", "/v1/agents/{name:path}", TOKEN, resources.forget, "forgets an agent that left"),
    Row("GET", "/v1/doctor", TOKEN, doctor.doctor, "what is wrong with hub and agents, and what to do", params.DOCTOR),
    Row("GET", "/v1/ledger", TOKEN, resources.ledger, "the books: what became of every packet"),
    Row("GET", "/v1/fields", TOKEN, resources.fields, "what can be shown and filtered by"),
    Row("GET", "/v1/status", TOKEN, resources.status, "version, store, readiness"),
    Row("GET", "/openapi.json", TOKEN, resources.openapi, "this API, described"),
    Row("GET", "/healthz", OPEN, resources.healthz, "200 while the hub's loop runs", (), ("text/plain",)),
    Row("GET", "/readyz", OPEN, resources.readyz, "200 while the hub takes work, else 503", (), ("text/plain",)),
    Row("GET", "/metrics", TOKEN, resources.metrics, "Prometheus metrics", (), ("text/plain",)),
)
