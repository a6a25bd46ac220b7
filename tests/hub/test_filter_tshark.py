"""Filters through the store find the frames that tshark's display filters find, but for reasons that are known."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub.query.sql import Params, compile_filter
from hub.store.books import Entry
from hub.store.store import Store
from protocol.filter.grammar import parse
from protocol.messages import Batch

NOW = 1_700_000_000 * 10**9
CAPTURES = (
    "dns-mdns-llmnr.pcap",
    "http-pipelined-one-segment.pcap",
    "icmp-types-quoted.pcapng",
    "ipv6-exthdr-atomic-frag-http.pcap",
    "pcapng-2if-sll-eth-snaplen.pcapng",
    "tls13-ipv6.pcap",
    "tunnel-gre.pcap",
    "vlan-mpls-mixed.pcap",
)
EVERY = 3
"""Each third filter of the list."""


def entry(capture: Any, seq: int) -> Entry:
    """A capture of one block as a batch of an agent with its name."""
    (columns,) = capture.pieces
    count = len(columns["layers"])
    times = np.asarray(columns["time"])
    span = int(times.min()), int(times.max())
    batch = Batch(capture.path.name, 7, seq, "packets", count, count, 0, *span, 0, 0, b"", {})
    return Entry(batch, columns, "node", "file", 3)


@pytest.fixture(scope="module")
def captured(corpus: Path) -> list[Any]:
    if not all(map(shutil.which, ("tshark", "sharkd"))):
        pytest.skip("tshark and sharkd are needed")
    from tools.filter_fidelity import read

    return [read(corpus / name, False) for name in CAPTURES]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, captured: list[Any]) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('tshark')}/store")
    store.open(NOW)
    for seq, capture in enumerate(captured, 1):
        store.commit([entry(capture, seq)], NOW)
    yield store
    store.close()


def stored(store: Store, text: str) -> dict[str, set[int]]:
    """The frames that a filter finds, by capture."""
    node = parse(text, "packets")
    assert node is not None
    params = Params()
    sql = f"SELECT agent, frame_number FROM packets WHERE {compile_filter(node, params, 'packets')}"
    found: dict[str, set[int]] = {name: set() for name in CAPTURES}
    with store.reader() as reader:
        for agent, number in reader.rows(sql, params.values, timeout=20):
            found[agent].add(number)
    return found


def test_the_store_finds_what_tshark_finds(store: Store, captured: list[Any]) -> None:
    from tools.filter_fidelity import compare, listed

    filters = listed()[::EVERY]
    found = {text: stored(store, text) for text in filters}
    for capture in captured:
        for pair in compare(capture, filters, False):
            assert found[pair.text][pair.file] == set(pair.ours), pair.text
            assert None not in pair.reasons.values(), pair


def test_random_filters_find_what_tshark_finds(captured: list[Any]) -> None:
    from tools.filter_fidelity import compare, made

    filters = made(captured, 150, seed=3)
    assert len(filters) > 100
    for capture in captured:
        for pair in compare(capture, filters, False):
            assert None not in pair.reasons.values(), pair
