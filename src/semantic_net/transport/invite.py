"""Invites and ids as people pass them on: by mail, over a radio, on a note.

An invite holds all that another device must know of this one to let it in. It is public: who has
it can recognise the device, and nothing more.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Annotated

import msgspec
from msgspec import Meta

from semantic_net.protocol.identity import PEER_ID_CHARS, PeerId
from semantic_net.transport.trust import MAX_ADDRESSES, MAX_NAME_CHARS, from_text, to_text

PREFIX = "semantic-net:"
MAX_INVITE_CHARS = 16 * 1024

_GROUP = 4
_CHECK_BYTES = 4
_ID = re.compile(f"[a-z2-7]{{{PEER_ID_CHARS}}}")


class Invite(msgspec.Struct, frozen=True, array_like=True):
    """What one device says of itself to be paired with."""

    certificate: bytes
    """In DER."""
    addresses: Annotated[list[Annotated[str, Meta(max_length=260)]], Meta(max_length=MAX_ADDRESSES)]
    run: Annotated[str, Meta(max_length=64)]
    """The run that it means to take part in."""
    name: Annotated[str, Meta(max_length=MAX_NAME_CHARS)]


_INVITE = msgspec.msgpack.Decoder(Invite)


def write_invite(invite: Invite) -> str:
    """Return an invite as one word."""
    return seal_invite(msgspec.msgpack.encode(invite))


def read_invite(text: str) -> Invite:
    """Read an invite; spaces and line breaks that came in on its way do not matter.

    Raises:
        ValueError: It is none, or something of it is missing.
    """
    word = "".join(text[:MAX_INVITE_CHARS].split())
    if not word.startswith(PREFIX):
        raise ValueError(f"an invite begins with {PREFIX!r}: copy all that `semantic-net id` shows")
    try:
        data = from_text(word.removeprefix(PREFIX))
    except ValueError:
        data = b""
    check, body = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
    if check != _check_of(body):
        raise ValueError("the invite is not whole: copy all that `semantic-net id` shows")
    try:
        return _INVITE.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError("the invite makes no sense to this version of semantic-net") from exc


def write_id(peer: PeerId) -> str:
    """Return an id in groups of four, the last of which checks the others."""
    letters = peer + _letters_of(peer)
    return "-".join(letters[i : i + _GROUP] for i in range(0, len(letters), _GROUP))


def read_id(text: str) -> PeerId:
    """Read an id as `write_id` writes it, or without groups or without the last of them.

    Raises:
        ValueError: It is none, or was misread.
    """
    letters = re.sub(r"[\s-]", "", text).lower()
    peer, check = PeerId(letters[:PEER_ID_CHARS]), letters[PEER_ID_CHARS:]
    if not _ID.fullmatch(peer):
        raise ValueError(
            f"{text!r} is no device's id: 8 groups of 4 letters or digits and one that checks them"
        )
    if check and check != _letters_of(peer):
        raise ValueError(f"{text!r} was misread: its last group does not fit the others")
    return peer


def seal_invite(body: bytes) -> str:
    """Return what `write_invite` makes of an encoded invite."""
    return PREFIX + to_text(_check_of(body) + body)


def _check_of(body: bytes) -> bytes:
    return hashlib.sha256(b"semantic-net invite 1\0" + body).digest()[:_CHECK_BYTES]


def _letters_of(peer: PeerId) -> str:
    digest = hashlib.sha256(b"semantic-net id check 1\0" + peer.encode("ascii")).digest()
    return base64.b32encode(digest).decode("ascii").lower()[:_GROUP]
