"""What the doctor says of a task, an update, this device's key and the peers that it looks at."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semantic_net.config import Config, DataConfig, P2PConfig, SemanticConfig, TaskConfig
from semantic_net.config import TrainingConfig as Training
from semantic_net.config.sections import SecurityConfig
from semantic_net.federated.dialled import addresses_to_dial
from semantic_net.federated.doctor.finding import FAIL, OK, WARN, Finding
from semantic_net.federated.doctor.peers import (
    check_page,
    check_port,
    describe,
    describe_reached,
    find_device,
    look_at_peers,
    reach_all,
    slowest_link,
)
from semantic_net.federated.doctor.prepared import Prepared, check_task, check_training
from semantic_net.federated.doctor.update import UpdateSize, check_update, update_size
from semantic_net.protocol.address import Address
from semantic_net.protocol.handshake import NONCE_BYTES, Hello
from semantic_net.protocol.identity import PeerId, Signer
from semantic_net.semantic.encoder import encode
from semantic_net.semantic.rate import UPDATE_OVERHEAD, FixedRate
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.probe import DOCTOR, NOT_LISTENING, Answer, ProbeSettings
from semantic_net.transport.throughput import Carried, Throughput
from semantic_net.transport.trust import Device

DIGITS = Path(__file__).parents[2] / "examples" / "digits_task.py"
CONFIG = Config(
    task=TaskConfig(name=str(DIGITS)),
    data=DataConfig(num_train=20),
    training=Training(steps=3, batch_size=4, device="cpu", num_threads=1),
    p2p=P2PConfig(host="127.0.0.1", port=0),
)
FACTS = {"run": "field", "model": "650 parameters"}
THEM = Signer(b"\7" * 32)


def ready(config: Config = CONFIG) -> Prepared:
    """Return a task that could be loaded."""
    finding, found = check_task(config, seed=0)
    assert found is not None, finding
    return found


# The task.


def test_a_task_that_can_be_loaded() -> None:
    finding, found = check_task(CONFIG, seed=0)
    assert finding == Finding(
        "task",
        OK,
        f"{DIGITS}: 20 examples to train on, 500 to validate on; a model of 650 parameters",
    )
    assert found is not None
    assert found.facts["task"] == "digits_task"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no such file"),
        ("x = 1\n1 / 0\n", "task.py, line 2: ZeroDivisionError"),
        (
            "import dataclasses\nfrom examples_digits import load as other\n",
            "line 2: ModuleNotFoundError",
        ),
    ],
)
def test_a_task_that_cannot(tmp_path: Path, content: str | None, text: str) -> None:
    task = tmp_path / "task.py"
    if content is not None:
        task.write_text(content)
    finding, found = check_task(replace(CONFIG, task=TaskConfig(name=str(task))), seed=0)
    assert (finding.level, found) == (FAIL, None)
    assert text in finding.text


BREAKS = """
from torch import nn
import torch
from torch.utils.data import TensorDataset
from semantic_net.task import Task, accuracy

def load(cfg):
    data = TensorDataset(torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64))
    model, loss = (lambda: {model}), {loss}
    return Task(make_model=model, train_data=data, val_data=data, loss=loss, metrics=accuracy)
