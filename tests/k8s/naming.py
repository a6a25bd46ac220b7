"""Rows of a made-up cluster, named, and compared with the truth."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
from cluster import SECOND, Churn, Truth

from hub.k8s.objects import packed
from protocol.columns import Columns, Dict

REASON = 5


def column(addresses: list[str]) -> Any:
    """A column of addresses, shape (rows, 16)."""
    made = b"".join(packed(address) or bytes(16) for address in addresses)
    return np.frombuffer(made, dtype=np.uint8).reshape(-1, 16)


def words(names: Dict) -> list[list[str]]:
    """The parts of the names by row."""
    return [(names.values[code] or "/////").split("/") for code in names.codes.tolist()]


class Rows:
    """Draws rows of a time span: of pods that live then, most of those that begin or end, at its edges."""

    def __init__(self, made: Churn, rng: random.Random) -> None:
        self._made, self._rng = made, rng
        self._settled = [each for each in made.tenures if each.end > 1 << 61]
        self._changing = sorted((each for each in made.tenures if each.end < 1 << 61), key=lambda each: each.end)

    def draw(self, begin: int, end: int, count: int) -> tuple[list[str], list[int]]:
        rng, drawn = self._rng, []
        near = [
            each
            for each in self._made.tenures
            if begin - 2 * SECOND < each.begin < end or begin - 2 * SECOND < each.end < end + SECOND
        ]
        for each in near:
            drawn += [(each.address, at) for at in (each.begin, each.begin + 1, each.end - 1, each.end, each.end + 1)]
            drawn += [(each.address, rng.randrange(begin, end)) for _ in range(3)]
        drawn = [(address, at) for address, at in drawn if begin <= at < end]
        while len(drawn) < count:
            drawn.append((rng.choice(self._made.tenures).address, rng.randrange(begin, end)))
        return [address for address, _ in drawn], [at for _, at in drawn]


def compare(names: Dict, addresses: list[str], times: list[int], truth: Truth, found: Counter[str],
            wrong: list[str], sent: bool) -> None:  # fmt: skip
    """Count rows by what they got; collect those that were given the name of a pod that had not the address."""
    for parts, address, at in zip(words(names), addresses, times, strict=True):
        real = truth.pod(address, at)
        meant = truth.meant(address, at)
        if not meant or (sent and not real):
            continue  # nobody sends that: from an address, or to one, that nobody has or ever had
        if parts[1] and parts[1] != meant:
            wrong.append(f"{address} at {at / 1e9:.3f}: {parts[1]}, really {real or 'nobody'}, {sent=}")
        found["named" if parts[1] else parts[REASON]] += 1
        found["of a pod"] += bool(real)


def columns_of(src: list[str], dst: list[str], times: list[int]) -> Columns:
    """What naming reads of packets."""
    return {"src": column(src), "dst": column(dst), "time": np.array(times, dtype="<i8")}
