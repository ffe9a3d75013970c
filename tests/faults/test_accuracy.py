"""What disasters cost in accuracy, once the network has healed: at most two points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest
from faults_support import Net, accuracy, assert_no_round_twice, assert_one_model, network, show

pytestmark = pytest.mark.faults

SEEDS = (0, 1, 2)
ROUNDS = 30
LEARNING = (
    "task.options={step_s: 0.03}",
    "training.steps=10",
    "training.learning_rate=0.01",
    "data.num_train=200",
)


def undisturbed(net: Net) -> None:
    """Let them learn."""


def killed(net: Net) -> None:
    """Kill one peer three times, each time in training."""
    for number in (2, 7, 12):
        net.peers[2].wait_for_round(number)
        net.peers[2].kill()
        net.start(2)


def joined_late(net: Net) -> None:
    """Start one peer when the others have recorded round 5."""
    net.peers[0].wait_for_round(5)
    net.start(2)


def partitioned(net: Net) -> None:
    """Cut one peer off for six rounds of the others, and heal the network."""
    net.peers[0].wait_for_round(3)
    for cable in net.cables_of(2):
        cable.sever()
    net.peers[0].wait_for_round(net.peers[0].read_rounds()[-1] + 7)
    for cable in net.cables_of(2):
        cable.heal()


def final_accuracy(folder: Path, seed: int, disaster: Callable[[Net], None]) -> float:
    """Return the accuracy of everybody's model after a run."""
    more = (f"task.seed={seed}", f"training.seed={seed}")
    num_started = 2 if disaster is joined_late else 3
    with network(folder, 3, *LEARNING, *more, rounds=ROUNDS, num_started=num_started) as net:
        disaster(net)
        net.wait_all()
        assert_one_model(net)
        assert_no_round_twice(net)
        return accuracy(net)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return the mean accuracy that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return mean(final_accuracy(folder / str(seed), seed, undisturbed) for seed in SEEDS)


@pytest.mark.parametrize("disaster", [killed, joined_late, partitioned])
def test_a_disaster_costs_at_most_two_points(
    tmp_path: Path, reference: float, disaster: Callable[[Net], None]
) -> None:
    """Protects: what peers learn in a disaster is worth what they learn in peace."""
    reached = mean(final_accuracy(tmp_path / str(seed), seed, disaster) for seed in SEEDS)
    show("accuracy", disaster=disaster.__name__, undisturbed=reference, disturbed=reached)
    assert reference > 0.6, "they learn something"
    assert reached > reference - 0.02