"""


def test_a_model_that_breaks(tmp_path: Path) -> None:
    task = tmp_path / "task.py"
    task.write_text(BREAKS.format(model="nn.Linear('four', 2)", loss="nn.functional.cross_entropy"))
    finding, found = check_task(replace(CONFIG, task=TaskConfig(name=str(task))), seed=0)
    assert (finding.level, found) == (FAIL, None)
    assert f"{task}, line 9: TypeError" in finding.text


def test_training_that_breaks(tmp_path: Path) -> None:
    task = tmp_path / "task.py"
    config = replace(CONFIG, task=TaskConfig(name=str(task)))
    task.write_text(BREAKS.format(model="nn.Linear(4, 2)", loss="lambda output, target: 1 / 0"))
    finding = check_training(ready(config), config, seed=0)
    assert finding.level == FAIL
    assert "line 9: ZeroDivisionError" in finding.text
    task.write_text(BREAKS.format(model="nn.Linear(4, 2)", loss="lambda o, t: o.sum() * torch.nan"))
    finding = check_training(ready(config), config, seed=0)
    assert finding.level == FAIL
    assert finding.text.startswith("the loss became nan in step 1 of 1")


def test_training_says_how_long_a_round_takes() -> None:
    finding = check_training(ready(), CONFIG, seed=0)
    assert finding.level == OK
    assert finding.text.startswith("3 steps a round of ")
    observing = replace(CONFIG, p2p=replace(CONFIG.p2p, observe=True))
    assert check_training(ready(), observing, seed=0).text == "none: this peer only observes"


# The update.


def test_an_update_is_as_large_as_the_encoder_makes_it() -> None:
    schema = ready().schema
    for preset in ("lossless", "balanced", "extreme"):
        semantic = SemanticConfig(preset=preset)
        size = update_size(replace(CONFIG, semantic=semantic), schema, [])
        codec = FixedRate(semantic, schema).choose(99, []).codec
        change = torch.randn(schema.size, generator=torch.Generator().manual_seed(1))
        sent = len(encode(change, schema, codec).payload) + UPDATE_OVERHEAD
        assert size.num_bytes == pytest.approx(sent, rel=0.05)
        assert size.codec == str(codec)


def test_a_budget_in_seconds_takes_the_rate_that_was_measured() -> None:
    schema = ready().schema
    budget = replace(CONFIG, semantic=SemanticConfig(budget_s=1.0))
    slow, fast = (update_size(budget, schema, [rate]) for rate in (400.0, 1e6))
    assert slow.num_bytes <= 400 < fast.num_bytes
    assert fast.codec == "none"


@pytest.mark.parametrize(
    ("max_rate", "slowest", "text"),
    [
        (None, None, "over 125 kB/s (1 Mbit/s, nothing being known of the links): 500 ms"),
        (625.0, None, "over 625 kB/s (p2p.max_rate): 100 ms"),
        (625.0, 1e6, "over 625 kB/s (p2p.max_rate): 100 ms"),
        (625.0, 62_500.0, "over 62.5 kB/s (the slowest link measured): 1.0 s"),
        (1e6, None, "0.0625 ms"),
    ],
)
def test_how_long_an_update_takes(max_rate: float | None, slowest: float | None, text: str) -> None:
    config = replace(CONFIG, p2p=replace(CONFIG.p2p, max_rate=max_rate))
    finding = check_update(UpdateSize(20_833, "topk_quantize, 3%"), config, 3, slowest)
    assert finding.level == OK
    assert finding.text.startswith("an update takes about 20.8 kB (topk_quantize, 3%); to 3 peers")
    assert finding.text.endswith(text)


def test_an_update_that_comes_too_late_is_a_warning() -> None:
    config = replace(CONFIG, p2p=replace(CONFIG.p2p, listen_timeout_s=4.0))
    size = UpdateSize(1_000_000, "none")
    assert check_update(size, config, 1, slowest=200_000.0).level == WARN
    assert check_update(size, config, 1, slowest=300_000.0).level == OK
    assert check_update(size, config, 0, slowest=None).level == OK


# The port and the key.


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = P2PConfig(host="127.0.0.1", port=port)
        assert asyncio.run(check_port(busy)) == Finding(
            "port",
            FAIL,
            f"cannot listen on 127.0.0.1:{port}",
            "the port is in use: stop the other program, or choose another port",
        )
    assert asyncio.run(check_port(busy)) == Finding("port", OK, f"127.0.0.1:{port} is free")
    assert asyncio.run(check_port(CONFIG.p2p)).level == OK


def test_a_device_without_a_key_can_tell_what_is_reachable_all_the_same() -> None:
    with socket.socket() as there, socket.socket() as silent:
        for each in (there, silent):
            each.bind(("127.0.0.1", 0))
        there.listen()
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (there, silent)]
        answers = asyncio.run(reach_all(addresses, ProbeSettings()))
    found = [describe_reached(address, answer) for address, answer in answers.items()]
    assert [(each.level, each.name) for each in found] == [(WARN, f"peer {a}") for a in addresses]
    assert found[0].text.startswith("something listens there; round trip ")
    assert "refused" in found[1].text


def test_a_page_that_cannot_be_served() -> None:
    nowhere = asyncio.run(check_page("nowhere"))
    assert (nowhere.level, "not an address" in nowhere.text) == (FAIL, True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = asyncio.run(check_page(f"127.0.0.1:{port}"))
        assert (busy.name, busy.level) == ("page", FAIL)
        assert busy.text == f"cannot listen on 127.0.0.1:{port}"
    free = asyncio.run(check_page(f"127.0.0.1:{port}"))
    assert free == Finding("page", OK, f"127.0.0.1:{port} is free")
    assert "monitoring.dashboard with port 0" in asyncio.run(check_page("127.0.0.1:0")).text


def pinned(*peers: str) -> Config:
    p2p = replace(CONFIG.p2p, peers=peers)
    return replace(CONFIG, p2p=p2p, security=SecurityConfig(mode="pinned"))


def test_a_device_without_a_key_gets_none(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    finding, found = find_device(pinned(), folder)
    assert (finding.level, found) == (WARN, None)
    assert f"no key yet in {folder}" in finding.text
    assert not folder.exists()
    assert find_device(pinned("10.0.0.1:5000"), folder)[0].level == FAIL


def test_a_device_and_whom_it_lets_in(tmp_path: Path) -> None:
    device, other = DeviceIdentity(tmp_path / "device"), DeviceIdentity(tmp_path / "other")
    assert find_device(pinned(), device.folder)[0].level == WARN
    assert find_device(pinned("10.0.0.1:5000"), device.folder)[0].level == FAIL
    device.trust_file.pair(Device(other.certificate))
    finding, found = find_device(pinned("10.0.0.1:5000"), device.folder)
    assert finding == Finding("security", OK, "pinned: paired with 1")
    assert found is not None
    assert found.id == device.id
    device.trust_file.revoke(other.id)
    device.trust_file.pair(Device(DeviceIdentity(tmp_path / "third").certificate))
    assert find_device(pinned(), device.folder)[0].text == "pinned: paired with 1, 1 revoked"
    device.trust_file.path.write_text("nonsense\n")
    assert find_device(pinned(), device.folder)[0].level == FAIL


def test_open_is_a_warning_beyond_this_machine(tmp_path: Path) -> None:
    assert find_device(CONFIG, tmp_path)[0].level == OK
    said = replace(CONFIG, security=SecurityConfig(mode="open"))
    assert find_device(said, tmp_path) == (
        Finding(
            "security",
            WARN,
            "open: anyone who reaches the port may join, and nothing is encrypted",
            "for a network that you trust; else pair the devices",
        ),
        None,
    )


# Peers.


def hello(software: str = "semantic-net 9", **facts: str) -> Hello:
    return Hello(THEM.public_key, bytes(NONCE_BYTES), 1, [], FACTS | facts, software)


def test_a_peer_that_fits() -> None:
    finding = describe("b:1", Answer(hello=hello(), round_trip_s=0.0123), FACTS)
    assert (finding.name, finding.level) == ("peer b:1", OK)
    assert "semantic-net 9; round trip 12.3 ms" in finding.text
    assert "doctor --wait" in finding.hint
    named = Answer(hello=hello(), device=PeerId("d"))
    assert describe("b:1", named, FACTS, names={PeerId("d"): "drone-3"}).text.startswith("drone-3,")


def test_a_peer_of_another_run_differs_in_what_is_named() -> None:
    finding = describe("b:1", Answer(hello=hello(run="lab")), FACTS)
    assert (finding.level, finding.hint) == (FAIL, "set it the same on both")
    assert finding.text.endswith("is set otherwise: run: ours field, theirs lab")
    assert describe("b:1", Answer(hello=hello(run="lab")), None).level == OK


def test_this_devices_own_peer() -> None:
    finding = describe("b:1", Answer(hello=hello()), FACTS, own_key=THEM.public_key)
    assert (finding.level, finding.hint) == (OK, "")
    assert "own peer" in finding.text


def test_a_link_that_was_measured() -> None:
    carried = Throughput(Carried(500_000, 1_000_000), Carried(2_000_000, 1_000_000))
    measured = Answer(hello=hello(DOCTOR), throughput=carried)
    finding = describe("b:1", measured, FACTS)
    assert (finding.level, finding.hint) == (OK, "")
    assert finding.text.endswith("500 kB/s to it, 2.0 MB/s from it")
    assert slowest_link({"b:1": measured, "c:1": Answer(hello=hello())}) == 500_000
    assert slowest_link({}) is None
    failed = describe("b:1", Answer(hello=hello(DOCTOR), not_measured="it hung up"), FACTS)
    assert failed.level == WARN
    assert failed.text.endswith("its link was not measured: it hung up")


@pytest.mark.parametrize(
    ("code", "level", "hint"),
    [
        ("unknown_name", WARN, "IP address"),
        ("no_route", WARN, "ip route"),
        ("timeout", WARN, "firewall"),
        ("not_listening", WARN, "start the peer"),
        ("silent", WARN, "semantic-net peer's?"),
        ("busy", WARN, "by itself"),
        ("quarantined", WARN, "by itself"),
        ("unknown_device", FAIL, ""),
        ("revoked", FAIL, "--again"),
        ("security", FAIL, ""),
        ("signature", FAIL, "security.folder"),
        ("protocol", FAIL, "same version"),
        ("closed", FAIL, "same version"),
        ("what_a_stranger_gives", FAIL, "same version"),
    ],
)
def test_what_to_do_where_there_is_no_hello(code: str, level: str, hint: str) -> None:
    finding = describe("b:1", Answer(code=code, reason="why\n"), FACTS)
    assert finding.level == level
    assert finding.text.startswith("why?"), "what others say is made printable"
    assert hint in finding.hint


def test_peers_are_looked_at_together() -> None:
    with socket.socket() as one, socket.socket() as two:
        for sock in (one, two):
            sock.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in (one, two)]
        other = Address("127.0.0.1", 1)
        answers = asyncio.run(look_at_peers(addresses, other, None, ProbeSettings()))
    assert {a: answer.code for a, answer in answers.items()} == dict.fromkeys(
        addresses, NOT_LISTENING
    )


@pytest.mark.parametrize(("own", "num_left"), [("127.0.0.1", 0), ("0.0.0.0", 0), ("192.0.2.1", 1)])
def test_a_name_of_this_device_is_left_out(own: str, num_left: int) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        name = f"localhost:{port}"
        answers = asyncio.run(look_at_peers([name], Address(own, port), None, ProbeSettings()))
    assert len(answers) == num_left


def test_a_graph_over_a_list_without_this_device_cannot_be_dialled() -> None:
    with pytest.raises(ValueError, match="own numeric address"):
        addresses_to_dial(P2PConfig(topology="ring", peers=("10.0.0.1:1", "10.0.0.2:1")))
