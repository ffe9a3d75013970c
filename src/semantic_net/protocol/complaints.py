"""What is told of strangers' updates that are of no use: a few, and how many more there were.

Whoever can make keys can make up any number of bad updates, and each would be a line in the log.
"""

from __future__ import annotations

from semantic_net.protocol.actions import Level, Tell

MAX_TOLD = 8
"""Most that are told of one by one, between two rounds that are folded."""


class Complaints:
    """Warnings of one peer about updates of others."""

    def __init__(self) -> None:
        self._num = 0

    def tell(self, text: str) -> list[Tell]:
        """Warn of one, if it is not one of too many."""
        self._num += 1
        return [Tell(Level.WARNING, text)] if self._num <= MAX_TOLD else []

    def round_over(self) -> list[Tell]:
        """Tell how many more there were, and begin anew."""
        more, self._num = self._num - MAX_TOLD, 0
        if more <= 0:
            return []
        return [Tell(Level.WARNING, f"{more} more updates of others were bad, or signed twice")]
