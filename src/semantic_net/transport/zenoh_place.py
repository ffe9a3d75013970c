"""Where a peer is reached over Zenoh, and the keys that say so.

    semantic-net/RUN/at/PEER/PORT/INSTANCE   a liveliness token: this process is there
    semantic-net/RUN/to/INSTANCE             what is for it

RUN is a hash of the run's name, see `run_tag`, and INSTANCE is drawn at each start. As an address
all that is ``PEER.zenoh:PORT``, which stays the same from start to start. Pure. Anyone whom a
router lets in may write such keys: nothing in them is believed, and who is there has to prove it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.address import Address
from semantic_net.protocol.identity import PEER_ID_CHARS, PeerId
from semantic_net.transport.announcement import run_tag
from semantic_net.transport.segment import ID_BYTES

HOST_SUFFIX = ".zenoh"

_PLACE = re.compile(
    rf"([a-z2-7]{{{PEER_ID_CHARS}}})/([1-9][0-9]{{0,4}})/([0-9a-f]{{{2 * ID_BYTES}}})"
)


@dataclass(frozen=True, slots=True)
class Place:
    """One process of a peer, as others reach it."""

    peer: PeerId
    port: int
    """Tells apart what one key runs at a time; of no other meaning."""
    instance: bytes

    def __str__(self) -> str:
        return f"{self.peer}/{self.port}/{self.instance.hex()}"

    @property
    def address(self) -> Address:
        """What it is called where addresses are called for."""
        return Address(f"{self.peer}{HOST_SUFFIX}", self.port)


def read_place(text: str) -> Place:
    """Read the end of a token's key, or how one who dials calls itself.

    Raises:
        RemoteProtocolError: It is no place.
    """
    match = _PLACE.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise RemoteProtocolError("no place of a peer over Zenoh")
    return Place(PeerId(match[1]), int(match[2]), bytes.fromhex(match[3]))


class Keys:
    """The keys of one run."""

    def __init__(self, run: str) -> None:
        """Take the run's name."""
        self._root = f"semantic-net/{run_tag(run)}"

    @property
    def all_tokens(self) -> str:
        """Whoever is there."""
        return f"{self._root}/at/*/*/*"

    def token(self, place: Place) -> str:
        """Return what says that a process is there."""
        return f"{self._root}/at/{place}"

    def place_of(self, token: str) -> Place:
        """Return whose token that is.

        Raises:
            RemoteProtocolError: It is none of this run.
        """
        return read_place(token.removeprefix(f"{self._root}/at/"))

    def inbox(self, instance: bytes) -> str:
        """Return where messages for a process go."""
        return f"{self._root}/to/{instance.hex()}"
