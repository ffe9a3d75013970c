"""The ways of training that can be compared: a table of what each changes, and of its processes.

Each is what a user would run by hand: commands of ``semantic-net`` with one configuration.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from semantic_net.config import Config

CONFIG_FILE = "config.yaml"

Commands = list[tuple[str, list[str]]]
"""A name for each process, and its command's arguments."""


@dataclass(frozen=True, slots=True)
class Training:
    """One way of training, as processes of this machine."""

    title: str
    text: str
    overrides: tuple[str, ...]
    """Of the configuration."""
    commands: Callable[[Config, Path, Sequence[int]], Commands]
    """From the configuration, the folder of the run and free ports, one a device."""
    needs_flower: bool = False


def _alone(config: Config, folder: Path, ports: Sequence[int]) -> Commands:
    return [
        (f"device {n + 1}", ["single", *_own(folder, f"device{n + 1}", n)])
        for n in range(config.data.partition.num_shards)
    ]


def _pooled(config: Config, folder: Path, ports: Sequence[int]) -> Commands:
    return [("pooled", ["single", "--pooled", *_own(folder, "pooled")])]


def _peers(config: Config, folder: Path, ports: Sequence[int]) -> Commands:
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return [
        (
            f"peer {n + 1}",
            [
                "peer",
                *_own(folder, f"peer{n + 1}", n, judges=_judges(config, n)),
                *("--listen", addresses[n], "--peers", ",".join(addresses)),
            ],
        )
        for n in range(config.data.partition.num_shards)
    ]


def _server(config: Config, folder: Path, ports: Sequence[int]) -> Commands:
    count, address = config.data.partition.num_shards, f"127.0.0.1:{ports[0]}"
    server = ["server", *_own(folder, "server"), "--host", "127.0.0.1"]
    server += ["--port", str(ports[0])]
    clients: Commands = []
    for n in range(count):
        own = _own(folder, f"client{n + 1}", n, judges=_judges(config, n))
        clients.append((f"client {n + 1}", ["client", *own, "--server", address]))
    return [("server", [*server, "--clients", str(count)]), *clients]


def _own(folder: Path, name: str, shard: int | None = None, *, judges: bool = True) -> list[str]:
    """Return a process' flags."""
    flags = ["--config", str(folder / CONFIG_FILE), "--out", str(folder / name)]
    if shard is None:
        return flags
    flags += ["--set", f"data.partition.shard={shard}"]
    return flags if judges else [*flags, "--set", "data.partition.validation=none"]


def _judges(config: Config, shard: int) -> bool:
    """Tell whether a device evaluates: one for all, where all have one model and the same data."""
    is_one = config.data.partition.validation == "all" and not config.training.local_layers
    return shard == 0 or not is_one


_DENSE = ("semantic.mode=none", "semantic.budget_s=null", "semantic.budget_bytes=null")
_PLAIN = (
    *_DENSE,
    "aggregation.rule=mean",
    "aggregation.outer_momentum=0",
    "aggregation.outer_lr=1",
)

TRAININGS: dict[str, Training] = {
    "alone": Training(
        "each device alone", "its own data, nothing exchanged; the mean of the models", (), _alone
    ),
    "pooled": Training(
        "all data in one place", "one model, for as many steps as a device takes", (), _pooled
    ),
    "fedavg": Training(
        "FedAvg over Flower", "a server averages whole models", _PLAIN, _server, needs_flower=True
    ),
    "fedavg_encoded": Training(
        "over Flower, encoded",
        "a server, and the codec and aggregation of the configuration both ways",
        (),
        _server,
        needs_flower=True,
    ),
    "dense": Training(
        "peer-to-peer, dense", "float32, outer momentum 0: plain averaging", _PLAIN, _peers
    ),
    "dense_momentum": Training(
        "peer-to-peer, dense, momentum",
        "float32, and the aggregation of the configuration",
        _DENSE,
        _peers,
    ),
    "compressed": Training(
        "peer-to-peer, compressed", "codec and aggregation of the configuration", (), _peers
    ),
}
"""By name, as in ``--ways``."""

DEFAULT_WAYS = ("alone", "pooled", "fedavg", "dense", "compressed")


def problem(training: Training, config: Config) -> str | None:
    """Return why a way cannot be run here; None where it can."""
    if not training.needs_flower:
        return None
    if not has_flower():
        return "Flower is not installed: pip install 'semantic-net[flower]'"
    if config.privacy.noise_multiplier is not None:
        return "a client has no privacy.noise_multiplier; set it to null"
    if "semantic.mode=none" not in training.overrides and config.semantic.trade.mode == "auto":
        return "a server knows no links to choose a mode by; set semantic.mode to another than auto"
    return None


def has_flower() -> bool:
    """Tell whether Flower is here."""
    return importlib.util.find_spec("flwr") is not None


def text_of(name: str, config: Config) -> str:
    """Return what a way is, with what the configuration says of it."""
    trade, momentum = config.semantic.trade, config.aggregation.outer_momentum
    rule = "" if config.aggregation.rule == "mean" else f", rule {config.aggregation.rule}"
    if name in ("alone", "pooled"):
        return TRAININGS[name].text
    return f"{TRAININGS[name].text} ({trade.mode}, outer momentum {momentum:g}{rule})"
