"""A pytest plugin for environments without torch: tests that need it are skipped, by name.

PYTHONPATH=src:tools python -m pytest -p without_torch
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

import pytest


class _NoTorch(MetaPathFinder):
    """Turns the import of torch into a skip of the module or test that wants it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if fullname == "torch":
            pytest.skip("needs torch", allow_module_level=True)


def pytest_configure() -> None:
    """Be asked before all other finders."""
    sys.meta_path.insert(0, _NoTorch())
