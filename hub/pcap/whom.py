"""Which agents a filter can match, by what it says of the agent itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import reduce
from operator import xor
from typing import Any

import numpy as np

from protocol.filter.predicate import Predicate
from protocol.filter.tree import And, Node, Not, Or, Xor
from protocol.schema import Field

KNOWN = frozenset({"agent"})
"""Columns whose values are known before an agent is asked."""


def may_match(node: Node | None, agent: str) -> bool:
    """Whether a frame of that agent can pass; False only where none can."""
    return node is None or _truth(node, agent) is not False


def columns_of(node: Any) -> set[str]:
    """The columns that a filter's tree reads."""
    return {leaf.column for leaf in _leaves(node)}


def _leaves(node: Any) -> Iterator[Field]:
    if isinstance(node, tuple):
        for item in node:
            yield from _leaves(item)
    elif isinstance(node, Field):
        yield node
    elif is_dataclass(node):
        for each in fields(node):
            yield from _leaves(getattr(node, each.name))


def _truth(node: Node, agent: str) -> bool | None:
    """What a filter says of every frame of an agent; None where that depends on the frame."""
    if isinstance(node, Not):
        inside = _truth(node.item, agent)
        return None if inside is None else not inside
    if isinstance(node, And | Or | Xor):
        truths = [_truth(item, agent) for item in node.items]
        decides = {And: False, Or: True}.get(type(node))
        if decides is not None and decides in truths:
            return decides
        if None in truths:
            return None
        return reduce(xor, map(bool, truths)) if isinstance(node, Xor) else not decides
    read = columns_of(node)
    if not read or not read <= KNOWN:
        return None
    return bool(Predicate(node, "packets").matches({"layers": np.zeros(1, dtype="<u8")}, {"agent": agent})[0])
