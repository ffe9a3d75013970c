"""Drive what reads bytes from strangers with atheris: coverage decides which input comes next.

    make fuzz                              a million inputs for each target
    make fuzz ARGS="--runs 5000000 payload_entropy_quantize stream"

Each target runs in processes of its own, within 1 GiB and 10 s an input. What it finds (an
undocumented exception, a hang, memory beyond that) ends it with an error, and the input lies in
``--out``, beside the corpus, from which the next run goes on.

A process is replaced after 50,000 inputs: atheris (3.0.0) never lets go of what a comparison of two
arrays gives, some kilobytes an input, whereas a reader of ours that kept 20 kB would still show.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).parents[1]
TARGET_FLAG = "--in-this-process"
MEMORY_MB = 1024
INPUT_S = 10
MAX_BYTES = 8192
RUNS_A_PROCESS = 50_000


def main() -> int:
    """Run some targets one after the other; return how many have failed."""
    sys.path.insert(0, str(ROOT / "tests"))
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fuzz")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs: at least 1, got {arguments.runs}")
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    failed = []
    for name in arguments.targets or TARGETS:
        corpus = arguments.out / name
        corpus.mkdir(parents=True, exist_ok=True)
        for number, example in enumerate(TARGETS[name].examples()):
            (corpus / f"example{number}").write_bytes(example)
        began_s = time.monotonic()
        with (arguments.out / f"{name}.log").open("w") as log:
            code = _fuzz(name, corpus, arguments.runs, arguments.seed, log)
        verdict = "fine" if code == 0 else f"FAILED ({code}), see {log.name}"
        print(f"{name}: {arguments.runs} inputs, {time.monotonic() - began_s:.0f} s: {verdict}")
        failed += [name] if code else []
    return len(failed)


def _fuzz(name: str, corpus: Path, runs: int, seed: int, log: TextIO) -> int:
    """Give a target its inputs, process by process; return the exit code, that of a failure."""
    for begun in range(0, runs, RUNS_A_PROCESS):
        known = sum(1 for _ in corpus.iterdir())  # each process begins with all of these
        command = [
            *(sys.executable, __file__, TARGET_FLAG, name, str(corpus)),
            *(f"-runs={known + min(RUNS_A_PROCESS, runs - begun)}", f"-max_len={MAX_BYTES}"),
            *(f"-rss_limit_mb={MEMORY_MB}", f"-timeout={INPUT_S}", "-print_final_stats=1"),
            *(f"-seed={seed + begun // RUNS_A_PROCESS}", f"-artifact_prefix={corpus}-"),
        ]
        if code := subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
            return code
    return 0


def fuzz_here() -> None:
    """Hand this process to atheris; it ends it."""
    import atheris

    _, _, name, *rest = sys.argv
    sys.path.insert(0, str(ROOT / "tests"))
    with atheris.instrument_imports(include=["semantic_net"]):
        from fuzz_targets import TARGETS
    target = TARGETS[name]

    def read(data: bytes) -> None:
        target(data)

    atheris.Setup([sys.argv[0], *rest], read)
    atheris.Fuzz()


if __name__ == "__main__":
    if TARGET_FLAG in sys.argv:
        fuzz_here()
    else:
        sys.exit(main())
