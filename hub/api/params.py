"""Query parameters: declared as rows, read strictly, described in the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from hub.api import schemas
from hub.api.problems import Problem
from hub.api.schemas import Schema
from hub.query.order import read_sort
from hub.query.output import OUTPUTS
from hub.query.window import point
from protocol.filter.grammar import parse

Read = Callable[[str, int], Any]
"""Text and now (nanoseconds) to a value; raises ValueError with the words for `NAME takes ...`."""


@dataclass(frozen=True, slots=True)
class Param:
    """One query parameter: its name, how it is read, its default as text, and what people and programs are told."""

    name: str
    read: Read
    doc: str
    default: str | None = None
    choices: tuple[str, ...] = ()
    schema: Schema = field(default_factory=lambda: schemas.TEXT)


def _whole(text: str, now: int) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII):
        raise ValueError("a whole number, 0 or more")
    return int(text)


def _names(text: str, now: int) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _sort(text: str, now: int) -> tuple[tuple[str, bool], ...]:
    return read_sort(_names(text, now))


def _number(text: str, least: float, most: float) -> float:
    form = r"[0-9]{1,20}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?"
    if not re.fullmatch(form, text, re.ASCII) or not least <= float(text) <= most:
        raise ValueError(f"seconds from {least:g} to {most:g}")
    return float(text)


def _seconds(text: str, now: int) -> float:
    return _number(text, 0.1, 60)


def _seconds_long(text: str, now: int) -> float:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or int(text) < 1:
        raise ValueError("whole seconds from 1 to 99999")
    return float(text)


EARLIEST = -(1 << 63)


def _backlog(text: str, now: int) -> int:
    """As `since`, with `all` as the earliest time there is: no backlog is another thing than all of it."""
    moment = point(text, now)
    return EARLIEST if moment is None else moment


def _lag(text: str, now: int) -> float:
    return _number(text, 0, 99_999)


def _name(text: str, now: int) -> str:
    if not 1 <= len(text) <= 255:
        raise ValueError("a name")
    return text


def _text(text: str, now: int) -> str:
    return text


def _fields(*tables: str) -> Param:
    doc = "public names by comma, in the order wanted; all where there are none"
    return Param("fields", _names, doc, "", schema=schemas.names(*tables))


def _sort_by(table: str) -> Param:
    doc = "public names by comma, :desc for the largest first; limit are then the first. With by: what groups show"
    return Param("sort", _sort, doc, "", schema=schemas.order(table))


def _by(table: str) -> Param:
    return Param("by", _names, "public names by comma: one row of sums per group", "", schema=schemas.keys(table))


FILTER = Param(
    "filter", _text, "a display filter; of the language the pattern is a small part", "", schema=schemas.FILTER
)
SINCE = Param(
    "since", point, "packet time: 15m, 2h, 1d, all, RFC 3339 with a zone, or nanoseconds", "15m", schema=schemas.POINT
)
UNTIL = Param("until", point, "packet time, exclusive; as since", schema=schemas.POINT)
LIMIT = Param("limit", _whole, "the newest rows; 0 = all", "100", schema=schemas.WHOLE)
FORMAT = Param("format", _text, "how rows are printed", "ndjson", tuple(OUTPUTS))
COMPLETENESS = Param("completeness", _text, "only: no rows, but how complete they would be", "with", ("with", "only"))
EXPLAIN = Param("explain", _text, "yes: no rows, but the query that would find them", "no", ("no", "yes"))
TOP = Param(
    "top", _whole, "with by: the first groups, most bytes first, of calls most calls; 0 = all", "10",
    schema=schemas.WHOLE,
)  # fmt: skip
DEADLINE = Param(
    "deadline", _seconds, "seconds that an agent has for each part of its answer", "5", schema=schemas.SECONDS
)


def _rows(table: str) -> tuple[Param, ...]:
    return FILTER, SINCE, UNTIL, LIMIT, _fields(table), _sort_by(table), FORMAT, COMPLETENESS, EXPLAIN


PACKETS = _rows("packets")
FLOWS = (*_rows("flows"), _by("flows"), TOP)
SKETCH = Param(
    "sketch", _text, "yes: groups have call.latency_sketch too, of which quantiles of several hubs' groups can be made",
    "no", ("no", "yes"),
)  # fmt: skip
CALLS = (*_rows("calls"), _by("calls"), TOP, SKETCH)
FOLLOW = (
    Param("table", _text, "what to follow", "packets", ("packets", "flows", "calls")),
    FILTER,
    _fields("packets", "flows", "calls"),
    Param("cursor", _text, "go on after that row", schema=schemas.CURSOR),
    Param(
        "since", _backlog, "without a cursor: begin with the rows of that packet time or later", schema=schemas.POINT
    ),
    Param("seconds", _whole, "seconds after which the answer ends; 0 = never", "0", schema=schemas.WHOLE),
    Param("heartbeat", _seconds, "seconds between heartbeats", "5", schema=schemas.SECONDS),
    Param(
        "max_lag", _lag, "rows that came later than the connection are skipped once so many seconds old; 0 = never",
        "0", schema=schemas.LAG,
    ),
)  # fmt: skip
PCAP = (
    FILTER,
    SINCE,
    Param("until", point, "packet time, exclusive; as since; now where it is not given", schema=schemas.POINT),
    Param("limit", _whole, "frames after which the answer is cut; 0 = all", "0", schema=schemas.WHOLE),
    Param(
        "bytes", _whole, "bytes of frames after which the answer is cut; 0 = all", str(1 << 30), schema=schemas.WHOLE
    ),
    Param("seconds", _seconds_long, "seconds after which the answer is cut", "300", schema=schemas.LONG_SECONDS),
    DEADLINE,
)
CAPTURE = (
    FILTER,
    Param("limit", _whole, "frames after which the capture ends; 0 = never", "0", schema=schemas.WHOLE),
    Param("bytes", _whole, "bytes of frames after which the capture ends; 0 = never", "0", schema=schemas.WHOLE),
    Param("seconds", _whole, "seconds after which the capture ends; 0 = never", "0", schema=schemas.WHOLE),
    DEADLINE,
)
_AGENT = Param("agent", _name, "an agent, a node, or * for all", "*", schema=schemas.AGENT)
CONFIGURE = (
    _AGENT,
    Param("filter", _text, "capture filter, pcap-filter(7); empty for none", schema=schemas.BPF),
    Param("detail", _text, "packets, or flows alone", None, ("packets", "flows")),
    Param("l7", _text, "how much to look into application protocols", None, ("off", "fast", "all")),
)
RESET = (_AGENT,)
DOCTOR = (Param("deadline", _seconds, "seconds that agents have for their answer", "3", schema=schemas.SECONDS),)


def read(request: Request, params: Sequence[Param], now: int) -> dict[str, Any]:
    """The values of a request's parameters by name, defaults included. Raises Problem `bad_parameter`."""
    given = request.query_params
    known = {param.name for param in params}
    for name in given:
        if name not in known:
            raise Problem("bad_parameter", f"no parameter {name[:40]!r} here; there are {', '.join(sorted(known))}")
        if len(given.getlist(name)) > 1:
            raise Problem("bad_parameter", f"{name} is given twice")
    return {param.name: _value(param, given, now) for param in params}


def _value(param: Param, given: Mapping[str, str], now: int) -> Any:
    text = given.get(param.name, param.default)
    if text is None:
        return None
    if param.choices and text not in param.choices:
        raise Problem("bad_parameter", f"{param.name} takes {', '.join(param.choices)}, not {text[:40]!r}")
    try:
        return param.read(text, now)
    except ValueError as error:
        raise Problem("bad_parameter", f"{param.name}: {error}") from None


def filter_of(values: Mapping[str, Any], table: str) -> Any:
    """The tree of the filter, None where there is none. Raises FilterError."""
    return parse(values["filter"], table) if values["filter"] else None
