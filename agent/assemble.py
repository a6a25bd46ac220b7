"""Puts the parts of one run together: decoder, flow table, sealer and books for a source."""

from __future__ import annotations

from typing import Any

from agent.capture import Source
from agent.decode.decoder import Decoder
from agent.flows import FlowTable
from agent.pipeline import Pipeline
from agent.seal import Sealer
from protocol.ledger import Report


def pipeline_of(source: Source, agent: str, epoch: int, log: Any) -> Pipeline:
    """The pipeline of a run over `source`, which must be open."""
    report = Report()

    def on_problem(reason: str, error: Exception) -> None:
        log.error("packets lost", reason=reason, exc_info=error)

    return Pipeline(
        Decoder(source.interfaces), FlowTable(), Sealer(agent, epoch, report), report, on_problem=on_problem
    )
