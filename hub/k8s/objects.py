"""What one version of a Kubernetes object says about addresses. Pure: JSON in, holders out.

Times of objects are whole seconds of the API server's or the kubelet's clock, rounded down. A bound is therefore put
where it must hold: earliest times a second early, latest ones two seconds late (one for the rounding, one for clocks
that differ).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any, TypeAlias

SECOND = 10**9
SKEW = SECOND
"""How far clocks of the cluster may be apart."""
FOREVER = 1 << 62

Json: TypeAlias = "Mapping[str, Any]"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds addresses, and when. Times are nanoseconds since 1970.

    It may hold them in [`since`, `until`), and certainly does in [`sure`, `leaving`). `weak` holders count only where
    nobody else has the address. `word` is `namespace/pod/workload/service/node/reason`, as the store keeps it.
    """

    uid: str
    addresses: tuple[bytes, ...]
    word: str
    since: int
    sure: int = FOREVER
    leaving: int = FOREVER
    until: int = FOREVER
    weak: bool = False


def word(namespace: str = "", pod: str = "", workload: str = "", service: str = "", node: str = "",
         reason: str = "") -> str:  # fmt: skip
    """The names of one side of a row as one string; Kubernetes allows no slash in any of them."""
    return "/".join((namespace, pod, workload, service, node, reason))


def packed(text: str) -> bytes | None:
    """16 bytes of an address, IPv4 mapped; None where it is none, such as a headless service's `None`."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def _all_packed(texts: Iterable[Any]) -> tuple[bytes, ...]:
    found = (packed(str(text)) for text in texts if text)
    return tuple(dict.fromkeys(address for address in found if address))


def time_of(text: Any) -> int | None:
    """An RFC 3339 time as nanoseconds, None where there is none."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)  # knows Z from Python 3.11 on
    except ValueError:
        return None
    return int(moment.timestamp()) * SECOND


def written(item: Json) -> int | None:
    """When this version was written, as the newest of its managers says; None where nobody says."""
    times = (time_of(entry.get("time")) for entry in item["metadata"].get("managedFields") or ())
    return max((time for time in times if time is not None), default=None)


# -- workloads -----------------------------------------------------------------------------------------------------

_MINUTES = re.compile(r"(.+)-(\d{8,10})")
_DAY_MINUTES = 24 * 60


def workload(item: Json) -> str:
    """What a person deployed to get this pod: its controller, or the controller's own where the names tell.

    A ReplicaSet of a Deployment is named DEPLOYMENT-HASH and marks its pods with the hash; a Job of a CronJob is named
    CRONJOB-MINUTES, the minute it was due. So neither has to be watched.
    """
    meta = item["metadata"]
    owner = next((each for each in meta.get("ownerReferences") or () if each.get("controller")), None)
    if owner is None:
        return str(meta["name"])
    kind, name = str(owner.get("kind")), str(owner.get("name"))
    if kind == "ReplicaSet":
        labels = meta.get("labels") or {}
        hashes = (labels.get("pod-template-hash"), labels.get("rollouts-pod-template-hash"))
        return next((name.removesuffix(f"-{each}") for each in hashes if each and name.endswith(f"-{each}")), name)
    return _of_cron_job(name, time_of(meta.get("creationTimestamp"))) if kind == "Job" else name


def _of_cron_job(name: str, created: int | None) -> str:
    """The CronJob's name where the Job's ends in the minute it was due, at most a day before the pod was made."""
    match = _MINUTES.fullmatch(name)
    if match is None or created is None:
        return name
    late = created // (60 * SECOND) - int(match[2])
    return match[1] if 0 <= late <= _DAY_MINUTES else name


# -- kinds ---------------------------------------------------------------------------------------------------------


def _pods(item: Json, now: int) -> list[Holder]:
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    addresses = _all_packed([status.get("podIP"), *(each.get("ip") for each in status.get("podIPs") or ())])
    if spec.get("hostNetwork"):
        return []  # the address is the node's, and others use it too
    begun = time_of(status.get("startTime")) or time_of(meta.get("creationTimestamp")) or now
    asked = _asked_to_go(meta)
    ended = _ended(item, now)
    leaving = min(asked - SKEW, ended[0] - SKEW)
    name = word(meta["namespace"], meta["name"], workload(item), "", spec.get("nodeName") or "")
    return [Holder(_uid(item), addresses, name, begun - SKEW, _sure(status), leaving, ended[1] + 2 * SKEW)]


