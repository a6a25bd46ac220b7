"""Every parser of message streams against what should hurt, and against each other's payloads."""

from __future__ import annotations

import numpy as np
import pytest
import test_l7_amqp
import test_l7_http2
import test_l7_kafka
import test_l7_memcached
import test_l7_mongodb
import test_l7_mqtt
import test_l7_mysql
import test_l7_postgresql
import test_l7_redis
from hypothesis import given, settings
from hypothesis import strategies as st
from l7_fuzz import mutated, survives
from l7_payloads import claims

from agent.l7 import HEAD, PENDING, Conn, Heads

FAMILY = {
    "HTTP2": (test_l7_http2.PARSER, 50051, test_l7_http2.conversation()),
    "Redis": (test_l7_redis.PARSER, 6379, test_l7_redis.conversation()),
    "PostgreSQL": (test_l7_postgresql.PARSER, 5432, test_l7_postgresql.conversation()),
    "MySQL": (test_l7_mysql.PARSER, 3306, test_l7_mysql.conversation()),
    "MongoDB": (test_l7_mongodb.PARSER, 27017, test_l7_mongodb.conversation()),
    "Memcached": (test_l7_memcached.PARSER, 11211, test_l7_memcached.text() + test_l7_memcached.packets()),
    "Kafka": (test_l7_kafka.PARSER, 9092, test_l7_kafka.conversation()),
    "AMQP": (test_l7_amqp.PARSER, 5672, test_l7_amqp.conversation()),
    "MQTT": (test_l7_mqtt.PARSER, 1883, test_l7_mqtt.conversation(5)),
}
ON_PORT = {"Redis": 0.02, "MQTT": 0.002, "Memcached": 0.25}
"""Share of random payloads on the port that a probe may take; the parser looks closer."""
each = pytest.mark.parametrize("name", FAMILY)


@each
def test_names(name: str):
    assert FAMILY[name][0].name == name


@each
@settings(max_examples=150)
@given(st.data(), st.booleans())
def test_nothing_raises(name: str, data: st.DataObject, client: bool):
    parser, port, conversation = FAMILY[name]
    samples = [payload for _, payload in conversation]
    anything = st.one_of(st.binary(min_size=1, max_size=200), mutated(samples), st.sampled_from(samples))
    ports = (40000, port) if client else (port, 40000)
    survives(parser, data.draw(st.lists(anything, max_size=8)), *ports)


@each
@settings(max_examples=100)
@given(st.data())
def test_nothing_raises_after_a_loss(name: str, data: st.DataObject):
    parser, port, conversation = FAMILY[name]
    conn = Conn()
    for client, payload in conversation:
        if data.draw(st.booleans()):
            parser.lost(conn, 0 if client else 1)  # type: ignore[attr-defined]
        cut = data.draw(st.integers(1, len(payload)))
        ports = (40000, port) if client else (port, 40000)
        parser.feed(payload[:cut], 0 if client else 1, *ports, conn)
        assert max(map(len, conn.pending)) <= PENDING


@each
def test_junk_is_not_claimed(name: str):
    """Random payloads look like none of these, off the port hardly ever, on it seldom, and then say nothing wrong."""
    parser, port, _ = FAMILY[name]
    random = np.random.default_rng(7)
    n = 200_000
    first = random.integers(0, 256, (n, HEAD), dtype=np.uint8)
    length = random.integers(HEAD, 1461, n)
    ports = [np.full(n, p, dtype=np.uint16) for p in (40000, port)]
    elsewhere = Heads(first, length, ports[0], ports[0])
    assert parser.probe(elsewhere).sum() <= 2
    assert parser.probe(Heads(first, length, *ports)).mean() < ON_PORT.get(name, 0.001)
    assert not parser.probe(Heads(np.zeros_like(first), length, *ports)).any()


@each
def test_own_messages_are_claimed_and_others_are_not(name: str):
    parser, port, _ = FAMILY[name]
    for other, (_, other_port, conversation) in FAMILY.items():
        for client, payload in conversation:
            ports = (40000, other_port) if client else (other_port, 40000)
            if other != name:
                assert not claims(parser, payload, *ports), (name, other, payload)
    first = FAMILY[name][2][0]
    assert claims(parser, first[1], *((40000, port) if first[0] else (port, 40000)))


@each
def test_a_segment_of_the_smallest_messages_is_bounded(name: str):
    """A full segment of the smallest messages there are gives a summary that stays small."""
    parser, port, conversation = FAMILY[name]
    smallest = min((payload for client, payload in conversation if client), key=len)
    conn = Conn()
    for client, payload in conversation[:3]:
        parser.feed(payload, 0 if client else 1, *((40000, port) if client else (port, 40000)), conn)
    said = parser.feed(smallest * (60_000 // len(smallest)), 0, 40000, port, conn)
    if said is not None:
        assert len(said.info) < 600
        assert len(said.turns) <= 300
        assert all(len(v) <= 1024 for v in said.rest.values())
