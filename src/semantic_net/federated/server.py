"""The classic mode's server: federated averaging over Flower, with a peer's rules and codecs.

Flower moves the bytes and says who is there. What becomes of updates is the fold's business, as
among peers: any rule of ``aggregation``, in whole numbers. Clients of ours send encoded updates and
get encoded models; any other Flower client sends and gets whole ones.
"""

from __future__ import annotations

import copy
import errno
import json
import logging
import math
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    Parameters,
    ndarrays_to_parameters,
)
from flwr.server import Server, ServerConfig, SimpleClientManager, start_server
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy

from semantic_net.aggregation.fold import fold_round
from semantic_net.aggregation.rules import MAX_CONTRIBUTIONS, MAX_WEIGHT, Contribution
from semantic_net.aggregation.state import start_state
from semantic_net.config import Config
from semantic_net.errors import RemoteProtocolError, StartError
from semantic_net.federated.arrays import arrays_from, flat_of, read_array
from semantic_net.federated.facts import run_facts
from semantic_net.federated.learner import fold_config_of
from semantic_net.federated.shared_model import Announcement, Publisher, Scalar, refuse_auto
from semantic_net.federated.weights import load_into, load_state_dict
from semantic_net.fixed_point import Float32Array
from semantic_net.protocol.facts import printable
from semantic_net.records import RoundRecord
from semantic_net.semantic.decoder import ParsedDelta, max_payload_bytes, parse_payload
from semantic_net.semantic.flat import flatten, load_flat
from semantic_net.semantic.rate import rate_controller
from semantic_net.semantic.schema import ModelSchema
from semantic_net.task import load_task
from semantic_net.training.trainer import make_initial_model

log = logging.getLogger(__name__)

NAME = "server"
MAX_METRICS, MAX_NAME_CHARS, MAX_METRIC = 64, 64, 1e30
"""Of what a client tells: how many numbers, how long their names, how large they are."""
ASK_S = 10.0
"""For a client to say what it holds."""
MAX_WAIT_S = 7 * 86400
"""For enough clients: whoever starts a server ends it."""

Failures = Sequence[tuple[ClientProxy, FitRes | EvaluateRes] | BaseException]


@dataclass
class _Round:
    """What is known of the round that runs."""

    number: int
    began: float
    asked: frozenset[str] = frozenset()
    authors: tuple[str, ...] = ()
    losses: tuple[tuple[float, int], ...] = ()
    num_examples: int = 0
    exchange_s: float = 0.0
    """Until the clients' updates were in; their training is in it."""
    fold_s: float = 0.0
    encode_s: float = 0.0
    payload_bytes: int = 0
    dense_bytes: int = 0
    rejected: int = 0


