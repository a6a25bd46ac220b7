"""How long many things took, in so few numbers that several hubs' can be added: counts of buckets GAMMA apart. Pure.

A bucket's middle is at most 1 % from any value in it (Masson, Rim, Lee: DDSketch, VLDB 2019).
"""

from __future__ import annotations

from math import ceil, log

GAMMA = 1.02
LOG_GAMMA = log(GAMMA)
SKETCH = "call.latency_sketch"
"""The member of a group of calls that holds them: the JSON text of two lists, buckets and counts."""


def bucket_of(value: float) -> int:
    """The bucket of a value (nanoseconds); what is below 1 counts as 1."""
    return ceil(log(max(value, 1.0)) / LOG_GAMMA)


def value_of(bucket: int) -> float:
    """The middle of a bucket: as far from its ends, relative to them."""
    return 2 * GAMMA**bucket / (1 + GAMMA)
