"""Where payloads live: in memory within a budget, on disk beyond it and for the next start.

Held updates are kept as files ``<id>.update`` (the signed header, then the payload), written to a
temporary name and renamed, so that a file that is there is whole; of the updates of a void slot
``<id>.void`` files keep the headers. What is read back is checked as if a stranger had sent it. A
disk that is full or read-only costs the budget, never an update.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from semantic_net.buffers import LARGE_BYTES
from semantic_net.errors import CheckpointError, RemoteProtocolError
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.passed import Needed
from semantic_net.protocol.update import (
    Admission,
    Update,
    UpdateId,
    UpdateMessage,
    admit,
    hash_payload,
)

log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")
Payload = bytes | bytearray | memoryview | mmap.mmap

_HEADER_BYTES = 4
_header_decoder = msgspec.msgpack.Decoder(UpdateMessage)


@dataclass(slots=True)
class _Held(Generic[Parsed]):
    update: Update
    payload: memoryview | None
    """None: on disk only."""
    parsed: Parsed | None
    num_bytes: int
    """Of both in memory."""
    on_disk: bool


class UpdateStore(Generic[Parsed]):
    """The payloads of the held updates, and what they parse to; any thread may use it."""

    def __init__(
        self,
        parse: Callable[[str, memoryview], Parsed],
        folder: Path | None = None,
        memory_budget_bytes: int = 1 << 62,
        parsed_bytes: Callable[[Parsed], int] = lambda parsed: 0,
        share: Callable[[UpdateId, Payload], Payload] = lambda update_id, payload: payload,
    ) -> None:
        """Take the parser of payloads, a folder if there is a disk, and a budget.

        Args:
            parse: From codec and payload to what the fold reads.
            folder: Made if missing. None keeps everything in memory.
            memory_budget_bytes: Of payloads, and of what they parse to; older ones go to disk.
            parsed_bytes: What a parsed payload takes in memory beside the payload.
            share: Returns an equal payload that another store of this process holds, if one does.
        """
        self._share = share
        self._parse = parse
        self._folder = folder
        self._budget = memory_budget_bytes
        self._parsed_bytes = parsed_bytes
        self._lock = threading.RLock()  # held while a file is written
        self._held: OrderedDict[UpdateId, _Held[Parsed]] = OrderedDict()  # oldest first
        self._bytes_in_memory = 0
        self._disk_is_sound = True
        self._evidence: set[UpdateId] = set()  # on disk

    def __contains__(self, update_id: object) -> bool:
        return update_id in self._held

    def put(self, update: Update, payload: Payload, parsed: Parsed) -> None:
        """Keep a checked payload; may write older ones to disk."""
        with self._lock:
            num_bytes = update.payload_bytes + self._parsed_bytes(parsed)
            # One that was to be removed may come back before it is.
            before = self._held.pop(update.id, None)
            on_disk = before is not None and before.on_disk
            self._bytes_in_memory -= 0 if before is None else before.num_bytes
            payload = memoryview(self._share(update.id, payload))
            self._held[update.id] = _Held(update, payload, parsed, num_bytes, on_disk=on_disk)
            self._bytes_in_memory += num_bytes
            self._shrink()

    def parsed(self, update: Update) -> Parsed:
        """Return what an update's payload parses to; read back from disk if need be.

        Raises:
            CheckpointError: The file has been damaged since it was written.
        """
        parsed = self._held[update.id].parsed
        if parsed is not None:
            return parsed
        payload = self.payload(update.id)
        if hash_payload(payload) != update.payload_hash:
            raise _damaged(self._path(update))
        return self._parse(update.codec, payload)

    def payload(self, update_id: UpdateId) -> memoryview:
        """Return a payload's bytes; those on disk are mapped for as long as they are used.

        Raises:
            KeyError: It is not held.
            CheckpointError: The file is not there, or of another length.
        """
        held = self._held[update_id]
        payload = held.payload
        if payload is None:
            path = self._path(held.update)
            try:
                payload = _open(path)[len(_encode_header(held.update)) :]
            except OSError as exc:
                raise CheckpointError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
            if len(payload) != held.update.payload_bytes:
                raise _damaged(path)
        return payload

    def discard(self, update_id: UpdateId) -> None:
        """Forget a payload, on disk too."""
        with self._lock:
            held = self._held.pop(update_id, None)
            if held is None:
                return
            self._bytes_in_memory -= held.num_bytes
            if held.on_disk:
                self._path(held.update).unlink(missing_ok=True)

    def remove(self, updates: Iterable[Update]) -> None:
        """Forget updates that are not held any more, payload or evidence, on disk too."""
        for update in updates:
            self.discard(update.id)
            if update.id in self._evidence:
                self._evidence.discard(update.id)
                self._path(update).with_suffix(".void").unlink(missing_ok=True)

    def retire(self, frontier: int, needed: Callable[[], Needed]) -> bool:
        """Forget the payloads of rounds that the base includes; their files stay.

        Args:
            frontier: The last of these rounds.
            needed: Tells what to keep all the same, on disk if there is one. Asked while nothing
                can be put: what the peer holds by then is here, and on which base.

        Returns:
            Whether that is the present base's frontier; if not, nothing was forgotten.
        """
        with self._lock:
            present, kept = needed()
            if present != frontier:
                return False
            for update_id, held in list(self._held.items()):
                if held.update.round > frontier:
                    continue
                if update_id not in kept:
                    del self._held[update_id]
                if held.payload is not None and (update_id not in kept or self._write(held)):
                    self._let_go(held)
            return True

    def remove_files(self, frontier: int) -> None:
        """Remove the files of rounds that no checkpoint needs any more, but for those held."""
        if self._folder is None:
            return
        with self._lock:
            held = {self._path(h.update).name for h in self._held.values()}
            for path in sorted(self._folder.glob("*.*")):
                number = path.name.partition("-")[0]
                if number.isdecimal() and int(number) <= frontier and path.name not in held:
                    path.unlink(missing_ok=True)

    def persist(self, evidence: Iterable[Update] = ()) -> None:
        """Write what is not on disk yet, so that a restart finds it.

        Args:
            evidence: Updates of void slots, whose payloads nobody needs any more.
        """
        for update_id in list(self._held):
            self.keep(update_id)
        for update in evidence:
            if update.id not in self._evidence and self._write_evidence(update):
                self._evidence.add(update.id)

    def keep(self, update_id: UpdateId) -> None:
        """Write a payload to disk, so that a restart finds it."""
        with self._lock:  # one file at a time: whoever puts or discards waits for no more
            if (held := self._held.get(update_id)) is not None:
                self._write(held)

    def load(self, admission: Admission) -> Iterator[Update]:
        """Take in what an earlier process left, and yield each update that is sound."""
        if self._folder is None or not self._folder.is_dir():
            return
        slots: dict[tuple[int, PeerId], dict[UpdateId, Update]] = {}
        for path in sorted(self._folder.glob("*.update")):
            try:
                held = self._read(path, admission)
            except (OSError, ValueError, msgspec.DecodeError, RemoteProtocolError) as exc:
                log.warning("%s is not used, peers may still have it: %s", path, exc)
                continue
            self._held[held.update.id] = held
            slot = slots.setdefault((held.update.round, held.update.author), {})
            slot[held.update.id] = held.update
            yield held.update
        for path in sorted(self._folder.glob("*.void")):
            try:
                evidence = admit(_header_decoder.decode(path.read_bytes()), admission)
            except (OSError, msgspec.DecodeError, RemoteProtocolError) as exc:
                log.warning("%s is not used, peers may still have it: %s", path, exc)
                continue
            slots.setdefault((evidence.round, evidence.author), {})[evidence.id] = evidence
            self._evidence.add(evidence.id)
        for slot in slots.values():
            # One alone voids nothing: it would count, and nobody has its payload.
            if len(slot) > 1:
                yield from (update for update in slot.values() if update.id not in self._held)
            else:
                self._evidence.difference_update(slot)

    def _shrink(self) -> None:
        if self._folder is None:
            return
        for held in self._held.values():
            if self._bytes_in_memory <= self._budget:
                return
            if held.payload is not None and self._write(held):
                self._let_go(held)

    def _let_go(self, held: _Held[Parsed]) -> None:
        held.payload = held.parsed = None
        self._bytes_in_memory -= held.num_bytes
        held.num_bytes = 0

    def _write(self, held: _Held[Parsed]) -> bool:
        if held.on_disk:
            return True
        if self._folder is None:
            return False
        assert held.payload is not None, "what is not on disk is in memory"
        held.on_disk = self._replace(
            self._path(held.update), (_encode_header(held.update), held.payload)
        )
        return held.on_disk

    def _write_evidence(self, update: Update) -> bool:
        if self._folder is None:
            return False
        path = self._path(update).with_suffix(".void")
        return self._replace(path, (msgspec.msgpack.encode(update.message),))

    def _replace(self, path: Path, parts: Iterable[bytes | memoryview]) -> bool:
        temporary = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part)
            os.replace(temporary, path)
        except OSError as exc:
            if self._disk_is_sound:
                log.warning("updates stay in memory: %s cannot be written: %s", path, exc.strerror)
            self._disk_is_sound = False
            with contextlib.suppress(OSError):  # half a file would take the last of the disk
                temporary.unlink(missing_ok=True)
            return False
        self._disk_is_sound = True
        return True

    def _read(self, path: Path, admission: Admission) -> _Held[Parsed]:
        content = _open(path)
        length = int.from_bytes(content[:_HEADER_BYTES], "big")
        message = _header_decoder.decode(content[_HEADER_BYTES : _HEADER_BYTES + length])
        update = admit(message, admission)
        payload = content[_HEADER_BYTES + length :]
        if len(payload) != update.payload_bytes or hash_payload(payload) != update.payload_hash:
            raise ValueError("the payload is damaged")
        self._parse(update.codec, payload)
        return _Held(update, None, None, 0, on_disk=True)

    def _path(self, update: Update) -> Path:
        assert self._folder is not None, "only called with a folder"
        return self._folder / f"{update.round:08d}-{update.id.hex()[:32]}.update"


def _encode_header(update: Update) -> bytes:
    header = msgspec.msgpack.encode(update.message)
    return len(header).to_bytes(_HEADER_BYTES, "big") + header


def _open(path: Path) -> memoryview:
    with path.open("rb") as file:
        # A map keeps a file descriptor: a round of many small payloads would use them up.
        if os.fstat(file.fileno()).st_size < LARGE_BYTES:
            return memoryview(file.read())
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: damaged; remove it and start again, peers may still have it")
