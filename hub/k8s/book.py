"""Who held which address when, for whole columns at once. Pure: times are arguments, nanoseconds since 1970.

Every holder of an address is an interval; the intervals of an address are a chain, the newest first. A row is given a
name where exactly one holder is possible at its time, or exactly one certain; what the book cannot know has a reason
instead. What it cannot know: a time before it began to watch or while it missed events (a gap), unless the holder then
is certain, and times that it has not reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.k8s.addresses import Addresses
from hub.k8s.objects import FOREVER, SECOND, Holder, word
from protocol.columns import Dict

KEEP = 900 * SECOND
"""How long an interval is kept after its end: later rows of that time are named only where a holder is certain."""

REASONS = ("external", "special", "unassigned", "ambiguous", "unwatched", "stale")
"""Why a side has no names: not the cluster's; loopback, link-local, multicast and the like; of the cluster, but nobody
had it then; more than one may have had it; nobody watched then; the watch was behind."""
EXTERNAL, SPECIAL, UNASSIGNED, AMBIGUOUS, UNWATCHED, STALE = range(1, 7)
_FIXED = ("", *(word(reason=reason) for reason in REASONS))
NOTHING = 0
"""The code of rows without an address."""

_SPECIAL = tuple(map(ip_network, (
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "fe80::/10", "ff00::/8",
)))  # fmt: skip
_MAPPED = np.uint64(0xFFFF0000)  # the low word of an IPv4 address begins so, read little-endian

Ints = NDArray[np.int64]


@dataclass(slots=True)
class _Intervals:
    """Columns of all intervals; the first one is nobody's and ends every chain."""

    since: Ints = field(default_factory=lambda: np.zeros(1024, dtype=np.int64))
    sure: Ints = field(default_factory=lambda: np.zeros(1024, dtype=np.int64))
    leaving: Ints = field(default_factory=lambda: np.zeros(1024, dtype=np.int64))
    until: Ints = field(default_factory=lambda: np.zeros(1024, dtype=np.int64))
    word: Any = field(default_factory=lambda: np.zeros(1024, dtype=np.int64))
    number: Any = field(default_factory=lambda: np.zeros(1024, dtype=np.int64))
    prev: Any = field(default_factory=lambda: np.zeros(1024, dtype=np.int64))
    weak: Any = field(default_factory=lambda: np.zeros(1024, dtype=np.bool_))
    count: int = 1

    def grow(self) -> int:
        """The index of one more."""
        if self.count == len(self.since):
            for name in _COLUMNS:
                setattr(self, name, np.resize(getattr(self, name), 2 * self.count))
        self.count += 1
        return self.count - 1

    def only(self, kept: NDArray[np.bool_]) -> Ints:
        """Keep some; where each of the old ones is now, 0 for those that are gone."""
        places = np.cumsum(kept, dtype=np.int64) - 1
        places[~kept] = 0
        for name in _COLUMNS:
            setattr(self, name, getattr(self, name)[: self.count][kept])
        self.count = len(self.since)
        return places


_COLUMNS = ("since", "sure", "leaving", "until", "word", "number", "prev", "weak")


