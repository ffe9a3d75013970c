"""How close `semantic-net simulate` is to real peers on shaped links.

    sudo python benchmarks/simulator_validation.py [--case balanced] [--rounds 12] [--seed 0]

Four real peers in network namespaces, whose links `tc tbf` shapes in both directions, and the same
scenario simulated: same task, seeds and shards. Steps take a known time, asleep, so that four peers
do as well on two cores as on four. The simulation is told the shaping, the round trip, and from the
real run's records how long a device computes. Prints simulated / real - 1, and ends with exit
code 1 where payloads or models differ, socket bytes are more than 2% off (of all peers together,
and of each where the links are alike), or the time of a round is more than 15% off: the mean, or
the median of two rounds in a row. The first is left out, for which peers gather. The last column
counts how many of these twos are within 15%.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path


def main() -> int:
    """Run the cases, and print the table; return the exit code."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from namespaces_support import obstacle
    from side_by_side_support import MAX_TIME_OFF, Case, run_both

    cases = [
        Case(name="balanced", preset="balanced", hidden=16384, mbit_s=[(2, 2)] * 4),
        Case(name="lossless", preset="lossless", hidden=1024, mbit_s=[(5, 5)] * 4),
        Case(
            name="uneven",
            preset="balanced",
            hidden=16384,
            mbit_s=[(1, 1), (2, 2), (4, 4), (2, 4)],
        ),
        Case(
            name="uneven, lossless",
            preset="lossless",
            hidden=512,
            mbit_s=[(2, 2), (5, 5), (10, 10), (4, 10)],
        ),
    ]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--case", choices=[case.name for case in cases], help="this one only")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a new folder to keep what the runs leave")
    options = parser.parse_args()
    if (why := obstacle()) is not None:
        sys.exit(f"network namespaces: {why}")
    print(
        f"seed {options.seed}, {options.rounds} rounds; {os.cpu_count()} cores, "
        f"{platform.machine()}, Linux {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}\n"
    )
    columns = (
        *("case", "Mbit/s up/down", "payload", "payloads and models", "socket bytes: all"),
        *("a peer's", "round, s", "mean", "median", "its exchange", "two rounds"),
    )
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            if options.case in (None, case.name):
                case = replace(case, rounds=options.rounds, seed=options.seed)
                pair = run_both(case, (options.out or Path(folder)) / case.name)
                found = pair.broken()
                broken += [f"{case.name}: {text}" for text in found]
                rates = dict.fromkeys(f"{up:g}/{down:g}" for up, down in case.mbit_s)
                payload = statistics.mean(r.payload_bytes for peer in pair.real for r in peer)
                times = pair.times_off()
                near = sum(abs(off) <= MAX_TIME_OFF for off in times)
                is_equal = not any("differ" in text for text in found)
                print(
                    f"| {case.name} | {', '.join(rates)} | {payload / 1000:.1f} kB | "
                    f"{'equal' if is_equal else 'DIFFER'} | "
                    f"{pair.all_bytes_off():+.2%} | {max(pair.bytes_off(), key=abs):+.2%} | "
                    f"{pair.mean_s(pair.real):.2f} | "
                    f"{pair.mean_off():+.1%} | {pair.median_off():+.1%} | "
                    f"{pair.exchange_off():+.1%} | {near} of {len(times)} |",
                    flush=True,
                )
    for text in broken:
        print(text, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
