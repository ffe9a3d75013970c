"""The learner: what a round of real training becomes, folded by this peer and by others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from semantic_net.config import AggregationConfig, TrainingConfig
from semantic_net.errors import RemoteProtocolError, TrainingError
from semantic_net.federated import local
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.local import REACH
from semantic_net.federated.parts import LearningStoppedError
from semantic_net.federated.snapshot import _MAGIC as MAGIC
from semantic_net.federated.snapshot import encode_snapshot, read_start
from semantic_net.fixed_point import MAX_MOMENTUM, MAX_STATE, NARROW_LIMIT
from semantic_net.protocol.actions import FoldPlan
from semantic_net.protocol.bases import Base
from semantic_net.protocol.history import History, history_of_origin
from semantic_net.protocol.update import Update, UpdateId, UpdateMessage, hash_payload
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.decoder import ParsedDelta
from semantic_net.task import Task, accuracy
from semantic_net.training import Trainer, make_initial_model
from semantic_net.training.trainer import TrainResult

DENSE = Codec("none")
TOPK = Codec("gradients_topk", topk=0.1)
PLAIN = AggregationConfig(outer_momentum=0.0)


@pytest.fixture(scope="module", params=["small", "large"], autouse=True)
def _size(request: pytest.FixtureRequest) -> Iterator[None]:
    """Take each model for a large one, too: folded in place, its base read when needed."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "large":
            patch.setattr(local, "LARGE_BYTES", 0)
        yield


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


def learner(seed: int, aggregation: AggregationConfig = PLAIN) -> ModelLearner:
    own = task(seed)
    model = make_initial_model(own, 0)
    training = TrainingConfig(steps=3, batch_size=8, device="cpu", learning_rate=0.01)
    trainer = Trainer(own, training, seed=seed, model=model)
    return ModelLearner(trainer, aggregation, BaseStore())


def update(name: str, weight: int) -> Update:
    message = UpdateMessage(b"", b"k" * 32, b"s" * 64)
    return Update(name.encode(), name, 1, weight, "", 0, b"", message)  # type: ignore[arg-type]  # a name will do


def plan(on: ModelLearner, through: int, *updates: Update) -> FoldPlan:
    frontier = on.history.frontier
    return FoldPlan(on.base, frontier, through, frontier + 1, {through: updates}, b"set")


def flat(of: ModelLearner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in of.trainer.model.parameters()])


def flat_view(of: ModelLearner) -> torch.Tensor:
    """The parameters of the last fold."""
    return torch.from_numpy(of._view[: of.schema.num_parameters].copy())


def test_plain_averaging_is_the_mean_of_the_trained_parameters() -> None:
    peers = [learner(seed) for seed in (1, 2)]
    assert torch.equal(flat(peers[0]), flat(peers[1])), "all start alike"
    for peer in peers:
        peer.train(1)
    expected = (3 * flat(peers[0]) + 1 * flat(peers[1])) / 4
    payloads = [peer.encode(DENSE).payload for peer in peers]
    updates = [update("a", 3), update("b", 1)]
    digests = []
    for peer in peers:
        parsed = {
            u: peer.parse("none", memoryview(p)) for u, p in zip(updates, payloads, strict=True)
        }
        digests.append(peer.fold(plan(peer, 1, *updates), parsed.__getitem__))
    assert digests[0] == digests[1]
    assert torch.equal(flat(peers[0]), flat(peers[1]))
    torch.testing.assert_close(flat(peers[0]), expected, rtol=0, atol=2**-22)
    variances = [peer.trainer.model.state_dict()["1.running_var"] for peer in peers]
    assert torch.equal(variances[0], variances[1]), "float buffers are averaged, too"


@pytest.mark.parametrize("codec", [TOPK, Codec("weights_quantize"), Codec("topk_quantize", 0.1)])
def test_what_the_codec_drops_is_in_the_next_update(codec: Codec) -> None:
    peer = learner(1)
    before = flat(peer)
    peer.train(1)
    moved = flat(peer) - before
    encoded = peer.encode(codec)
    parsed = peer.parse(encoded.codec, memoryview(encoded.payload))
    size = peer.schema.num_parameters
    assert peer.residual is not None
    decoded = torch.from_numpy(parsed.to_float32())[:size]
    torch.testing.assert_close(decoded + peer.residual[:size], moved, rtol=0, atol=2**-22)
    assert encoded.dense_bytes == 4 * peer.schema.size > len(encoded.payload)


