"""Points in time as people write them: `15m`, `all`, RFC 3339, integer nanoseconds. `now` is an argument."""

from __future__ import annotations

import re
from calendar import timegm
from datetime import UTC, datetime

_SECOND = 10**9
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_I64 = 1 << 63
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)  # RFC 3339, 5.6; a blank is allowed there for "T"


def rfc3339_ns(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time with a zone. Raises ValueError with a line for people."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a time with a zone such as 2026-01-31T12:00:00Z")
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
        seconds = timegm(moment.utctimetuple())
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is not a date and time that exists") from None
    return _bounded(seconds * _SECOND + int((fraction or "0").ljust(9, "0")), text)


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
        return _bounded(now - int(match[1]) * _UNITS[match[2]] * _SECOND, text)
    if re.fullmatch(r"-?\d{1,20}", text, re.ASCII):
        return _bounded(int(text), text)
    if re.match(r"\d{4}-", text):
        return rfc3339_ns(text)
    raise ValueError(f"{text[:40]!r} is not a time: use 5m, 2h, 1d, all, RFC 3339 with a zone, or nanoseconds")


def _bounded(nanoseconds: int, text: str) -> int:
    if not -_I64 <= nanoseconds < _I64:
        raise ValueError(f"{text[:40]!r} is out of range")
    return nanoseconds
