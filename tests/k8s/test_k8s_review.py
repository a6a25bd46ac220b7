"""Whose tokens are agents': what the API server says, how long that holds, and what holds without it."""

from __future__ import annotations

from collections.abc import Iterator
from time import time

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from server import ApiServer
from tokens import good, token

from hub.k8s import review
from hub.k8s.accounts import Accounts
from hub.k8s.api import Api
from hub.k8s.place import Server
from hub.k8s.review import FRESH, MOST, REFUSED, Reviews, Verdict

AGENT = "watch/nodetap-agent"
YES, NO = Verdict("good", who=AGENT), Verdict("refused", "no")


@pytest.mark.parametrize(
    ("status", "fate", "word"),
    [
        (good(), "good", ""),
        ({}, "refused", "not authenticated"),
        ({"authenticated": False, "error": "token expired"}, "refused", "token expired"),
        (good(audiences=("https://kubernetes.default.svc",)), "refused", "--audience"),
        (good() | {"audiences": None}, "refused", "--audience"),
        (good("watch:default"), "refused", "--agent-account"),
        (good("other:nodetap-agent"), "refused", "--agent-account"),
        (good() | {"user": {"username": AGENT}}, "refused", "--agent-account"),  # a person may be called so
        (good() | {"user": None}, "refused", "nobody"),
    ],
)
def test_what_a_review_means(status: dict[str, object], fate: str, word: str) -> None:
    verdict = review.judge(status, "nodetap", [AGENT])
    assert verdict.fate == fate
    assert word in verdict.detail
    assert verdict.who == (AGENT if fate == "good" else "")


def test_answers_hold_for_a_while() -> None:
    reviews = Reviews()
    reviews.learned(b"good", YES, 10_000.0, 0.0)
    reviews.learned(b"bad", NO, 0.0, 0.0)
    reviews.learned(b"short", YES, 5.0, 0.0)
    assert reviews.known(b"good", FRESH - 1) == YES
    assert reviews.known(b"good", FRESH) is None
    assert reviews.known(b"bad", REFUSED - 1) == NO
    assert reviews.known(b"bad", REFUSED) is None
    assert reviews.known(b"short", 5.0) is None
    assert reviews.known(b"other", 0.0) is None


def test_without_the_server_known_tokens_are_good_until_they_expire() -> None:
    reviews = Reviews()
    reviews.learned(b"good", YES, 1000.0, 0.0)
    reviews.learned(b"bad", NO, 1000.0, 0.0)
    reviews.learned(b"endless", YES, 0.0, 0.0)
    fates = {digest: reviews.unasked(digest, "down", 900.0).fate for digest in (b"good", b"bad", b"endless", b"new")}
    assert fates == {b"good": "good", b"bad": "unknown", b"endless": "unknown", b"new": "unknown"}
    assert reviews.unasked(b"good", "down", 1000.0).fate == "unknown"


def test_only_so_many_are_remembered() -> None:
    reviews = Reviews()
    for number in range(MOST + 5):
        reviews.learned(b"%d" % number, NO, 0.0, 0.0)
    assert len(reviews) == MOST
    assert reviews.known(b"0", 0.0) is None


@given(st.text())
def test_any_token_has_an_expiry(text: str) -> None:
    assert review.expiry(text) >= 0 or "." in text


def test_an_expiry_is_read() -> None:
    assert review.expiry(token(1234.0)) == 1234.0


@pytest.fixture
def server() -> Iterator[ApiServer]:
    made = ApiServer()
    yield made
    made.close()


def test_a_server_is_asked_once_and_not_needed_for_a_known_token(server: ApiServer) -> None:
    accounts = Accounts(Api(Server(server.url)), "nodetap", [AGENT], structlog.get_logger())
    mine = token(time() + 3600)
    server.tokens[mine] = good()
    for _ in range(3):
        assert accounts.check(f"Bearer {mine}").fate == "good"
        assert accounts.check("Bearer wrong").fate == "refused"
    assert len(server.requests) == 2
    assert accounts.check("").fate == accounts.check(f"Basic {mine}").fate == "refused"
    server.faults.refuse = [(500, "")] * 2
    assert accounts.check(f"Bearer {token(time() + 3600, 'new')}").fate == "unknown"
    server.close()
    assert accounts.check(f"Bearer {mine}").fate == "good"
