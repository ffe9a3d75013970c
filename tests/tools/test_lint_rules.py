"""The lint rules keep out of ``src`` what could run what a stranger has sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def rules_against(code: str, path: str) -> set[str]:
    """Return the codes of what ruff finds in some code at a path."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "json"),
            *("--stdin-filename", path, "-"),
        ],
        input=code,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return {finding["code"] for finding in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\n",
        "from pickle import loads\n",
        "import torch\n\ntorch.load('model.pt')\n",
        "import torch\n\ntorch.jit.load('model.pt')\n",
        "import numpy as np\n\nnp.load('model.npy')\n",
        "import yaml\n\nyaml.load('a: 1', yaml.Loader)\n",
        "import yaml\n\nyaml.unsafe_load('a: 1')\n",
        "import marshal\n\nmarshal.loads(b'')\n",
        "import dill\n",
        "eval('1')\n",
        "exec('1')\n",
    ],
)
def test_what_runs_what_it_reads_is_kept_out(code: str) -> None:
    banned = {"S102", "S301", "S302", "S307", "S506", "TID251"}
    assert rules_against(code, "src/semantic_net/example.py") & banned
    assert not rules_against(code, "tests/example.py") & banned
