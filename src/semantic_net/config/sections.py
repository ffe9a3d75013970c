"""The sections of a configuration file, each key with its default, its unit and its range.

``configs/base.yaml`` shows the same keys to users; a test holds the two equal. A value out of
range raises `ConfigError` here, before any socket opens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from semantic_net.config.checks import require, require_one_of
from semantic_net.config.learned import DataConfig, TaskConfig
from semantic_net.config.semantic import SemanticConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """The ``training`` section: what a peer does between two exchanges."""

    rounds: int = 20
    """Rounds of the run; absolute, so a resumed run ends at the same number."""
    epochs: int = 1
    """Passes over the local data in a round, unless ``steps`` is set."""
    steps: int | None = None
    """Optimiser steps in a round. Unset: ``epochs`` counts."""
    batch_size: int = 8
    """Examples a step; where memory runs out they are computed in halves, in the same step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """adam or sgd (with ``momentum``)."""
    learning_rate: float = 0.001
    """Step size at the start."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 0.0
    """L2 penalty of the optimiser."""
    schedule: Literal["constant", "cosine"] = "constant"
    """constant, or cosine down to a tenth over all rounds."""
    max_grad_norm: float | None = None
    """Clip the gradient to this norm. Unset: no clipping."""
    proximal_mu: float = 0.0
    """FedProx's mu: how strongly a round's training is held to where it began. 0: not at all."""
    local_layers: tuple[str, ...] = ()
    """Patterns of names of parameters that never leave the device: ``head.*``. Equal on all
    peers."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    amp: bool = True
    """Mixed precision; used on CUDA only."""
    num_threads: int | None = None
    """Threads of torch on the CPU. Unset: torch's own choice."""
    seed: int = 0
    """Seed of batch order and augmentation, mixed with the peer's id."""

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "training.rounds", ">= 1", self.rounds)
        require(self.epochs >= 1, "training.epochs", ">= 1", self.epochs)
        require(self.steps is None or self.steps >= 1, "training.steps", ">= 1", self.steps)
        require(self.batch_size >= 1, "training.batch_size", ">= 1", self.batch_size)
        require_one_of("training.optimizer", self.optimizer, ("adam", "sgd"))
        require_one_of("training.schedule", self.schedule, ("constant", "cosine"))
        # Far beyond any use, and far within what torch's float32 scalars can hold.
        require(
            0 < self.learning_rate <= 1e6,
            "training.learning_rate",
            "in (0, 1e6]",
            self.learning_rate,
        )
        require(0 <= self.momentum < 1, "training.momentum", "in [0, 1)", self.momentum)
        require(
            0 <= self.weight_decay <= 1e6, "training.weight_decay", "in [0, 1e6]", self.weight_decay
        )
        require(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            "training.max_grad_norm",
            "> 0",
            self.max_grad_norm,
        )
        require(
            0 <= self.proximal_mu <= 1e6, "training.proximal_mu", "in [0, 1e6]", self.proximal_mu
        )
        require(
            self.num_threads is None or self.num_threads >= 1,
            "training.num_threads",
            ">= 1",
            self.num_threads,
        )


BEATS_PER_LIFE = 5
"""Signs of life that a peer gives before it would count as gone."""

MAX_FLEET = 1_000_000
"""Beyond it a peer would hardly ever have a turn."""

_TOPOLOGY = re.compile(r"full|given|ring|line|random-[1-9][0-9]?|mesh-([2-9]|[1-9][0-9])")


