"""The hub's facts about itself that take a look at a disk or the store. Called on a thread."""

from __future__ import annotations

import shutil
from pathlib import Path
from time import time_ns
from typing import Any, Protocol


class Store(Protocol):
    """What is needed of the store."""

    def statistics(self) -> dict[str, dict[str, int]]:
        """Per table: rows, bytes, parts."""

    def behind(self, now_ns: int) -> int:
        """Since how long what is closed waits to be summed up."""


class Writer(Protocol):
    """What is needed of the writer."""

    @property
    def queued(self) -> int:
        """Things in its queue."""

    def stuck_for(self) -> float:
        """Seconds since it last gave a sign while there was something to do."""


def facts_of(directory: Path | None, store: Store, writer: Writer, days: int, most: int | None) -> dict[str, Any]:
    """Bytes and seconds. `days` and `most` (bytes, None where there is no bound) are what is retained. Without
    a directory, the store being elsewhere, there is no disk to look at.
    """
    disk = shutil.disk_usage(directory) if directory else None
    return {
        "rollups": {"behind": round(store.behind(time_ns()) / 1e9, 3)},
        "disk": {"free": disk.free, "total": disk.total} if disk else None,
        "writer": {"queued": writer.queued, "stuck": round(writer.stuck_for(), 3)},
        "retention": {"days": days, "bytes": most, "stored": sum(t["bytes"] for t in store.statistics().values())},
    }