def _sure(status: Json) -> int:
    """From when the pod certainly had its addresses: its sandbox was ready, or a container of it ran."""
    ready = [
        time_of(each.get("lastTransitionTime"))
        for each in status.get("conditions") or ()
        if each.get("type") == "PodReadyToStartContainers" and each.get("status") == "True"
    ]
    running = [
        time_of(((each.get("state") or {}).get("running") or {}).get("startedAt")) for each in _containers(status)
    ]
    times = [time for time in (*ready, *running) if time is not None]
    return min(times) + 2 * SKEW if times else FOREVER


def _containers(status: Json) -> list[Json]:
    return [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]


def _asked_to_go(meta: Json) -> int:
    """When somebody deleted the pod: its deadline less the grace that it was given."""
    deadline = time_of(meta.get("deletionTimestamp"))
    return FOREVER if deadline is None else deadline - int(meta.get("deletionGracePeriodSeconds") or 0) * SECOND


def _ended(item: Json, now: int) -> tuple[int, int]:
    """When the pod's last container ended, as earliest and latest; FOREVER while one runs or may run again."""
    status = item.get("status") or {}
    over = status.get("phase") in ("Succeeded", "Failed")
    states = [(each.get("state") or {}).get("terminated") for each in status.get("containerStatuses") or ()]
    if not over and not (item["metadata"].get("deletionTimestamp") and states and all(states)):
        return FOREVER, FOREVER
    times = [time for state in states if state and (time := time_of(state.get("finishedAt"))) is not None]
    return (max(times), max(times)) if times and all(states) else (0, now)


def _nodes(item: Json, now: int) -> list[Holder]:
    meta = item["metadata"]
    name = word(node=meta["name"])
    begun = (time_of(meta.get("creationTimestamp")) or now) - SKEW
    addresses = _all_packed(
        each.get("address")
        for each in (item.get("status") or {}).get("addresses") or ()
        if each.get("type") != "Hostname"
    )
    gateways = tuple(net.network_address + 1 for net in pod_ranges(item) if net.num_addresses > 1)
    uid = _uid(item)
    return [
        Holder(uid, addresses, name, begun, begun + 2 * SKEW),
        Holder(f"{uid}/gateway", _all_packed(gateways), name, begun, begun + 2 * SKEW, weak=True),
    ]


def pod_ranges(node: Json) -> list[Any]:
    """The networks out of which a node gives its pods addresses, as it says."""
    spec = node.get("spec") or {}
    texts = dict.fromkeys((*(spec.get("podCIDRs") or ()), spec.get("podCIDR") or ""))
    found = []
    for text in texts:
        try:
            found.append(ip_network(str(text), strict=False))
        except ValueError:
            continue
    return found


def _services(item: Json, now: int) -> list[Holder]:
    meta, spec = item["metadata"], item.get("spec") or {}
    name = word(meta["namespace"], service=meta["name"])
    begun = (time_of(meta.get("creationTimestamp")) or now) - SKEW
    ingress = ((item.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    outside = _all_packed([*(spec.get("externalIPs") or ()), *(each.get("ip") for each in ingress)])
    uid, sure = _uid(item), begun + 3 * SKEW
    return [
        Holder(uid, _all_packed([spec.get("clusterIP"), *(spec.get("clusterIPs") or ())]), name, begun, sure),
        Holder(f"{uid}/outside", outside, name, begun, sure, weak=True),  # often nodes' own addresses
    ]


def _uid(item: Json) -> str:
    return str(item["metadata"]["uid"])


KINDS: dict[str, Callable[[Json, int], list[Holder]]] = {"pods": _pods, "nodes": _nodes, "services": _services}
"""What is watched, and how it is read."""


def holders(kind: str, item: Json, now: int) -> list[Holder]:
    """What an object says, `now` being when it came; of an object that says nothing of an address, nothing."""
    found = KINDS[kind](item, now)
    return [replace(each, uid=f"{kind}/{each.uid}") for each in found]
