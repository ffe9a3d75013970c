"""The classic mode's client: a Flower `NumPyClient` on the tasks, trainer and codecs of a peer.

With a server of ours it sends encoded updates and takes encoded models (`..shared_model`); to any
other Flower server it is a client like any: the whole model in, the whole model out.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import msgspec
import numpy as np
import torch
from flwr.client import Client, NumPyClient, start_client
from flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
)

from semantic_net.config import Config
from semantic_net.errors import (
    CheckpointError,
    ConfigError,
    RemoteProtocolError,
    StartError,
    TrainingError,
)
from semantic_net.federated.arrays import (
    NDArrays,
    arrays_of,
    flat_of,
    load_integers,
    read_array,
)
from semantic_net.federated.client_state import Remembered, pack, unpack
from semantic_net.federated.facts import run_facts
from semantic_net.federated.learner import fold_config_of
from semantic_net.federated.local import LocalLearner
from semantic_net.federated.parts import Trained
from semantic_net.federated.shards import load_own
from semantic_net.federated.shared_model import Announcement, Scalar, SharedModel, refuse_auto
from semantic_net.protocol.address import parse_address
from semantic_net.protocol.facts import differing_facts
from semantic_net.records import RoundRecord
from semantic_net.semantic.decoder import parse_payload
from semantic_net.semantic.flat import flatten
from semantic_net.semantic.rate import rate_controller
from semantic_net.training.trainer import Trainer, make_initial_model

log = logging.getLogger(__name__)

_RETRY_S = 0.5
MAX_FAILURES = 5
"""Of connections in a row that came to nothing."""

Metrics = dict[str, Scalar]


class JetsonClient(NumPyClient):
    """Trains on this device's data for a Flower server."""

    def __init__(
        self,
        config: Config,
        *,
        name: str = "client",
        seed: int | None = None,
    ) -> None:
        """Load the task with this device's data, and make its model.

        Args:
            config: As for a peer; ``data.partition.shard`` says which part of the data is its own.
            name: In the records.
            seed: Of the batch order, and of the region of a synthetic source; None takes the
                shard's number, or one at random where there is none.

        Raises:
            ConfigError: The configuration does not fit the task.
            StartError: The data is not usable.
        """
        refuse_auto(config)
        self.seed = seed_of(config) if seed is None else seed
        self.task = load_own(config, self.seed)
        model = make_initial_model(self.task, config.task.seed, config.training.local_layers)
        trainer = Trainer(
            self.task, config.training, seed=self.seed, model=model, privacy=config.privacy
        )
        self.learner = LocalLearner(trainer)
        schema = self.learner.schema
        self.shared = SharedModel(schema)
        self.shared.values[:] = flatten(trainer.model).cpu().numpy()
        self._facts = run_facts(
            config, self.task, schema, fold_config_of(schema, config.aggregation)
        )
        self._rate = rate_controller(config.semantic, schema)
        self._name = name
        self._id = secrets.token_hex(16)  # outlives a connection, and nobody else can guess it
        self.on_round: Callable[[RoundRecord], None] = lambda record: None
        """Gets a record of each round, once the server has asked for its evaluation."""
        self.num_rounds = config.training.rounds
        """Of the run: a server of ours tells it."""
        self._open: RoundRecord | None = None
        self._round = 0
        self._sent: tuple[int, str, bytes] | None = None  # of which it is not known if it counts

    # What users of Flower know.

    def get_properties(self, config: Mapping[str, Scalar]) -> Metrics:
        """Return who this is, and which model it holds: a server of ours need not send that."""
        return {"client": self._id, "digest": self.shared.digest}

    def get_parameters(self, config: Mapping[str, Scalar]) -> NDArrays:
        """Return the model: the values of its ``state_dict``, in that order."""
        return arrays_of(self.learner.trainer.model)

    def set_parameters(self, parameters: NDArrays) -> None:
        """Take a whole model.

        Raises:
            RemoteProtocolError: It is another one.
        """
        self._take_whole(parameters)
        load_integers(parameters, self.learner.trainer.model)

    def _take_whole(self, parameters: NDArrays) -> None:
        model, schema = self.learner.trainer.model, self.learner.schema
        self.shared.replace(flat_of(parameters, schema, model), None)
        self.learner.share(self.shared.values)

    def fit(
        self, parameters: NDArrays, config: Mapping[str, Scalar]
    ) -> tuple[NDArrays, int, Metrics]:
        """Train for a round, and return what has changed.

        Returns:
            The encoded update as one array of bytes, for a server of ours in any mode but ``none``;
            else the whole model. The number of examples. What there is to tell: ``loss``, and with
            an encoded update its ``codec``.

        Raises:
            RemoteProtocolError: What the server has sent makes no sense.
            TrainingError: No update can come of this round.
        """
        self.finish_round()
        began = time.monotonic()
        said = self._take(parameters, config)
        self._round = said.round if said is not None else self._round + 1
        trained = self.learner.train(self._round)
        train_s = time.monotonic() - began
        choice = self._rate.choose(self._round, ())
        encoded = None
        if said is None or choice.codec.mode == "none":
            sent = arrays_of(self.learner.trainer.model)
            codec, payload_bytes = "none", self.learner.schema.dense_bytes
        else:
            encoded = self.learner.encode(choice.codec, choice.max_bytes)
            self._rate.encoded(len(encoded.payload), encoded.kept_ratio)
            self._sent = self._round, encoded.codec, bytes(encoded.payload)
            sent = [np.frombuffer(encoded.payload, np.uint8)]
            codec, payload_bytes = encoded.codec, len(encoded.payload)
        metrics: Metrics = {"payload_bytes": payload_bytes, "train_s": round(train_s, 3)}
        if trained.loss is not None:
            metrics["loss"] = trained.loss
        if encoded is not None:
            metrics["codec"] = encoded.codec
        if trained.epsilon is not None:
            metrics["epsilon"] = trained.epsilon
        encode_s = time.monotonic() - began - train_s
        self._open = self._record(trained, codec, payload_bytes, train_s, encode_s)
        return sent, trained.num_examples, metrics

    def evaluate(
        self, parameters: NDArrays, config: Mapping[str, Scalar]
    ) -> tuple[float, int, Metrics]:
        """Return the loss of the shared model on this device's validation data, and its metrics.

        Raises:
            RemoteProtocolError: What the server has sent makes no sense.
        """
        self._take(parameters, config)
        self.learner.restore()
        metrics = self.learner.evaluate()
        loss = self.learner.trainer.validation_loss()
        if self._open is not None:
            self._open = msgspec.structs.replace(
                self._open, metrics=metrics, state_digest=self.shared.digest
            )
        self.finish_round()
        return loss, len(self.task.val_data), dict(metrics)

    def finish_round(self) -> None:
        """Record the round that is open, if any: some servers never ask for an evaluation."""
        opened, self._open = self._open, None
        if opened is not None:
            self.on_round(opened)

    # Where it is made anew for every message.

    def state(self) -> bytes:
        """Return what the next message's client has to know of this one."""
        learner, sent = self.learner, self._sent
        tensors = {"shared": torch.from_numpy(self.shared.values)}
        if learner.residual is not None:
            tensors["residual"] = learner.residual
        if sent is not None:
            tensors["sent"] = torch.frombuffer(bytearray(sent[2]), dtype=torch.uint8)
        kept = Remembered(
            id=self._id,
            round=self._round,
            version=self.shared.version,
            changed_norm=learner.changed_norm,
            sent=None if sent is None else sent[:2],
            trainer={},
        )
        return pack(kept, tensors, learner.trainer.state())

    def load_state(self, data: bytes) -> None:
        """Go on from a `state`.

        Raises:
            CheckpointError: It is none, or another model's.
        """
        learner = self.learner
        kept, tensors, trainer = unpack(data)
        shared, residual = tensors.get("shared"), tensors.get("residual")
        whole = (learner.schema.size,)
        if shared is None or any(t is not None and t.shape != whole for t in (shared, residual)):
            raise CheckpointError("the client's state is another model's")
        learner.trainer.load_state(trainer)
        self._id, self._round = kept.id, kept.round
        self.shared.replace(shared.numpy(), kept.version)
        learner.share(self.shared.values)
        learner.residual = None if residual is None else residual.to(learner.trainer.device)
        learner.changed_norm = kept.changed_norm
        if kept.sent is not None:
            self._sent = *kept.sent, tensors["sent"].numpy().tobytes()

    # What a server of ours says beside.

    def _take(self, parameters: NDArrays, config: Mapping[str, Scalar]) -> Announcement | None:
        """Take what the server has sent for the shared model."""
        said = Announcement.read(config)
        if said is not None and said.facts:
            self._check(said.facts)
        if said is not None and said.rounds >= 1 and said.rounds != self.num_rounds:
            self.num_rounds = said.rounds
            self.learner.trainer.set_num_rounds(said.rounds)
        self._settle(0 if said is None else said.counted)
        if said is None or said.codecs is None:
            if said is not None:
                self._take_whole(parameters)
                self.shared.version = said.version
            elif parameters:
                self.set_parameters(parameters)
        else:
            if len(said.codecs) != len(parameters):
                raise RemoteProtocolError("the server's announcement does not fit its arrays")
            if not said.codecs:
                self.shared.version = said.version  # the digest tells whether it is
            elif self.shared.version != said.version - len(said.codecs):
                raise RemoteProtocolError(
                    f"the server takes this client to hold version "
                    f"{said.version - len(said.codecs)}, and it holds {self.shared.version}"
                )
            for codec, array in zip(said.codecs, parameters, strict=True):
                self.shared.add(codec, memoryview(np.ascontiguousarray(array, np.uint8).data))
            self.learner.share(self.shared.values)
        if said is not None and said.digest != self.shared.digest:
            self.shared.version = None
            raise RemoteProtocolError("the server's model is another one than what it has sent")
        return said

    def _settle(self, counted: int) -> None:
        """Keep for the next update what the last one carried, if it has not come to count."""
        sent, self._sent = self._sent, None
        if sent is not None and sent[0] > counted:
            number, codec, payload = sent
            self.learner.give_back(parse_payload(codec, memoryview(payload), self.learner.schema))
            log.info("the update of round %d did not count: the next one carries it", number)

    def _check(self, facts: str) -> None:
        try:
            theirs = msgspec.json.decode(facts, type=dict[str, str])
        except msgspec.MsgspecError as exc:
            raise RemoteProtocolError(f"the server's announcement makes no sense: {exc}") from exc
        differing = differing_facts(self._facts, theirs)
        if differing:
            raise ConfigError(
                f"the server learns something else ({'; '.join(differing)}); start both with the "
                "same configuration"
            )

    def _record(
        self, trained: Trained, codec: str, payload_bytes: int, train_s: float, encode_s: float
    ) -> RoundRecord:
        return RoundRecord(
            round=self._round,
            peer=self._name,
            time_s=round(train_s + encode_s, 4),
            train_s=round(train_s, 4),
            encode_s=round(encode_s, 4),
            exchange_s=0.0,
            fold_s=0.0,
            loss=trained.loss,
            metrics={},
            epsilon=trained.epsilon,
            codec=codec,
            payload_bytes=payload_bytes,
            dense_bytes=self.learner.schema.dense_bytes,
            bytes_sent=0,
            bytes_received=0,
            updates_in=[self._name],
            missing=[],
            close_reason="server",
            state_digest="",
            set_digest="",
            num_examples=trained.num_examples,
            rejected={},
            notes=list(trained.notes),
        )


