"""The address book over time: right under churn, silent where it cannot know."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from cluster import SECOND, Churn, churn, finished, node, pod, running, service
from naming import REASON, Rows, column, compare, words

from hub.k8s.book import KEEP, Book
from hub.k8s.objects import holders, pod_ranges

START = 1_790_000_000 * SECOND
SETTLE = SECOND


def fill(book: Book, objects: dict[str, list[dict[str, object]]], now: int) -> None:
    for kind, items in objects.items():
        for item in items:
            apply(book, kind, "ADDED", item, now)
    book.watching_since(now)


def apply(book: Book, kind: str, what: str, item: dict[str, object], now: int) -> None:
    for holder in holders(kind, item, now):
        book.put(holder, now)
        if what == "DELETED":
            book.remove(holder.uid, now, now - 2 * SECOND)
    if kind == "nodes":
        book.ranges(item["metadata"]["name"], pod_ranges(item))  # type: ignore[index]


def ask(book: Book, address: str, at: int, until: int = 0, reached: int = 1 << 61) -> list[str]:
    begin, end = np.array([at]), np.array([until or at])
    return words(book.name(column([address]), begin, end, reached, sent=True))[0]


def replay(made: Churn, rng: random.Random, step: int, rows: int, latency: int = 0) -> tuple[Counter[str], list[str]]:
    """Play a script in its own time; a batch's rows are named once the book has passed them by SETTLE."""
    book, truth, found, wrong = Book(), made.truth(), Counter[str](), list[str]()
    fill(book, made.objects, START)
    draw, events = Rows(made, rng), iter(made.events)
    event = next(events, None)
    begin = START + 2 * SECOND
    while event is not None:
        end = begin + step
        while event is not None and event[0] < end + SETTLE - latency:
            apply(book, event[1], event[2], event[3], event[0] + latency)
            event = next(events, None)
        addresses, times = draw.draw(begin, end, rows)
        column_times = np.array(times)
        for sent in (True, False):
            names = book.name(column(addresses), column_times, column_times, end, sent=sent)
            compare(names, addresses, times, truth, found, wrong, sent)
        book.forget(end)
        begin = end
    return found, wrong


@pytest.mark.parametrize("seed", range(4))
def test_no_row_has_the_name_of_a_pod_that_had_not_its_address(seed: int) -> None:
    rng = random.Random(seed)
    made = churn(rng, pods=60, changes=8, seconds=20, start=START)
    found, wrong = replay(made, rng, SECOND // 2, 50)
    assert wrong == []
    assert found["named"] > found["of a pod"] * 0.3  # most of these rows are of moments in which addresses change


def test_pods_that_stay_are_named_while_others_come_and_go() -> None:
    rng = random.Random(5)
    made = churn(rng, pods=2000, changes=20, seconds=10, start=START)
    found, wrong = replay(made, rng, SECOND // 2, 2000)
    assert wrong == []
    assert found["named"] > 0.9 * found["of a pod"]


def ready(name: str, address: str, created: int, **more: object) -> dict[str, object]:
    return running(pod(name, created, **more), address, created + SECOND, created + 2 * SECOND)  # type: ignore[arg-type]


@pytest.fixture
def book() -> Book:
    made = Book()
    hour = START - 3600 * SECOND
    objects = {
        "nodes": [node("n1", hour, "192.168.0.1", "10.42.0.0/24"), node("n2", hour, "2001:db8::2", "fd00:1::/64")],
        "services": [service("dns", hour, "10.96.0.10", "kube-system"),
                     service("none", hour, "None", "kube-system", externalIPs=["192.168.0.1", "203.0.113.9"])],
        "pods": [ready("web-1", "10.42.0.7", hour, node="n1"), ready("v6", "fd00:1::9", hour, node="n2"),
                 pod("proxy", hour, node="n1", host_network=True, podIP="192.168.0.1")],
    }  # fmt: skip
    fill(made, objects, START)
    return made


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("10.42.0.7", "default/web-1/web-1//n1/"),
        ("fd00:1::9", "default/v6/v6//n2/"),
        ("192.168.0.1", "////n1/"),  # a pod of the host's network and an outer address of a service are the node's
        ("2001:db8::2", "////n2/"),
        ("10.42.0.1", "////n1/"),  # the first of a node's range is its bridge
        ("fd00:1::1", "////n2/"),
        ("10.96.0.10", "kube-system///dns//"),
        ("203.0.113.9", "kube-system///none//"),
        ("10.42.0.99", "/////unassigned"),
        ("fd00:1::77", "/////unassigned"),
        ("8.8.8.8", "/////external"),
        ("2001:db8::3", "/////external"),
        ("127.0.0.1", "/////special"),
        ("255.255.255.255", "/////special"),
        ("0.0.0.0", "/////special"),
        ("::1", "/////special"),
        ("fe80::1", "/////special"),
        ("ff02::1", "/////special"),
        ("::", "/////"),  # no address at all
    ],
)
def test_who_an_address_is(book: Book, address: str, names: str) -> None:
    assert "/".join(ask(book, address, START + SECOND)) == names


