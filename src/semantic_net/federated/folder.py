"""The ``--out`` folder of a peer: what lies where, and whose it is.

One running peer a folder. The key and the journal belong together: a key whose journal is gone is
never used again, since nobody could tell which rounds it has put its name to.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from semantic_net.errors import StartError
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.checkpoint import CheckpointFolder
from semantic_net.federated.journal import Journal
from semantic_net.monitoring.presence import ADDRESS_FILE, LOCK_FILE
from semantic_net.monitoring.recorder import ROUNDS_FILE, SUMMARY_FILE
from semantic_net.monitoring.tracking import FOLDER
from semantic_net.protocol.identity import Signer
from semantic_net.status import STATUS_FILE
from semantic_net.transport.identity import load_or_create_key

log = logging.getLogger(__name__)

LOCK_TRIES, LOCK_WAIT_S = 4, 0.05


@dataclass(frozen=True, slots=True)
class Identity:
    """A key and what it has put its name to."""

    signer: Signer
    journal: Journal


class RunFolder:
    """A peer's folder, locked for as long as the peer runs."""

    def __init__(self, root: Path) -> None:
        """Make the folder if it is missing, and lock it.

        Raises:
            StartError: It cannot be written, or another peer runs in it.
        """
        self.root = root
        self.key = root / "key.pem"
        self.address = root / ADDRESS_FILE
        self.config = root / "config.yaml"
        self.model = root / "model.safetensors"
        self.best_model = root / "model_best.safetensors"
        self.log = root / "log.txt"
        self.rounds = root / ROUNDS_FILE
        self.summary = root / SUMMARY_FILE
        self.status = root / STATUS_FILE
        self.tensorboard = root / FOLDER
        self.previous = root / "previous"
        self.checkpoint = root / "checkpoint"
        self.journal = self.checkpoint / "journal.jsonl"
        self.bases = BaseStore(self.checkpoint)
        self.progress = CheckpointFolder(self.checkpoint, self.bases)
        self.updates = self.checkpoint / "updates"
        self.records = self.checkpoint / "members.msgpack"
        self.cache = self.checkpoint / "cache"
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as exc:
            raise StartError(f"--out {root}: cannot be written: {exc.strerror}") from exc
        try:
            is_ours = _lock(self._lock)
        except OSError as exc:
            os.close(self._lock)
            raise StartError(f"--out {root}: cannot be locked: {exc.strerror}") from exc
        if not is_ours:
            os.close(self._lock)
            raise StartError(
                f"--out {root}: another peer runs in this folder; stop it, or name another --out"
            )

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # read-only by now: whoever wrote to it has said so
            self.address.unlink(missing_ok=True)
        os.close(self._lock)

    def forget(self) -> None:
        """Put away what an earlier run left, so that this one starts as a new peer.

        It is kept in `previous`, once: a flag should not cost anyone a trained model.

        Raises:
            StartError: It cannot be moved.
        """
        self.key.unlink(missing_ok=True)
        # The checkpoint goes last: as long as it is here, the rest has not moved in vain.
        files = (self.model, self.best_model, self.rounds, self.summary)
        left = (*files, self.tensorboard, self.checkpoint)
        put_away = self.previous / self.checkpoint.name
        kept = CheckpointFolder(put_away, BaseStore(put_away))
        try:
            if kept and not self.progress:
                shutil.rmtree(self.checkpoint, ignore_errors=True)  # a start that came to nothing
            elif any(path.exists() for path in left):
                if self.previous.exists():
                    shutil.rmtree(self.previous)
                self.previous.mkdir()
                for path in left:
                    if path.exists():
                        path.rename(self.previous / path.name)
                log.info("what the run before has left is in %s", self.previous)
        except OSError as exc:
            raise StartError(
                f"--out {self.root}: what is there cannot be put away: {exc.strerror}"
            ) from exc

    def identity(self) -> Identity:
        """Return the key of this folder, or a fresh one, with its journal.

        Raises:
            StartError: The key or the journal cannot be read or written.
        """
        if self.key.exists() and not self.journal.exists():
            log.warning("%s has no journal: a fresh key takes its place", self.key)
            self.key.unlink()
        signer = load_or_create_key(self.key)
        return Identity(signer, Journal(self.journal))


def _lock(descriptor: int) -> bool:
    """Lock a file for as long as it is open; tell whether that was possible.

    Tried again for a moment: somebody may just be looking whether a peer runs.
    """
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_WAIT_S)
        else:
            return True
    return False