def seed_of(config: Config) -> int:
    """Return the seed of a device: its shard's number, or one at random where it has none."""
    shard = config.data.partition.shard
    return int.from_bytes(os.urandom(4), "little") if shard is None else shard


class GuardedClient(Client):
    """A round that gives no update is told to the server, instead of ending the client."""

    def __init__(self, client: JetsonClient) -> None:
        self.numpy_client = client
        self._inner = client.to_client()
        self.num_messages = 0

    def get_properties(self, ins: GetPropertiesIns) -> GetPropertiesRes:
        return self._inner.get_properties(ins)

    def get_parameters(self, ins: GetParametersIns) -> GetParametersRes:
        return self._inner.get_parameters(ins)

    def fit(self, ins: FitIns) -> FitRes:
        self.num_messages += 1
        try:
            arrays = [read_array(tensor) for tensor in ins.parameters.tensors]
            sent, num_examples, metrics = self.numpy_client.fit(arrays, ins.config)
            return FitRes(Status(Code.OK, ""), ndarrays_to_parameters(sent), num_examples, metrics)
        except (RemoteProtocolError, TrainingError) as exc:
            log.warning("no update in this round: %s", exc)
            status = Status(Code.FIT_NOT_IMPLEMENTED, str(exc))
            return FitRes(status, Parameters([], ""), 0, {})

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        self.num_messages += 1
        try:
            arrays = [read_array(tensor) for tensor in ins.parameters.tensors]
            loss, num_examples, metrics = self.numpy_client.evaluate(arrays, ins.config)
            return EvaluateRes(Status(Code.OK, ""), loss, num_examples, metrics)
        except (RemoteProtocolError, TrainingError) as exc:
            log.warning("not evaluated in this round: %s", exc)
            return EvaluateRes(Status(Code.EVALUATE_NOT_IMPLEMENTED, str(exc)), 0.0, 0, {})


