"""Where the bases that a peer stands on or serves lie: one file each, named by its digest.

A disk that is full or read-only costs memory instead, and the peer goes on.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import threading
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from semantic_net.buffers import LARGE_BYTES
from semantic_net.errors import CheckpointError
from semantic_net.federated.snapshot import Parts
from semantic_net.federated.weights import write_atomically
from semantic_net.protocol.update import UpdateId

log = logging.getLogger(__name__)

_NAME_CHARS = 16
_BLOCK_BYTES = 1 << 20


class BaseStore:
    """The transfer forms of bases; any thread may use it."""

    def __init__(self, folder: Path | None = None) -> None:
        """Take a folder, which need not exist yet; None keeps everything in memory."""
        self._folder = folder
        self._lock = threading.Lock()  # never held while a file is written
        self._writing = threading.Lock()
        self._in_memory: dict[UpdateId, memoryview] = {}
        self._unsettled: Counter[UpdateId] = Counter()

    def put(self, parts: Parts) -> tuple[UpdateId, int]:
        """Store a base; return its digest and its size. It stays until `settle` is called."""
        hasher = hashlib.sha256()
        for part in parts:
            hasher.update(part)
        digest = hasher.digest()
        with self._lock:
            self._unsettled[digest] += 1
        try:
            self._write(digest, parts)
        except OSError as exc:
            if self._folder is not None:
                log.warning("a base stays in memory: %s: %s", self._folder, exc.strerror)
            self._in_memory[digest] = memoryview(b"".join(parts))
        return digest, sum(map(len, parts))

    def read(self, digest: UpdateId) -> memoryview:
        """Return a base's bytes; those on disk are mapped for as long as they are used.

        Raises:
            CheckpointError: It is not here.
        """
        in_memory = self._in_memory.get(digest)
        if in_memory is not None:
            return in_memory
        path = self._path(digest)
        if path is None:
            raise CheckpointError(f"base {digest.hex()[:_NAME_CHARS]}: not here")
        try:
            with path.open("rb") as file:
                if path.stat().st_size < LARGE_BYTES:
                    return memoryview(file.read())
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as exc:
            raise CheckpointError(f"base {path}: cannot be read: {exc}") from exc

    def read_checked(self, digest: UpdateId) -> memoryview:
        """Return a base's bytes, that are what their name says.

        Raises:
            CheckpointError: It is not here, or damaged.
        """
        if self._digest_of(digest) != digest:
            raise CheckpointError(
                f"base {self._path(digest)}: damaged (its content does not match its name)"
            )
        return self.read(digest)

    def _digest_of(self, named: UpdateId) -> UpdateId:
        """Return the hash of what lies under a name; a file is not mapped for it as a whole."""
        hasher = hashlib.sha256()
        path = self._path(named)
        if named in self._in_memory or path is None:
            hasher.update(self.read(named))
            return hasher.digest()
        block = bytearray(_BLOCK_BYTES)
        try:
            with path.open("rb", buffering=0) as file:
                while size := file.readinto(block):
                    hasher.update(memoryview(block)[:size])
        except OSError as exc:
            raise CheckpointError(f"base {path}: cannot be read: {exc}") from exc
        return hasher.digest()

    def persist(self, digest: UpdateId) -> None:
        """Make sure that a base is on disk, if there is a disk.

        Raises:
            OSError: The disk is full, or not ours to write.
        """
        data = self._in_memory.get(digest)
        if data is not None and self._folder is not None:
            self._write(digest, [data])
            self._in_memory.pop(digest, None)

    def settle(self, digest: UpdateId) -> None:
        """Note that it is decided whether a base that was put is needed."""
        with self._lock:
            self._unsettled -= Counter([digest])

    def keep_only(self, needed: Callable[[], Collection[UpdateId]]) -> None:
        """Remove every other base, but for those of which that is not decided.

        Args:
            needed: Asked while nothing can be decided: who takes a base over settles it after.
        """
        with self._lock:
            kept = {*needed(), *self._unsettled}
            for digest in self._in_memory.keys() - kept:
                del self._in_memory[digest]
            if self._folder is None:
                return
            paths = {self._path(digest) for digest in kept}
            for path in self._folder.glob("base-*.snapshot"):
                if path not in paths:
                    path.unlink(missing_ok=True)

    def _path(self, digest: UpdateId) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"base-{digest.hex()[:_NAME_CHARS]}.snapshot"

    def _write(self, digest: UpdateId, parts: Parts) -> None:
        path = self._path(digest)
        if path is None:
            raise OSError(errno.ENOENT, "there is no folder")

        def write(part: Path) -> None:
            with part.open("wb") as file:
                for piece in parts:
                    file.write(piece)

        with self._writing:
            write_atomically(path, write)
