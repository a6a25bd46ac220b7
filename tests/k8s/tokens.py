"""Service-account tokens that are none but look like it, and what TokenReview says of them."""

from __future__ import annotations

import base64
import json
from typing import Any


def token(expires: float, name: str = "t") -> str:
    """A token that says when it ends."""
    parts = ({"alg": "RS256"}, {"exp": expires, "jti": name})
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{head}.{body}.c2lnbmF0dXJl"


def good(account: str = "watch:nodetap-agent", audiences: tuple[str, ...] = ("nodetap",)) -> dict[str, Any]:
    """The status of a token that is taken."""
    user = {"username": f"system:serviceaccount:{account}"}
    return {"authenticated": True, "user": user, "audiences": list(audiences)}
