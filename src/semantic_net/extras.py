"""Packages that only some settings need: which they are, and what to do where they are missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from semantic_net.errors import ConfigError

MODULES = {
    "privacy": ("opacus",),
    "mdns": ("zeroconf", "ifaddr"),
    "dashboard": ("starlette", "uvicorn"),
    "tracking": ("tensorboard",),
    "simulation": ("ray",),
    "zenoh": ("zenoh",),
}
"""What each extra brings that is imported here."""


def how_to_install(*extras: str) -> str:
    """Return the command that installs extras."""
    return f"pip install 'semantic-net[{','.join(extras)}]'"


@contextlib.contextmanager
def needed_for(key: str, extra: str) -> Iterator[None]:
    """Import within: where a module of the extra is missing, the error says what to do.

    Args:
        key: Of the configuration, which asks for it.
        extra: One of `MODULES`.

    Raises:
        ConfigError: The extra is not installed. Any other module that is missing is a bug of ours.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in MODULES[extra]:
            raise
        text = f"{key} needs the extra {extra}: {how_to_install(extra)}"
        raise ConfigError(text) from exc
