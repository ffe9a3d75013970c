"""Files and folders: what must hold after a power cut, and no more removed than is ours."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path


def remove_named(folder: Path, pattern: str) -> None:
    """Remove what is in a folder under a name that a regular expression matches, and no more.

    Raises:
        OSError: Something cannot be removed.
    """
    for path in folder.iterdir():
        if re.fullmatch(pattern, path.name) is None:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


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
