"""Points in time as a filter writes them."""

from __future__ import annotations

import re
from calendar import timegm
from datetime import UTC, datetime, tzinfo

_SECOND = 10**9
_I64 = 1 << 63
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)  # RFC 3339, 5.6; a blank is allowed there for "T"
_CLOCK = r"(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?"
_ISO = re.compile(rf"(\d{{4}})-(\d{{1,2}})-(\d{{1,2}})(?:[Tt ]{_CLOCK}\s*([Zz]|UTC|[+-]\d\d:?\d\d)?)?", re.ASCII)
_ENGLISH = re.compile(rf"([A-Z][a-z]{{2}}) +(\d{{1,2}}), (\d{{4}}) {_CLOCK}\s*([Zz]|UTC|[+-]\d\d:?\d\d)?", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def rfc3339_ms(nanoseconds: int) -> str:
    """RFC 3339 in UTC with three decimals, of nanoseconds since 1970."""
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
    return bounded(seconds * _SECOND + int((fraction or "0").ljust(9, "0")), text)


def is_date(text: str) -> bool:
    """Whether a text looks like a date, so that `date_ns` is to read it."""
    return bool(re.match(r"\d{4}-\d|[A-Z][a-z]{2} +\d", text, re.ASCII))


def date_ns(text: str, zone: tzinfo = UTC) -> int:
    """Nanoseconds since 1970 of a date, with or without a time of day and a zone; without one it is in `zone`.

    `2026-01-31`, `2026-01-31 12:00`, `2026-01-31T12:00:00.5Z`, `Jan 31, 2026 12:00:00`. Raises ValueError with what is
    expected.
    """
    if match := _ISO.fullmatch(text):
        year, month, day, *rest = match.groups()
    elif (match := _ENGLISH.fullmatch(text)) and match[1] in _MONTHS:
        name, day, year, *rest = match.groups()
        month = str(_MONTHS.index(name) + 1)
    else:
        raise ValueError("a date and time such as 2026-01-31 12:00:00")
    hour, minute, second, fraction, offset = rest
    try:
        clock = [int(part or 0) for part in (year, month, day, hour, minute, second)]
        moment = datetime(*clock, tzinfo=_zone(offset, zone))  # type: ignore[arg-type, misc]
        seconds = timegm(moment.utctimetuple())
    except (ValueError, OverflowError):
        raise ValueError("a date and time that exists") from None
    return bounded(seconds * _SECOND + int((fraction or "0").ljust(9, "0")), text)


def _zone(offset: str | None, zone: tzinfo) -> tzinfo | None:
    if offset is None:
        return zone
    return UTC if offset in ("Z", "z", "UTC") else datetime.strptime(offset, "%z").tzinfo


def bounded(nanoseconds: int, text: str) -> int:
    """The same, where 64 bits hold it. Raises ValueError."""
    if not -_I64 <= nanoseconds < _I64:
        raise ValueError(f"{text[:40]!r} is out of range")
    return nanoseconds
