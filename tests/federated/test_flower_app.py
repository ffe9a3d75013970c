"""The Flower App on Flower's own classes, with a client that is made anew for every message."""

from __future__ import annotations

import copy
import json
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr", reason="the extra flower is not installed")

from flwr.client import ClientApp
from flwr.common import Context, GetPropertiesIns, Message, RecordDict
from flwr.server import Grid

from semantic_net.config import load_config
from semantic_net.errors import CheckpointError, ConfigError
from semantic_net.federated import flower_app
from semantic_net.federated.client import JetsonClient

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits_task.py"
SET = f"task.name={DIGITS} training.learning_rate=0.01 data.partition.num_shards=2"


class Nodes(Grid):
    """A grid whose nodes answer at once, each in a process that knows its context and no more."""

    def __init__(self, run_config: dict[str, Any], num_nodes: int) -> None:
        self.contexts = {
            number + 1: Context(1, number + 1, {"shard": number}, RecordDict(), run_config)
            for number in range(num_nodes)
        }
        self.num_messages = dict.fromkeys(self.contexts, 0)
        self.losing: set[tuple[int, int]] = set()
        """Nodes and numbers of messages to them, from 1, whose reply is lost."""
        # The server asks nodes from threads. Each is a process, with torch's dice of its own.
        self._one_at_a_time = threading.Lock()

    class _Run:
        run_id = 1

    @property
    def run(self) -> Any:
        return self._Run()

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.num_messages[node] += 1
            number = self.num_messages[node]
            context = copy.deepcopy(self.contexts[node])
            message.metadata.__dict__["_message_id"] = f"{node} {number}"
            with self._one_at_a_time:
                reply = flower_app.client_app(message, context)
            self.contexts[node] = copy.deepcopy(context)
            if (node, number) in self.losing:
                raise ConnectionError("the node is gone")
            replies.append(reply)
        return replies

    def set_run(self, run: Any) -> None:
        raise AssertionError("not asked for")

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise AssertionError("not asked for")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise AssertionError("not asked for")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise AssertionError("not asked for")


def serve(
    out: Path, *, rounds: int = 3, losing: Iterable[tuple[int, int]] = (), more: str = ""
) -> None:
    run_config: dict[str, Any] = {
        "config": "",
        "set": f"{SET} training.rounds={rounds} {more}",
        "clients": 2,
        "round-timeout": 60.0,
        "out": str(out),
    }
    nodes = Nodes(run_config, 2)
    nodes.losing.update(losing)
    flower_app.server_app(nodes, Context(1, 0, {}, RecordDict(), run_config))


def rounds_in(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", ["none", "topk_quantize"])
def test_a_run_of_the_app_leaves_what_a_server_leaves(tmp_path: Path, mode: str) -> None:
    serve(tmp_path, more=f"semantic.mode={mode}")
    records = rounds_in(tmp_path)
    assert [len(record["updates_in"]) for record in records] == [2, 2, 2]
    assert records[0]["metrics"]["accuracy"] < records[2]["metrics"]["accuracy"]
    assert (records[2]["payload_bytes"] < records[2]["dense_bytes"] / 5) == (mode != "none")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["finished"], summary["role"]) == (True, "server")
    assert (tmp_path / "model.safetensors").exists()


def test_a_client_made_anew_is_the_one_that_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Residual, optimiser, place in the data and identity: all that another round depends on."""
    serve(tmp_path / "anew")
    made: dict[int, Any] = {}

    def the_same(context: Context) -> Any:
        if context.node_id not in made:
            made[context.node_id] = flower_app.make_client(context)
        made[context.node_id]._context = context
        return made[context.node_id]

    monkeypatch.setattr(flower_app.client_app, "_call", ClientApp(the_same)._call)
    serve(tmp_path / "kept")
    anew, kept = rounds_in(tmp_path / "anew"), rounds_in(tmp_path / "kept")
    assert [record["state_digest"] for record in anew] == [r["state_digest"] for r in kept]
    assert [record["metrics"] for record in anew] == [r["metrics"] for r in kept]


def test_what_a_lost_reply_carried_is_in_the_next_update(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    serve(tmp_path, losing=[(1, 2)])  # after it was asked who it is, it has trained
    first, second, _ = rounds_in(tmp_path)
    assert (len(first["updates_in"]), len(second["updates_in"])) == (1, 2)
    assert first["close_reason"] == "clients failed"
    assert "the update of round 1 did not count: the next one carries it" in caplog.text


def test_local_layers_stay_with_their_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over clients that are made anew: none of it goes out, and none of it is lost."""
    biases: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    make = flower_app.make_client

    def watched(context: Context) -> Any:
        made = make(context)
        parameters = dict(made._client.learner.trainer.model.named_parameters())  # type: ignore[attr-defined]
        biases[context.node_id].append(parameters["1.bias"].detach().clone())
        return made

    monkeypatch.setattr(flower_app.client_app, "_call", ClientApp(watched)._call)
    serve(tmp_path, more="training.local_layers=['1.bias'] semantic.mode=none")
    assert {record["dense_bytes"] for record in rounds_in(tmp_path)} == {4 * 640 * 4}
    first, second = (torch.stack(found) for found in biases.values())
    assert torch.equal(first[0], second[0])  # as they began
    assert not torch.equal(first[-1], second[-1])
    assert not torch.equal(first[-1], first[0])


