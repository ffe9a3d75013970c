"""All checks in their order: the machine, the task, the folder, the network.

What needs torch is imported once torch is known to load.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from semantic_net.config import Config
from semantic_net.errors import ConfigError
from semantic_net.federated.dialled import addresses_to_dial
from semantic_net.federated.doctor import folder, machine, peers, torch_check
from semantic_net.federated.doctor.finding import FAIL, OK, Finding
from semantic_net.federated.security import PINNED, security_mode, with_known_addresses
from semantic_net.protocol.address import Address, parse_address
from semantic_net.protocol.identity import Signer
from semantic_net.transport.ad_hoc import is_own
from semantic_net.transport.identity import load_or_create_key
from semantic_net.transport.probe import Answer, ProbeSettings

if TYPE_CHECKING:
    from semantic_net.federated.doctor.prepared import Prepared


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run would be."""

    out: Path
    device_folder: Path
    root: Path = Path("/")


def examine(config: Config, place: Place, probes: ProbeSettings) -> Iterator[Finding]:
    """Yield what each check finds, as it finds it."""
    jetson = machine.find_jetson(place.root)
    yield machine.check_python(sys.version_info[:3])
    yield machine.check_machine(platform.machine(), _num_cores(), jetson)
    yield machine.check_clock(datetime.now())
    yield machine.check_extras(config, _is_installed)
    torch = torch_check.look_at_torch()
    own = own_peer(place.out)
    ready = None
    if isinstance(torch, Finding):
        yield torch
    else:
        yield torch_check.check_torch(torch)
        yield torch_check.check_gpu(torch, config.training.device, jetson)
        from semantic_net.federated.doctor.prepared import check_task

        task, ready = check_task(config, seed_of(config, own))
        yield task
    num_parameters = None if ready is None else ready.schema.num_parameters
    yield machine.check_memory(place.root, num_parameters)
    yield machine.check_swap(place.root)
    yield folder.check_out(place.out)
    budget = int(1e6 * config.p2p.disk_budget_mb)
    yield folder.check_disk(place.out, budget, num_parameters)
    answers = yield from _network(config, place, probes, ready, own)
    if ready is not None:
        from semantic_net.federated.doctor.prepared import check_training
        from semantic_net.federated.doctor.update import check_update, update_size

        slowest = peers.slowest_link(answers)
        size = update_size(config, ready.schema, [] if slowest is None else [slowest])
        yield check_update(size, config, len(answers), slowest)
        yield check_training(ready, config, seed_of(config, own))


def own_peer(out: Path) -> Signer | None:
    """Return the key of the peer that has run in a folder; none is made.

    Raises:
        StartError: It cannot be read.
    """
    key = out / "key.pem"
    # Not Path.exists(), which raises where we may not look: that is another check's.
    return load_or_create_key(key) if os.path.exists(key) else None


def seed_of(config: Config, own: Signer | None) -> int:
    """Return what this device's data and batches follow from; 0 before its first run."""
    shard = config.data.partition.shard
    if shard is not None:
        return shard
    if own is None:
        return 0
    from semantic_net.federated.shards import seed_of_peer

    return seed_of_peer(own.peer_id)


def _network(
    config: Config,
    place: Place,
    probes: ProbeSettings,
    ready: Prepared | None,
    own: Signer | None,
) -> Generator[Finding, None, dict[str, Answer]]:
    """Yield what the port, the key and the peers come to; return who answered, own peers apart."""
    if not config.p2p.routers:  # else it does not listen
        yield asyncio.run(peers.check_port(config.p2p))
    if config.monitoring.dashboard is not None:
        yield asyncio.run(peers.check_page(config.monitoring.dashboard))
    security, device = peers.find_device(config, place.device_folder)
    yield security
    if device is not None:
        config = with_known_addresses(config, device)
    try:
        named = addresses_to_dial(config.p2p)
    except ConfigError as exc:
        yield Finding("peers", FAIL, str(exc))
        return {}
    listening = Address(config.p2p.host, config.p2p.port)
    addresses = [a for a in dict.fromkeys(named) if not is_own(parse_address(a), listening)]
    if not addresses:
        for address, answer in asyncio.run(peers.reach_all(config.p2p.routers, probes)).items():
            yield peers.describe_router(address, answer)
        looks = config.p2p.finds_peers
        how = "they are looked for on the network" if looks else "the others have to dial this one"
        yield Finding("peers", OK, f"none named: {how}")
        return {}
    if device is None and security_mode(config) == PINNED:
        for address, answer in asyncio.run(peers.reach_all(addresses, probes)).items():
            yield peers.describe_reached(address, answer)
        return {}
    pins = None if device is None else device.pins()
    answers = asyncio.run(peers.look_at_peers(addresses, listening, pins, probes))
    names = {} if pins is None else {d: known.name for d, known in pins.trust.devices.items()}
    for address, answer in answers.items():
        yield peers.describe(
            address,
            answer,
            None if ready is None else ready.facts,
            own_key=None if own is None else own.public_key,
            names=names,
        )
    return answers


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
