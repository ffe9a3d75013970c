"""The classic mode's strategy and client, handed each other's messages as Flower would."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="the extra flower is not installed")

from flwr.client import NumPyClient
from flwr.common import (
    Code,
    EvaluateRes,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)

from semantic_net.config import Config, load_config
from semantic_net.errors import ConfigError, RemoteProtocolError, TrainingError
from semantic_net.federated.arrays import arrays_from, arrays_of
from semantic_net.federated.client import GuardedClient, JetsonClient
from semantic_net.federated.server import FoldStrategy
from semantic_net.federated.weights import load_state_dict, save_state_dict
from semantic_net.records import RoundRecord
from semantic_net.semantic.decoder import parse_payload

ROOT = Path(__file__).parents[2]
PLAIN = ("semantic.mode=none", "aggregation.outer_momentum=0", "aggregation.outer_lr=1")


def config(*overrides: str) -> Config:
    fast = (
        f"task.name={ROOT / 'examples' / 'digits_task.py'}",
        "data.num_train=64",
        "training.num_threads=1",
        "training.steps=4",
        "training.learning_rate=0.01",
    )
    return load_config(None, [*fast, *overrides])


class Proxy:
    """What Flower's server holds of a client."""

    def __init__(self, cid: str, client: Any) -> None:
        self.cid = cid
        self.client = client
        self.fails = False
        self.taken_bytes = 0

    def get_properties(self, ins: Any, timeout: float | None, group_id: int | None) -> Any:
        return self.client.get_properties(ins)

    def fit(self, ins: Any) -> Any:
        self.taken_bytes += sum(map(len, ins.parameters.tensors))
        return self.client.fit(ins)

    def evaluate(self, ins: Any) -> Any:
        self.taken_bytes += sum(map(len, ins.parameters.tensors))
        return self.client.evaluate(ins)


class Run:
    """A server's strategy and its clients, without a network."""

    def __init__(self, *overrides: str, clients: int = 3, **each: Any) -> None:
        self.strategy = FoldStrategy(config(*overrides))
        self.records: list[RoundRecord] = []
        self.strategy.on_round = self.records.append
        self.proxies = {
            f"c{i}": Proxy(f"c{i}", guarded(i, *overrides, **each)) for i in range(clients)
        }
        self.number = 0

    # Flower's ClientManager, as far as the strategy uses it.

    def all(self) -> Mapping[str, Proxy]:
        return self.proxies

    def wait_for(self, num_clients: int, timeout: int) -> bool:
        return True

    def round(self, tamper: Callable[[str, FitRes], FitRes] = lambda cid, result: result) -> None:
        """Run one, as `flwr.server.Server` does."""
        self.number += 1
        results: list[Any] = []
        failures: list[Any] = []
        empty = Parameters([], "")
        manager: Any = self
        for proxy, ins in self.strategy.configure_fit(self.number, empty, manager):
            held: Any = proxy
            if held.fails:
                failures.append(ConnectionError("gone"))
                continue
            result = tamper(held.cid, held.fit(ins))
            is_fine = result.status.code == Code.OK
            (results if is_fine else failures).append((held, result))
        self.strategy.aggregate_fit(self.number, results, failures)
        evaluated = []
        for proxy, asked in self.strategy.configure_evaluate(self.number, empty, manager):
            held = proxy
            if not held.fails:
                evaluated.append((held, held.evaluate(asked)))
        assert all(result.status.code == Code.OK for _, result in evaluated)
        self.strategy.aggregate_evaluate(self.number, evaluated, [])


def client(shard: int, *overrides: str) -> JetsonClient:
    shards = ("data.partition.num_shards=4", f"data.partition.shard={shard}")
    return JetsonClient(config(*overrides, *shards), name=f"c{shard}")


def guarded(shard: int, *overrides: str) -> GuardedClient:
    return GuardedClient(client(shard, *overrides))


@pytest.mark.parametrize("mode", ["none", "topk_quantize", "weights_quantize"])
def test_clients_learn_together_and_hold_what_the_server_shares(mode: str) -> None:
    run = Run(f"semantic.mode={mode}")
    for _ in range(5):
        run.round()
    accuracies = [record.metrics["accuracy"] for record in run.records]
    assert accuracies[-1] > accuracies[0]
    assert [record.updates_in for record in run.records] == [["c0", "c1", "c2"]] * 5
    assert [record.missing for record in run.records] == [[]] * 5
    shared = {proxy.client.numpy_client.shared.digest for proxy in run.proxies.values()}
    assert shared == {run.strategy._publisher.model.digest}


