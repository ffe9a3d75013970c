"""An address that is dialled, and what has come of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from semantic_net.protocol.address import Address
from semantic_net.protocol.identity import PeerId

VAIN_DIALS = 6
"""Dials after which a learned address is forgotten where nobody has ever answered: half a minute,
longer than a peer needs to come back, and little for whoever is there instead."""

LIKELY_DIALS = 20
"""The same where somebody has answered, who has proven no key, or is said to be by a peer that has
had a session with us: one who has no room for us, does not know us yet, or has crashed, is worth
some minutes."""


@dataclass(eq=False, slots=True)
class Target:
    """An address that is dialled."""

    address: Address
    learned: bool
    """From others than the user, or to be dialled for as long as somebody asks for it alone."""
    is_named: bool
    """By the user: it waits for no other, and is not given up."""
    task: asyncio.Task[None] | None = None
    peer: PeerId | None = None
    """Who has proven a key there last, when we dialled it."""
    claimed: PeerId | None = None
    """Who is only said to be there, while we wait for the end of the session with it."""
    is_met: bool = False
    """There has been a session with it, or with somebody who said that it listens there."""
    is_self: bool = False
    """Who answered there last says that it is this very peer: nobody is to be waited for."""
    is_refused: bool = False
    """One end has turned the other away, for a reason that does not pass by itself."""
    is_answered: bool = False
    """Somebody has spoken our language there."""
    failures: int = 0
    """In a row; sessions that did not last count."""
    unproven: int = 0
    """In a row: how often it was said, without a proof, that nobody else is to be met there."""
    reported: str | None = None
    """What the handler was told last, so that it is told once."""
    given_up_at: float | None = None
    """When it was dialled no more."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_strange(self) -> bool:
        """Whether somebody told us of an address where nobody has proven to be."""
        return not self.is_named and self.peer is None

    @property
    def is_hopeless(self) -> bool:
        """Whether it is to be given up."""
        limit = LIKELY_DIALS if self.is_answered or self.is_met else VAIN_DIALS
        return self.is_strange and self.failures >= limit
