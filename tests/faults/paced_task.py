"""The digits of examples/digits_task.py, with steps that take a while and a model of any size.

While somebody has the file of the option ``held_by`` locked, no step ends.
"""

import fcntl
import importlib.util
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from semantic_net.config import TaskConfig
from semantic_net.task import Task

DIGITS = Path(__file__).parents[2] / "examples" / "digits_task.py"


def _digits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_task", DIGITS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(cfg: TaskConfig) -> Task:
    digits: Task = _digits().load(cfg)
    held_by = Path(str(cfg.options["held_by"])) if "held_by" in cfg.options else None
    step_s, hidden = float(cfg.options.get("step_s", 0)), int(cfg.options.get("hidden", 0))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        time.sleep(step_s)  # a slow device's work, which costs the others nothing
        if held_by is not None:
            with held_by.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
        return digits.loss(output, target)

    def make_model() -> nn.Module:
        layers = (nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        return nn.Sequential(nn.Flatten(), *layers)

    return replace(digits, loss=loss, make_model=make_model if hidden else digits.make_model)
