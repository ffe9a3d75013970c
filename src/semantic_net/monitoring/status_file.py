"""status.json: what a running peer is at, for another process to read.

Written when what it says has changed, and every `OFTEN_S` anyway, so that its age tells whether
the peer still writes. It is no record: it need not outlive a power cut, and a disk that does not
take it is said once.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from semantic_net.errors import DataError
from semantic_net.status import Status

log = logging.getLogger(__name__)

OFTEN_S = 10.0


class StatusFile:
    """Writes one peer's status."""

    def __init__(self, path: Path) -> None:
        """Take where it goes; what an earlier process has said there is over."""
        with contextlib.suppress(OSError):  # a disk that takes nothing is said when it matters
            path.unlink(missing_ok=True)
        self._path = path
        self._said: object = None
        self._written_at = -OFTEN_S
        self._has_warned = False

    def write(self, status: Status, now: float) -> None:
        """Write a status, if it says something else than the last one, or that is long ago."""
        says = _essence(status)
        if says == self._said and now < self._written_at + OFTEN_S:
            return
        part = self._path.with_name(self._path.name + ".part")
        try:
            part.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=1) + b"\n")
            os.replace(part, self._path)
        except OSError as exc:
            if not self._has_warned:
                self._has_warned = True
                text = "%s cannot be written, the run goes on: %s"
                log.warning(text, self._path, exc.strerror or exc)
            return
        self._said, self._written_at = says, now


def read_status(path: Path) -> Status | None:
    """Return what a peer has written last; None where it has written nothing.

    Raises:
        DataError: It cannot be read, or is no status.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except msgspec.DecodeError as exc:
        raise DataError(f"{path}: no status of a peer: {exc}") from exc


def _essence(status: Status) -> object:
    """Return what a status says but for what counts up by itself."""
    peers = tuple(
        (p.peer, p.is_connected, p.is_alive, p.round, bool(p.waited_for), p.problem)
        for p in status.peers
    )
    return status.phase, status.round, peers, tuple(status.unmet.items())
