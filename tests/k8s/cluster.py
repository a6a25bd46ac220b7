"""A made-up cluster: objects as the API server shows them, and pods that come and go while addresses are used again.

`churn` is a script and the truth behind it: who really had which address, which no object says so exactly. Times of
objects are whole seconds, reports come late, as kubelets' do.
"""

from __future__ import annotations

import bisect
import random
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

SECOND = 10**9
Json = dict[str, Any]


def stamp(ns: int) -> str:
    """A time as Kubernetes writes it."""
    return datetime.fromtimestamp(ns // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def meta(uid: str, name: str, created: int, namespace: str | None = None) -> Json:
    made: Json = {"uid": uid, "name": name, "creationTimestamp": stamp(created)}
    return made | {"namespace": namespace} if namespace else made


def node(name: str, created: int, address: str, pod_range: str = "") -> Json:
    spec = {"podCIDR": pod_range, "podCIDRs": [pod_range]} if pod_range else {}
    addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]
    return {"metadata": meta(f"u-{name}", name, created), "spec": spec, "status": {"addresses": addresses}}


def service(name: str, created: int, address: str, namespace: str = "default", **more: Any) -> Json:
    spec = {"clusterIP": address, "clusterIPs": [address], **more}
    return {"metadata": meta(f"u-{namespace}-{name}", name, created, namespace), "spec": spec, "status": {}}


def pod(name: str, created: int, *, namespace: str = "default", node: str = "", owner: tuple[str, str] | None = None,
        labels: dict[str, str] | None = None, host_network: bool = False, **status: Any) -> Json:  # fmt: skip
    made = meta(f"u-{name}", name, created, namespace) | ({"labels": labels} if labels else {})
    if owner:
        made["ownerReferences"] = [{"kind": owner[0], "name": owner[1], "controller": True}]
    spec: Json = {"nodeName": node} | ({"hostNetwork": True} if host_network else {})
    return {"metadata": made, "spec": spec, "status": {"phase": "Pending"} | status}


def running(of: Json, address: str, started: int, at: int) -> Json:
    """The pod once its container runs: what kubelet reports at `at`."""
    status = {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": stamp(started),
        "containerStatuses": [{"name": "main", "state": {"running": {"startedAt": stamp(at)}}}],
    }  # fmt: skip
    return of | {"status": status, "metadata": of["metadata"] | {"managedFields": [{"time": stamp(at)}]}}


def deleted(of: Json, asked: int, grace: int) -> Json:
    """The pod once somebody has deleted it."""
    went = {"deletionTimestamp": stamp(asked + grace * SECOND), "deletionGracePeriodSeconds": grace}
    return of | {"metadata": of["metadata"] | went}


def finished(of: Json, at: int, phase: str = "Succeeded") -> Json:
    """The pod once its container has ended."""
    states = [{"name": "main", "state": {"terminated": {"finishedAt": stamp(at), "startedAt": stamp(at - SECOND)}}}]
    return of | {"status": of["status"] | {"phase": phase, "containerStatuses": states}}


@dataclass
class Tenure:
    """A pod really had an address in [`begin`, `end`)."""

    address: str
    pod: str
    begin: int
    end: int = 1 << 62


@dataclass
class Churn:
    """Objects at the beginning, events in order of time (time, kind, ADDED | MODIFIED | DELETED, object), the truth."""

    objects: dict[str, list[Json]]
    events: list[tuple[int, str, str, Json]] = field(default_factory=list)
    tenures: list[Tenure] = field(default_factory=list)

    def truth(self) -> Truth:
        return Truth(self.tenures)


class Truth:
    """Who really had an address when."""

    def __init__(self, tenures: list[Tenure]) -> None:
        self._by_address: dict[str, list[Tenure]] = {}
        for each in sorted(tenures, key=lambda each: each.begin):
            self._by_address.setdefault(each.address, []).append(each)

    def pod(self, address: str, at: int) -> str:
        """The pod's name, empty where nobody had the address."""
        line = self._by_address.get(address, [])
        found = bisect.bisect_right(line, at, key=lambda each: each.begin) - 1
        return line[found].pod if found >= 0 and at < line[found].end else ""

    def meant(self, address: str, at: int) -> str:
        """The same; where nobody had it, who had it last: for whom packets still come."""
        line = self._by_address.get(address, [])
        found = bisect.bisect_right(line, at, key=lambda each: each.begin) - 1
        return line[found].pod if found >= 0 else ""


