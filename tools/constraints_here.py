"""Print the constraints for installing beside what a machine or an image brings along.

What is installed stays as it is, torch above all: NVIDIA's own builds must never be replaced. What
is not comes in the version of constraints.txt. For `pip install -c` with the same interpreter:

    python3 tools/constraints_here.py > here.txt && python3 -m pip install -c here.txt .
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

PINS = Path(__file__).parents[1] / "constraints.txt"
# Installers of others, which our pins and a base's need not fit.
NOT_PINNED = frozenset({"pip", "setuptools", "wheel", "semantic-net"})


def normal(name: str) -> str:
    """Return a package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(pins: str, installed: Mapping[str, str]) -> list[str]:
    """Return a line for each package that is installed or pinned.

    Args:
        pins: The text of constraints.txt.
        installed: Version by name.
    """
    here = {normal(name): version for name, version in installed.items()}
    lines = [f"{name}=={here[name]}" for name in sorted(here) if name not in NOT_PINNED]
    for line in pins.splitlines():
        name = normal(line.partition("==")[0].strip())
        if name and not name.startswith("#") and name not in here and name not in NOT_PINNED:
            lines.append(line)
    return lines


def main() -> int:
    """Print them for the packages that this interpreter sees."""
    # A package may be there twice, as on top of a system's; the first one is imported.
    installed: dict[str, str] = {}
    for found in distributions():
        installed.setdefault(found.metadata["Name"], found.version)
    print("\n".join(constraints(PINS.read_text(encoding="utf-8"), installed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