class Book:
    """Intervals of addresses over time. Not for several threads at once."""

    def __init__(self) -> None:
        self._addresses = Addresses()
        self._heads = np.zeros(1024, dtype=np.int64)  # by an address' number: its newest interval
        self._all = _Intervals()
        self._all.until[0] = self._all.since[0] = -FOREVER
        self._held: dict[str, dict[bytes, int]] = {}  # holder -> its addresses' intervals
        self._words: list[str] = list(_FIXED)
        self._codes: dict[str, int] = {text: code for code, text in enumerate(_FIXED)}
        self._gaps: list[tuple[int, int]] = [(-FOREVER, FOREVER)]
        self._ranges: dict[str, list[Any]] = {}  # node -> where its pods' addresses come from
        self._edges, self._classes = _classes(())

    def __len__(self) -> int:
        return self._all.count - 1

    # -- what the cluster says -------------------------------------------------------------------------------------

    def put(self, holder: Holder, now: int) -> None:
        """A holder as it is now. Addresses that it had and has no more end."""
        held = self._held.setdefault(holder.uid, {})
        for address in held.keys() - set(holder.addresses):
            self._end(held.pop(address), min(now, holder.until))
        for address in holder.addresses:
            index = held.get(address) or self._begin(holder, address)
            if index:
                held[address] = index
                self._set(index, holder)
        if not held:
            del self._held[holder.uid]

    def remove(self, uid: str, now: int, leaving: int = FOREVER) -> None:
        """A holder is gone; until `leaving` it was certainly there."""
        for index in self._held.pop(uid, {}).values():
            self._all.leaving[index] = min(int(self._all.leaving[index]), leaving)
            self._end(index, now)

    def keep_only(self, prefix: str, uids: Iterable[str], now: int, leaving: int) -> None:
        """Of the holders whose key begins with `prefix` only these are left: the others went, some time after
        `leaving`."""
        left = set(uids)
        for uid in [uid for uid in self._held if uid.startswith(prefix) and uid not in left]:
            self.remove(uid, now, leaving)

    def _begin(self, holder: Holder, address: bytes) -> int:
        """A new interval, 0 where a weak holder has to stand back."""
        number = self._addresses.add(address)
        if number >= len(self._heads):
            self._heads = np.concatenate([self._heads, np.zeros_like(self._heads)])
        head = int(self._heads[number])
        if holder.weak and self._strong(head):
            return 0
        index = self._all.grow()
        if not holder.weak:
            self._void_weak(head)
        self._all.number[index], self._all.prev[index], self._all.weak[index] = number, head, holder.weak
        self._all.sure[index] = self._all.leaving[index] = self._all.until[index] = FOREVER
        self._heads[number] = index
        return index

    def _strong(self, index: int) -> bool:
        while index:
            if not self._all.weak[index] and self._all.until[index] >= FOREVER:
                return True
            index = int(self._all.prev[index])
        return False

    def _void_weak(self, index: int) -> None:
        """What is said of weak holders no longer counts: somebody else has the address."""
        while index:
            if self._all.weak[index]:
                self._all.until[index] = self._all.leaving[index] = self._all.since[index] = -FOREVER
            index = int(self._all.prev[index])

    def _set(self, index: int, holder: Holder) -> None:
        rows = self._all
        if rows.weak[index] and rows.until[index] < 0:
            return
        code = self._codes.setdefault(holder.word, len(self._words))
        if code == len(self._words):
            self._words.append(holder.word)
        rows.word[index], rows.since[index] = code, holder.since
        rows.sure[index] = min(int(rows.sure[index]), holder.sure)  # a container that starts again is no news
        rows.leaving[index] = min(int(rows.leaving[index]), holder.leaving)
        rows.until[index] = min(int(rows.until[index]), holder.until)

    def _end(self, index: int, now: int) -> None:
        self._all.until[index] = min(int(self._all.until[index]), now)

    def ranges(self, node: str, networks: Sequence[Any]) -> None:
        """Where the addresses of a node's pods come from; nothing where the node is gone."""
        if self._ranges.get(node, []) == list(networks):
            return
        self._ranges[node] = list(networks)
        self._edges, self._classes = _classes([net for nets in self._ranges.values() for net in nets])

    # -- what it does not know -------------------------------------------------------------------------------------

    def watching_since(self, now: int) -> None:
        """Everything there was at `now` is in the book; before, nothing is known but what is certain."""
        self._gaps = [(-FOREVER, now)]

    def missed(self, begin: int, end: int) -> None:
        """Events between these times may not have come."""
        self._gaps.append((begin, end))

    def forget(self, now: int) -> None:
        """Drop what ended more than KEEP ago, and say so."""
        oldest = now - KEEP
        if self._gaps[0][1] < oldest:
            self._gaps[0] = (-FOREVER, oldest)
        self._gaps = [gap for i, gap in enumerate(self._gaps) if i == 0 or gap[1] > oldest]
        kept = self._all.until[: self._all.count] > oldest
        kept[0] = True
        if not kept.all():
            self._compact(kept)

    def _compact(self, kept: NDArray[np.bool_]) -> None:
        places = self._all.only(kept)
        for held in self._held.values():
            for address, index in held.items():
                held[address] = int(places[index])
        for held in self._held.values():
            for address in [address for address, index in held.items() if not index]:
                del held[address]  # ended long ago, its object is still there
        self._renumber()
        self._rename()
        self._chain()

    def _renumber(self) -> None:
        """Addresses that nobody had lately lose their numbers."""
        numbers = self._all.number[1:]
        used = np.zeros(len(self._addresses) + 1, dtype=np.bool_)
        used[numbers] = True
        if 2 * int(np.count_nonzero(used)) > len(used) or len(used) < 4096:
            return
        new, table = np.zeros(len(used), dtype=np.int64), Addresses()
        for address, number in self._addresses.items():
            if used[number]:
                new[number] = table.add(address)
        self._addresses, self._all.number = table, new[self._all.number]
        self._heads = np.zeros(max(1024, 2 * len(table)), dtype=np.int64)

    def _rename(self) -> None:
        """Names that no interval has are forgotten."""
        used = np.zeros(len(self._words), dtype=np.bool_)
        used[: len(_FIXED)] = True
        used[self._all.word[1:]] = True
        new = np.cumsum(used, dtype=np.int64) - 1
        self._words = [self._words[code] for code in np.flatnonzero(used).tolist()]
        self._codes = {text: code for code, text in enumerate(self._words)}
        self._all.word = new[self._all.word]
        self._all.word[0] = 0

    def _chain(self) -> None:
        """Every address' intervals in a chain again, those that came last first."""
        numbers = self._all.number[: self._all.count]
        order = np.argsort(numbers, kind="stable")
        order = order[numbers[order] > 0]
        ordered = numbers[order]
        self._all.prev[:] = 0
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        self._all.prev[order[same + 1]] = order[same]
        self._heads[:] = 0
        self._heads[ordered] = order  # of several the last one stays

    # -- questions -------------------------------------------------------------------------------------------------

    def name(self, column: NDArray[np.uint8], begin: Ints, end: Ints, reached: int, *, sent: bool) -> Dict:
        """The names of a column of addresses, shape (rows, 16), as of the rows' times, from `begin` to `end`.

        The book has heard of everything up to `reached`; rows that end later and may be the cluster's are `stale`.
        `sent`: the packets came from these addresses, so somebody had them. What goes to one may be meant for whom it
        was before: there a holder counts only from when it is sure.
        """
        rows = len(column)
        if not rows:
            return Dict(np.zeros(0, dtype="<u4"), ("",))
        numbers = self._addresses.find(column)
        codes = self._answers(numbers, begin, end, sent)
        self._unknown(codes, numbers, column)
        if int(end.max()) > reached:
            late = end > reached
            late &= (codes != EXTERNAL) & (codes != SPECIAL) & (codes != NOTHING)
            codes[late] = STALE
        return self._dict(codes)

    def _answers(self, numbers: NDArray[np.int64], begin: Ints, end: Ints, sent: bool) -> NDArray[np.int64]:
        """The codes of words by row: per address where that is the same for all times, else per row."""
        here = np.zeros(len(self._addresses) + 1, dtype=np.bool_)
        here[numbers] = True
        here[0] = False
        present = np.flatnonzero(here)
        first, last = np.int64(begin.min()), np.int64(end.max())
        answers = np.zeros(len(here), dtype=np.int64)
        many = len(present)
        found, settled = self._resolve(present, np.broadcast_to(first, many), np.broadcast_to(last, many), sent)
        answers[present] = found
        codes = answers.take(numbers)
        if not settled.all():
            open_ = np.zeros(len(here), dtype=np.bool_)
            open_[present[~settled]] = True
            rows = np.flatnonzero(open_.take(numbers))
            codes[rows] = self._resolve(numbers[rows], begin[rows], end[rows], sent)[0]
        return codes

    def _resolve(self, numbers: Any, begin: Ints, end: Ints, sent: bool) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Who had these addresses from `begin` to `end`, and whether that is so for every time between."""
        rows, at = self._all, self._heads.take(numbers)
        unwatched, count = self._unwatched(begin, end), len(at)
        possible, certain = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        whole, more = np.ones(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
        early, past = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
        left = np.flatnonzero(at)
        at = at[left]
        while len(left):
            first, last = begin[left], end[left]
            code, until, since = rows.word.take(at), rows.until.take(at), rows.since.take(at)
            touches = (since <= last) & (until > first)
            before = possible[left]
            more[left] |= touches & (before != 0) & (before != code)
            whole[left] &= ~touches | ((since <= first) & (until > last))
            possible[left] = np.where(touches & (before == 0), code, before)
            sure = rows.sure.take(at)
            early[left] |= touches & (sure > first)
            past[left] |= (until <= last) & (code != before)
            surely = touches & (sure <= first) & (np.minimum(rows.leaving.take(at), until) > last)
            before = certain[left]
            clash = surely & (before != 0) & (before != code)
            certain[left] = np.where(clash, AMBIGUOUS, np.where(surely, code, before))
            at = rows.prev.take(at)
            left, at = left[at != 0], at[at != 0]
        one = (possible != 0) & whole & ~more & ~unwatched
        if not sent:
            one &= ~(early & past)
        code = np.where(one, possible, np.where(possible != 0, AMBIGUOUS, UNASSIGNED))
        code = np.where(unwatched & ~more, UNWATCHED, code)
        code = np.where(~one & (certain != 0), certain, code).astype(np.int64)
        return code, one | (certain > AMBIGUOUS) | ((possible == 0) & ~unwatched)

    def _unwatched(self, begin: Ints, end: Ints) -> NDArray[np.bool_]:
        found = np.zeros(len(begin), dtype=np.bool_)
        for first, last in self._gaps:
            found |= (begin < last) & (end >= first)
        return found

    def _unknown(self, codes: NDArray[np.int64], numbers: NDArray[np.int64], column: NDArray[np.uint8]) -> None:
        """Addresses that nobody ever had: by the network they are of."""
        rows = np.flatnonzero(numbers == 0)
        if not len(rows):
            return
        words: Any = np.ascontiguousarray(column).view(np.uint64)
        high, low = words[:, 0].take(rows), words[:, 1].take(rows)
        four = (high == 0) & ((low & np.uint64(0xFFFFFFFF)) == _MAPPED)
        key = np.where(four, low >> np.uint64(32) << np.uint64(32), high).byteswap()
        classes = self._classes.take(np.searchsorted(self._edges, key, side="right") - 1)
        classes[(high == 0) & ~four] = SPECIAL
        classes[(high == 0) & (low == 0)] = NOTHING
        codes[rows] = classes

    def _dict(self, codes: NDArray[np.int64]) -> Dict:
        """Codes of the book as codes of a dictionary of their own."""
        used = np.zeros(len(self._words), dtype=np.bool_)
        used[codes] = True
        places = np.flatnonzero(used)
        new = np.zeros(len(used), dtype="<u4")
        new[places] = np.arange(len(places))
        return Dict(new.take(codes), tuple(self._words[code] for code in places.tolist()))


def _classes(networks: Iterable[IPv4Network | IPv6Network]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Where classes of addresses begin, and which: keys are an IPv4 address, or the first half of an IPv6 one."""
    edges: dict[int, int] = {0: EXTERNAL}
    nets: list[tuple[int, int, int]] = []
    for of, reason in ((networks, UNASSIGNED), (_SPECIAL, SPECIAL)):
        for version in (4, 6):
            same: list[Any] = [net for net in of if net.version == version]
            shift = 0 if version == 4 else 64
            nets += [
                (int(net.network_address) >> shift, (int(net.broadcast_address) >> shift) + 1, reason)
                for net in collapse_addresses(same)
            ]
    for first, last, reason in sorted(nets):
        edges[first] = reason
        edges.setdefault(last, EXTERNAL)
    edges.pop(1 << 64, None)
    keys = sorted(edges)
    return np.array(keys, dtype=np.uint64), np.array([edges[key] for key in keys], dtype=np.int64)
