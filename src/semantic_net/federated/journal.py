"""What a peer has put its name to: one fsynced line before the first byte of an update leaves.

An author's rounds strictly increase, so a peer that was killed at any point must
know its last round when it comes back. A torn last line was never followed by a byte on the wire,
and is dropped.
"""

from __future__ import annotations

import bisect
import errno
import io
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec

from semantic_net.errors import CheckpointError, StartError
from semantic_net.protocol.update import UpdateId


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: a start of the process (round 0) or an own update."""

    incarnation: Annotated[int, msgspec.Meta(ge=0)]
    round: Annotated[int, msgspec.Meta(ge=0)] = 0
    id: str = ""
    taken_back: dict[str, int] = {}
    """The rounds of earlier own updates, by id: what they carried is in this one, and the residual
    after it."""


class Journal:
    """The append-only record of one key's rounds."""

    def __init__(self, path: Path | None) -> None:
        """Open or make the journal; None keeps it in memory, as long as it is used.

        Raises:
            CheckpointError: It cannot be read or written: going on could publish a round twice.
        """
        self._path = path
        self.incarnation = 0
        self.last_round = 0
        self.last_id: UpdateId = b""
        self._rounds: list[int] = []  # of own updates, ascending
        self.taken_back: dict[UpdateId, int] = {}
        """The rounds of the earlier own updates that the last one has taken back."""
        self._file: io.FileIO | None = None
        if path is None:
            return
        try:
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            for number, line in enumerate(whole.splitlines(), start=1):
                self._apply(line, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            self._file.truncate(len(whole))
        except OSError as exc:
            raise CheckpointError(f"journal {path}: {exc.strerror}; use another --out") from exc

    def start(self, floor: int) -> int:
        """Note a start of the process; return its incarnation, above all earlier ones.

        Args:
            floor: The least incarnation, such as the wall clock: of use if the journal was lost.

        Raises:
            StartError: The line is not on disk.
        """
        self.incarnation = max(self.incarnation + 1, floor)
        try:
            self._append(JournalEntry(self.incarnation))
        except OSError as exc:
            raise StartError(f"journal {self._path}: cannot be written: {exc.strerror}") from exc
        return self.incarnation

    def author(
        self,
        round_index: int,
        update_id: UpdateId,
        taken_back: Mapping[UpdateId, int] = MappingProxyType({}),
    ) -> None:
        """Note an own update; when this returns, the update may leave.

        Args:
            round_index: Its round.
            update_id: Its id.
            taken_back: The rounds of the earlier own updates that are taken back by now.

        Raises:
            OSError: The line is not on disk; the update must not be published.
        """
        assert round_index > self.last_round, "an author's rounds strictly increase"
        named = by_name(taken_back)
        self._append(JournalEntry(self.incarnation, round_index, update_id.hex(), named))
        self._authored(round_index, update_id, dict(taken_back))

    def num_after(self, round_index: int) -> int:
        """Return how many own updates there are of later rounds."""
        return len(self._rounds) - bisect.bisect_right(self._rounds, round_index)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _append(self, entry: JournalEntry) -> None:
        if self._file is None:
            return
        line = msgspec.json.encode(entry) + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError:
            # A full disk takes half a line: the next one must not stick to it.
            self._file.truncate(end)
            raise

    def _apply(self, line: bytes, number: int) -> None:
        try:
            entry = msgspec.json.decode(line, type=JournalEntry)
            update_id = bytes.fromhex(entry.id)
            taken_back = by_id(entry.taken_back)
        except (msgspec.DecodeError, ValueError) as exc:
            raise CheckpointError(
                f"journal {self._path}, line {number}: not readable; remove the --out folder to "
                "start as a new peer"
            ) from exc
        self.incarnation = max(self.incarnation, entry.incarnation)
        if entry.round > self.last_round:
            self._authored(entry.round, update_id, taken_back)

    def _authored(
        self, round_index: int, update_id: UpdateId, taken_back: dict[UpdateId, int]
    ) -> None:
        self.last_round, self.last_id = round_index, update_id
        self._rounds.append(round_index)
        self.taken_back = taken_back


def by_name(rounds: Mapping[UpdateId, int]) -> dict[str, int]:
    """Return rounds by hexadecimal ids, in order: the form for JSON."""
    return {item.hex(): rounds[item] for item in sorted(rounds)}


def by_id(named: Mapping[str, int]) -> dict[UpdateId, int]:
    """Return rounds by ids, from their form for JSON.

    Raises:
        ValueError: One is no hexadecimal number.
    """
    return {bytes.fromhex(name): number for name, number in named.items()}
