"""What peers send each other the bytes of."""

from __future__ import annotations

from typing import NamedTuple

from semantic_net.protocol.bases import Base
from semantic_net.protocol.update import UpdateId


class Item(NamedTuple):
    """An update, or a base."""

    id: UpdateId
    base: Base | None = None
    """A base as its peer describes it: what another peer says of it makes another item."""
