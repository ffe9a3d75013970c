"""Real peers over real sockets on loopback, all in one process: for benchmarks of many runs.

The machine, the transport, the codecs and the fold are those of a run; only the processes are
missing, so that a run costs no start of torch, and takes one core.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from semantic_net.config import Config, P2PConfig
from semantic_net.federated.assembly import assemble
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.child_processes import reserved_ports
from semantic_net.federated.facts import run_facts
from semantic_net.federated.folder import RunFolder
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.parts import ClosedRound, PeerParts
from semantic_net.federated.peer import Peer
from semantic_net.federated.runner import ThreadRunner
from semantic_net.semantic.decoder import ParsedDelta
from semantic_net.semantic.rate import RateController, rate_controller
from semantic_net.semantic.schema import ModelSchema
from semantic_net.task import MapDataset, Task
from semantic_net.training import Trainer, make_initial_model
from semantic_net.transport.base import Transport

MakeLearner = Callable[[Trainer, Config, BaseStore], ModelLearner]
MakeRate = Callable[[Config, ModelSchema], RateController]


def plain_learner(trainer: Trainer, config: Config, bases: BaseStore) -> ModelLearner:
    """Return what a run takes."""
    return ModelLearner(trainer, config.aggregation, bases)


def plain_rate(config: Config, schema: ModelSchema) -> RateController:
    """Return what a run takes."""
    return rate_controller(config.semantic, schema)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has come to."""

    metrics: dict[int, dict[str, float]]
    """Of the common model, by round."""
    bytes_sent: list[int]
    """Socket bytes of each peer, all traffic of the whole run."""
    payload_bytes: list[int]
    """Of each peer's updates."""
    dense_bytes: int
    """Of one update as float32."""


def run_together(
    tasks: Sequence[Task],
    config: Config,
    *,
    evaluate_on: MapDataset,
    evaluate_in: Callable[[int], bool],
    make_learner: MakeLearner = plain_learner,
    make_rate: MakeRate = plain_rate,
) -> Outcome:
    """Run one peer for each task, from the same first weights, to the end.

    Args:
        tasks: With the data of each peer; only the training data is used.
        config: The same for all, but for the addresses.
        evaluate_on: Whose metrics the outcome holds.
        evaluate_in: Tells in which rounds.
        make_learner: From trainer, configuration and store of bases.
        make_rate: From configuration and schema.

    Raises:
        RuntimeError: A round closed without somebody's update, or with different digests.
    """
    logging.getLogger("semantic_net").setLevel(logging.ERROR)
    with (
        contextlib.ExitStack() as stack,
        reserved_ports(len(tasks)) as ports,
        contextlib.closing(ThreadRunner()) as runner,
    ):
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        devices = []
        for index, task in enumerate(tasks):
            folder = stack.enter_context(RunFolder(root / f"peer{index}"))
            own = dataclasses.replace(config, p2p=_at(config, ports, index))
            model = make_initial_model(task, own.task.seed)
            trainer = Trainer(task, own.training, seed=index, model=model)
            learner = make_learner(trainer, own, folder.bases)
            devices.append(_Device(own, task, folder, learner, len(tasks)))
        judge = devices[0].learner  # all have the same model: one evaluates it for all
        devices[0].evaluate = lambda number: (
            judge.trainer.evaluate_on(evaluate_on) if evaluate_in(number) else {}
        )
        asyncio.run(_run_all([d.peer(runner, make_rate) for d in devices]))
    if any(device.digests != devices[0].digests for device in devices):
        raise RuntimeError("the peers' digests differ")
    return Outcome(
        metrics={number: found for number, found in devices[0].metrics.items() if found},
        bytes_sent=[device.transport.traffic().bytes_sent for device in devices],
        payload_bytes=[device.payload_bytes for device in devices],
        dense_bytes=judge.schema.dense_bytes,
    )


@dataclass(slots=True)
class _Device:
    config: Config
    task: Task
    folder: RunFolder
    learner: ModelLearner
    num_peers: int
    evaluate: Callable[[int], dict[str, float]] = lambda number: {}
    transport: Transport = field(init=False)
    digests: list[bytes] = field(default_factory=list)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    payload_bytes: int = 0

    def peer(self, runner: ThreadRunner, make_rate: MakeRate) -> Peer[ParsedDelta]:
        learner, identity = self.learner, self.folder.identity()
        facts = run_facts(self.config, self.task, learner.schema, learner.fold_config)
        parts = assemble(self.config, identity, 1, learner, facts)
        self.transport = parts.transport
        return Peer(
            PeerParts(
                machine=parts.machine,
                signer=identity.signer,
                transport=parts.transport,
                learner=learner,
                store=parts.store,
                bases=self.folder.bases,
                rate=make_rate(self.config, learner.schema),
                runner=runner,
                journal=identity.journal.author,
                on_round=self._closed,
            )
        )

    def _closed(self, closed: ClosedRound) -> None:
        if len(closed.authors) != self.num_peers:
            raise RuntimeError(f"round {closed.close.round}: {closed.close.reason}")
        self.digests.append(closed.state_digest)
        self.payload_bytes += closed.facts.payload_bytes
        self.metrics[closed.close.round] = self.evaluate(closed.close.round)


async def _run_all(peers: Sequence[Peer[ParsedDelta]]) -> None:
    stop = asyncio.Event()
    await asyncio.gather(*(peer.run(stop) for peer in peers))


def _at(config: Config, ports: Sequence[int], index: int) -> P2PConfig:
    others = tuple(f"127.0.0.1:{port}" for place, port in enumerate(ports) if place != index)
    return dataclasses.replace(config.p2p, host="127.0.0.1", port=ports[index], peers=others)
