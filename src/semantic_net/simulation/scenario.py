"""What is simulated: a configuration for so many peers, on a network, under a seed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from semantic_net.config import Config, P2PConfig, load_config
from semantic_net.errors import ConfigError
from semantic_net.protocol.identity import Signer
from semantic_net.protocol.update import MAX_AUTHORS
from semantic_net.simulation.network_file import load_network
from semantic_net.simulation.network_plan import NetworkPlan
from semantic_net.simulation.worker import config_of

PORT = 5000

PEER_NAME = r"peer[0-9]+"
"""Of all machines, and of the folders of their peers."""

MAX_PEERS = 10_000

FULL_TO = 16
"""Peers up to which each is connected to each, unless the configuration says something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a simulation depends on."""

    config: Config
    """What all peers have in common."""
    plan: NetworkPlan
    seed: int
    payload_bytes: int | None = None
    """Of every update, where nothing is learned; None: peers train."""
    train_s: float = 0.0
    """Of a round, where nothing is learned."""

    @property
    def num_peers(self) -> int:
        """How many peers there are."""
        return self.plan.num_peers

    @property
    def names(self) -> tuple[str, ...]:
        """The machines, in the order of their peers."""
        return _names(self.num_peers)

    def config_of(self, index: int) -> Config:
        """Return one peer's own configuration."""
        known = _addresses(self.num_peers)
        if self.config.p2p.mesh_links is not None:  # one that all know, and one that came before
            known = known[:index][:1] + known[1:index][-1:]
        p2p = dataclasses.replace(self.config.p2p, host=self.names[index], port=PORT, peers=known)
        return dataclasses.replace(config_of(self.config, index), p2p=p2p)

    def signer_of(self, index: int) -> Signer:
        """Return a peer's key, which the seed decides."""
        text = f"semantic-net simulated peer {index} of seed {self.seed}"
        return Signer(hashlib.sha256(text.encode()).digest())


# A thousand peers know a thousand addresses each: the same ones.


@functools.cache
def _names(num_peers: int) -> tuple[str, ...]:
    """Return names as long as each other, so that they cost the same."""
    digits = len(str(num_peers - 1))
    return tuple(f"peer{index:0{digits}}" for index in range(num_peers))


@functools.cache
def _addresses(num_peers: int) -> tuple[str, ...]:
    return tuple(f"{name}:{PORT}" for name in _names(num_peers))


def scenario(
    file: Path | None,
    overrides: Iterable[str],
    *,
    num_peers: int,
    network: str,
    seed: int,
    payload_bytes: int | None = None,
    train_s: float = 0.0,
) -> Scenario:
    """Return a scenario from what a person has said.

    Args:
        file: A configuration; None takes the defaults.
        overrides: Of it.
        num_peers: At least 1.
        network: A preset's name, or a file.
        seed: Of everything that is drawn: keys, first weights, data, batches, the network.
        payload_bytes: See `Scenario`.
        train_s: See `Scenario`.

    Raises:
        ConfigError: Something does not fit.
        DataError: The network follows a trace that cannot be read.
    """
    if not 1 <= num_peers <= MAX_PEERS:
        raise ConfigError(f"--peers must be in [1, {MAX_PEERS}], got {num_peers}")
    overrides = [*overrides]
    _refuse_own_keys(overrides)
    seeds = [f"{key}.seed={seed}" for key in ("task", "data", "data.partition", "training")]
    config = load_config(
        file,
        [
            "training.num_threads=1",  # so that sums are the same on any machine, and in any engine
            f"p2p.run=simulation-{seed}",
            "p2p.fleet=null",  # a file's is that of the real devices
            f"data.partition.num_shards={num_peers}",
            *seeds,
            *overrides,
        ],
    )
    _refuse_what_has_no_effect(config)
    p2p = _in_fleet(config.p2p, num_peers)
    if p2p.topology == "full" and num_peers > FULL_TO:
        p2p = dataclasses.replace(p2p, topology="random-3")
    plan = load_network(network).plan(num_peers, seed)
    if not plan.has_peer_faults:  # who never comes back needs nothing to go on from
        p2p = dataclasses.replace(p2p, checkpoint_every=0)
    return Scenario(
        config=dataclasses.replace(
            config, p2p=p2p, security=dataclasses.replace(config.security, mode="open")
        ),
        plan=plan,
        seed=seed,
        payload_bytes=payload_bytes,
        train_s=train_s,
    )


def _refuse_own_keys(overrides: Iterable[str]) -> None:
    """Refuse overrides of what a simulation says itself; in a file they are of real devices."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in ("data.partition.num_shards", "data.partition.shard"):
            raise ConfigError(f"--set {key}: each simulated peer has its own shard; use --peers")


def _refuse_what_has_no_effect(config: Config) -> None:
    """Refuse settings that a person might believe to be simulated."""
    p2p = config.p2p
    for is_set, key, why in (
        (p2p.transport != "ad_hoc", "p2p.transport", "meet in memory; set it to ad_hoc"),
        (p2p.discovery != "static", "p2p.discovery", "know each other; set it to static"),
        # It is of one peer of a run, and here of all: no round would ever be closed.
        (p2p.observe, "p2p.observe", "would all watch, and none publish; set it to false"),
        (p2p.peers, "p2p.peers", "have addresses of their own; leave it out, or set it to []"),
        (
            config.security.mode == "pinned",
            "security.mode",
            "are not paired, and there is no TLS; set it to open",
        ),
        (
            config.monitoring.dashboard is not None,
            "monitoring.dashboard",
            "serve no page; set it to null",
        ),
    ):
        if is_set:
            raise ConfigError(f"{key}: simulated peers {why}")


def _in_fleet(p2p: P2PConfig, num_peers: int) -> P2PConfig:
    """Return who meets whom in a fleet of so many peers."""
    for key, value in (("p2p.participants", p2p.participants), ("p2p.fleet", p2p.fleet)):
        if value is not None and value > num_peers:
            raise ConfigError(f"{key} must be at most --peers, got {value} with {num_peers} peers")
    if p2p.participants is None and num_peers > MAX_AUTHORS:
        raise ConfigError(
            f"p2p.participants: {num_peers} peers, of which {MAX_AUTHORS} count in a round; set it"
        )
    return dataclasses.replace(p2p, fleet=p2p.fleet or num_peers)
