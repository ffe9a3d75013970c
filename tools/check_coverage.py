"""Hold the report of ``coverage json`` to the project's two limits, and say where it falls short.

coverage's own ``fail_under`` knows one number for everything; here the pure packages must have
their branches covered, and the whole its lines and branches.

    python tools/check_coverage.py build/coverage.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

PURE = ("protocol", "semantic", "aggregation", "config", "fixed_point")
MIN_PURE_BRANCHES = 95.0
MIN_OVERALL = 85.0
PACKAGE = "semantic_net"


@dataclass
class Tally:
    """What tests reached of one package: branches, and lines and branches together."""

    branches: int = 0
    branches_hit: int = 0
    all: int = 0
    all_hit: int = 0

    def add(self, summary: dict[str, Any]) -> None:
        """Count one file's summary in."""
        self.branches += summary["num_branches"]
        self.branches_hit += summary["covered_branches"]
        self.all += summary["num_branches"] + summary["num_statements"]
        self.all_hit += summary["covered_branches"] + summary["covered_lines"]

    @property
    def branch_percent(self) -> float:
        """Branches reached; a package without any counts as covered."""
        return 100 * self.branches_hit / self.branches if self.branches else 100.0

    @property
    def percent(self) -> float:
        """Lines and branches reached."""
        return 100 * self.all_hit / self.all if self.all else 100.0


def part_of(file: str) -> str:
    """Return the package or module right under semantic_net that a file belongs to."""
    parts = PurePath(file).with_suffix("").parts
    return parts[len(parts) - parts[::-1].index(PACKAGE)]


def tally(report: dict[str, Any]) -> dict[str, Tally]:
    """Add a report's files up by package."""
    parts: dict[str, Tally] = {}
    for file, entry in report["files"].items():
        parts.setdefault(part_of(file), Tally()).add(entry["summary"])
    return parts


def shortfalls(report: dict[str, Any]) -> list[str]:
    """Return one line for each limit that the report misses, with the files to look at."""
    found = []
    for name, part in sorted(tally(report).items()):
        if name in PURE and part.branch_percent < MIN_PURE_BRANCHES:
            found.append(
                f"{PACKAGE}.{name}: {part.branch_percent:.1f}% of branches,"
                f" {MIN_PURE_BRANCHES:.0f}% needed; not reached:"
            )
            found += [
                f"  {file}: {', '.join(f'{a}->{b}' for a, b in entry['missing_branches'])}"
                for file, entry in sorted(report["files"].items())
                if part_of(file) == name and entry.get("missing_branches")
            ]
    overall = report["totals"]["percent_covered"]
    if overall < MIN_OVERALL:
        found.append(f"overall: {overall:.1f}%, {MIN_OVERALL:.0f}% needed; least covered:")
        worst = sorted(report["files"].items(), key=lambda item: _missed(item[1]), reverse=True)
        found += [f"  {file}: {_missed(entry)} lines and branches" for file, entry in worst[:8]]
    return found


def _missed(entry: dict[str, Any]) -> int:
    return int(entry["summary"]["missing_lines"] + entry["summary"]["missing_branches"])


def main(argv: list[str]) -> int:
    """Print coverage by package; return 1 where a limit is missed."""
    report = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    needed = f"needed: pure {MIN_PURE_BRANCHES:.0f}% of branches, all {MIN_OVERALL:.0f}%"
    print(f"coverage          branches   overall   ({needed})")
    for name, part in sorted(tally(report).items()):
        kind = "   pure" if name in PURE else ""
        print(f"  {name:<14} {part.branch_percent:8.1f}% {part.percent:8.1f}%{kind}")
    print(f"  {'all':<14} {'':>9} {report['totals']['percent_covered']:8.1f}%")
    found = shortfalls(report)
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
