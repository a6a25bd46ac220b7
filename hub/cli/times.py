"""`--since` and `--until`: what people write, as the hub's API takes it. Pure: `now` is an argument."""

from __future__ import annotations

import re
from datetime import datetime

from hub.cli.errors import USAGE, CliError

_AGO = re.compile(r"\d+(ms|s|m|h|d|w)")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?")
_EPOCH = re.compile(r"\d{9,11}\.\d{1,9}")
_FRACTION = re.compile(r"\.(\d{1,9})(?!\d)")

MOST = 1 << 63
"""Nanoseconds before and after 1970 that the store can hold."""


def parse(text: str, now: datetime) -> str:
    """A time for the API: `all`, an age (`5m`, the hub's clock counts back), or integer nanoseconds since 1970.

    `text` is an age (`90s`, `5m`, `2h`, `1d`, `1w`), `all`, RFC 3339, the same without a zone (then local: the zone of
    `now`, the machine's where it has none), a clock time of today, seconds with a fraction as `frame.time_epoch`
    prints them, or integer nanoseconds.
    Raises CliError (usage).
    """
    text = text.strip()
    if text == "all" or text.isdecimal():
        return text
    if _AGO.fullmatch(text):
        return _age(text)
    if _EPOCH.fullmatch(text):
        seconds, _, fraction = text.partition(".")
        return str(int(seconds) * 10**9 + int(fraction.ljust(9, "0")))
    return str(_nanoseconds(text, now))


def _age(text: str) -> str:
    if text.endswith("w"):
        return f"{int(text[:-1]) * 7}d"
    if text.endswith("ms"):
        return f"{-(-int(text[:-2]) // 1000)}s"
    return text


def _nanoseconds(text: str, now: datetime) -> int:
    if _CLOCK.fullmatch(text):
        hour, _, rest = text.partition(":")
        text = f"{now.date().isoformat()}T{hour:0>2}:{rest}"
    fraction = _FRACTION.search(text)
    plain = text if fraction is None else text[: fraction.start()] + text[fraction.end() :]
    try:
        moment = datetime.fromisoformat(plain)
        if moment.tzinfo is None:
            moment = _local(moment, now)
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError, OSError):
        raise CliError(
            f"{text!r} is not a time: write 90s, 5m, 2h, 1d, 2026-01-31T14:05:00Z, '2026-01-31 14:05' (local) or all",
            USAGE,
        ) from None
    found = seconds * 10**9 + (int(fraction[1].ljust(9, "0")) if fraction else 0)
    if not -MOST <= found < MOST:
        raise CliError(f"{text!r} is out of range: rows have times from 1677 to 2262", USAGE)
    return found


def _local(moment: datetime, now: datetime) -> datetime:
    """`moment` in the zone of `now`; without one, in the machine's zone with its rules for that day."""
    return moment.astimezone() if now.tzinfo is None else moment.replace(tzinfo=now.tzinfo)
