"""Names for captures: what the store tells of who had which address, and how it is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from query_rows import address, entry

from hub.query.named import MOST, named, told
from hub.query.select import Question
from hub.store.books import Entry
from hub.store.store import Store
from protocol.columns import Dict
from protocol.filter.grammar import parse
from protocol.schema import Has

NOW = 1_700_000_000 * 10**9
WEB, OLD, DNS = "shop/web-1/web//n1/", "shop/old-7/old//n1/", "kube-system///dns//"
OUTSIDE = "/////external"


def named_packets(*rows: tuple[int, str, str, str, str]) -> Entry:
    """Packets by seconds, source and its name, destination and its name."""
    made = entry(
        "packets",
        [
            {"frame_number": n, "time": NOW + at * 10**9, "src": address(src), "dst": address(dst), "layers": Has.IPV4}
            for n, (at, src, _, dst, _) in enumerate(rows)
        ],
    )
    names = {"k8s_src": _dict([row[2] for row in rows]), "k8s_dst": _dict([row[4] for row in rows])}
    return replace(made, columns={**made.columns, **names})


def _dict(values: list[str]) -> Dict:
    known = tuple(dict.fromkeys(values))
    return Dict(np.array([known.index(value) for value in values], "<u4"), known)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path}/store")
    store.open(NOW)
    store.commit(
        [
            named_packets(
                (1, "10.0.0.7", OLD, "10.96.0.10", DNS),
                (2, "10.0.0.7", WEB, "192.0.2.1", OUTSIDE),
                (3, "192.0.2.1", OUTSIDE, "10.0.0.7", WEB),
                (9, "2001:db8::7", WEB, "192.0.2.1", ""),
            )
        ],
        NOW,
    )
    yield store
    store.close()


def ask(store: Store, **question: Any) -> list[str]:
    query = named(Question("packets", **question))
    with store.reader() as reader:
        return told(reader.rows(query.sql, query.params, timeout=20)).splitlines()


def test_each_address_with_its_names_and_when_it_had_them(store: Store) -> None:
    assert ask(store) == [
        "Names of Kubernetes, as of the packets' times:",
        "10.0.0.7 is pod shop/old-7, workload old, node n1, "
        "from 2023-11-14T22:13:21.000000000Z to 2023-11-14T22:13:21.000000000Z",
        "10.0.0.7 is pod shop/web-1, workload web, node n1, "
        "from 2023-11-14T22:13:22.000000000Z to 2023-11-14T22:13:23.000000000Z",
        "10.96.0.10 is service kube-system/dns",
        "2001:db8::7 is pod shop/web-1, workload web, node n1",
    ]


def test_of_those_alone_that_are_asked_for(store: Store) -> None:
    filtered = ask(store, filter=parse("ip.src == 192.0.2.1", "packets"), since=NOW, until=NOW + 4 * 10**9)
    assert [line.partition(",")[0] for line in filtered[1:]] == ["10.0.0.7 is pod shop/web-1"]
    assert ask(store, until=NOW) == []


def test_more_than_a_comment_has_room_for() -> None:
    lines = told([(f"10.0.{n >> 8}.{n & 255}", WEB, 0, 0) for n in range(MOST + 1)]).splitlines()
    assert len(lines) == MOST + 2
    assert lines[-1].startswith("and more")
