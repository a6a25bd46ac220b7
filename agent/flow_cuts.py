"""Where one record of a flow ends and the next begins.

All functions look at items: packets in groups of one key, in the order of arrival. Times are int64 nanoseconds in
[-2**61, 2**62], so that no difference overflows. Cuts are masks: true where an item begins something new.
"""

from __future__ import annotations

import numpy as np

from agent.flow_keys import Bools, Ints

FIN_FIRST, FIN_SECOND, RESET = 1, 2, 4
"""Bits of a conversation's state: a FIN of the first and of the second endpoint, an RST of either."""


def finished(state: Ints) -> Bools:
    """Whether the conversation is over: FIN both ways, or RST."""
    both = FIN_FIRST | FIN_SECOND
    over: Bools = ((state & RESET) != 0) | ((state & both) == both)
    return over


def idle_cuts(heads: Bools, time: Ints, seen: Ints, idle_ns: int) -> Bools:
    """New key, or `idle_ns` between an item and the one before it, in either direction of time.

    `time` is when an item begins, `seen` when it was last touched.
    """
    cuts = heads.copy()
    cuts[1:] |= np.abs(time[1:] - seen[:-1]) >= idle_ns
    return cuts


def reuse_cuts(cuts: Bools, syn: Bools, state: Ints) -> tuple[Bools, Ints]:
    """`cuts` and those at a SYN after the conversation had finished; and per item the state since its last SYN.

    The state counts from the last SYN or cut on; only at the last item of a group it is complete.
    """
    starts = np.flatnonzero(cuts | syn)
    states = np.bitwise_or.reduceat(state, starts)
    out = cuts.copy()
    out[starts[1:]] |= finished(states[:-1])
    return out, np.repeat(states, np.diff(starts, append=len(state)))


def active_cuts(cuts: Bools, time: Ints, active_ns: int) -> Bools:
    """`cuts` and those where an item comes `active_ns` or more after the item that began its record."""
    heads = np.flatnonzero(cuts)
    sizes = np.diff(heads, append=len(time))
    too_long = np.maximum.reduceat(time, heads) - time[heads] >= active_ns
    if not bool(too_long.any()):
        return cuts
    long_items = np.flatnonzero(np.repeat(too_long, sizes))
    sizes = sizes[too_long]
    segment = np.repeat(np.arange(len(sizes)), sizes)
    since = time[long_items] - np.repeat(time[heads[too_long]], sizes)
    out = cuts.copy()
    out[long_items[_greedy(segment, since, active_ns)]] = True
    return out


def _greedy(segment: Ints, since: Ints, active_ns: int) -> Ints:
    """The items that begin a record: each segment's first, then ever the next that is `active_ns` after the last such.

    Times become ranks, ranks of later segments larger than those of earlier ones; then the running maximum is sorted,
    and each item's successor found by bisection. Which items the chains of successors reach is found by doubling the
    steps: log2 of the longest chain, not its length.
    """
    count = len(since)
    ranks_of, rank = np.unique(since, return_inverse=True)
    running = np.maximum.accumulate(segment * count + rank)
    due = np.searchsorted(ranks_of, ranks_of[running - segment * count] + active_ns)
    after = np.searchsorted(running, segment * count + due)
    inside = after < count
    inside[inside] = segment[after[inside]] == segment[inside]
    jump = np.append(np.where(inside, after, count), count)
    reached = np.zeros(count + 1, dtype=np.bool_)
    reached[0] = True
    reached[1:count] = segment[1:] != segment[:-1]
    before = 0
    while (now := int(np.count_nonzero(reached[:count]))) != before:
        before = now
        reached[jump[reached]] = True
        jump = jump[jump]
    return np.flatnonzero(reached[:count])
