"""Bodies through the kernel and through numpy alone: what each says, and where the two differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from bench.recording import record
from protocol.built import VARIABLE
from protocol.codec import unpack_body
from protocol.columns import Columns, is_stretched
from protocol.errors import WrongBatch
from protocol.messages import Batch

Outcome: TypeAlias = "Columns | tuple[str, str]"


def batch(kind: str, raw: bytes, rows: int) -> Batch:
    """A batch whose body is `raw`."""
    return Batch("a", 1, 1, kind, rows, rows, 0, 0, 1, len(raw), 0, raw)


@contextmanager
def numpy_alone() -> Iterator[None]:
    """Without the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "off")
        yield


def outcome(message: Batch) -> Outcome:
    """The columns, or code and words of the refusal."""
    try:
        columns, unknown = unpack_body(message)
    except WrongBatch as error:
        return error.code, error.detail
    return {**columns, "unknown": np.array([unknown])}


def differences(kind: str, raw: bytes, rows: int) -> list[str]:
    """What the two ways do not agree on."""
    message = batch(kind, raw, rows)
    ours = outcome(message)
    with numpy_alone():
        theirs = outcome(message)
    if isinstance(ours, tuple) or isinstance(theirs, tuple):
        return [] if ours == theirs else [f"{ours} {theirs}"[:1000]]
    return [name for name in theirs if not _same(ours[name], theirs[name], rows)] + sorted(ours.keys() ^ theirs.keys())


def _same(ours: Any, theirs: Any, rows: int) -> bool:
    if isinstance(theirs, np.ndarray):
        alike = ours.dtype == theirs.dtype and ours.shape == theirs.shape and np.array_equal(ours, theirs)
        stretched = rows < 2 or len(theirs) != rows or is_stretched(ours) == is_stretched(theirs)
        return alike and stretched and ours.flags.writeable == theirs.flags.writeable
    if dataclasses.is_dataclass(theirs):
        names = [field.name for field in dataclasses.fields(theirs)]
        return type(ours) is type(theirs) and all(
            _same(getattr(ours, name), getattr(theirs, name), rows) for name in names
        )
    return bool(ours == theirs)


@cache
def recorded(corpus: Path) -> tuple[tuple[str, bytes, int], ...]:
    """Bodies of what an agent makes of captures: kind, columns, rows."""
    segments = [
        segment
        for name, rate, live in (("mixed-web-4600.pcap", 350.0, True), ("mixed-web-4600.pcap", 3500.0, False))
        for segment in record(corpus / name, rate, live=live)
    ]
    casts = [cast for segment in segments for cast in segment.casts]
    return tuple((cast.batch.kind, cast.raw, cast.batch.rows) for cast in casts)
