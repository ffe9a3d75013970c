"""What every section of a configuration asks of its values."""

from __future__ import annotations

from collections.abc import Collection

from semantic_net.errors import ConfigError


def require(condition: bool, key: str, rule: str, value: object) -> None:
    """Raise a `ConfigError` that names the key, unless a condition holds."""
    if not condition:
        raise ConfigError(f"{key} must be {rule}, got {value!r}")


def require_one_of(key: str, value: str, allowed: Collection[str]) -> None:
    """Raise a `ConfigError` that names the key, unless its value is one of those allowed."""
    require(value in allowed, key, f"one of {', '.join(sorted(allowed))}", value)