def address_of(number: int) -> str:
    return str(ip_address((10 << 24) + (42 << 16) + 512 + number))


def churn(rng: random.Random, *, pods: int, changes: float, seconds: float, start: int, report: float = 0.8) -> Churn:
    """`changes` pods a second end and as many begin, on addresses that were just freed or were free for a while.

    A kubelet reports within `report` seconds; half of the pods are deleted, the others end by themselves.
    """
    nodes = [f"node-{number}" for number in range(50)]
    old = start - 3600 * SECOND
    objects: dict[str, list[Json]] = {
        "nodes": [node(name, old, f"192.168.0.{n + 1}", f"10.42.{4 * n}.0/22") for n, name in enumerate(nodes)],
        "services": [service(f"svc-{n}", old, f"10.96.0.{n + 1}") for n in range(200)],
        "pods": [pod("proxy-0", old, node=nodes[0], host_network=True, podIP="192.168.0.1")],
    }
    made = Churn(objects)
    alive: list[tuple[Json, Tenure]] = []

    def begin(number: int, address: str, created: int, at: int) -> tuple[Json, Tenure]:
        name = f"web-{number}-5d4f8c-{rng.randrange(16**5):05x}"
        fresh = pod(name, created, node=rng.choice(nodes), owner=("ReplicaSet", f"web-{number % 97}-5d4f8c"),
                    labels={"pod-template-hash": "5d4f8c"})  # fmt: skip
        tenure = Tenure(address, name, at)
        made.tenures.append(tenure)
        return fresh, tenure

    for number in range(pods):
        fresh, tenure = begin(number, address_of(number), old, old + 2 * SECOND)
        ready = running(fresh, tenure.address, old, old + 3 * SECOND)
        objects["pods"].append(ready)
        alive.append((ready, tenure))
    free: deque[tuple[int, str]] = deque((start, address_of(pods + n)) for n in range(int(4 * changes) + 8))
    count = int(changes * seconds)
    for number in range(count):
        now = start + int(number / changes * SECOND)
        place = rng.randrange(len(alive))
        freed, address = _end(rng, made, *alive[place], now, report)
        if rng.random() < 0.5:
            free.append((freed, address))
            freed, address = free.popleft()  # used again after a while
        fresh, tenure = begin(pods + number, address, now, max(now, freed) + _some(rng, 0.02, 0.6))
        alive[place] = _start(rng, made, fresh, tenure, now, report), tenure
    made.events.sort(key=lambda event: event[0])
    return made


def _some(rng: random.Random, least: float, most: float) -> int:
    return int(rng.uniform(least, most) * SECOND)


def _start(rng: random.Random, made: Churn, fresh: Json, tenure: Tenure, now: int, report: float) -> Json:
    """A pod is made, bound, given an address, and reported. What it is in the end."""
    bound = min(now + _some(rng, 0.0, 0.2), tenure.begin)
    started = tenure.begin + _some(rng, 0.01, 0.2)
    said = started + _some(rng, 0.01, report - 0.25)
    ready = running(fresh, tenure.address, bound, started)
    made.events += [
        (now, "pods", "ADDED", fresh),
        (bound, "pods", "MODIFIED", fresh | {"status": {"phase": "Pending", "startTime": stamp(bound)}}),
        (said, "pods", "MODIFIED", ready),
    ]
    return ready


def _end(rng: random.Random, made: Churn, last: Json, tenure: Tenure, now: int, report: float) -> tuple[int, str]:
    """A pod ends, from `now` on, but not before it was reported. When its address is free again, and which."""
    asked = max(now, tenure.begin + SECOND)
    by_itself = rng.random() < 0.5
    over = asked + _some(rng, 0.0, 1.5)
    freed = over + _some(rng, 0.01, 0.3)
    said = over + _some(rng, 0.01, report)
    if not by_itself:
        last = deleted(last, asked, 30)
        made.events.append((asked, "pods", "MODIFIED", last))
    last = finished(last, over)
    made.events.append((said, "pods", "MODIFIED", last))
    made.events.append((max(said, freed) + _some(rng, 0.01, 2.0), "pods", "DELETED", last))
    tenure.end = freed
    return freed, tenure.address