def client(*overrides: str) -> JetsonClient:
    flags = [f"task.name={DIGITS}", "data.partition.num_shards=2", "data.partition.shard=0"]
    return JetsonClient(load_config(None, [*flags, *overrides]))


def test_a_state_is_another_clients_whole(tmp_path: Path) -> None:
    one, other = client(), client()
    one.learner.residual = torch.arange(650.0)
    one.learner.changed_norm = 2.5
    one._sent = (4, "topk_quantize/0.03", b"payload")
    one._round = 4
    one.shared.version = 7
    other.load_state(one.state())
    assert other.state() == one.state()
    assert other._sent == one._sent
    assert other.learner.residual is not None
    assert torch.equal(other.learner.residual, torch.arange(650.0))
    assert (other.shared.version, other._id) == (7, one._id)


def test_a_state_that_is_none_or_another_models_is_refused() -> None:
    small = client()
    for data in (b"", b"x" * 100, small.state()[:-9]):
        with pytest.raises(CheckpointError, match="makes no sense"):
            small.load_state(data)
    large = JetsonClient(load_config(None, ["task.name=netqos", "data.num_train=2"]))
    with pytest.raises(CheckpointError, match="another model's"):
        small.load_state(large.state())


def test_a_nodes_configuration_comes_on_top(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("training: {rounds: 9, steps: 4}\ndata: {partition: {num_shards: 5}}")
    run = {"config": "", "set": "training.rounds=3 'p2p.run=two words'"}
    found = flower_app.config_of(run, {"config": str(file), "shard": 4, "set": "training.steps=7"})
    assert (found.training.rounds, found.training.steps, found.p2p.run) == (3, 7, "two words")
    assert found.data.partition.shard == 4
    assert flower_app.config_of(run, {"partition-id": 0}).data.partition.shard == 0
    with pytest.raises(ConfigError, match="set of the node's configuration: No closing quotation"):
        flower_app.config_of(run, {"set": "p2p.run='open"})
    with pytest.raises(ConfigError, match="unknown key"):
        flower_app.config_of({"set": "training.round=1"}, {})


def test_privacy_is_refused_as_on_the_command_line() -> None:
    run: dict[str, Any] = {"set": f"task.name={DIGITS} privacy.noise_multiplier=1"}
    with pytest.raises(ConfigError, match=r"privacy\.noise_multiplier: not in the classic mode"):
        flower_app.make_client(Context(1, 1, {}, RecordDict(), run))


def test_a_node_without_a_shard_keeps_its_region() -> None:
    run: dict[str, Any] = {"set": f"task.name={DIGITS}"}
    context = Context(1, 1, {}, RecordDict(), run)
    first = flower_app.make_client(context)
    name = first.get_properties(GetPropertiesIns({})).properties["client"]
    seed = context.state.config_records["semantic-net"]["seed"]
    second = flower_app.make_client(context)
    assert second.get_properties(GetPropertiesIns({})).properties["client"] == name
    assert context.state.config_records["semantic-net"]["seed"] == seed


def test_the_example_names_the_parts_and_all_the_keys() -> None:
    text = (ROOT / "examples" / "flower_app" / "pyproject.toml").read_text()
    assert 'serverapp = "semantic_net.federated.flower_app:server_app"' in text
    assert 'clientapp = "semantic_net.federated.flower_app:client_app"' in text
    for key in ("config", "set", "clients", "round-timeout", "out"):
        assert f"\n{key} = " in text
