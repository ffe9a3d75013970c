"""The membership's records on disk: what devices have said of each other in this run."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from semantic_net.disk import sync_folder
from semantic_net.protocol.membership import Binding, Record, Statement

log = logging.getLogger(__name__)


class _Records(msgspec.Struct, frozen=True, array_like=True):
    bindings: list[Binding]
    statements: list[Statement]


_DECODER = msgspec.msgpack.Decoder(_Records)


def read_records(path: Path) -> list[Record]:
    """Return what was written; nothing where there is no file, or none that makes sense.

    The other devices tell it again.
    """
    try:
        found = _DECODER.decode(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
        log.warning("%s cannot be read: %s; the other devices will tell", path, exc)
        return []
    return [*found.bindings, *found.statements]


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write records in the place of earlier ones, so that a power cut leaves either.

    Raises:
        OSError: They cannot be written.
    """
    bindings = [record for record in records if isinstance(record, Binding)]
    statements = [record for record in records if isinstance(record, Statement)]
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(msgspec.msgpack.encode(_Records(bindings, statements)))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    sync_folder(path.parent)
