"""How much one commit takes: as much as memory allows, less where the store is slow, so that nobody waits long for one.

Pure. A commit that takes longer than TARGET lowers the limit to what TARGET was enough for; one that was full and took
less than half of it doubles the limit.
"""

from __future__ import annotations

TARGET = 2.0
"""Seconds that a commit should take at most: agents give a hub up that acknowledges nothing for ten."""


class Pace:
    """The limit of one commit, at most `most`. Any unit."""

    def __init__(self, most: int, least: int) -> None:
        self._most, self._least = most, least
        self.limit = most

    def done(self, amount: int, seconds: float) -> None:
        """A commit of that amount took so long."""
        if seconds > TARGET:
            self.limit = max(self._least, min(self.limit, int(amount * TARGET / seconds)))
        elif 2 * seconds < TARGET and 2 * amount > self.limit:
            self.limit = min(self._most, 2 * self.limit)
