"""The files that tell of a run: rounds.jsonl, a line a round, and summary.json.

Owns their writing, their repair and their reading. A file that cannot be written (disk full,
read-only) is a warning and never ends a run: the lines wait in memory until the disk takes them.
Readers see whole lines only; a line cut short by a crash is no record.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import BinaryIO

import msgspec

from semantic_net.errors import DataError
from semantic_net.records import RoundRecord, Summary, decode_record, encode_record

log = logging.getLogger(__name__)

ROUNDS_FILE = "rounds.jsonl"
SUMMARY_FILE = "summary.json"


class Recorder:
    """Writes one peer's records into its ``--out`` folder."""

    def __init__(self, out_dir: Path, resume_from_round: int = 0) -> None:
        """Open the folder's record for appending.

        Args:
            out_dir: Made where it does not exist.
            resume_from_round: Last round that will not be run again; records of later ones are
                dropped. 0 starts a new record.
        """
        self.resumed: list[RoundRecord] = []
        """The records that were there already, and stay."""
        self.dropped: list[RoundRecord] = []
        """Those that were there, of rounds that will be run again."""
        self._rounds_path = out_dir / ROUNDS_FILE
        self._summary_path = out_dir / SUMMARY_FILE
        self._keep_to = resume_from_round
        self._file: BinaryIO | None = None
        self._end = 0
        """Bytes of whole lines in the file; anything beyond is a write that failed."""
        self._closed = False
        self._waiting: list[bytes] = []
        self._warned: set[tuple[Path, int | None]] = set()
        self._flush()

    def record(self, record: RoundRecord) -> None:
        """Append one round's record, behind those that could not be written so far."""
        assert not self._closed, "a closed record would be opened, and so repaired, anew"
        self._waiting.append(encode_record(record))
        self._flush()

    def summary(self, summary: Summary) -> None:
        """Replace summary.json in one step, so that a reader sees the old one or the new one."""
        text = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
        try:
            _replace_file(self._summary_path, text)
        except OSError as exc:
            self._warn(self._summary_path, exc)

    def close(self) -> None:
        """Close the file; what still waits is tried once more."""
        self._flush()
        self._closed = True
        if self._waiting:
            log.warning("%s lacks the last %d rounds", self._rounds_path, len(self._waiting))
        if self._file is not None:
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        try:
            if self._file is None:
                self._file, self._end = self._open()
            while self._waiting:
                self._write(self._file, self._waiting[0])
                self._end += len(self._waiting.pop(0))
        except OSError as exc:
            self._warn(self._rounds_path, exc)
        else:
            if any(path == self._rounds_path for path, _ in self._warned):
                log.info("%s is written again", self._rounds_path)
                self._warned = {key for key in self._warned if key[0] != self._rounds_path}

    def _open(self) -> tuple[BinaryIO, int]:
        self._rounds_path.parent.mkdir(parents=True, exist_ok=True)
        self._repair()
        file = self._rounds_path.open("ab", buffering=0)
        return file, file.tell()

    def _repair(self) -> None:
        """Leave whole lines of rounds up to the resumed one, and nothing else."""
        try:
            content = self._rounds_path.read_bytes()
        except FileNotFoundError:
            return
        self.resumed, self.dropped = [], []
        kept, num_torn = [], 0
        for line in content.splitlines(keepends=True):
            try:
                record = decode_record(line)
            except ValueError:
                num_torn += 1
                continue
            if record.round <= self._keep_to:
                kept.append(line if line.endswith(b"\n") else line + b"\n")
                self.resumed.append(record)
            else:
                self.dropped.append(record)
        repaired = b"".join(kept)
        if repaired != content:
            log.info(
                "%s: kept the records of %d rounds, dropped %d lines",
                self._rounds_path,
                len(kept),
                num_torn + len(self.dropped),
            )
            _replace_file(self._rounds_path, repaired)

    def _write(self, file: BinaryIO, line: bytes) -> None:
        # A full disk may take a part of the line: cut that off, or the next one would follow it.
        if os.fstat(file.fileno()).st_size != self._end:
            file.truncate(self._end)
        written = file.write(line)
        if written != len(line):
            file.truncate(self._end)
            raise OSError(None, "no space left for a whole line")

    def _warn(self, path: Path, exc: OSError) -> None:
        if (path, exc.errno) not in self._warned:
            self._warned.add((path, exc.errno))
            log.warning("%s cannot be written, the run goes on: %s", path, exc.strerror or exc)


class RoundTail:
    """Follows a rounds.jsonl that another process writes."""

    def __init__(self, path: Path) -> None:
        """Take a path that need not exist yet."""
        self._path = path
        self._offset = 0
        self._inode: int | None = None

    def poll(self) -> list[RoundRecord]:
        """Return the records since the last call.

        A file that was replaced or cut short (its run was resumed) is read from its start again.

        Raises:
            DataError: A whole line is no record.
        """
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        records = [_decode(self._path, line) for line in whole.splitlines()]
        self._offset += len(whole) + len(newline)
        return records


def read_rounds(path: Path) -> list[RoundRecord]:
    """Read a rounds.jsonl; a last line cut short by a crash is left out.

    Raises:
        DataError: The file cannot be read, or another line is no record.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    return [_decode(path, line) for line in lines]


def _decode(path: Path, line: bytes) -> RoundRecord:
    try:
        return decode_record(line)
    except ValueError as exc:
        raise DataError(f"{path}: {exc}; is it a run's record?") from exc


def _replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, also where the power fails."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