def test_a_huge_but_finite_change_has_a_length() -> None:
    """In float32 it would be infinite: a number that no checkpoint can hold."""
    peer = learner(1)
    peer.train(1)
    with torch.no_grad():
        peer.trainer.model[0].weight += 1e20  # type: ignore[index]  # a Sequential
    peer.encode(TOPK)
    assert 1e20 < peer.changed_norm < 1e22
    begins = peer._within_reach()
    assert begins is not None
    assert float(begins.double().norm()) <= 1.001 * REACH * peer.changed_norm


@pytest.mark.parametrize(("topk", "is_far"), [(0.1, True), (0.99, False)])
def test_training_begins_some_way_towards_what_is_not_sent_yet(topk: float, is_far: bool) -> None:
    """Else it learns again, each round, what it has learned and not sent."""
    peer = learner(1)
    shared = flat(peer)
    peer.train(1)
    moved = flat(peer) - shared
    encoded = peer.encode(Codec("gradients_topk", topk))
    parsed = peer.parse(encoded.codec, memoryview(encoded.payload))
    assert peer.residual is not None
    unsent = peer.residual[: peer.schema.num_parameters].clone()
    peer.fold(plan(peer, 1), lambda own: parsed)  # without it: the model is where it was
    torch.testing.assert_close(flat(peer), shared, rtol=0, atol=2**-24)
    before: list[torch.Tensor] = []
    train_round = peer.trainer.train_round

    def noted(round_index: int, stop: threading.Event) -> TrainResult:
        before.append(flat(peer))
        return train_round(round_index, stop)

    peer.trainer.train_round = noted  # type: ignore[method-assign]
    peer.train(2)
    length, limit = unsent.norm(), REACH * moved.norm()
    assert (length > limit) == is_far
    start = flat_view(peer) + unsent * min(1.0, float(limit / length))
    torch.testing.assert_close(before[0], start, rtol=0, atol=2**-22)
    learned = flat(peer) - start
    again = peer.encode(DENSE)
    delta = torch.from_numpy(peer.parse("none", memoryview(again.payload)).to_float32())
    torch.testing.assert_close(delta[: unsent.numel()], unsent + learned, rtol=0, atol=2**-22)


def test_what_is_taken_back_during_training_is_sent_with_the_next_update() -> None:
    peer = learner(1)
    peer.train(1)
    first = peer.encode(TOPK)
    parsed = peer.parse(first.codec, memoryview(first.payload))
    peer.train(2)
    assert peer.residual is not None
    size = peer.schema.num_parameters
    unsent = peer.residual[:size].clone()
    start = flat_view(peer) + unsent * min(1.0, REACH * peer.changed_norm / float(unsent.norm()))
    moved = flat(peer) - start + unsent
    peer.take_back(update("own", 1), parsed)
    again = peer.encode(DENSE)
    delta = torch.from_numpy(peer.parse("none", memoryview(again.payload)).to_float32())
    carried = torch.from_numpy(parsed.to_float32())[:size]
    torch.testing.assert_close(delta[:size], moved + carried, rtol=0, atol=2**-22)


def test_what_nobody_may_fold_is_taken_back_whole() -> None:
    peer = learner(1)
    before = flat(peer)
    peer.train(1)
    moved = flat(peer) - before
    encoded = peer.encode(TOPK)
    parsed = peer.parse(encoded.codec, memoryview(encoded.payload))
    own = update("own", 1)
    peer.take_back(own, parsed)
    peer.take_back(own, parsed)
    assert peer.residual is not None
    size = peer.schema.num_parameters
    torch.testing.assert_close(peer.residual[:size], moved, rtol=0, atol=2**-22)
    assert not peer.residual[size:].any(), "buffers are sent anew each round"


def test_what_counts_after_all_leaves_the_residual_again() -> None:
    peer = learner(1)
    peer.train(1)
    encoded = peer.encode(TOPK)
    parsed = peer.parse(encoded.codec, memoryview(encoded.payload))
    assert peer.residual is not None
    left = peer.residual.clone()
    own = update("own", 1)
    peer.count_again(own, parsed)
    peer.take_back(own, parsed)
    peer.count_again(own, parsed)
    torch.testing.assert_close(peer.residual, left, rtol=0, atol=2**-22)
    peer.take_back(own, parsed)
    peer.residual = None  # it has gone out
    peer.count_again(own, parsed)
    size = peer.schema.num_parameters
    carried = torch.from_numpy(parsed.to_float32())[:size]
    assert peer.residual is not None, "the next update takes it out"
    torch.testing.assert_close(peer.residual[:size], -carried, rtol=0, atol=0)


