"""How much one commit takes: as much as memory allows, less where the store is slow, so that nobody waits long for one.

Pure. The next commit may take what the last one's speed does within TARGET. A commit has a price of its own, which is
most of the time of a small one: the limit then grows from commit to commit, as long as that price is below TARGET.
"""

from __future__ import annotations

TARGET = 1.0
"""Seconds that a commit should take at most: a batch waits for the commit before its own and for its own."""


class Pace:
    """The limit of one commit, between `least` and `most`. Any unit."""

    def __init__(self, most: int, least: int) -> None:
        self._most, self._least = most, least
        self.limit = most

    def done(self, amount: int, seconds: float) -> None:
        """A commit of that amount took so long."""
        if amount > 0:
            self.limit = max(self._least, min(self._most, int(amount * TARGET / max(seconds, 1e-3))))
