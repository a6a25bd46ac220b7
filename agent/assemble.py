"""Puts the parts of one run together: decoder, flow table, sealer and books for a source."""

from __future__ import annotations

from time import monotonic
from typing import Any

from agent.capture import Source
from agent.decode.decoder import Decoder
from agent.flows import FlowTable
from agent.pipeline import Pipeline
from agent.seal import Sealer
from protocol.ledger import Report

SLOW_BUDGET = 0.2
"""Seconds of every second that a live agent may spend in the fallback dissector."""


def pipeline_of(source: Source, agent: str, epoch: int, log: Any) -> Pipeline:
    """The pipeline of a run over `source`, which must be open."""
    report = Report()

    def on_problem(reason: str, error: Exception) -> None:
        log.error("packets lost", reason=reason, exc_info=error)

    budget = SLOW_BUDGET if source.live else None  # a file waits
    decoder = Decoder(source.interfaces, slow_budget=budget, clock=monotonic)
    return Pipeline(decoder, FlowTable(), Sealer(agent, epoch, report), report, on_problem=on_problem)
