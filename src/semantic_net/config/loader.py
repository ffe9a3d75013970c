"""YAML and ``--set`` overrides to a checked `Config`, and back; other files are read alike.

What this module refuses: unknown keys (the message names the nearest known one), keys given
twice, values of the wrong type, and anything that is not a mapping where a section is due.
Nothing is guessed.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from semantic_net.config.sections import Config
from semantic_net.errors import ConfigError

T = TypeVar("T")


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file and apply ``section.key=value`` overrides.

    Args:
        path: YAML file with the differences from the defaults; None takes the defaults alone.
        overrides: Values are YAML, so ``p2p.port=0`` is a number and ``p2p.run=a`` a string.

    Raises:
        ConfigError: The file cannot be read, a key is unknown, a type or a value is wrong.
    """
    tree = read_yaml(path) if path is not None else {}
    for override in overrides:
        _apply_override(tree, override)
    return build(Config, tree)


def dump_config(config: Config) -> str:
    """Return the YAML of a configuration with every key; `load_config` reads it back equal."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which plain YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: Path, what: str = "config", example: str = "p2p") -> dict[str, Any]:
    """Return what is in a file of sections.

    Args:
        path: The file.
        what: It is, for messages.
        example: One of its sections.

    Raises:
        ConfigError: It cannot be read, or is not YAML with sections.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise ConfigError(f"{what} {path}: cannot be read: {reason}") from exc
    try:
        tree = _parse(text)
    except yaml.YAMLError as exc:
        where = getattr(exc, "problem_mark", None)
        line = f" in line {where.line + 1}" if where is not None else ""
        problem = getattr(exc, "problem", None) or " ".join(str(exc).split())
        raise ConfigError(f"{what} {path}: not YAML{line}: {problem}") from exc
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{what} {path}: expected sections such as '{example}:', got {tree!r}")
    return tree


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = _parse(text)
    except yaml.YAMLError as exc:
        raise ConfigError(f"--set {override}: the value is not YAML; quote it") from exc
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {part} is no section")
        node = child
    node[parts[-1]] = value


def _keys(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("key", True)}


def build(cls: type[T], tree: object) -> T:
    """Return the dataclass of a whole file, its sections dataclasses of their own.

    A type with a class method ``from_yaml(value, key)`` says itself how it is written.

    Raises:
        ConfigError: A key is unknown, a type or a value is wrong.
    """
    return _build(cls, tree, "", cls)


def _build(cls: type[T], tree: object, prefix: str, root: type) -> T:
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{prefix or 'config'}: expected a section with keys, got {tree!r}")
    known = _keys(cls)
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if name not in known:
            # Of a section that there is not, the first key is what was meant.
            inner = f".{next(iter(value))}" if isinstance(value, Mapping) and value else ""
            raise ConfigError(
                f"{key}{inner}: unknown key{_nearest(str(name), known, prefix, inner, root)}"
            )
        values[name] = _convert(hints[name], value, key, root)
    for name, field in known.items():
        if name not in values and not _has_default(field):
            raise ConfigError(f"{prefix}.{name}: required")
    return cls(**values)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    given = (field.default, field.default_factory)
    return any(default is not dataclasses.MISSING for default in given)


def _nearest(name: str, known: Mapping[str, object], prefix: str, inner: str, root: type) -> str:
    elsewhere = [key for key in _all_keys(root, "") if key.rpartition(".")[2] == name]
    if elsewhere:
        return f"; did you mean {' or '.join(elsewhere)}?"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        key = f"{prefix}.{near[0]}" if prefix else near[0]
        return f"; did you mean {key + inner if key + inner in _all_keys(root, '') else key}?"
    return f"; known here: {', '.join(known)}"


def _all_keys(cls: type, prefix: str) -> Iterator[str]:
    """Yield the dotted name of every section and key."""
    hints = typing.get_type_hints(cls)
    for name in _keys(cls):
        yield prefix + name
        if dataclasses.is_dataclass(hints[name]):
            yield from _all_keys(cast("type", hints[name]), f"{prefix}{name}.")


def _convert(hint: Any, value: object, key: str, root: type) -> Any:
    if hasattr(hint, "from_yaml"):
        return hint.from_yaml(value, key)
    if dataclasses.is_dataclass(hint):
        return _build(cast("type[Any]", hint), value, key, root)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # only ever "X | None" here
        if value is None:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, key, root)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{key}: expected a list, got {value!r}")
        return tuple(_convert(args[0], item, f"{key}[{i}]", root) for i, item in enumerate(value))
    if origin is typing.Literal:
        if not isinstance(value, str):  # YAML reads a bare "off" as false; the section checks text
            raise ConfigError(f"{key}: expected one of {', '.join(args)}, got {value!r}")
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: expected a mapping, got {value!r}")
        return dict(value)
    return _convert_scalar(hint, value, key)


def _convert_scalar(hint: Any, value: object, key: str) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        # PyYAML reads 1e-3 (no dot) as a string; a user means the number.
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    name = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}[hint]
    quote = "; quote it" if hint is str and isinstance(value, bool | int | float) else ""
    raise ConfigError(f"{key}: expected {name}, got {value!r}{quote}")


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in _keys(type(value))}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
