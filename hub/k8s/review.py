"""Whether a service-account token is an agent's: what TokenReview says, and what was said lately. Pure; seconds.

The API server is asked again after FRESH seconds, so a token that is revoked is refused soon; while it cannot be asked,
a token that was good stays good until it expires by itself. Source:
https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

FRESH = 60.0
"""Seconds for which a good answer is not asked for again."""
REFUSED = 10.0
"""The same of a refusal, so that a wrong token costs the API server little."""
MOST = 10_000
"""Tokens that are remembered."""
_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`fate`: good, refused, or unknown where nobody could be asked. `who` is NAMESPACE/NAME."""

    fate: str
    detail: str = ""
    who: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    verdict: Verdict
    until: float
    expires: float


def asked(token: str, audience: str) -> dict[str, Any]:
    """The TokenReview to send."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }


def judge(status: Mapping[str, Any], audience: str, accounts: Collection[str]) -> Verdict:
    """What the status of a TokenReview means to us."""
    if not status.get("authenticated"):
        return Verdict(
            "refused", f"Kubernetes does not take the token: {status.get('error') or 'not authenticated'}"[:300]
        )
    if audience not in (status.get("audiences") or ()):
        return Verdict("refused", f"the token is not for the audience {audience}; see --audience")
    name = str((status.get("user") or {}).get("username") or "")
    who = name.removeprefix(_PREFIX).replace(":", "/", 1)
    if not name.startswith(_PREFIX) or who not in accounts:
        return Verdict("refused", f"{name[:200] or 'nobody'} is no agent's account; see --agent-account")
    return Verdict("good", who=who)


def expiry(token: str) -> float:
    """When a token says that it ends, seconds since 1970; 0 where it does not. To be believed after a review only."""
    try:
        body = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return 0.0


class Reviews:
    """Answers by token digest; `now` is seconds since 1970."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}

    def __len__(self) -> int:
        return len(self._known)

    def known(self, digest: bytes, now: float) -> Verdict | None:
        """What need not be asked again."""
        found = self._known.get(digest)
        return found.verdict if found and now < found.until else None

    def learned(self, digest: bytes, verdict: Verdict, expires: float, now: float) -> Verdict:
        """An answer came."""
        self._known.pop(digest, None)
        until = now + (FRESH if verdict.fate == "good" else REFUSED)
        self._known[digest] = _Known(verdict, min(until, expires) if expires else until, expires)
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        return verdict

    def unasked(self, digest: bytes, trouble: str, now: float) -> Verdict:
        """Nobody could be asked."""
        found = self._known.get(digest)
        if found and found.verdict.fate == "good" and now < found.expires:
            return replace(found.verdict, detail=trouble)
        return Verdict("unknown", f"the token cannot be checked now: {trouble}"[:300])