@dataclass(frozen=True, slots=True, kw_only=True)
class P2PConfig:
    """The ``p2p`` section: who meets whom, and how long a round waits."""

    run: str = "default"
    """Name of the run; peers of another run are refused."""
    host: str = "0.0.0.0"  # nosec B104  # a peer is there to be reached
    """Address to listen on."""
    port: int = 5000
    """Port to listen on; 0 takes a free one."""
    peers: tuple[str, ...] = ()
    """host:port of other peers; one's own address in the list is ignored."""
    transport: Literal["ad_hoc", "zenoh"] = "ad_hoc"
    """ad_hoc: peers dial each other. zenoh: they meet at ``routers`` (extra ``zenoh``)."""
    routers: tuple[str, ...] = ()
    """host:port of Zenoh's routers. None, with ``transport`` zenoh: this peer is one, and
    listens."""
    discovery: Literal["static", "mdns"] = "static"
    """static: ``peers`` is all there is to begin with. mdns: peers of a run find each other on
    their network as well, by multicast DNS (extra ``mdns``)."""
    topology: str = "full"
    """Whom to connect to: ``full``, ``given``, ``ring``, ``line``, ``random-k`` or ``mesh-k``."""
    participants: int | None = None
    """Peers that train in a round, on average, each in its turn; the others relay and fold what
    these learn. None: all do in every round."""
    fleet: int | None = None
    """Peers of the run, roughly: ``participants`` is that many of these. None: as many as
    ``peers`` has addresses."""
    listen_timeout_s: float = 60.0
    """Seconds after our own update was ready when a round closes with what has arrived."""
    overlap: bool = False
    """Train the next round while the last one's updates still arrive: for slow links."""
    observe: bool = False
    """Take part without data: relay, fold and record, and publish nothing (``--observe``)."""
    quorum: float = 1.0
    """Share of the expected peers whose updates close a round; the others' are folded in late."""
    start_timeout_s: float = 120.0
    """Seconds to wait before the first round: for the listed peers, and for one to be found."""
    heartbeat_s: float | None = None
    """Seconds between two signs of life; what is new is said at once. None: a fifth of
    ``liveness_s``."""
    liveness_s: float = 10.0
    """Seconds without a sign of life after which a peer counts as gone."""
    max_rate: float | None = None
    """Most kB (1000 bytes) a second that this device sends, to all peers together; None: any."""
    base_every: int = 16
    """Rounds after which what all peers hold is compacted into a snapshot; equal on all peers."""
    disk_budget_mb: float = 512.0
    """Updates on disk, in MB, from which on compaction does not wait for peers that are gone."""
    memory_budget_mb: float = 64.0
    """Payloads kept in memory, in MB; older ones lie on disk."""
    checkpoint_every: int = 1
    """Rounds between two checkpoints; 0 writes one at the end only."""

    def __post_init__(self) -> None:
        require(bool(self.run) and len(self.run) <= 64, "p2p.run", "1 to 64 characters", self.run)
        require(
            _TOPOLOGY.fullmatch(self.topology) is not None,
            "p2p.topology",
            "full, given, ring, line, random-k with k in [1, 99] or mesh-k with k in [2, 99]",
            self.topology,
        )
        require_one_of("p2p.discovery", self.discovery, ("static", "mdns"))
        require(
            self.discovery == "static" or self._needs_no_list,
            "p2p.topology",
            "full, given or mesh-k with p2p.discovery mdns, since a graph needs the list of all "
            "peers",
            self.topology,
        )
        self._check_transport()
        require(0 <= self.port <= 65535, "p2p.port", "in [0, 65535]", self.port)
        least = 1 if self.participants is None else self.participants
        require(least >= 1, "p2p.participants", ">= 1, or null", self.participants)
        require(
            self.fleet is None or least <= self.fleet <= MAX_FLEET,
            "p2p.fleet",
            f"null, or from p2p.participants to {MAX_FLEET:,}",
            self.fleet,
        )
        require(self.listen_timeout_s > 0, "p2p.listen_timeout_s", "> 0", self.listen_timeout_s)
        require(0 < self.quorum <= 1, "p2p.quorum", "in (0, 1]", self.quorum)
        require(self.start_timeout_s >= 0, "p2p.start_timeout_s", ">= 0", self.start_timeout_s)
        require(self.liveness_s > 0, "p2p.liveness_s", "> 0", self.liveness_s)
        require(self.beat_s > 0, "p2p.heartbeat_s", "> 0", self.heartbeat_s)
        require(
            self.liveness_s >= 2 * self.beat_s,
            "p2p.liveness_s",
            f">= 2 x p2p.heartbeat_s = {2 * self.beat_s}",
            self.liveness_s,
        )
        require(self.max_rate is None or self.max_rate >= 1, "p2p.max_rate", ">= 1", self.max_rate)
        require(1 <= self.base_every <= 4096, "p2p.base_every", "in [1, 4096]", self.base_every)
        require(self.disk_budget_mb > 0, "p2p.disk_budget_mb", "> 0", self.disk_budget_mb)
        require(self.memory_budget_mb >= 0, "p2p.memory_budget_mb", ">= 0", self.memory_budget_mb)
        require(self.checkpoint_every >= 0, "p2p.checkpoint_every", ">= 0", self.checkpoint_every)

    def _check_transport(self) -> None:
        require_one_of("p2p.transport", self.transport, ("ad_hoc", "zenoh"))
        if self.transport == "ad_hoc":
            rule = "empty with p2p.transport ad_hoc, which has none"
            require(not self.routers, "p2p.routers", rule, self.routers)
            return
        found = "with p2p.transport zenoh, where peers find each other at p2p.routers"
        require(not self.peers, "p2p.peers", f"empty {found}", self.peers)
        require(self.discovery == "static", "p2p.discovery", f"static {found}", self.discovery)
        require(self._needs_no_list, "p2p.topology", f"full or mesh-k {found}", self.topology)
        require(
            bool(self.routers or self.port),
            "p2p.port",
            "one that others can name, where this peer is itself their router (no p2p.routers)",
            self.port,
        )

    @property
    def _needs_no_list(self) -> bool:
        return self.topology in ("full", "given") or self.mesh_links is not None

    @property
    def mesh_links(self) -> int | None:
        """How many links each peer has at least in a mesh; None: the topology is no mesh."""
        kind, _, links = self.topology.partition("-")
        return int(links) if kind == "mesh" else None

    @property
    def finds_peers(self) -> bool:
        """Whether peers may turn up whom nobody has named."""
        return self.discovery != "static" or self.transport == "zenoh"

    @property
    def turn_period(self) -> int:
        """Rounds in which each peer trains once.

        Raises:
            ConfigError: Nobody has said how many peers there are.
        """
        if self.participants is None:
            return 1
        require(
            self.fleet is not None or not self._needs_no_list,
            "p2p.fleet",
            f"set with p2p.participants and p2p.topology {self.topology}, where peers has not all",
            self.fleet,
        )
        size = len(self.peers) if self.fleet is None else self.fleet
        return max(1, size // self.participants)

    @property
    def beat_s(self) -> float:
        """Seconds between two signs of life."""
        return self.liveness_s / BEATS_PER_LIFE if self.heartbeat_s is None else self.heartbeat_s


AggregationRule = Literal["mean", "clipped", "trimmed_mean", "median", "krum", "multi_krum"]
AGGREGATION_RULES: tuple[str, ...] = get_args(AggregationRule)


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationConfig:
    """The ``aggregation`` section: how a round's updates become the next state."""

    rule: AggregationRule = "mean"
    """mean (weighted by the number of examples), or one that bears liars, with each author
    counting once: clipped, trimmed_mean, median, krum, multi_krum."""
    byzantine_ratio: float = 0.2
    """Share of a round's authors that may lie, in [0, 0.5): what those rules reckon with."""
    nearest_neighbour_mixing: bool = False
    """Mix each update with those nearest to it before such a rule: for unlike data."""
    outer_momentum: float = 0.5
    """beta of the outer Nesterov momentum, in [0, 0.99]; 0 with outer_lr 1 is plain averaging."""
    outer_lr: float = 1.0
    """Step of the outer optimiser, in (0, 2]."""

    def __post_init__(self) -> None:
        require_one_of("aggregation.rule", self.rule, AGGREGATION_RULES)
        require(
            0 <= self.byzantine_ratio < 0.5,
            "aggregation.byzantine_ratio",
            "in [0, 0.5)",
            self.byzantine_ratio,
        )
        require(
            0 <= self.outer_momentum <= 0.99,
            "aggregation.outer_momentum",
            "in [0, 0.99]",
            self.outer_momentum,
        )
        require(0 < self.outer_lr <= 2, "aggregation.outer_lr", "in (0, 2]", self.outer_lr)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """The ``security`` section: who may take part."""

    mode: Literal["pinned", "open"] | None = None
    """pinned: TLS between devices that have been paired. open: updates are signed, but anyone who
    knows the run may join, and nothing is encrypted. None: open where all addresses are
    loopback, else pinned."""
    folder: str | None = None
    """Of this device's key, its certificate and its trust file. None: ``$SEMANTIC_NET_HOME``, else
    ``~/.config/semantic-net``."""
    max_liars: int = 0
    """Devices that may lie, equal on all peers. Where it is not 0, one more than these have to say
    the same before another device is let in or put out, rounds are skipped or a snapshot is taken
    over, and each device counts once a round."""

    def __post_init__(self) -> None:
        require(0 <= self.max_liars <= 256, "security.max_liars", "in [0, 256]", self.max_liars)
        if self.mode is not None:
            require_one_of("security.mode", self.mode, ("pinned", "open"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """The ``privacy`` section: what updates may tell of single examples."""

    noise_multiplier: float | None = None
    """Noise of each step, in units of ``clip_norm``: DP-SGD with Opacus (extra ``privacy``). None:
    no noise and no promise."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of one example."""
    delta: float = 1e-5
    """Chance that the promise does not hold; well below one by the number of examples."""
    max_epsilon: float | None = None
    """Nothing more is learned from this device's data once it would have cost more. None: no
    limit."""

    def __post_init__(self) -> None:
        noise, limit = self.noise_multiplier, self.max_epsilon
        require(
            noise is None or 0.1 <= noise <= 1000,
            "privacy.noise_multiplier",
            "in [0.1, 1000], or null",
            noise,
        )
        require(0 < self.clip_norm <= 1e6, "privacy.clip_norm", "in (0, 1e6]", self.clip_norm)
        require(0 < self.delta < 1, "privacy.delta", "in (0, 1)", self.delta)
        require(limit is None or limit > 0, "privacy.max_epsilon", "> 0, or null", limit)
        require(
            limit is None or noise is not None,
            "privacy.max_epsilon",
            "null without a privacy.noise_multiplier, since it bounds nothing then",
            limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringConfig:
    """The ``monitoring`` section: what a person sees."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level on the console; log.txt always has debug."""
    dashboard: str | None = None
    """``host:port`` of the live page (extra ``dashboard``). On another address than loopback the
    link on the console has a token that lets one in. None: no page."""
    tensorboard: bool = False
    """Leave each round's figures for TensorBoard, in ``tensorboard/`` of ``--out`` (extra
    ``tracking``)."""

    def __post_init__(self) -> None:
        require_one_of(
            "monitoring.log_level", self.log_level, ("debug", "info", "warning", "error")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration file."""

    task: TaskConfig = field(default_factory=TaskConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    p2p: P2PConfig = field(default_factory=P2PConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)
