from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

import pytest
import torch

from semantic_net.config import DataConfig, TaskConfig, TrainingConfig
from semantic_net.errors import ConfigError, DataError, SemanticNetError, StartError
from semantic_net.task import Task, load_task
from semantic_net.task.loader import place_in
from semantic_net.training import Trainer

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_task.py"

TASK = """
from torch import nn
from semantic_net.task import Task, accuracy

def load(cfg):
    return Task(
        make_model=lambda: nn.Linear(1, 1),
        train_data={train}, val_data={val},
        loss=nn.functional.cross_entropy, metrics=accuracy,
    )
"""


def load_text(folder: Path, text: str) -> Task:
    path = folder / "mine.py"
    path.write_text(text)
    return load_task(TaskConfig(name=str(path)))


def refusal(folder: Path, text: str) -> SemanticNetError:
    with pytest.raises(SemanticNetError) as caught:
        load_text(folder, text)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_example_in_the_readme_is_short_and_learns() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 30
    task = load_task(TaskConfig(name=str(EXAMPLE), peer_seed=3, data=DataConfig(num_train=400)))
    trainer = Trainer(task, TrainingConfig(device="cpu", learning_rate=0.01), seed=0)
    before = trainer.evaluate()["accuracy"]
    for round_index in range(1, 6):
        trainer.train_round(round_index, threading.Event())
    assert before < 0.3
    assert trainer.evaluate()["accuracy"] > 0.7


def test_the_examples_peers_differ_and_are_judged_alike() -> None:
    one, other = (load_task(TaskConfig(name=str(EXAMPLE), peer_seed=seed)) for seed in (1, 2))
    assert not one.train_data[0][0].equal(other.train_data[0][0])
    assert one.val_data[0][0].equal(other.val_data[0][0])


def test_two_files_of_one_name_are_two_tasks(tmp_path: Path) -> None:
    for folder, length in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        task = load_text(tmp_path / folder, TASK.format(train=f"[0] * {length}", val="[0]"))
        assert len(task.train_data) == length


def test_a_file_may_define_dataclasses(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass, field\n"
        "@dataclass\nclass D:\n    x: list[int] = field(default_factory=lambda: [1])\n"
    )
    assert len(load_text(tmp_path, text + TASK.format(train="D().x", val="[0]")).train_data) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("netqso", "unknown task 'netqso', and no path to a .py file either; did you mean netqos"),
        ("zzz", "known: disaster, netqos"),
        ("no/such/task.py", "task.name: no/such/task.py: no such file, seen from /"),
    ],
)
def test_a_name_that_names_nothing(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task(TaskConfig(name=name))
    assert message in str(caught.value)


def test_a_file_without_load(tmp_path: Path) -> None:
    for text in ("x = 1\n", "load = 3\n"):
        exc = refusal(tmp_path, text)
        assert isinstance(exc, ConfigError)
        assert "mine.py has no function load(cfg: TaskConfig) -> Task" in str(exc)


def test_load_must_return_a_task(tmp_path: Path) -> None:
    exc = refusal(tmp_path, "def load(cfg):\n    return {'a': 1}\n")
    assert isinstance(exc, ConfigError)
    assert "must return a Task, got {'a': 1}" in str(exc)


@pytest.mark.parametrize(
    ("text", "message", "cause"),
    [
        (
            "def helper():\n    return 1 / 0\n\ndef load(cfg):\n    return helper()\n",
            "mine.py, line 2: ZeroDivisionError: division by zero",
            ZeroDivisionError,
        ),
        (
            "import json\n\ndef load(cfg):\n    return json.loads('{')\n",
            "mine.py, line 4: JSONDecodeError: Expecting property name",
            ValueError,
        ),
        ("import no_such_module\n", "mine.py, line 1: ModuleNotFoundError: ", ImportError),
        ("x = 1\ndef load(cfg:\n", "mine.py, line 2: SyntaxError: ", SyntaxError),
        ("raise ValueError('two\\nlines')\n", "mine.py, line 1: ValueError: two lines", ValueError),
    ],
)
def test_an_error_in_the_file_is_one_line_with_its_place(
    tmp_path: Path, text: str, message: str, cause: type[Exception]
) -> None:
    before = set(sys.modules)
    exc = refusal(tmp_path, text)
    assert isinstance(exc, StartError)
    assert message in str(exc)
    assert isinstance(exc.__cause__, cause)
    if not text.startswith(("def", "import json")):
        assert not {name for name in set(sys.modules) - before if "semantic_net_task" in name}


@pytest.mark.parametrize("where", ["", "def load(cfg):\n    "])
def test_an_error_in_our_own_words_comes_through(tmp_path: Path, where: str) -> None:
    text = f"from semantic_net.errors import DataError\n{where}raise DataError('no disk')\n"
    exc = refusal(tmp_path, text)
    assert isinstance(exc, DataError)
    assert str(exc) == "no disk"


def test_data_must_have_a_length_and_examples(tmp_path: Path) -> None:
    exc = refusal(tmp_path, TASK.format(train="iter([1])", val="[0]"))
    assert isinstance(exc, ConfigError)
    assert "train_data has no length; a map-style data set is needed" in str(exc)
    exc = refusal(tmp_path, TASK.format(train="[1]", val="[]"))
    assert isinstance(exc, DataError)
    assert "val_data is empty" in str(exc)


def test_shipped_tasks_come_by_name() -> None:
    task = load_task(TaskConfig(name="netqos", data=DataConfig(num_train=2, num_val=2)))
    assert task.metric == "rmse"


def test_an_error_elsewhere_is_placed_where_it_was_raised() -> None:
    """A model of the library's parts fails in the library, and no line of the task's file."""
    with pytest.raises(RuntimeError) as raised:
        torch.nn.Linear(2, 2)(torch.zeros(1, 3))
    placed = place_in(Path("mine.py"), raised.value)
    assert re.match(r".+\.py, line \d+: RuntimeError: mat1", placed)