def test_the_server_says_how_many_rounds_there_are() -> None:
    """A client's own number would put its schedule of the rate elsewhere than its peers'."""
    run = Run("training.rounds=7", "training.schedule=cosine", "training.learning_rate=0.01")
    odd = guarded(0, "training.rounds=99", "training.schedule=cosine")
    run.proxies["c0"] = Proxy("c0", odd)
    run.round()
    run.round()
    assert odd.numpy_client.num_rounds == 7
    rates = {
        proxy.client.numpy_client.learner.trainer._optimizer.param_groups[0]["lr"]
        / proxy.client.numpy_client.learner.trainer._cfg.learning_rate
        for proxy in run.proxies.values()
    }
    assert max(rates) == pytest.approx(min(rates))


def test_encoded_both_ways_it_takes_a_part_of_the_bytes() -> None:
    dense, encoded = Run("semantic.mode=none"), Run("semantic.topk=0.03", "semantic.min_entries=1")
    for _ in range(4):
        dense.round()
        encoded.round()
    assert all(p.taken_bytes < q.taken_bytes / 3 for p, q in both(encoded, dense))
    last = encoded.records[-1]
    assert last.payload_bytes < last.dense_bytes / 5


def both(one: Run, other: Run) -> list[tuple[Proxy, Proxy]]:
    return list(zip(one.proxies.values(), other.proxies.values(), strict=True))


def test_plain_settings_are_federated_averaging() -> None:
    """The mean of the clients' own models, weighted by their examples."""
    run = Run(*PLAIN, clients=2)
    trained: dict[str, list[Any]] = {}

    def note(cid: str, result: FitRes) -> FitRes:
        trained[cid] = parameters_to_ndarrays(result.parameters)
        result.num_examples = 3 if cid == "c0" else 1
        return result

    run.round(note)
    for mean, one, other in zip(
        arrays_of(run.strategy.model), trained["c0"], trained["c1"], strict=True
    ):
        theirs: Any = mean
        np.testing.assert_allclose(theirs, 0.75 * one + 0.25 * other, rtol=0, atol=2**-22)


def test_whoever_fails_is_missed_once_and_holds_the_same_again() -> None:
    run = Run()
    run.round()
    run.proxies["c1"].fails = True
    run.round()
    assert run.records[-1].missing == ["c1"]
    assert run.records[-1].close_reason == "clients failed"
    assert run.records[-1].updates_in == ["c0", "c2"]
    run.proxies["c1"].fails = False
    run.round()
    assert run.records[-1].missing == []
    digests = {proxy.client.numpy_client.shared.digest for proxy in run.proxies.values()}
    assert digests == {run.strategy._publisher.model.digest}


def test_what_an_update_carried_that_did_not_count_is_in_the_next() -> None:
    run = Run("semantic.topk=0.1", "semantic.min_entries=1", clients=2)
    lost = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([]), 64, {})
    learner = run.proxies["c0"].client.numpy_client.learner
    sent: list[Any] = []

    def loses(cid: str, result: FitRes) -> FitRes:
        if cid != "c0":
            return result
        [payload] = parameters_to_ndarrays(result.parameters)
        codec: Any = result.metrics["codec"]
        carried = parse_payload(codec, payload.data, learner.schema).to_float32()
        sent.append(learner.residual.numpy() + carried)
        return lost

    run.round(loses)
    np.testing.assert_allclose(learner.residual.numpy(), sent[0], rtol=0, atol=1e-7)
    run.round()
    assert run.records[-1].updates_in == ["c0", "c1"]
    assert np.abs(learner.residual.numpy() - sent[0]).max() > 0, "some of it is sent by now"


def test_who_comes_back_over_another_connection_goes_on_with_what_it_has() -> None:
    """Flower gives every connection a name of its own; what has counted does so once."""
    run = Run("semantic.topk=0.1", "semantic.min_entries=1", clients=2)
    run.round()
    back = run.proxies.pop("c1")
    learner = back.client.numpy_client.learner
    residual = learner.residual.clone()
    run.proxies["c9"] = Proxy("c9", back.client)
    before = run.strategy._publisher.model.version or 0
    run.round(lambda cid, result: result)
    assert run.records[-1].updates_in == ["c0", "c9"]
    assert run.proxies["c9"].taken_bytes < 1000, "it holds the model, and says so"
    assert run.strategy._publisher.model.version == before + 1
    assert not torch.equal(residual, learner.residual)


def test_one_that_says_nothing_is_asked_once_and_gets_whole_models() -> None:
    run = Run(clients=1)
    asked = []

    class Silent(Foreign):
        def get_properties(self, config: Any) -> Any:
            asked.append(1)
            raise ConnectionError("it does not answer")

    run.proxies["silent"] = Proxy("silent", Silent().to_client())
    for _ in range(3):
        run.round()
    assert len(asked) == 1
    assert run.records[-1].updates_in == ["c0", "silent"]


