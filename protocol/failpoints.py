"""Failpoints: where tests make a live process misbehave.

`NODETAP_FAILPOINT` names them, `name` or `name=value`, by comma; both programs read it once, when they start.
"""

from __future__ import annotations

VARIABLE = "NODETAP_FAILPOINT"


def parse(text: str) -> dict[str, str]:
    """Each failpoint that is named, and its value, empty where it has none."""
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {name.strip(): value.strip() for name, _, value in pairs}