class FoldStrategy(Strategy):
    """Aggregates as peers do, and shares the model in few bytes.

    Every client that is there takes part in each round. One that fails is left out of the round,
    and gets the whole model in the next.
    """

    def __init__(
        self,
        config: Config,
        *,
        min_clients: int = 2,
        init: Path | None = None,
        ask_s: float = ASK_S,
    ) -> None:
        """Make the first model.

        Args:
            config: The sections ``task``, ``aggregation`` and ``semantic``: the last one for the
                way down; clients choose theirs for the way up.
            min_clients: How many to wait for before a round begins.
            init: Safetensors weights to start from; None makes the task's under ``task.seed``.
            ask_s: Seconds for a client to say what it holds.

        Raises:
            ConfigError: The configuration does not fit the task.
            StartError: The task cannot be loaded without data, or ``init`` cannot be read.
        """
        refuse_auto(config)
        self.task = task = load_task(replace(config.task, data=config.data, observe=True))
        self.model = make_initial_model(task, config.task.seed, config.training.local_layers)
        """Holds the folded state once a round has closed: clients may lack some of it yet."""
        if config.training.local_layers:
            log.info("training.local_layers stay on the clients: here they are as they began")
        if init is not None:
            load_into(self.model, load_state_dict(init), str(init))
        self.schema = ModelSchema.of(self.model)
        self._fold_config = fold_config_of(self.schema, config.aggregation)
        self._facts = json.dumps(run_facts(config, task, self.schema, self._fold_config))
        self._rate = rate_controller(config.semantic, self.schema)
        values = flatten(self.model).numpy()
        self._state = start_state(
            values, self.schema.num_parameters, momentum=self._fold_config.beta > 0
        )
        self._publisher = Publisher(self.schema, values)
        self._scratch = copy.deepcopy(self.model)  # for models on their way
        self._min_clients, self._num_rounds = min_clients, config.training.rounds
        self._ask_s = ask_s
        self.on_round: Callable[[RoundRecord], None] = lambda record: None
        """Gets a record of each round."""
        self._held: dict[str, int] = {}  # the version that each client is known to hold
        self._counted: dict[str, int] = {}  # the last round in which each client's update did
        self._names: dict[str, str] = {}  # of clients of ours; "" of others, which are sent all
        self._open: _Round | None = None
        self._versions_sent: dict[str, int] = {}

    # Flower's side.

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """Return none: the model is ours, and no client is asked for it."""
        return Parameters([], "")

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Wait for enough clients, and have all of them train."""
        self.finish_round()
        client_manager.wait_for(self._min_clients, MAX_WAIT_S)
        clients = _all_of(client_manager)
        asked = frozenset(client.cid for client in clients)
        self._open = opened = _Round(server_round, time.monotonic(), asked)
        unknown = [each for each in clients if self._should_ask(each.cid)]
        if unknown:
            with ThreadPoolExecutor(len(unknown)) as pool:  # one deadline for all
                list(pool.map(lambda each: self._ask(each, server_round), unknown))
        return [(each, FitIns(*self._message(each, opened))) for each in clients]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: Failures,
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Fold the round's updates, and make the next version of the model."""
        opened = self._open
        assert opened is not None
        contributions: dict[str, Contribution] = {}
        losses = []
        for client, result in results:
            self._has_taken(client)
            try:
                delta = self._delta_of(result)
            except RemoteProtocolError as exc:
                opened.rejected += 1
                log.warning("client %s: its update does not count: %s", client.cid, exc)
                continue
            weight = min(result.num_examples, MAX_WEIGHT)
            contributions[client.cid] = Contribution(delta, weight, client.cid.encode())
            self._counted[self._names.get(client.cid) or client.cid] = server_round
            loss = result.metrics.get("loss")
            if isinstance(loss, float) and math.isfinite(loss):
                losses.append((loss, weight))
        self._tell_failures(failures)
        opened.authors = tuple(sorted(contributions))
        opened.losses = tuple(losses)
        opened.num_examples = sum(each.weight for each in contributions.values())
        began = time.monotonic()
        if contributions:
            self._state = fold_round(self._state, list(contributions.values()), self._fold_config)
        folded = time.monotonic()
        self._publish(server_round)
        opened.exchange_s = began - opened.began
        opened.fold_s, opened.encode_s = folded - began, time.monotonic() - folded
        return Parameters([], ""), {}

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Have all clients evaluate the new version; those that train next hold it then."""
        opened = self._open
        assert opened is not None
        clients = _all_of(client_manager)
        return [(each, EvaluateIns(*self._message(each, opened))) for each in clients]

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: Failures,
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Return the mean loss and the mean metrics, weighted by the number of examples."""
        for client, _ in results:
            self._has_taken(client)
        self._tell_failures(failures)
        weighed = [
            (result, min(result.num_examples, MAX_WEIGHT))
            for _, result in results
            if result.num_examples >= 1
        ]
        metrics = _weighted_means([(result.metrics, weight) for result, weight in weighed])
        loss = _weighted_means([({"loss": result.loss}, weight) for result, weight in weighed])
        self.finish_round(metrics)
        return loss.get("loss"), dict(metrics)

    def evaluate(
        self, server_round: int, parameters: Parameters
    ) -> tuple[float, dict[str, Scalar]] | None:
        """Return nothing: a server has no data of its own."""
        return None

    # Ours.

    def finish_round(self, metrics: Mapping[str, float] | None = None) -> None:
        """Record the round that is open, if any."""
        opened, self._open = self._open, None
        if opened is None:
            return
        examples = sum(weight for _, weight in opened.losses)
        loss = sum(loss * weight for loss, weight in opened.losses) / examples if examples else None
        missing = sorted(opened.asked.difference(opened.authors))
        self.on_round(
            RoundRecord(
                round=opened.number,
                peer=NAME,
                time_s=round(time.monotonic() - opened.began, 4),
                train_s=0.0,
                encode_s=round(opened.encode_s, 4),
                exchange_s=round(opened.exchange_s, 4),
                fold_s=round(opened.fold_s, 4),
                loss=loss,
                metrics=dict(metrics or {}),
                payload_bytes=opened.payload_bytes,
                dense_bytes=opened.dense_bytes,
                bytes_sent=0,
                bytes_received=0,
                updates_in=list(opened.authors),
                missing=missing,
                close_reason="clients failed" if missing else "all in",
                state_digest=self._state.digest,
                set_digest="",
                num_examples=opened.num_examples,
                rejected={"update": opened.rejected} if opened.rejected else {},
            )
        )

    def _publish(self, round_index: int) -> None:
        values: Float32Array = np.empty(self.schema.size, np.float32)
        self._state.to_float32(out=values)
        choice = self._rate.choose(round_index, ())
        self._publisher.publish(values, choice.codec)
        self.schema.keep_bounds(values)
        load_flat(self.model, values)

    def _message(self, client: ClientProxy, opened: _Round) -> tuple[Parameters, dict[str, Scalar]]:
        """Return what a client has to take, as little as that may be."""
        shared = self._publisher.model
        assert shared.version is not None
        steps = self._publisher.since(self._held.pop(client.cid, None))
        is_new = client.cid not in self._versions_sent
        self._versions_sent[client.cid] = shared.version
        if steps is None:
            arrays = arrays_from(shared.values, self.schema, self._scratch)
        else:
            arrays = [np.frombuffer(step.payload, np.uint8) for step in steps]
        opened.payload_bytes += sum(array.nbytes for array in arrays)
        opened.dense_bytes += self.schema.dense_bytes
        said = Announcement(
            opened.number,
            shared.version,
            shared.digest,
            None if steps is None else tuple(step.codec for step in steps),
            self._counted.get(self._names.get(client.cid) or client.cid, 0),
            self._facts if is_new or steps is None else "",
            self._num_rounds,
        )
        return ndarrays_to_parameters(arrays), said.to_config()

    def _should_ask(self, cid: str) -> bool:
        is_known = cid in self._names
        return not is_known or (self._names[cid] != "" and cid not in self._held)

    def _ask(self, client: ClientProxy, server_round: int) -> None:
        """Find out who a client is, and whether it holds the model that it would be sent."""
        self._names[client.cid] = ""  # one of another maker, unless it says otherwise
        try:
            told = client.get_properties(GetPropertiesIns({}), self._ask_s, server_round).properties
        except Exception as exc:  # gRPC and Flower raise what they like; it may be gone
            log.debug("client %s: %s", client.cid, exc)
            return
        name, digest = told.get("client"), told.get("digest")
        if isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARS:
            self._names[client.cid] = name
        shared = self._publisher.model
        if digest == shared.digest and shared.version is not None:
            self._held[client.cid] = shared.version

    def _has_taken(self, client: ClientProxy) -> None:
        if self._names.get(client.cid):  # others take what they are sent for the whole model
            self._held[client.cid] = self._versions_sent[client.cid]

    def _delta_of(self, result: FitRes) -> ParsedDelta:
        """Return what a client's result adds to the version that it was sent.

        Raises:
            RemoteProtocolError: It is no update of this model.
        """
        if result.num_examples < 1:
            raise RemoteProtocolError(f"{result.num_examples} examples")
        arrays = [read_array(tensor) for tensor in result.parameters.tensors]
        codec = result.metrics.get("codec")
        if codec is not None:
            if len(arrays) != 1 or arrays[0].dtype != np.uint8 or not isinstance(codec, str):
                raise RemoteProtocolError("an encoded update is one array of bytes")
            payload = memoryview(np.ascontiguousarray(arrays[0]).data).cast("B")
            return self._parsed(codec, payload)
        whole = flat_of(arrays, self.schema, self._scratch)
        delta = whole - self._publisher.model.values
        return self._parsed("none", delta.astype("<f4", copy=False).data.cast("B"))

    def _parsed(self, codec: str, payload: memoryview) -> ParsedDelta:
        if len(payload) > max_payload_bytes(codec, self.schema):
            raise RemoteProtocolError(f"a payload of {len(payload)} bytes is too long for {codec}")
        return parse_payload(codec, payload, self.schema)

    def _tell_failures(self, failures: Failures) -> None:
        for failure in failures:
            if isinstance(failure, BaseException):
                log.warning(
                    "a client has failed: %s",
                    printable(str(failure) or type(failure).__name__, 1000),
                )
            else:
                client, result = failure
                log.warning("client %s: %s", client.cid, printable(result.status.message, 1000))