def test_a_variance_below_zero_is_loaded_as_zero_and_stays_in_the_state() -> None:
    peer = learner(1)
    [variance] = [b for n, b in peer.trainer.model.named_buffers() if n.endswith("running_var")]
    dips, rises = update("dips", 1), update("rises", 1)
    parsed: dict[Update, ParsedDelta] = {}

    def publish(own: Update) -> None:
        encoded = peer.encode(DENSE)
        parsed[own] = peer.parse(encoded.codec, memoryview(encoded.payload))

    variance -= 3  # from one
    publish(dips)
    peer.fold(plan(peer, 1, dips), parsed.__getitem__)
    assert not variance.any()
    variance += 5
    publish(rises)
    both = FoldPlan(peer.base, 0, 2, 2, {1: (dips,), 2: (rises,)}, b"set")
    peer.fold(both, parsed.__getitem__)
    assert variance.tolist() == [3.0] * 8, "1 - 3 + 5"


NOTHING: dict[Update, ParsedDelta] = {}


def move(of: ModelLearner, by: float) -> None:
    with torch.no_grad():
        for parameter in of.trainer.model.parameters():
            parameter.add_(by)


def offered(of: ModelLearner, digest: UpdateId, history: History) -> tuple[memoryview, Base]:
    """Return a base's transfer form, and what its peer says of it."""
    data = of.bases.read(digest)
    return data, Base.of(digest, len(data), history, given=False)


def test_another_base_is_folded_on_from_the_first_round() -> None:
    one, two = learner(1), learner(2)
    move(two, 1)
    other = ModelLearner(two.trainer, PLAIN, BaseStore())
    one.bases.put([other.bases.read(other.base)])
    there = plan(other, 1)
    assert one.fold(there, NOTHING.__getitem__) == other.fold(there, NOTHING.__getitem__)
    assert one.base == other.base
    assert torch.equal(flat(one), flat(other))


def test_only_a_finite_vector_of_the_models_size_is_an_origin() -> None:
    one = learner(1)
    data, base = offered(one, one.base, one.history)
    assert one.history_of(data, base) == one.history
    values = np.frombuffer(data, "<f4").copy()
    with pytest.raises(RemoteProtocolError, match="of another model"):
        one.history_of(values[1:].data.cast("B"), base)
    for bad in (np.nan, np.inf, -np.inf):
        values[3] = bad
        with pytest.raises(RemoteProtocolError, match="not finite"):
            one.history_of(values.data.cast("B"), base)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_who_starts_from_a_snapshot_folds_to_the_same_bits(momentum: float) -> None:
    aggregation = AggregationConfig(outer_momentum=momentum)
    old = learner(1, aggregation=aggregation)
    move(old, 0.5)
    parsed, rounds = {}, {}
    for number in (1, 2, 3):
        old.train(number)
        author = replace(update(f"u{number}".ljust(32), 2), round=number)
        parsed[author] = old.parse("none", memoryview(old.encode(DENSE).payload))
        rounds[number] = (author,)
    origin = old.base
    whole = FoldPlan(origin, 0, 3, 1, rounds, b"")
    expected = old.fold(whole, parsed.__getitem__)
    history = old.history.grown([(2, b"m" * 32)], [(n, rounds[n]) for n in (1, 2)])
    digest, size = old.make_base(replace(whole, through=2), history, parsed.__getitem__)
    young = learner(9, aggregation=aggregation)
    data, base = offered(old, digest, history)
    assert base.size == size
    assert young.history_of(data, base) == history
    assert young.bases.put([data]) == (digest, size)
    later = FoldPlan(digest, 2, 3, 3, {3: rounds[3]}, b"")
    assert young.fold(later, parsed.__getitem__) == expected
    assert old.fold(later, parsed.__getitem__) == expected, "it goes on from its own snapshot, too"
    assert torch.equal(flat(young), flat(old))
    again = ModelLearner(young.trainer, aggregation, young.bases, base=digest)
    assert again.history == history
    assert again.fold(later, parsed.__getitem__) == expected, "and so does a restart"


def test_a_snapshot_that_is_not_what_its_peer_said_is_refused() -> None:
    one = learner(1)
    history = one.history.grown([(4, b"m" * 32)], [])
    digest, _ = one.make_base(plan(one, 4), history, NOTHING.__getitem__)
    data, base = offered(one, digest, history)
    for lie in (
        replace(base, frontier=8),
        replace(base, set_digest=b"n" * 32),
        replace(base, num_included=5),
    ):
        with pytest.raises(RemoteProtocolError, match="another base than its peer said"):
            one.history_of(data, lie)


