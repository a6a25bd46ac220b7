"""Who had which address, by the names that rows of packets carry: for captures, which have addresses alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hub.query.select import Query, Question, where
from hub.query.sql import Params
from hub.query.window import format_ns
from protocol.schema import TABLES

MOST = 500
"""Names that are told; a comment of a capture has at most 64 KiB."""

_SIDES = "[(`src`, toString(`k8s_src`)), (`dst`, toString(`k8s_dst`))]"


def named(question: Question) -> Query:
    """Address, name as `protocol.schema.NAMES` has it, first and last packet's time (ns): the rows `told` takes."""
    params = Params()
    condition = where(TABLES["packets"], question, params) or " WHERE true"
    sql = (
        "SELECT replaceRegexpOne(toString(side.1), '^::ffff:([0-9]+[.])', '\\\\1'), side.2, min(time), max(time) "
        f"FROM packets ARRAY JOIN {_SIDES} AS side{condition} AND match(side.2, '[^/].*/') "
        f"GROUP BY side.1, side.2 ORDER BY side.1, min(time) LIMIT {MOST + 1}"
    )
    return Query(sql, params.values, "Native")


def told(rows: Sequence[Sequence[Any]]) -> str:
    """A comment of a line for each address and name, empty where there is none."""
    if not rows:
        return ""
    held = [address for address, *_ in rows]
    lines = [
        f"{address} is {_who(name)}" + (_when(first, last) if held.count(address) > 1 else "")
        for address, name, first, last in rows[:MOST]
    ]
    more = ["and more, which are not told here"] if len(rows) > MOST else []
    return "\n".join(["Names of Kubernetes, as of the packets' times:", *lines, *more])


def _when(first: int, last: int) -> str:
    return f", from {format_ns(first)} to {format_ns(last)}"


def _who(name: str) -> str:
    """`pod shop/web-1, workload web, node n1`."""
    namespace, pod, workload, service, node, _ = name.split("/")
    inside = f"{namespace}/" if namespace else ""
    parts: Iterable[tuple[str, str]] = (
        ("pod", pod and inside + pod), ("workload", workload), ("service", service and inside + service), ("node", node)
    )  # fmt: skip
    return ", ".join(f"{kind} {text}" for kind, text in parts if text)
