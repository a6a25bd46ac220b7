from __future__ import annotations

import pytest

from agent.capture.pressure import CALM, Pressure

PLAYS = {
    "a burst that fits is none": [(0.0, 0.1, False), (0.4, 0.2, False), (0.0, 0.3, False)],
    "from half a ring on, until it was calm for long enough": [
        (0.6, 1.0, True), (0.3, 1.1, True), (0.1, 1.2, True), (0.0, 1.2 + CALM / 2, True), (0.0, 1.2 + CALM, False),
    ],
    "calm that ends too early is none": [
        (0.6, 1.0, True), (0.1, 2.0, True), (0.2, 3.0, True), (0.1, 4.0, True), (0.1, 2.1 + CALM, True),
        (0.1, 4.0 + CALM, False),
    ],
    "it comes again": [(0.6, 1.0, True), (0.0, 2.0, True), (0.0, 2.0 + CALM, False), (0.51, 3.0 + CALM, True)],
}  # fmt: skip


@pytest.mark.parametrize("name", PLAYS)
def test_pressure(name: str) -> None:
    pressure = Pressure()
    for share, now, expected in PLAYS[name]:
        assert pressure.look(share, now) is expected, (name, now)