def run_client(client: JetsonClient, server: str, *, max_wait_s: float, ca: Path | None) -> None:
    """Serve a Flower server until it ends the run.

    Args:
        client: Made before: what is wrong with the data shows without a network.
        server: ``host:port``.
        max_wait_s: How long to try, where nobody answers.
        ca: Of the server's certificate, in PEM; None speaks without TLS.

    Raises:
        ConfigError: The server learns something else.
        StartError: The certificate cannot be read, or the server is not there, or no more.
    """
    certificates = None
    if ca is not None:
        try:
            certificates = ca.read_bytes()
            ssl.create_default_context(cadata=certificates.decode("ascii"))
        except OSError as exc:  # ssl.SSLError is one
            raise StartError(f"--ca {ca}: cannot be read: {exc.strerror or exc}") from exc
        except ValueError as exc:
            raise StartError(f"--ca {ca}: no certificate in PEM: {exc}") from exc
    guarded, failures = GuardedClient(client), 0
    while True:
        _wait_for(server, max_wait_s)
        before = guarded.num_messages
        try:
            start_client(
                server_address=server,
                client=guarded,
                root_certificates=certificates,
                insecure=certificates is None,
                max_wait_time=max_wait_s,
            )
        except grpc.RpcError as exc:
            what = exc.details() if isinstance(exc, grpc.Call) else str(exc)
            failures = 1 if guarded.num_messages > before else failures + 1
            if failures == MAX_FAILURES:
                raise StartError(f"the server {server} takes no client: {what}") from exc
            log.warning("lost the server %s: %s; trying again", server, what)
            time.sleep(_RETRY_S)
        else:
            return


def _wait_for(server: str, seconds: float) -> None:
    """Wait until somebody listens there: Flower gives up at once.

    Raises:
        StartError: Nobody has in that time.
    """
    address = parse_address(server)
    deadline = time.monotonic() + seconds
    is_told = False
    while True:
        try:
            socket.create_connection((address.host, address.port), timeout=5).close()
        except OSError as exc:
            if time.monotonic() > deadline:
                why = exc.strerror or exc
                raise StartError(f"the server {server} does not answer: {why}") from exc
        else:
            return
        if not is_told:
            is_told = True
            log.info("waiting for the server %s, at most %g s", server, seconds)
        time.sleep(_RETRY_S)
