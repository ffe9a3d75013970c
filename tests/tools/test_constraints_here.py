"""What is installed stays; what is not comes in the version that the tests prove."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "constraints_here.py"
spec = importlib.util.spec_from_file_location("constraints_here", TOOL)
assert spec is not None
assert spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

PINS = """# torch: and what it needs.
torch==2.13.0
numpy==2.2.6 ; python_version < "3.11"
numpy==2.4.6 ; python_version >= "3.11"

PyYAML==6.0.3
typing_extensions==4.16.0
setuptools==84.2.1
"""


def test_what_is_there_goes_above_the_pins() -> None:
    installed = {
        "torch": "2.6.0a0+ecf3bae40a.nv25.2",
        "Typing.Extensions": "4.12.2",
        "pip": "24.0",
        "onnx": "1.17.0",
    }
    assert tool.constraints(PINS, installed) == [
        "onnx==1.17.0",
        "torch==2.6.0a0+ecf3bae40a.nv25.2",
        "typing-extensions==4.12.2",
        'numpy==2.2.6 ; python_version < "3.11"',
        'numpy==2.4.6 ; python_version >= "3.11"',
        "PyYAML==6.0.3",
    ]


def test_the_running_interpreters_own_packages_are_found() -> None:
    import numpy
    import torch

    done = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert f"torch=={torch.__version__}" in lines
    assert f"numpy=={numpy.__version__}" in lines
    assert len({line.partition(";")[0] for line in lines}) == len(lines)
