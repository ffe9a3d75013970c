"""From ``task.name`` to a `Task`: a shipped one, or a user's own file with ``load(cfg)``.

What goes wrong in a user's file is told in one line with the place in that file; nothing of it
is guessed or mended.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import cast

from semantic_net.config import TaskConfig
from semantic_net.errors import ConfigError, DataError, SemanticNetError, StartError
from semantic_net.task.base import Task

LOADERS = {
    "disaster": "semantic_net.task.disaster",
    "netqos": "semantic_net.task.netqos",
}
"""The shipped tasks, by the module whose ``load`` makes them; imported when asked for."""

_CONTENT = "__semantic_net_content__"
"""In a user's module: the hash of the file that it was made from."""


def load_task(cfg: TaskConfig) -> Task:
    """Return the task that ``task.name`` names, with its data.

    Raises:
        ConfigError: There is no such task, or the user's file has no ``load`` that returns a task.
        StartError: The user's file raised an error of its own.
        DataError: The data is missing, broken or empty.
    """
    if cfg.name in LOADERS:
        load = cast("Callable[[TaskConfig], Task]", importlib.import_module(LOADERS[cfg.name]).load)
        task = load(cfg)
    else:
        task = _load_file(cfg)
    for key, value in task.fingerprint.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            found = f"{key!r}: {value!r:.60}"
            raise ConfigError(f"task.name: {cfg.name}: fingerprint must be of texts, got {found}")
    for what in ("train_data", "val_data"):
        try:
            length = len(getattr(task, what))
        except TypeError as exc:
            raise ConfigError(
                f"task.name: {cfg.name}: {what} has no length; a map-style data set is needed"
            ) from exc
        if length == 0 and not cfg.observe:
            raise DataError(
                f"task.name: {cfg.name}: {what} is empty; see data.path and data.source"
            )
    return task


def _load_file(cfg: TaskConfig) -> Task:
    path = Path(cfg.name)
    if path.suffix != ".py":
        near = difflib.get_close_matches(cfg.name, LOADERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(LOADERS)}"
        raise ConfigError(
            f"task.name: unknown task {cfg.name!r}, and no path to a .py file either; {hint}"
        )
    if not path.is_file():
        raise ConfigError(f"task.name: {path}: no such file, seen from {Path.cwd()}")
    load = getattr(_import(path), "load", None)
    if not callable(load):
        raise ConfigError(f"task.name: {path} has no function load(cfg: TaskConfig) -> Task")
    try:
        task = load(cfg)
    except SemanticNetError:
        raise  # the file says what is wrong in our own words
    except Exception as exc:
        raise StartError(f"task.name: {place_in(path, exc)}") from exc
    if not isinstance(task, Task):
        raise ConfigError(f"task.name: load in {path} must return a Task, got {task!r:.80}")
    return task


def _import(path: Path) -> ModuleType:
    # Two files of one name must not meet in sys.modules, and none may hide an installed module.
    mark = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"semantic_net_task_{mark}"
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    known = sys.modules.get(name)
    if known is not None and getattr(known, _CONTENT, None) == content:
        return known  # what it has read, it need not read again for the next shard
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, _CONTENT, content)
    sys.modules[name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        del sys.modules[name]
        if isinstance(exc, SemanticNetError):
            raise
        raise StartError(f"task.name: {place_in(path, exc)}") from exc
    return module


def place_in(path: Path, exc: BaseException) -> str:
    """Return ``file, line N: Error: reason``, N being the innermost line of ``path`` itself.

    If ``exc`` has not come through that file, N is the innermost line of all.
    """
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(exc.__traceback__)
        if Path(frame.filename).resolve() == path.resolve()
    ]
    if isinstance(exc, SyntaxError):  # raised before any line of the file runs
        lines = [exc.lineno]
    where = f"{path}, line {lines[-1]}: " if lines else _innermost(exc)
    reason = exc.msg if isinstance(exc, SyntaxError) else " ".join(str(exc).split())
    return f"{where}{type(exc).__name__}: {reason}"


def _innermost(exc: BaseException) -> str:
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
