"""The coverage check fails for the right package, and says where to look."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TOOL = Path(__file__).parents[2] / "tools" / "check_coverage.py"


def entry(branches: int, hit: int) -> dict[str, Any]:
    missing = [[10 + index, 20 + index] for index in range(branches - hit)]
    return {
        "summary": {
            "num_branches": branches,
            "covered_branches": hit,
            "missing_branches": branches - hit,
            "num_statements": 10,
            "covered_lines": 10,
            "missing_lines": 0,
        },
        "missing_branches": missing,
    }


def check(folder: Path, percent: float, **files: tuple[int, int]) -> tuple[int, str, str]:
    report = {
        "files": {
            f"src/semantic_net/{name.replace('__', '/')}.py": entry(*counts)
            for name, counts in files.items()
        },
        "totals": {"percent_covered": percent},
    }
    path = folder / "coverage.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(TOOL), str(path)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_enough_is_enough(tmp_path: Path) -> None:
    code, out, err = check(
        tmp_path, 85.0, protocol__frames=(20, 19), fixed_point=(0, 0), federated__peer=(10, 1)
    )
    assert (code, err) == (0, "")
    assert "protocol           95.0%" in out
    assert "fixed_point       100.0%" in out


def test_a_pure_package_is_held_to_its_branches(tmp_path: Path) -> None:
    code, _, err = check(tmp_path, 99.0, semantic__bits=(100, 100), semantic__rans=(4, 2))
    assert (code, err) == (0, "")  # the package counts, not the file
    code, _, err = check(tmp_path, 99.0, semantic__bits=(10, 10), semantic__rans=(4, 2))
    assert code == 1
    assert "semantic_net.semantic: 85.7% of branches, 95% needed" in err
    assert "semantic/rans.py: 10->20, 11->21" in err
    assert "bits.py" not in err


def test_the_whole_is_held_to_its_lines_and_branches(tmp_path: Path) -> None:
    code, _, err = check(tmp_path, 84.9, federated__peer=(10, 1), cli=(10, 9))
    assert code == 1
    assert "overall: 84.9%, 85% needed" in err
    assert err.index("peer.py: 9 lines and branches") < err.index("cli.py: 1 lines")
