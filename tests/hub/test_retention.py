"""What has to go of a store, and when: by the last day that is in a partition."""

from __future__ import annotations

import pytest

from hub.store.retention import Keep, Part, expired, number_of

KEEP = Keep(days=7, rollup_days=400)
TODAY = number_of("2026-11-22")


def part(table: str, day: str) -> Part:
    return Part(table, day, f"{day}_1_1_0", 10, 1000)


@pytest.mark.parametrize(
    ("table", "goes", "stays"),
    [
        ("packets", "2026-11-14", "2026-11-15"),
        ("flows_minute", "2026-10-22", "2026-10-23"),
        ("calls_day", "2025-10-06", "2025-10-13"),  # weeks: to the 12th, and from the 13th on
        ("flows_hour", "2025-09-01", "2025-10-01"),  # months
        ("flows_hour", "2025-09-01", "2025-12-01"),
    ],
)
def test_a_partition_goes_when_the_last_of_its_days_is_too_old(table: str, goes: str, stays: str) -> None:
    gone = expired([part(table, goes), part(table, stays), part("batches", "1970-01-01")], TODAY, KEEP)
    assert [found[:2] for found in gone] == [(table, goes)]
