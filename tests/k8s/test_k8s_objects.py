"""What objects say: workloads, when a pod had its address, what is no address."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from cluster import SECOND, deleted, finished, meta, node, pod, running, service
from hypothesis import given
from hypothesis import strategies as st

from hub.k8s.objects import FOREVER, KINDS, holders, packed, time_of, workload, written

T = 1_790_000_040 * SECOND
MINUTES = T // SECOND // 60


@pytest.mark.parametrize(
    ("owner", "labels", "expected"),
    [
        (None, {}, "name"),
        (("StatefulSet", "db"), {}, "db"),
        (("DaemonSet", "agent"), {}, "agent"),
        (("ReplicaSet", "web-5d4f8c"), {"pod-template-hash": "5d4f8c"}, "web"),
        (("ReplicaSet", "web-5d4f8c"), {"rollouts-pod-template-hash": "5d4f8c"}, "web"),
        (("ReplicaSet", "web-5d4f8c"), {}, "web-5d4f8c"),  # made by hand
        (("ReplicaSet", "web-5d4f8c"), {"pod-template-hash": "other"}, "web-5d4f8c"),
        (("Job", f"backup-{MINUTES - 2}"), {}, "backup"),
        (("Job", f"backup-{MINUTES - 2000}"), {}, f"backup-{MINUTES - 2000}"),
        (("Job", f"backup-{MINUTES + 5}"), {}, f"backup-{MINUTES + 5}"),
        (("Job", "backup-20260101"), {}, "backup-20260101"),
        (("Workflow", "train"), {}, "train"),
    ],
)
def test_workloads(owner: tuple[str, str] | None, labels: dict[str, str], expected: str) -> None:
    assert workload(pod("name", T, owner=owner, labels=labels)) == expected


def test_an_owner_that_does_not_control_is_no_workload() -> None:
    made = pod("name", T, owner=("Node", "n1"))
    made["metadata"]["ownerReferences"][0]["controller"] = False
    assert workload(made) == "name"


def only(item: dict[str, Any], now: int = T) -> Any:
    (found,) = holders("pods", item, now)
    return found


def test_when_a_pod_has_its_address() -> None:
    young = only(running(pod("p", T), "10.0.0.1", T + 2 * SECOND, T + 5 * SECOND))
    assert T < young.since <= T + 2 * SECOND
    assert young.sure > T + 5 * SECOND
    assert young.leaving > FOREVER // 2 < young.until


def test_when_a_pod_leaves_its_address() -> None:
    ran = running(pod("p", T), "10.0.0.1", T, T)
    asked = only(deleted(ran, T + 60 * SECOND, 30))
    assert asked.leaving <= T + 60 * SECOND
    assert asked.until >= FOREVER
    over = only(finished(deleted(ran, T + 60 * SECOND, 30), T + 70 * SECOND))
    assert T + 70 * SECOND < over.until < T + 75 * SECOND
    job = only(finished(ran, T + 70 * SECOND))
    assert T + 60 * SECOND < job.leaving <= T + 70 * SECOND
    evicted = only(ran | {"status": ran["status"] | {"phase": "Failed", "containerStatuses": []}}, T + 80 * SECOND)
    assert evicted.leaving < T
    assert evicted.until >= T + 80 * SECOND


def test_a_container_that_starts_again_is_no_end() -> None:
    ran = running(pod("p", T), "10.0.0.1", T, T)
    ended = finished(ran, T + 9 * SECOND, "Running")
    assert only(ended).until >= FOREVER


def test_pods_of_the_host_and_pods_without_an_address_hold_nothing() -> None:
    assert holders("pods", pod("p", T, host_network=True, podIP="10.0.0.1"), T) == []
    assert only(pod("p", T)).addresses == ()


def test_both_families_are_held() -> None:
    both = pod("p", T, podIP="10.0.0.1", podIPs=[{"ip": "10.0.0.1"}, {"ip": "fd00::1"}])
    assert only(both).addresses == (packed("10.0.0.1"), packed("fd00::1"))


def test_what_is_no_address() -> None:
    assert packed("None") is None
    assert holders("services", service("headless", T, "None"), T)[0].addresses == ()
    strange = node("n", T, "n.example", "no range")
    assert [holder.addresses for holder in holders("nodes", strange, T)] == [(), ()]


@pytest.mark.parametrize("text", [None, "", "yesterday", 5])
def test_what_is_no_time(text: Any) -> None:
    assert time_of(text) is None


def test_times_are_read() -> None:
    assert time_of("2026-09-21T13:34:00Z") == time_of("2026-09-21T13:34:00.999+00:00") == 1_789_997_640 * SECOND
    assert written({"metadata": meta("u", "n", T)}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(KINDS)), JSON, JSON, JSON)
def test_whatever_an_object_says_nothing_else_is_raised(kind: str, about: Any, spec: Any, status: Any) -> None:
    made = {"metadata": about if isinstance(about, dict) else {}, "spec": spec, "status": status}
    made["metadata"] = {"uid": "u", "name": "n", "namespace": "s"} | made["metadata"]
    with suppress(KeyError, TypeError, ValueError, AttributeError):  # which `Names` counts
        holders(kind, made, T)
