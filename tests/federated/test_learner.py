"""The learner: what a round of real training becomes, folded by this peer and by others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from semantic_net.config import AggregationConfig, SemanticConfig, TrainingConfig
from semantic_net.errors import TrainingError
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.peer import LearningStoppedError
from semantic_net.protocol.actions import FoldPlan
from semantic_net.protocol.update import Update, UpdateMessage
from semantic_net.semantic.decoder import ParsedDelta
from semantic_net.task import Task, accuracy
from semantic_net.training import Trainer, make_initial_model

Mode = Literal["none", "gradients_topk", "weights_quantize"]
PLAIN = AggregationConfig(outer_momentum=0.0)


def task(seed: int) -> Task:
    """Two classes on a line, and a model with BatchNorm: parameters and float buffers."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(32, 4, generator=generator)
    targets = (inputs[:, 0] > 0).long()
    return Task(
        make_model=lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
        train_data=TensorDataset(inputs, targets),
        val_data=TensorDataset(inputs, targets),
        loss=nn.functional.cross_entropy,
        metrics=accuracy,
    )


def learner(seed: int, mode: Mode = "none", aggregation: AggregationConfig = PLAIN) -> ModelLearner:
    own = task(seed)
    model = make_initial_model(own, 0)
    training = TrainingConfig(steps=3, batch_size=8, device="cpu", learning_rate=0.01)
    trainer = Trainer(own, training, seed=seed, model=model)
    semantic = SemanticConfig(mode=mode, topk=0.1)
    return ModelLearner(trainer, semantic, aggregation)


def update(name: str, weight: int) -> Update:
    message = UpdateMessage(b"", b"k" * 32, b"s" * 64)
    return Update(name.encode(), name, 1, weight, "", 0, b"", message)  # type: ignore[arg-type]  # a name will do


def plan(through: int, *updates: Update) -> FoldPlan:
    return FoldPlan(b"base", through, through, {through: updates}, b"set")


def flat(of: ModelLearner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in of.trainer.model.parameters()])


def test_plain_averaging_is_the_mean_of_the_trained_parameters() -> None:
    peers = [learner(seed) for seed in (1, 2)]
    assert torch.equal(flat(peers[0]), flat(peers[1])), "all start alike"
    for peer in peers:
        peer.train(1)
    expected = (3 * flat(peers[0]) + 1 * flat(peers[1])) / 4
    payloads = [peer.encode().payload for peer in peers]
    updates = [update("a", 3), update("b", 1)]
    digests = []
    for peer in peers:
        parsed = {
            u: peer.parse("none", memoryview(p)) for u, p in zip(updates, payloads, strict=True)
        }
        digests.append(peer.fold(plan(1, *updates), parsed.__getitem__))
    assert digests[0] == digests[1]
    assert torch.equal(flat(peers[0]), flat(peers[1]))
    torch.testing.assert_close(flat(peers[0]), expected, rtol=0, atol=2**-22)
    variances = [peer.trainer.model.state_dict()["1.running_var"] for peer in peers]
    assert torch.equal(variances[0], variances[1]), "float buffers are averaged, too"


@pytest.mark.parametrize("mode", ["gradients_topk", "weights_quantize"])
def test_what_the_codec_drops_is_in_the_next_update(mode: Mode) -> None:
    peer = learner(1, mode)
    before = flat(peer)
    peer.train(1)
    moved = flat(peer) - before
    encoded = peer.encode()
    parsed = peer.parse(encoded.codec, memoryview(encoded.payload))
    size = peer.schema.num_parameters
    assert peer.residual is not None
    decoded = torch.from_numpy(parsed.to_float32())[:size]
    torch.testing.assert_close(decoded + peer.residual[:size], moved, rtol=0, atol=2**-22)
    assert encoded.dense_bytes == 4 * peer.schema.size > len(encoded.payload)


def test_what_nobody_may_fold_is_taken_back_whole() -> None:
    peer = learner(1, "gradients_topk")
    before = flat(peer)
    peer.train(1)
    moved = flat(peer) - before
    encoded = peer.encode()
    peer.take_back(peer.parse(encoded.codec, memoryview(encoded.payload)))
    assert peer.residual is not None
    size = peer.schema.num_parameters
    torch.testing.assert_close(peer.residual[:size], moved, rtol=0, atol=2**-22)
    assert not peer.residual[size:].any(), "buffers are sent anew each round"


def test_another_base_is_folded_on_from_the_first_round() -> None:
    one, two = learner(1), learner(2)
    with torch.no_grad():
        for parameter in two.trainer.model.parameters():
            parameter.add_(1)
    other = ModelLearner(two.trainer, SemanticConfig(mode="none"), PLAIN)
    one.adopt_base(other.base(), given=True)
    assert one.base() == other.base()
    nothing: dict[Update, ParsedDelta] = {}
    assert one.fold(plan(1), nothing.__getitem__) == other.fold(plan(1), nothing.__getitem__)
    assert torch.equal(flat(one), flat(other))


def test_only_a_finite_vector_of_the_models_size_is_a_base() -> None:
    one = learner(1)
    good = np.frombuffer(one.base(), "<f4").copy()
    assert one.is_base(good.data.cast("B"))
    assert not one.is_base(good[1:].data.cast("B"))
    for bad in (np.nan, np.inf, -np.inf):
        good[3] = bad
        assert not one.is_base(good.data.cast("B"))


def test_restoring_takes_back_what_only_this_peer_has_learned() -> None:
    one = learner(1)
    before = flat(one)
    one.train(1)
    assert not torch.equal(flat(one), before)
    one.restore()
    assert torch.equal(flat(one), before)


def test_a_cache_that_cannot_be_made_costs_time_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    own = task(1)
    trainer = Trainer(own, TrainingConfig(device="cpu"), seed=1)
    made = ModelLearner(trainer, SemanticConfig(), PLAIN, tmp_path / "file" / "cache")
    assert "going on without one" in caplog.text
    assert made.base()


def test_a_fold_that_diverges_is_an_error_and_not_an_update() -> None:
    peer = learner(1)
    with torch.no_grad():
        next(peer.trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        peer.encode()


def test_stop_ends_training_and_leaves_the_model() -> None:
    peer = learner(1)
    before = flat(peer)
    peer.stop()
    with pytest.raises(LearningStoppedError):
        peer.train(1)
    assert torch.equal(flat(peer), before)
    assert set(peer.evaluate()) == {"accuracy"}


def test_the_base_is_little_endian_float32(tmp_path: Path) -> None:
    peer = learner(1)
    values = np.frombuffer(peer.base(), "<f4")
    assert values.size == peer.schema.size
    # The model is the fold's view of it: rounded to units of 2^-24.
    own = flat(peer).numpy()
    np.testing.assert_allclose(values[: own.size], own, rtol=0, atol=2**-25)
