"""What every store does with an entry before it stores it.

Pure.
"""

from __future__ import annotations

import numpy as np

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


def with_origin(entry: Entry, commit: int, day: int) -> Columns:
    """A batch's columns with the hub's own, which are the same in every row (views of one value)."""
    rows, message = entry.rows, entry.message
    assert entry.columns is not None
    return {
        **{column.name: absent(column, rows) for column in NAMES},
        **entry.columns,
        "agent": Dict(stretch(_FIRST, rows), (message.agent,)),
        "epoch": stretch(np.array([message.epoch], dtype="<u8"), rows),
        "seq": stretch(np.array([message.seq], dtype="<u8"), rows),
        "commit": stretch(np.array([commit], dtype="<u8"), rows),
        "ingest_day": stretch(np.array([day], dtype="<u2"), rows),
    }
