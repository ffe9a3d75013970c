"""What a simulation says of bytes and time is what real peers on shaped links do.

A small version of benchmarks/simulator_validation.py; `make network ARGS=-s` prints how far off.
Rounds are so many that one update which is passed on in one of the two runs alone breaks no bar.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from namespaces_support import skip_where_not_permitted
from side_by_side_support import Case, run_both

pytestmark = pytest.mark.network


@pytest.mark.parametrize(
    "case",
    [
        Case(name="balanced", preset="balanced", hidden=16384, mbit_s=[(2, 2)] * 4, rounds=14),
        Case(name="lossless", preset="lossless", hidden=512, mbit_s=[(5, 5)] * 4, rounds=14),
    ],
    ids=lambda case: case.name,
)
def test_a_simulation_is_as_the_real_run(tmp_path: Path, case: Case) -> None:
    skip_where_not_permitted()
    pair = run_both(case, tmp_path)
    print(
        f"\nround {pair.mean_off():+.1%}, exchange {pair.exchange_off():+.1%}, "
        f"socket bytes {max(pair.bytes_off(), key=abs):+.2%}"
    )
    assert pair.broken() == []
