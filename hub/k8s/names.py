"""The hub's address book: threads that watch the cluster, and names for the rows that the writer commits.

A row is named as of its packet's time, so the book must have heard of everything up to then, and a little longer:
kubelets tell of an address some time after they gave it. `wait` therefore holds a commit back until the watches have
passed its newest packet by SETTLE; where batches queue they are as old as that already. A watch that is busy is asked
for a proof (`Reflector.asked`), a quiet one is trusted. Where none comes it is at most WAIT; where a watch has been
gone for longer, nobody waits and rows are `stale`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from time import monotonic, time_ns
from typing import Any

import numpy as np

from hub.k8s.api import ERRORS, PATHS, Api, Watch
from hub.k8s.book import Book
from hub.k8s.objects import FOREVER, SECOND, SKEW, holders, packed, pod_ranges
from hub.k8s.reflector import Event, Gone, Reflector, Refused
from protocol.columns import Columns, Dict
from protocol.schema import TABLES, Table

SETTLE = SECOND
"""How long after a change at the latest the API server tells of it: kubelet's report and the way here."""
WAIT = 3 * SECOND
VAIN = SECOND // 4
"""The same where the wait before was in vain."""
ASK_AGAIN = 0.1
PROOF = 1.0
"""Seconds that the API server has to say how far it is."""
FORGET = 30.0
"""Seconds between two sweeps of the book."""
BEAT = 0.25
FIRST = 10.0
"""Seconds for which the hub waits for the first lists before it takes batches."""


def addresses_behind(faces: Dict, behind: Mapping[str, Any]) -> Any:
    """For a column of interfaces the addresses behind them, shape (rows, 16); zeros where nothing is known."""
    known = [packed(str(behind.get(name, ""))) or bytes(16) for name in faces.values]
    return np.frombuffer(b"".join(known), np.uint8).reshape(-1, 16)[faces.codes]