def _weighted_means(of: Sequence[tuple[Mapping[str, object], int]]) -> dict[str, float]:
    """Return the mean of each number, over those who tell it; what is none is left out."""
    sums: dict[str, tuple[float, int]] = {}
    for told, weight in of:
        for name, value in list(told.items())[:MAX_METRICS]:
            if len(name) > MAX_NAME_CHARS or name != printable(name, MAX_NAME_CHARS):
                continue
            if isinstance(value, float | int) and abs(value) <= MAX_METRIC:  # no NaN, either
                total, weights = sums.get(name, (0.0, 0))
                sums[name] = total + float(value) * weight, weights + weight
    return {name: total / weights for name, (total, weights) in list(sums.items())[:MAX_METRICS]}


def _all_of(client_manager: ClientManager) -> list[ClientProxy]:
    found = sorted(client_manager.all().values(), key=lambda client: str(client.cid))
    return found[:MAX_CONTRIBUTIONS]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What ``semantic-net server`` says beside the configuration."""

    host: str
    port: int
    round_timeout_s: float
    certificates: tuple[Path, Path, Path] | None
    """Of the authority and of the server, and the server's key, in PEM; None is without TLS."""


def run_server(strategy: FoldStrategy, options: ServerOptions, num_rounds: int) -> None:
    """Serve clients for all rounds.

    Raises:
        StartError: The port or a certificate is not usable.
        KeyboardInterrupt: A signal has ended it.
    """
    certificates = _read(options.certificates)
    _check_free(options.host, options.port)
    try:
        start_server(
            server_address=f"{options.host}:{options.port}",
            server=server_of(strategy),
            config=ServerConfig(num_rounds=num_rounds, round_timeout=options.round_timeout_s),
            certificates=certificates,
        )
    except SystemExit as exc:  # how Flower answers to a signal, and to an address
        if isinstance(exc.code, str):
            raise StartError(exc.code) from exc
        raise KeyboardInterrupt from exc
    finally:
        strategy.finish_round()


def server_of(strategy: FoldStrategy) -> Server:
    """Return the server that Flower runs a strategy with."""
    server = Server(client_manager=SimpleClientManager(), strategy=strategy)
    server.set_max_workers(MAX_CONTRIBUTIONS)  # else a few that hang keep all others waiting
    return server


def _check_free(host: str, port: int) -> None:
    """Refuse a port where somebody listens: gRPC would share it, and take turns with them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as exc:
            hint = "; another program listens there" if exc.errno == errno.EADDRINUSE else ""
            raise StartError(f"cannot listen on {host}:{port}: {exc.strerror}{hint}") from exc


def _read(paths: tuple[Path, Path, Path] | None) -> tuple[bytes, bytes, bytes] | None:
    if paths is None:
        return None
    try:
        authority, certificate, key = (path.read_bytes() for path in paths)
        checking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        checking.load_verify_locations(paths[0])
        checking.load_cert_chain(paths[1], paths[2])
    except OSError as exc:  # ssl.SSLError is one
        where = exc.filename or ", ".join(map(str, paths))
        raise StartError(f"--tls {where}: cannot be used: {exc.strerror or exc}") from exc
    return authority, certificate, key
