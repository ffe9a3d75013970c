"""The classic mode as a Flower App, for a SuperLink and its SuperNodes.

Names of an app's ``pyproject.toml`` (examples/flower_app has one):

    serverapp = "semantic_net.federated.flower_app:server_app"
    clientapp = "semantic_net.federated.flower_app:client_app"

What ``--config``, ``--set``, ``--clients``, ``--round-timeout`` and ``--out`` are to the commands,
the keys ``config``, ``set``, ``clients``, ``round-timeout`` and ``out`` are to the run; ``set`` has
its overrides separated by spaces. A SuperNode's own ``--node-config`` may have ``shard`` (or
Flower's ``partition-id``), a ``config`` instead of the run's, and a ``set`` on top of the run's.

A SuperNode makes the client anew for every message. What it has to remember stays in the context of
the run, which the SuperNode keeps: nobody else gets it.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from flwr.client import Client, ClientApp
from flwr.common import (
    ConfigRecord,
    Context,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
)
from flwr.server import Grid, ServerApp, ServerConfig
from flwr.server.compat import start_grid

from semantic_net.config import Config, dump_config, load_config
from semantic_net.errors import ConfigError
from semantic_net.federated.client import GuardedClient, JetsonClient, seed_of
from semantic_net.federated.folder import RunFolder
from semantic_net.federated.plain_recording import PlainRecording
from semantic_net.federated.server import FoldStrategy, server_of
from semantic_net.monitoring.console import RoundPrinter, logging_to

_STATE = "semantic-net"
DEFAULT_TIMEOUT_S = 3600.0
ASK_S = 120.0
"""For a node to start a process, load its data and say what it holds."""

UserConfig = Mapping[str, bool | float | int | str]


class _KeptClient(Client):
    """Remembers in the context what the next message's client has to know."""

    def __init__(self, client: JetsonClient, context: Context) -> None:
        self._client, self._guarded, self._context = client, GuardedClient(client), context

    def get_properties(self, ins: GetPropertiesIns) -> GetPropertiesRes:
        with self._remembered():  # who it is, too
            return self._guarded.get_properties(ins)

    def get_parameters(self, ins: GetParametersIns) -> GetParametersRes:
        return self._guarded.get_parameters(ins)

    def fit(self, ins: FitIns) -> FitRes:
        with self._remembered():
            return self._guarded.fit(ins)

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        with self._remembered():
            return self._guarded.evaluate(ins)

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        yield
        self._context.state.config_records[_STATE] = ConfigRecord(
            {"seed": self._client.seed, "client": self._client.state()}
        )


def config_of(run: UserConfig, node: UserConfig) -> Config:
    """Return the configuration of a run, as one node has it.

    Raises:
        ConfigError: A key or a value is wrong.
    """
    file = str(node.get("config") or run.get("config") or "")
    overrides = [*_split(run, "run"), *_split(node, "node")]
    shard = node.get("shard", node.get("partition-id"))
    if shard is not None:
        overrides.append(f"data.partition.shard={shard}")
    return load_config(Path(file) if file else None, overrides)


def _split(user: UserConfig, whose: str) -> list[str]:
    try:
        return shlex.split(str(user.get("set", "")))
    except ValueError as exc:
        raise ConfigError(f"set of the {whose}'s configuration: {exc}") from exc


def make_client(context: Context) -> Client:
    """Return this node's client, as the last message has left it."""
    config = config_of(context.run_config, context.node_config)
    if config.privacy.noise_multiplier is not None:
        raise ConfigError("privacy.noise_multiplier: not in the classic mode; train as a peer")
    kept = context.state.config_records.get(_STATE)
    seed = seed_of(config) if kept is None else int(str(kept["seed"]))
    client = JetsonClient(config, name=str(context.node_id), seed=seed)
    if kept is not None:
        client.load_state(bytes(kept["client"]))  # type: ignore[arg-type]
    return _KeptClient(client, context)


client_app = ClientApp(client_fn=make_client)

server_app = ServerApp()


@server_app.main()  # type: ignore[untyped-decorator,unused-ignore]
def serve(grid: Grid, context: Context) -> None:
    """Serve the nodes of a run, and leave what a server leaves in the run's ``out``."""
    run = context.run_config
    config = config_of(run, {})
    timeout_s = float(run.get("round-timeout", DEFAULT_TIMEOUT_S))
    out = Path(str(run.get("out") or f"runs/flower-{context.run_id}"))
    with RunFolder(out) as folder, logging_to(config.monitoring.log_level, folder.log):
        resolved = replace(config, semantic=config.semantic.resolved())
        folder.config.write_text(dump_config(resolved), encoding="utf-8")
        clients = int(run.get("clients", 2))
        strategy = FoldStrategy(config, min_clients=clients, ask_s=min(ASK_S, timeout_s))
        show = RoundPrinter(config.training.rounds, strategy.task.metric or "").print
        recording = PlainRecording(
            config, strategy.task, strategy.model, folder, show, role="server"
        )
        strategy.on_round = recording.record
        finished = False
        try:
            start_grid(
                grid=grid,
                server=server_of(strategy),
                config=ServerConfig(config.training.rounds, round_timeout=timeout_s),
            )
            finished = True
        finally:
            strategy.finish_round()
            recording.finish(finished=finished)