@pytest.mark.parametrize(
    ("parameter", "moment", "width", "problem"),
    [
        (MAX_STATE + 1, 0, np.int64, "out of range"),
        (0, MAX_MOMENTUM + 1, np.int64, "out of range"),
        (NARROW_LIMIT, 1, np.int64, "of another width than they need"),
        (NARROW_LIMIT + 1, 1, np.int32, "of another width than they need"),
        (NARROW_LIMIT, 1, np.int32, None),
        (0, NARROW_LIMIT + 1, np.int64, None),
        (-MAX_STATE, -MAX_MOMENTUM, np.int64, None),
    ],
)
def test_a_snapshot_that_no_fold_can_arrive_at_is_refused(
    parameter: int, moment: int, width: type[np.int32 | np.int64], problem: str | None
) -> None:
    """Momentum beyond its bound overflows the fold; one state in two widths has two digests."""
    one = learner(1, AggregationConfig(outer_momentum=0.9))
    history = one.history.grown([(4, b"m" * 32)], [])
    state = read_start(one.bases.read(one.base), one.fold_config)
    forged = replace(
        state,
        parameters=np.full(state.parameters.size, parameter, width),
        momentum=np.full(state.momentum.size, moment, width),
    )
    data = b"".join(encode_snapshot(history, forged))
    base = Base.of(hash_payload(data), len(data), history, given=False)
    with pytest.raises(RemoteProtocolError, match=problem) if problem else nullcontext():
        one.history_of(memoryview(data), base)


def test_an_origin_that_would_be_read_as_a_snapshot_is_refused() -> None:
    """It was taken over, and the fold then failed on it."""
    one = learner(1)
    evil = bytearray(one.bases.read(one.base))
    evil[: len(MAGIC)] = MAGIC
    digest = hash_payload(evil)
    base = Base.of(digest, len(evil), history_of_origin(digest), given=True)
    with pytest.raises(RemoteProtocolError, match="read as a snapshot"):
        one.history_of(memoryview(evil), base)
    lie = replace(Base.of(one.base, len(evil), one.history, given=True), set_digest=b"l" * 32)
    with pytest.raises(RemoteProtocolError, match="another base than its peer said"):
        one.history_of(one.bases.read(one.base), lie)


@given(st.data())
def test_noise_for_a_snapshot_raises_only_the_documented_error(data: st.DataObject) -> None:
    one = learner(1)
    history = one.history.grown([(4, b"m" * 32)], [])
    digest, _ = one.make_base(plan(one, 4), history, NOTHING.__getitem__)
    snapshot, base = offered(one, digest, history)
    bent = bytearray(snapshot)
    for place in data.draw(st.lists(st.integers(0, 150), max_size=4)):
        bent[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(bent)) | st.just(len(bent)))
    with contextlib.suppress(RemoteProtocolError):
        one.history_of(memoryview(bytes(bent[:cut])), base)


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
    cache = tmp_path / "file" / "cache"
    made = ModelLearner(trainer, PLAIN, BaseStore(), cache_dir=cache)
    assert "going on without one" in caplog.text
    assert made.base


def test_a_fold_that_diverges_is_an_error_and_not_an_update() -> None:
    peer = learner(1)
    with torch.no_grad():
        next(peer.trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        peer.encode(DENSE)


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
    values = np.frombuffer(peer.bases.read(peer.base), "<f4")
    assert values.size == peer.schema.size
    # The model is the fold's view of it: rounded to units of 2^-24.
    own = flat(peer).numpy()
    np.testing.assert_allclose(values[: own.size], own, rtol=0, atol=2**-25)


def test_what_is_trained_ahead_of_a_fold_is_added_to_it() -> None:
    """The delta is what training changed, wherever the fold has moved the model meanwhile."""
    peer, other = learner(1), learner(2)
    peer.train(1)
    first = update("u1", 1)
    parsed = {first: peer.parse("none", memoryview(peer.encode(DENSE).payload))}
    theirs = update("u2", 1)
    other.train(1)
    parsed[theirs] = other.parse("none", memoryview(other.encode(DENSE).payload))
    before = flat(peer)
    peer.train(2, is_ahead=True)
    moved = flat(peer) - before
    peer.fold(plan(peer, 1, first, theirs), parsed.__getitem__)
    folded = flat(peer)
    encoded = peer.encode(DENSE)
    size = peer.schema.num_parameters
    delta = torch.from_numpy(peer.parse("none", memoryview(encoded.payload)).to_float32())[:size]
    torch.testing.assert_close(delta, moved, rtol=0, atol=2**-22)
    torch.testing.assert_close(flat(peer), folded + moved, rtol=0, atol=2**-22)
    peer.train(3)
    again = torch.from_numpy(
        peer.parse("none", memoryview(peer.encode(DENSE).payload)).to_float32()
    )
    assert not torch.equal(again[:size], delta), "it is sent once"
