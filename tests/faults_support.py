"""Peer processes that can reach each other through the fault proxy alone."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from fault_proxy import Cable, Trigger, fault_proxy
from processes_support import LIMIT_S, ROOT, PeerProcess, free_ports, settings

from semantic_net.federated.journal import JournalEntry
from semantic_net.monitoring.recorder import RoundTail
from semantic_net.protocol.update import UpdateBody, UpdateMessage
from semantic_net.records import RoundRecord

TASK = ROOT / "tests" / "faults" / "paced_task.py"

LISTEN_S = 10
"""p2p.listen_timeout_s; longer than the start may take, so that round 1 waits for everyone."""

LIVENESS_S = 3
"""As in `processes_support.FAST`."""

PACED = (
    f"task.name={TASK}",
    "task.options={step_s: 0.1}",
    "training.steps=5",
    "training.learning_rate=0.02",
    "p2p.topology=given",
    "p2p.start_timeout_s=30",
    f"p2p.listen_timeout_s={LISTEN_S}",
    f"p2p.liveness_s={LIVENESS_S}",
)
"""Half a second of training a round, which takes no CPU; nobody dials what it was not given."""


class Net:
    """Peers, and a cable between each two of them."""

    def __init__(self, folder: Path, ports: list[int], cables: dict[frozenset[int], Cable]) -> None:
        self._folder = folder
        self._ports = ports
        self._cables = cables
        self._arguments: Callable[[int], list[str]] = lambda index: []
        self._started: list[PeerProcess] = []
        self.peers: dict[int, PeerProcess] = {}
        """The latest process of each."""

    def configure(self, arguments: Callable[[int], list[str]]) -> None:
        """Say what a peer is started with from now on."""
        self._arguments = arguments

    def cable(self, one: int, other: int) -> Cable:
        """Return what connects two peers."""
        return self._cables[frozenset((one, other))]

    def cables_of(self, index: int) -> list[Cable]:
        """Return everything that connects a peer."""
        return [cable for ends, cable in self._cables.items() if index in ends]

    def cables_between(self, some: Iterable[int], others: Iterable[int]) -> list[Cable]:
        """Return what connects two groups."""
        return [self.cable(a, b) for a, b in itertools.product(some, others)]

    def folder(self, index: int) -> Path:
        """Return where a peer leaves its files."""
        return self._folder / f"peer{index}"

    def start(self, index: int, *more: str, port: int | None = None) -> PeerProcess:
        """Start a peer, or start it again in its folder."""
        if index in self.peers:
            assert self.peers[index].process.poll() is not None, "it runs already"
        others = [i for i in range(len(self._ports)) if i != index]
        addresses = [self.cable(index, other).address_for(index) for other in others]
        listen = f"127.0.0.1:{self._ports[index] if port is None else port}"
        flags = ["--listen", listen, "--peers", ",".join(addresses)]
        arguments = [*flags, *self._arguments(index), *more]
        peer = self.peers[index] = PeerProcess(self.folder(index), arguments)
        self._started.append(peer)
        return peer

    def kill_all(self) -> None:
        """Leave nobody behind."""
        for peer in self._started:
            peer.kill()

    def wait_all(self) -> None:
        """Wait until everyone has come to the end of its run."""
        codes = {index: peer.wait() for index, peer in self.peers.items()}
        assert set(codes.values()) == {0}, "\n".join(
            f"--- {i}: {codes[i]}\n{p.said()}" for i, p in self.peers.items()
        )


@contextlib.contextmanager
def network(
    folder: Path,
    num_peers: int,
    *overrides: str,
    rounds: int,
    num_started: int | None = None,
) -> Iterator[Net]:
    """Start peers (the first ones of all that there will be) behind a proxy."""
    ports = free_ports(num_peers)
    with fault_proxy() as proxy:
        pairs = itertools.combinations(range(num_peers), 2)
        cables = {frozenset((a, b)): proxy.cable({a: ports[a], b: ports[b]}) for a, b in pairs}
        net = Net(folder, ports, cables)

        def arguments(index: int) -> list[str]:
            shard = (f"data.partition.num_shards={num_peers}", f"data.partition.shard={index}")
            return ["--rounds", str(rounds), *settings(*PACED, *shard, *overrides)]

        net.configure(arguments)
        try:
            for index in range(num_peers if num_started is None else num_started):
                net.start(index)
            yield net
        finally:
            net.kill_all()


def wait_for(trigger: Trigger) -> None:
    """Wait until a trigger has fired."""
    assert trigger.fired.wait(LIMIT_S), "so much never passed"


def journal(net: Net, index: int) -> list[JournalEntry]:
    """Return what a peer has put its name to, its starts left out."""
    content = (net.folder(index) / "checkpoint" / "journal.jsonl").read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    entries = [msgspec.json.decode(line, type=JournalEntry) for line in whole.splitlines()]
    return [entry for entry in entries if entry.round]


def records(net: Net, index: int) -> list[RoundRecord]:
    """Return all records of a peer, whichever process of it wrote them."""
    return RoundTail(net.folder(index) / "rounds.jsonl").poll()


def id_of(net: Net, index: int) -> str:
    """Return a peer's id."""
    return records(net, index)[0].peer


def held_slots(net: Net, index: int) -> Counter[tuple[int, bytes]]:
    """Return how many updates a peer's folder holds of each round and author's key."""
    slots: Counter[tuple[int, bytes]] = Counter()
    for path in (net.folder(index) / "checkpoint" / "updates").glob("*.update"):
        content = path.read_bytes()
        end = 4 + int.from_bytes(content[:4], "big")
        message = msgspec.msgpack.decode(content[4:end], type=UpdateMessage)
        body = msgspec.msgpack.decode(message.body, type=UpdateBody)
        slots[body.round, message.public_key] += 1
    return slots


def assert_no_round_twice(net: Net) -> None:
    """Nobody has signed two updates for one round, and nobody holds two, or proof of two."""
    for index in net.peers:
        rounds = [entry.round for entry in journal(net, index)]
        assert rounds == sorted(set(rounds)), f"peer {index} signed one round twice"
        recorded = [record.round for record in records(net, index)]
        assert recorded == sorted(set(recorded)), f"peer {index} recorded one round twice"
        for record in records(net, index):
            assert len(record.updates_in) == len(set(record.updates_in))
        assert set(held_slots(net, index).values()) == {1}
        updates = net.folder(index) / "checkpoint" / "updates"
        assert not list(updates.glob("*.void")), f"peer {index} holds a void slot"
        assert not list(net.folder(index).glob("diverged-*")), f"peer {index} diverged"


def assert_one_model(net: Net) -> None:
    """Everyone holds the same updates and the same model in the last round."""
    last = {index: records(net, index)[-1] for index in net.peers}
    assert len({record.round for record in last.values()}) == 1, last
    assert len({record.set_digest for record in last.values()}) == 1, last
    assert len({record.state_digest for record in last.values()}) == 1, last


def accuracy(net: Net) -> float:
    """Return the final accuracy, which is everyone's."""
    [figure] = {records(net, index)[-1].metrics["accuracy"] for index in net.peers}
    return figure


def show(text: str, **figures: object) -> None:
    """Print figures that a person may want to see (pytest -s)."""
    print(text, json.dumps(figures, default=str))