class Names:
    """Watches one cluster. `wait` and `of` are called by the writer's thread, the rest by the hub's loop."""

    def __init__(self, api: Api, log: Any) -> None:
        self._api, self._log = api, log
        self._book = Book()
        self._reflectors = {kind: Reflector() for kind in PATHS}
        self._listed: dict[str, set[str]] = {kind: set() for kind in PATHS}
        self._watches: dict[str, Watch] = {}
        self._replaced: set[str] = set()
        self._troubles: dict[str, str] = {}
        self._news = threading.Condition()  # of all above
        self._stopping = threading.Event()
        self._asof = 0
        self._vain = False
        self._whole = False
        self.unreadable = 0
        """Objects that could not be read."""

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to watch."""
        for kind in PATHS:
            threading.Thread(target=self._run, args=(kind,), name=f"watch-{kind}", daemon=True).start()
        threading.Thread(target=self._keep, name="watch-keeper", daemon=True).start()

    def listed(self, timeout: float = FIRST) -> bool:
        """Wait until everything was listed once; whether it was."""
        with self._news:
            return self._news.wait_for(lambda: self._whole or self._stopping.is_set(), timeout) and self._whole

    def stop(self) -> None:
        """End the watches; the threads end by themselves."""
        self._stopping.set()
        with self._news:
            for watch in self._watches.values():
                watch.cut()
            self._news.notify_all()

    def look(self) -> dict[str, float]:
        """Figures for the metrics."""
        with self._news:
            now = time_ns()
            behind = max(0, now - self._trusted(now)) / 1e9 if self._whole else 0.0
            return {
                "nodetap_hub_names_behind_seconds": round(behind, 3),
                "nodetap_hub_names_intervals": len(self._book),
                "nodetap_hub_names_listings": sum(each.listings for each in self._reflectors.values()),
            }

    # -- names -----------------------------------------------------------------------------------------------------

    def wait(self, newest: int) -> None:
        """Until the book has heard of everything up to a packet's time; bounded, see above."""
        now = self._asof = time_ns()
        wanted, asked = min(newest, now) + SETTLE, False
        deadline = monotonic() + (max(0, wanted - now) + (VAIN if self._vain else WAIT)) / 1e9
        with self._news:
            while (left := deadline - monotonic()) > 0 and not self._stopping.is_set():
                now = time_ns()
                self._vain = self._reached(now) < wanted
                if not self._vain or self._trusted(now) < now - WAIT:
                    return
                if now < wanted or asked:
                    self._news.wait(min(left, max(0.005, (wanted - now) / 1e9)))
                elif not (asked := self._ask(now)):
                    self._news.wait(min(left, ASK_AGAIN))

    def _ask(self, now: int) -> bool:
        """Have the server say how far its pods are, while others go on; whether it did."""
        pods = self._reflectors["pods"]
        if not pods.busy:
            return False
        self._news.release()
        try:
            version = str(self._api.get(PATHS["pods"], {"limit": "1"}, PROOF)["metadata"]["resourceVersion"])
        except (Refused, KeyError, TypeError, *ERRORS):
            return False
        finally:
            self._news.acquire()
        pods.asked(now, version)
        return True

    def of(self, kind: str, columns: Columns, behind: Mapping[str, Any]) -> Columns:
        """The columns of names for the rows of a table; none where that fails: rows are not lost for their names.

        `behind` is the address behind an interface, for some of those that rows were captured on.
        """
        try:
            return self._named(TABLES[kind], dict(columns), behind)
        except Exception:
            self._log.exception("bug while naming rows", kind=kind)
            return {}

    def _named(self, table: Table, columns: dict[str, Any], behind: Mapping[str, Any]) -> Columns:
        begin = np.minimum(columns[table.time], self._asof)  # a clock that is ahead: nobody sends what is yet to come
        end = begin if table.until == table.time else np.minimum(columns[table.until], self._asof)
        sides = {"src": columns["src"], "dst": columns["dst"]}
        if behind and "iface" in columns:
            sides["iface"] = addresses_behind(columns["iface"], behind)
        with self._news:
            reached = self._reached(time_ns()) - SETTLE
            return {
                f"k8s_{side}": self._book.name(column, begin, end, reached, sent=side != "dst")
                for side, column in sides.items()
            }

    def _reached(self, now: int) -> int:
        return min(each.reached(now) for each in self._reflectors.values()) if self._whole else 0

    def _trusted(self, now: int) -> int:
        return min(each.trusted(now) for each in self._reflectors.values()) if self._whole else 0

    # -- threads ---------------------------------------------------------------------------------------------------

    def _run(self, kind: str) -> None:
        """List and watch one kind, for good."""
        reflector = self._reflectors[kind]
        while not self._stopping.is_set():
            try:
                wait = self._list(kind, reflector) if reflector.listing else self._watch(kind, reflector)
                self._well(kind)
            except (Refused, Gone, *ERRORS) as error:
                wait = self._failed(kind, reflector, error)
            except Exception:
                self._log.exception("bug while watching", kind=kind)
                wait = self._failed(kind, reflector, RuntimeError("bug"))
            self._stopping.wait(wait / 1e9)

    def _list(self, kind: str, reflector: Reflector) -> int:
        first, asked = not reflector.more, time_ns()
        answer = self._api.get(PATHS[kind], reflector.request())
        with self._news:
            if first:
                self._listed[kind].clear()
            now = time_ns()
            for event in reflector.page(answer, asked):
                self._apply(kind, event, now)
            self._news.notify_all()
        return 0

    def _watch(self, kind: str, reflector: Reflector) -> int:
        watch = self._api.watch(PATHS[kind], reflector.request())
        with self._news:
            self._watches[kind] = watch
            reflector.begun(time_ns())
            if self._stopping.is_set():
                watch.cut()
        try:
            for lines in watch.lines():
                with self._news:
                    now = time_ns()
                    for line in lines:
                        before = reflector.trusted(now)
                        if event := reflector.line(line, now):
                            self._apply(kind, event, now, before)
                    self._news.notify_all()
        finally:
            with self._news:
                self._watches.pop(kind, None)
        with self._news:
            self._replaced.discard(kind)
            return reflector.ended(time_ns())

    def _failed(self, kind: str, reflector: Reflector, error: Exception) -> int:
        with self._news:
            now = time_ns()
            if kind in self._replaced and not isinstance(error, Refused | Gone):
                self._replaced.discard(kind)
                return reflector.ended(now)
            wait = reflector.failed(error, now)
        reason = f"{type(error).__name__}: {error}"[:300]
        if isinstance(error, Gone) or (isinstance(error, Refused) and error.status == 410):
            self._log.info("the API server has forgotten our version; listing again", kind=kind)
        elif reflector.failures > 1 and not self._stopping.is_set() and self._troubles.get(kind) != reason:
            self._troubles[kind] = reason
            hint = _HINTS.get(error.status) if isinstance(error, Refused) else None
            self._log.warning("cannot watch; trying again", kind=kind, reason=reason, hint=hint)
        return wait

    def _well(self, kind: str) -> None:
        if self._troubles.pop(kind, None):
            self._log.info("watching again", kind=kind)

    def _keep(self) -> None:
        """Replace watches that have become silent, forget what is old."""
        due = monotonic() + FORGET
        while not self._stopping.wait(BEAT):
            with self._news:
                now = time_ns()
                for kind, watch in self._watches.items():
                    if self._reflectors[kind].silent(now) and kind not in self._replaced:
                        self._replaced.add(kind)
                        watch.cut()
                if monotonic() >= due:
                    due = monotonic() + FORGET
                    self._book.forget(now)

    # -- events ----------------------------------------------------------------------------------------------------

    def _apply(self, kind: str, event: Event, now: int, before: int = FOREVER) -> None:
        if event.what == "reset":
            self._reset(kind, event, now)
            return
        try:
            found = holders(kind, event.item, now)
        except (KeyError, TypeError, ValueError, AttributeError):
            self.unreadable += 1
            return
        gone = event.what == "remove"
        for holder in found:
            self._book.put(holder, now)
            self._listed[kind].add(holder.uid)
            if gone:
                self._book.remove(holder.uid, now, before - 2 * SKEW)
        if kind == "nodes":
            self._book.ranges(event.item["metadata"]["name"], [] if gone else pod_ranges(event.item))

    def _reset(self, kind: str, event: Event, now: int) -> None:
        self._book.keep_only(kind, self._listed[kind], now, event.missed[0] if event.missed else FOREVER)
        self._listed[kind].clear()
        if event.missed:
            self._book.missed(*event.missed)
        if not self._whole and all(each.synced for each in self._reflectors.values()):
            self._whole = True
            self._book.watching_since(now)
            self._log.info("knows the cluster", intervals=len(self._book))


_HINTS: Mapping[int, str] = {
    401: "the API server does not take the token; see --kubernetes-token-file",
    403: "the service account may not list and watch pods, nodes and services; see docs/how-to/kubernetes-names.md",
}
