"""A run's records as scalars for TensorBoard: <out>/tensorboard/, a step a round.

Events are written at once and in this thread, with tensorboard's own records but not with its
writer: that one has a thread, in which a full disk ends in a traceback and the loss of what waited.
The scalars are a function of the records: each start makes a new file from those that stay, so that
a resumed run has each round once, and a TensorBoard that looks on follows.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from semantic_net.extras import needed_for
from semantic_net.records import RoundRecord

log = logging.getLogger(__name__)

FOLDER = "tensorboard"
_PATTERN = "events.out.tfevents.*"
_HEADER = struct.Struct("<QI")  # a record's length, and a check sum of it
_CHECK_BYTES = 4  # behind the record


class TensorBoard(NamedTuple):
    """What is used of tensorboard."""

    events: Any
    summaries: Any
    records: Any
    error: type[Exception]


def load_tensorboard() -> TensorBoard:
    """Import what is needed; nothing else here does.

    Raises:
        ConfigError: It is not installed.
    """
    with needed_for("monitoring.tensorboard", "tracking"):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
    from google.protobuf.message import DecodeError  # of what tensorboard needs

    return TensorBoard(event_pb2, summary_pb2, RecordWriter, DecodeError)


def scalars_of(record: RoundRecord) -> dict[str, float]:
    """Return what of a round is a number, by TensorBoard's tag: the part before / is a group."""
    found = {f"metrics/{name}": value for name, value in record.metrics.items()}
    found |= {
        "bytes/sent": record.bytes_sent,
        "bytes/received": record.bytes_received,
        "bytes/payload": record.payload_bytes,
        "bytes/dense": record.dense_bytes,
        "seconds/round": record.time_s,
        "seconds/train": record.train_s,
        "seconds/encode": record.encode_s,
        "seconds/exchange": record.exchange_s,
        "seconds/fold": record.fold_s,
        "peers/missing": len(record.missing),
        "peers/updates_in": len(record.updates_in),
        "peers/rejected": sum(record.rejected.values()),
    }
    if record.loss is not None:
        found["loss"] = record.loss
    if record.epsilon is not None:
        found["privacy/epsilon"] = record.epsilon
    return found


class Tracker:
    """Writes one process' scalars; a disk that takes none is a warning, and they wait."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, and touch nothing before `start`.

        Raises:
            ConfigError: tensorboard is not installed.
        """
        self._folder = folder
        self._tensorboard = load_tensorboard()
        self._file: BinaryIO | None = None
        self._end = 0
        self._waiting: list[bytes] = []
        self._old: list[Path] = []
        self._warned = False

    def start(self, resumed: Sequence[RoundRecord] = ()) -> None:
        """Begin with the records that stay of an earlier process; its other events do not count."""
        self._old = sorted(self._folder.glob(_PATTERN))
        written_at = self._written_at()
        now = time.time()
        event = self._tensorboard.events.Event
        start = self._tensorboard.events.SessionLog.START
        session = self._tensorboard.events.SessionLog(status=start)
        # What looks on forgets all steps that it has read so far.
        self._put(event(wall_time=now, file_version="brain.Event:2"))
        self._put(event(wall_time=now, step=0, session_log=session))
        for record in resumed:
            self._add(record, written_at.get(record.round, now))
        self._flush()

    def record(self, record: RoundRecord) -> None:
        """Write a round, behind those that could not be written so far."""
        self._add(record, time.time())
        self._flush()

    def close(self) -> None:
        """Close the file; what still waits is tried once more."""
        if self._waiting:
            self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add(self, record: RoundRecord, wall_time: float) -> None:
        value = self._tensorboard.summaries.Summary.Value
        values = [
            value(tag=tag, simple_value=number)
            for tag, number in scalars_of(record).items()
            if math.isfinite(number)
        ]
        summary = self._tensorboard.summaries.Summary(value=values)
        self._put(
            self._tensorboard.events.Event(wall_time=wall_time, step=record.round, summary=summary)
        )

    def _put(self, event: Any) -> None:
        self._waiting.append(event.SerializeToString())

    def _flush(self) -> None:
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                # By name behind all others: there TensorBoard goes on once it has read those.
                newest = max((path.name for path in self._old), default="")
                name = _PATTERN.replace("*", f"{time.time_ns():020d}.{os.getpid()}")
                if name <= newest:  # the clock was set back
                    name = f"{newest}.1"
                self._file = (self._folder / name).open("xb", buffering=0)
            while self._waiting:
                self._write(self._file, self._waiting[0])
                self._waiting.pop(0)
            # Not the last one: a TensorBoard that has it open would find the way on no more.
            while len(self._old) > 1:
                self._old[0].unlink(missing_ok=True)
                self._old.pop(0)
        except OSError as exc:
            if not self._warned:
                self._warned = True
                text = "%s cannot be written, the run goes on: %s"
                log.warning(text, self._folder, exc.strerror or exc)
        else:
            self._warned = False

    def _write(self, file: BinaryIO, event: bytes) -> None:
        if os.fstat(file.fileno()).st_size != self._end:  # a full disk has taken a part
            file.truncate(self._end)
            file.seek(self._end)
        whole = _Whole(file)
        self._tensorboard.records(whole).write(event)
        self._end += whole.written

    def _written_at(self) -> dict[int, float]:
        """Return when the rounds of an earlier process were written, as far as its files tell."""
        found = {}
        for path in self._old:
            try:
                for data in _events(path.read_bytes()):
                    event = self._tensorboard.events.Event.FromString(data)
                    if event.HasField("summary"):
                        found[event.step] = event.wall_time
            except (OSError, self._tensorboard.error) as exc:
                log.debug("%s: times are not read: %s", path, exc)
        return found


class _Whole:
    """A file that a record is written to in one piece, or not at all."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.written = 0

    def write(self, data: bytes) -> None:
        if self._file.write(data) != len(data):
            raise OSError(None, "no space left for a whole event")
        self.written += len(data)


def _events(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file, up to one that was cut short."""
    at = 0
    while at + _HEADER.size <= len(content):
        length, _ = _HEADER.unpack_from(content, at)
        begin, at = at + _HEADER.size, at + _HEADER.size + length + _CHECK_BYTES
        if at > len(content):
            return
        yield content[begin : begin + length]
