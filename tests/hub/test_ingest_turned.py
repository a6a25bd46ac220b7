"""Who was turned away: the newest, each once, not for ever and not without bound."""

from __future__ import annotations

from hub.ingest.turned import LATELY, MOST, TurnedAway


def test_each_is_told_once_with_its_number_the_newest_first() -> None:
    turned = TurnedAway()
    for client, code, now in (("a", "bad_token", 1.0), ("b", "unknown_version", 2.0), ("a", "bad_token", 3.0)):
        turned.add(client, code, "why", now)
    assert [(one.client, one.times, one.at) for one in turned.lately(4.0)] == [("a", 2, 3.0), ("b", 1, 2.0)]
    assert [one.client for one in turned.lately(2.5 + LATELY)] == ["a"]
    turned.add("a", "bad_token", "why", 4.0 + LATELY)
    assert [one.times for one in turned.lately(4.0 + LATELY)] == [1]


def test_what_passes_by_itself_is_not_told_and_countless_clients_take_bounded_memory() -> None:
    turned = TurnedAway()
    turned.add("a", "busy", "come again", 1.0)
    assert not list(turned.lately(1.0))
    for number in range(MOST + 10):
        turned.add(str(number), "bad_token", "why", 1.0)
    assert [one.client for one in turned.lately(1.0)] == [str(number) for number in reversed(range(10, MOST + 10))]