def test_a_row_is_named_as_of_its_time(book: Book) -> None:
    book.remove("pods/u-web-1", START + 60 * SECOND, START + 58 * SECOND)
    apply(book, "pods", "ADDED", ready("web-2", "10.42.0.7", START + 120 * SECOND), START + 123 * SECOND)
    said = [ask(book, "10.42.0.7", START + at * SECOND) for at in (30, 59, 61, 90, 125)]
    assert [parts[1] for parts in said] == ["web-1", "web-1", "", "", "web-2"]
    assert [parts[REASON] for parts in said] == ["", "", "unassigned", "unassigned", ""]


def test_where_two_may_have_had_it_nobody_is_named(book: Book) -> None:
    book.remove("pods/u-web-1", START + 60 * SECOND, START + 30 * SECOND)
    apply(book, "pods", "ADDED", ready("web-2", "10.42.0.7", START + 50 * SECOND), START + 60 * SECOND)
    said = {at: ask(book, "10.42.0.7", START + at * SECOND) for at in (29, 49, 51, 53, 55, 61)}
    assert [parts[1] for parts in said.values()] == ["web-1", "web-1", "", "", "web-2", "web-2"]
    assert said[51][REASON] == said[53][REASON] == "ambiguous"


def test_a_row_that_spans_a_change_is_ambiguous(book: Book) -> None:
    book.remove("pods/u-web-1", START + 60 * SECOND, START + 58 * SECOND)
    assert ask(book, "10.42.0.7", START + 50 * SECOND, START + 55 * SECOND)[1] == "web-1"
    assert ask(book, "10.42.0.7", START + 50 * SECOND, START + 65 * SECOND)[REASON] == "ambiguous"


def test_before_the_watch_and_in_gaps_only_who_is_certain_is_named(book: Book) -> None:
    apply(book, "pods", "ADDED", pod("young", START, podIP="10.42.0.8"), START + SECOND)
    book.missed(START + 10 * SECOND, START + 20 * SECOND)
    assert ask(book, "10.42.0.7", START - SECOND)[1] == "web-1"  # its container ran already
    assert ask(book, "10.42.0.7", START + 15 * SECOND)[1] == "web-1"
    assert ask(book, "10.42.0.8", START + 15 * SECOND)[REASON] == "unwatched"
    assert ask(book, "10.42.0.8", START + 25 * SECOND)[1] == "young"
    assert ask(book, "10.42.0.9", START - SECOND)[REASON] == "unassigned"  # nobody was ever seen there


def test_what_the_watch_has_not_reached_is_stale(book: Book) -> None:
    at = START + 5 * SECOND
    assert ask(book, "10.42.0.7", at, reached=at - 1)[REASON] == "stale"
    assert ask(book, "10.42.0.99", at, reached=at - 1)[REASON] == "stale"
    assert ask(book, "8.8.8.8", at, reached=at - 1)[REASON] == "external"


def test_old_intervals_are_forgotten_and_the_rest_stays(book: Book) -> None:
    for number in range(5000):
        at = START + number * SECOND
        apply(book, "pods", "ADDED", ready(f"job-{number}", f"10.42.0.{20 + number % 9}", at), at)
        book.remove(f"pods/u-job-{number}", at + 5 * SECOND, at + 4 * SECOND)
        if number % 500 == 0:
            book.forget(at)
    now = START + 5000 * SECOND
    book.forget(now)
    assert len(book) < KEEP // SECOND + 50
    assert ask(book, "10.42.0.7", now)[1] == "web-1"
    assert ask(book, f"10.42.0.{20 + 4990 % 9}", START + 4993 * SECOND)[1] == "job-4990"
    assert ask(book, "10.42.0.20", now - KEEP - SECOND)[REASON] == "unwatched"
    assert ask(book, "10.42.0.7", now - KEEP - SECOND)[1] == "web-1"


def test_who_was_certain_stays_so_after_its_end(book: Book) -> None:
    hour, end = START - 3600 * SECOND, START + 60 * SECOND
    apply(book, "pods", "MODIFIED", finished(ready("web-1", "10.42.0.7", hour, node="n1"), end), end)
    book.missed(START + 10 * SECOND, START + 20 * SECOND)
    assert ask(book, "10.42.0.7", START + 15 * SECOND)[1] == "web-1"
    assert ask(book, "10.42.0.7", end + 5 * SECOND)[REASON] == "unassigned"


def test_a_pod_that_gets_another_address_loses_the_first(book: Book) -> None:
    later = START + 60 * SECOND
    apply(book, "pods", "MODIFIED", ready("web-1", "10.42.0.70", START - 3600 * SECOND), later)
    assert ask(book, "10.42.0.7", later + SECOND)[REASON] == "unassigned"
    assert ask(book, "10.42.0.7", later - SECOND)[1] == "web-1"
    assert ask(book, "10.42.0.70", later + SECOND)[1] == "web-1"


def test_no_rows() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert len(Book().name(column([]), none, none, 0, sent=True)) == 0
