"""Points in time as people write them: `15m`, `all`, RFC 3339, integer nanoseconds. `now` is an argument."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from protocol.filter.times import bounded, rfc3339_ns

__all__ = ["format_ns", "point", "rfc3339_ns"]

_SECOND = 10**9
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def format_ns(nanoseconds: int) -> str:
    """RFC 3339 in UTC with 9 decimals. Any int64 of nanoseconds is between the years 1677 and 2262."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def point(text: str, now: int) -> int | None:
    """The point in time that `text` names, nanoseconds since 1970; None for `all`. Raises ValueError.

    A duration counts back from `now` (nanoseconds).
    """
    if text == "all":
        return None
    if match := re.fullmatch(r"(\d{1,9})([smhdw])", text, re.ASCII):
        return bounded(now - int(match[1]) * _UNITS[match[2]] * _SECOND, text)
    if re.fullmatch(r"-?\d{1,20}", text, re.ASCII):
        return bounded(int(text), text)
    if re.match(r"\d{4}-", text):
        return rfc3339_ns(text)
    raise ValueError(f"{text[:40]!r} is not a time: use 5m, 2h, 1d, all, RFC 3339 with a zone, or nanoseconds")
