"""Times as people write them, for the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.cli.errors import USAGE, CliError
from hub.cli.times import parse

ZONE = timezone(timedelta(hours=2))
NOW = datetime(2026, 1, 31, 15, 0, tzinfo=ZONE)


@pytest.mark.parametrize("text", ["all", "90s", "5m", "2h", "1d", "1700000000000000000"])
def test_what_the_api_takes_is_left_alone(text: str) -> None:
    assert parse(text, NOW) == text


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T14:05:00Z", datetime(2026, 1, 31, 14, 5, tzinfo=UTC)),
        ("2026-01-31T14:05:00+05:30", datetime(2026, 1, 31, 8, 35, tzinfo=UTC)),
        ("2026-01-31 14:05", datetime(2026, 1, 31, 12, 5, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 30, 22, 0, tzinfo=UTC)),
        ("9:05", datetime(2026, 1, 31, 7, 5, tzinfo=UTC)),
        ("14:05:30", datetime(2026, 1, 31, 12, 5, 30, tzinfo=UTC)),
    ],
)
def test_dates_and_clocks(text: str, moment: datetime) -> None:
    assert parse(text, NOW) == str(int(moment.timestamp()) * 10**9)


def test_a_time_without_a_zone_follows_the_zone_of_its_own_day(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        winter, summer = (parse(f"2026-{month}-15 12:00", datetime(2026, 1, 31)) for month in ("01", "07"))
        assert datetime.fromtimestamp(int(winter) / 1e9, UTC).hour == 11
        assert datetime.fromtimestamp(int(summer) / 1e9, UTC).hour == 10
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.integers(0, 4 * 10**18))
def test_nanoseconds_survive(nanoseconds: int) -> None:
    seconds, fraction = divmod(nanoseconds, 10**9)
    moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert parse(f"{moment}.{fraction:09d}Z", NOW) == str(nanoseconds)


def test_frame_time_epoch_can_be_pasted() -> None:
    assert parse("1700000000.123456789", NOW) == "1700000000123456789"


@pytest.mark.parametrize("text", ["", "yesterday", "5x", "-5m", "2026-13-01", "25:00", "2026-01-31T14:05:00Zulu"])
def test_nonsense_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(CliError) as caught:
        parse(text, NOW)
    assert caught.value.code == USAGE
    assert "\n" not in str(caught.value)
