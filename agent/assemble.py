"""Puts the parts of one run together: decoder, L7 engine, flow table, calls, sealer and books for a source."""

from __future__ import annotations

from time import monotonic
from typing import Any

from agent.calls import Calls
from agent.capture import Source
from agent.decode.decoder import Decoder
from agent.decode.slow import Budget
from agent.flows import FlowTable
from agent.pipeline import Pipeline
from agent.seal import OnProblem, Sealer
from protocol.ledger import Report

SLOW_BUDGET = 0.2
"""Seconds of every second that a live agent may spend in the fallback dissector."""


L7_BUDGET = 0.5
"""Seconds of every second that a live agent may spend in L7 parsers."""


def engine_of(
    mode: str,
    keep_query: bool,
    live: bool,
    on_problem: OnProblem = lambda name, error: None,
    *,
    with_turns: bool = False,
) -> Any:
    """The L7 engine of a run (`agent.l7.engine.Engine`), None for mode `off`: then nothing of it is imported.

    `mode` is off, fast (the parsers of `agent.l7`), or all (and scapy for the rest). `on_problem` is told the name of a
    parser that cannot be had, and why. `with_turns` asks for the requests and responses that `agent.calls` pairs.
    """
    if mode == "off":
        return None
    from agent.l7.engine import Engine
    from agent.l7.registry import parsers

    rest = None
    if mode == "all":
        from agent.l7.scapy_rest import Rest

        rest = Rest()
    budget = Budget(L7_BUDGET, monotonic) if live else None  # a file waits
    return Engine(parsers(on_problem), rest=rest, keep_query=keep_query, budget=budget, with_turns=with_turns)


def look_of(source: Source, log: Any, mode: str, keep_query: bool) -> tuple[Any, Calls | None]:
    """The L7 engine of a run, and what pairs its requests and responses; nothing of both for mode `off`."""

    def on_parser(name: str, error: Exception) -> None:
        log.error("an L7 parser is left out", parser=name, error=repr(error))

    engine = engine_of(mode, keep_query, source.live, on_parser, with_turns=True)
    return engine, None if engine is None else Calls()


def pipeline_of(
    source: Source, agent: str, epoch: int, log: Any, *, l7: str = "fast", keep_query: bool = False
) -> Pipeline:
    """The pipeline of a run over `source`, which must be open."""
    report = Report()

    def on_problem(reason: str, error: Exception) -> None:
        log.error("packets lost", reason=reason, exc_info=error)

    budget = SLOW_BUDGET if source.live else None  # a file waits
    decoder = Decoder(source.interfaces, slow_budget=budget, clock=monotonic)
    engine, calls = look_of(source, log, l7, keep_query)
    sealer = Sealer(agent, epoch, report)
    return Pipeline(decoder, FlowTable(), sealer, report, engine=engine, calls=calls, on_problem=on_problem)
