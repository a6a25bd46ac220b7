"""Filters as the hub's other folders know them: they live in `protocol.filter`, the agents read them too."""

from __future__ import annotations

from protocol.filter.errors import FilterError
from protocol.filter.names import PROTOCOLS, names_of

__all__ = ["PROTOCOLS", "FilterError", "names_of"]
