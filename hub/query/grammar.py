"""Reading filters: see `protocol.filter.grammar`."""

from __future__ import annotations

from protocol.filter.grammar import MAX_DEPTH, MAX_LENGTH, MAX_TERMS, parse

__all__ = ["MAX_DEPTH", "MAX_LENGTH", "MAX_TERMS", "parse"]
