"""What every store does with an entry before it stores it.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.store import native
from hub.store.books import Entry
from hub.store.errors import BadBatch
from protocol.columns import Columns, Dict, absent, nothing, stretch
from protocol.messages import Batch
from protocol.schema import NAMES, TABLES

_FIRST = np.zeros(1, dtype="<u4")
"""The code of a dictionary's only string."""


def check(entry: Entry) -> None:
    """Raise BadBatch where a batch's columns have not the shape its table needs; of a sound one they have."""
    if not isinstance(entry.message, Batch) or entry.sound:
        return
    try:
        kind, columns = entry.message.kind, entry.columns or {}
        empty = nothing(kind, entry.rows)
        for column in TABLES[kind].columns:
            value = columns.get(column.name)
            if value is not empty[column.name]:
                native.check(column, value, entry.rows)
    except ValueError as error:
        raise BadBatch(entry, str(error)) from None


def with_origin(entries: Sequence[Entry], commit: int, day: int) -> list[Columns]:
    """The columns of batches with the hub's own, which are the same in all rows of a batch (views of one value)."""
    number, today = np.array([commit], dtype="<u8"), np.array([day], dtype="<u2")
    return [_with_origin(entry, number, today) for entry in entries]


def _with_origin(entry: Entry, commit: NDArray[Any], day: NDArray[Any]) -> Columns:
    rows, message = entry.rows, entry.message
    assert entry.columns is not None
    return {
        **_no_names(rows),
        **entry.columns,
        "agent": Dict(stretch(_FIRST, rows), (message.agent,)),
        "epoch": stretch(np.array([message.epoch], dtype="<u8"), rows),
        "seq": stretch(np.array([message.seq], dtype="<u8"), rows),
        "commit": stretch(commit, rows),
        "ingest_day": stretch(day, rows),
    }


@lru_cache(maxsize=32)
def _no_names(rows: int) -> Columns:
    return {column.name: absent(column, rows) for column in NAMES}
