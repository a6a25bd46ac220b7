"""Lets agents in by their service accounts: asks the API server, remembers what it said."""

from __future__ import annotations

import threading
from collections.abc import Collection
from hashlib import sha256
from time import time
from typing import Any

from hub.k8s import review
from hub.k8s.api import ERRORS, REVIEWS, Api
from hub.k8s.reflector import Refused
from hub.k8s.review import Reviews, Verdict


class Accounts:
    """Who may send. `check` blocks, for any thread."""

    def __init__(self, api: Api, audience: str, accounts: Collection[str], log: Any) -> None:
        self._api, self._audience, self._accounts, self._log = api, audience, frozenset(accounts), log
        self._reviews = Reviews()
        self._lock = threading.Lock()
        self._trouble = ""

    def check(self, authorization: str) -> Verdict:
        """Whether the token of an `Authorization: Bearer TOKEN` header is an agent's."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return Verdict("refused", "the token is missing")
        digest, now = sha256(token.encode("utf-8", "surrogateescape")).digest(), time()
        with self._lock:
            if found := self._reviews.known(digest, now):
                return found
        try:
            answer = self._api.post(REVIEWS, review.asked(token, self._audience))
            verdict = review.judge(answer.get("status") or {}, self._audience, self._accounts)
        except (Refused, *ERRORS) as error:
            return self._unasked(digest, f"{type(error).__name__}: {error}"[:200])
        with self._lock:
            self._trouble = ""
            return self._reviews.learned(digest, verdict, review.expiry(token), time())

    def _unasked(self, digest: bytes, trouble: str) -> Verdict:
        with self._lock:
            if trouble != self._trouble:
                self._log.warning("cannot review tokens; those known stay good until they expire", reason=trouble)
            self._trouble = trouble
            return self._reviews.unasked(digest, trouble, time())
