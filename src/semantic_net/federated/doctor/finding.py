"""What one check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from semantic_net.monitoring.text import format_duration

Level = Literal["ok", "warn", "FAIL"]

OK: Level = "ok"
WARN: Level = "warn"
FAIL: Level = "FAIL"
"""FAIL: a run would not start here, or would never meet that peer until a person changes it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for people, in parts for programs."""

    name: str
    level: Level
    text: str
    hint: str = ""
    """What to do; empty where nothing has to be done."""

    @property
    def line(self) -> str:
        """The whole of it."""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.level:4}  {self.name}: {self.text}{hint}"


def would_work(findings: Iterable[Finding]) -> bool:
    """Tell whether nothing failed."""
    return all(finding.level != FAIL for finding in findings)


def duration(seconds: float) -> str:
    """Return a time as people read it."""
    return format_duration(seconds) if seconds >= 0.9995 else f"{1000 * seconds:.3g} ms"
