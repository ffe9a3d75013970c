"""What must hold after a power cut, on whatever file system a device has."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Let the names in a folder outlive a power cut.

    Where a folder cannot be opened or synced, a name is as safe as the file system makes it.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