def test_who_begins_with_the_servers_model_is_not_sent_it() -> None:
    run = Run()
    run.proxies["c0"].client = guarded(0, "task.seed=7")
    run.round()
    model_bytes = 2600
    assert run.proxies["c0"].taken_bytes > model_bytes
    assert all(run.proxies[cid].taken_bytes < model_bytes / 2 for cid in ("c1", "c2"))
    assert run.records[-1].updates_in == ["c0", "c1", "c2"]


class Foreign(NumPyClient):
    """A client as Flower's examples have it."""

    def __init__(self) -> None:
        self.model = client(3).learner.trainer.model

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, Any]:
        self.seen = parameters
        return [array + np.float32(0.5) for array in parameters], 64, {}

    def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> tuple[float, int, Any]:
        return 1.0, 10, {"accuracy": 0.5}


def test_other_flower_clients_send_and_get_whole_models() -> None:
    run = Run(clients=1)
    foreign = Foreign()
    run.proxies["foreign"] = Proxy("foreign", foreign.to_client())
    for _ in range(2):
        shared_model = run.strategy._publisher.model.values.copy()
        whole = arrays_from(shared_model, run.strategy.schema, foreign.model)
        run.round()
        for seen, shared in zip(foreign.seen, whole, strict=True):
            np.testing.assert_array_equal(seen, shared)
    assert run.records[-1].updates_in == ["c0", "foreign"]
    assert run.records[-1].rejected == {}


def test_to_another_flower_server_a_client_is_one_like_any() -> None:
    """Whole model in, whole model out, and both ways it opens exactly."""
    one, other = client(0), client(1)
    arrays, num_examples, metrics = one.fit(other.get_parameters({}), {"server_round": 1})
    assert num_examples == 64
    assert "codec" not in metrics
    other.set_parameters(arrays)
    for sent, opened in zip(arrays, other.get_parameters({}), strict=True):
        np.testing.assert_array_equal(sent, opened)
    loss, num_examples, metrics = other.evaluate(arrays, {})
    assert loss > 0
    assert num_examples == 500
    assert set(metrics) == {"accuracy"}


