"""What must be equal on all peers of a run, as keys and values: its digest, and where two differ.

What another peer says is shown to people only as `printable` leaves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from semantic_net.protocol.identity import signed_bytes


def run_digest(facts: Mapping[str, str]) -> bytes:
    """Return 16 bytes that are equal where all facts are."""
    body = msgspec.msgpack.encode(sorted(facts.items()))
    return hashlib.sha256(signed_bytes(b"run 1", body)).digest()[:16]


def differing_facts(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Name each key whose values differ, with both values, as one end sees it."""
    return [
        f"{printable(key, 64)}: ours {_shown(mine, key)}, theirs {_shown(theirs, key)}"
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key)
    ]


def printable(text: str, max_chars: int) -> str:
    """Return ``text`` as a person may see it: one line, bounded, no control characters."""
    if len(text) > max_chars:
        text = text[: max_chars - 3] + "..."
    return "".join(c if c.isprintable() else "?" for c in text)


def _shown(facts: Mapping[str, str], key: str) -> str:
    return printable(facts[key], 40) if key in facts else "(none)"


def join_facts(parts: list[str], max_chars: int) -> str:
    """Return differences in one line; of a long one their number and the beginning."""
    text = "; ".join(parts)
    return text if len(text) <= max_chars else f"{len(parts)} facts differ: {text[:max_chars]}..."