def test_a_model_trained_here_opens_there_and_back(tmp_path: Path) -> None:
    run = Run()
    run.round()
    path = tmp_path / "model.safetensors"
    save_state_dict(path, run.strategy.model.state_dict(), {})
    again = FoldStrategy(config(), init=path)
    for mine, theirs in zip(arrays_of(run.strategy.model), arrays_of(again.model), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert load_state_dict(path).keys() == run.strategy.model.state_dict().keys()


def tampered(**changes: Any) -> Callable[[str, FitRes], FitRes]:
    def tamper(cid: str, result: FitRes) -> FitRes:
        if cid == "c0":
            for name, value in changes.items():
                setattr(result, name, value)
        return result

    return tamper


NAN = ndarrays_to_parameters([np.full((10, 64), np.nan, np.float32), np.zeros(10, np.float32)])
SHORT = ndarrays_to_parameters([np.zeros(3, np.float32)])
NOISE = ndarrays_to_parameters([np.arange(200, dtype=np.uint8)])


@pytest.mark.parametrize(
    "changes",
    [
        {"num_examples": 0},
        {"num_examples": -5},
        {"metrics": {}, "parameters": NAN},
        {"metrics": {}, "parameters": SHORT},
        {"metrics": {}, "parameters": Parameters([b"no array"], "numpy.ndarray")},
        {"metrics": {}, "parameters": Parameters([], "numpy.ndarray")},
        {"metrics": {}, "parameters": Parameters([b"PK\x03\x04 zip"], "numpy.ndarray")},
        {"parameters": NOISE},
        {"metrics": {"codec": "pickle"}},
        {"metrics": {"codec": 7}},
        {"metrics": {"codec": "none"}},
    ],
)
def test_what_is_no_update_of_this_model_does_not_count(changes: dict[str, Any]) -> None:
    run = Run(clients=2)
    run.round(tampered(**changes))
    [record] = run.records
    assert record.updates_in == ["c1"]
    assert record.rejected == {"update": 1}
    run.round()
    assert run.records[-1].updates_in == ["c0", "c1"]


def test_a_lying_number_of_examples_is_cut_to_what_a_peer_may_say() -> None:
    run = Run(clients=2)
    run.round(tampered(num_examples=10**12))
    assert run.records[-1].num_examples == (1 << 20) + 64


def test_robust_rules_hold_here_too() -> None:
    run = Run("semantic.mode=none", "aggregation.rule=median", "aggregation.outer_momentum=0")
    huge = ndarrays_to_parameters(
        [np.full_like(array, 30) for array in arrays_of(run.strategy.model)]
    )
    run.round(tampered(parameters=huge))
    assert all(np.abs(array).max() < 2 for array in arrays_of(run.strategy.model))


def test_a_server_that_learns_something_else_is_named() -> None:
    one = client(0, "aggregation.outer_momentum=0.25")
    facts = json.loads(FoldStrategy(config())._facts)
    with pytest.raises(ConfigError, match=r"aggregation.outer_momentum: ours 0.25, theirs 0.5"):
        one._check(json.dumps(facts))


def test_a_server_that_makes_no_sense_costs_a_round_only() -> None:
    one = client(0)
    said: dict[str, Any] = {"round": 1, "version": 1, "digest": "d" * 16}
    wrong: list[tuple[dict[str, Any], list[Any]]] = [
        ({**said, "codecs": ""}, []),
        ({**said, "codecs": "none"}, []),
        ({**said, "codecs": "none"}, [np.zeros(3, np.uint8)]),
        (said, [np.zeros(3, np.float32)]),
    ]
    for told, arrays in wrong:
        with pytest.raises(RemoteProtocolError):
            one.fit(arrays, told)
    assert one.fit(one.get_parameters({}), {})[1] == 64, "it goes on"


def test_a_round_that_gives_nothing_is_told_to_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(clients=2)

    def diverges(round_index: int, stop: object) -> None:
        raise TrainingError("the loss became nan")

    with monkeypatch.context() as patch:
        patch.setattr(
            run.proxies["c0"].client.numpy_client.learner.trainer, "train_round", diverges
        )
        run.round()
    assert "client c0: the loss became nan" in caplog.text
    assert run.records[-1].missing == ["c0"]
    run.round()
    assert run.records[-1].missing == []


def test_status_of_a_failure_is_told(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(clients=2)
    refused = FitRes(Status(Code.FIT_NOT_IMPLEMENTED, "no data"), Parameters([], ""), 0, {})
    run.round(lambda cid, result: refused if cid == "c0" else result)
    assert "client c0: no data" in caplog.text
    assert run.records[-1].missing == ["c0"]


def test_what_clients_tell_of_their_evaluation_is_bounded() -> None:
    run = Run(clients=3)
    told: list[tuple[int, dict[str, Any]]] = [
        (10, {"accuracy": 0.5, "x" * 100: 1.0, "\x1b[2J": 1.0, "text": "no number"}),
        (-9, {"accuracy": 900.0}),
        (2**62, {"accuracy": float("nan"), "other": 1e300}),
    ]
    empty = Parameters([], "")
    manager: Any = run
    asked: Any = run.strategy.configure_fit(1, empty, manager)
    results: list[Any] = [(proxy, proxy.fit(ins)) for proxy, ins in asked]
    run.strategy.aggregate_fit(1, results, [])
    run.strategy.configure_evaluate(1, empty, manager)
    evaluated: list[Any] = [
        (proxy, EvaluateRes(Status(Code.OK, ""), float("nan"), number, metrics))
        for proxy, (number, metrics) in zip(run.proxies.values(), told, strict=True)
    ]
    assert run.strategy.aggregate_evaluate(1, evaluated, []) == (None, {"accuracy": 0.5})
    assert run.records[0].metrics == {"accuracy": 0.5}


def test_whole_numbers_of_one_client_reach_no_other(tmp_path: Path) -> None:
    """Counts of batches stay local; so a client cannot poison those of others."""
    run = Run(f"task.name={with_counts(tmp_path)}", "semantic.mode=none", clients=2)

    def poison(cid: str, result: FitRes) -> FitRes:
        if cid == "c0":
            arrays = [array.copy() for array in parameters_to_ndarrays(result.parameters)]
            for array in arrays:
                if array.dtype.kind == "i":
                    array[...] = -777
            result.parameters = ndarrays_to_parameters(arrays)
        return result

    for _ in range(2):
        run.round(poison)
    assert run.records[-1].updates_in == ["c0", "c1"]
    for proxy in run.proxies.values():
        model = proxy.client.numpy_client.learner.trainer.model
        counts = [int(v) for v in model.state_dict().values() if not v.is_floating_point()]
        assert counts == [8], "two rounds of four steps"


def with_counts(folder: Path) -> Path:
    text = (ROOT / "examples" / "digits_task.py").read_text("utf-8")
    path = folder / "counting_task.py"
    path.write_text(
        text.replace("nn.Linear(64, 10))", "nn.Linear(64, 10), nn.BatchNorm1d(10))"), "utf-8"
    )
    return path


def test_a_budget_is_refused_since_it_could_not_be_kept() -> None:
    for make in (FoldStrategy, JetsonClient):
        with pytest.raises(ConfigError, match="auto measures the links between peers"):
            make(config("semantic.budget_s=5"))


def test_a_server_that_never_evaluates_leaves_records_all_the_same() -> None:
    one = client(0)
    records: list[RoundRecord] = []
    one.on_round = records.append
    for _ in range(3):
        one.fit(one.get_parameters({}), {})
    one.finish_round()
    assert [record.round for record in records] == [1, 2, 3]
    assert all(record.loss for record in records)
