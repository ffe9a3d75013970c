"""The classic mode: a real Flower server and real clients on loopback."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes_support import PeerProcess, free_ports, settings

pytest.importorskip("flwr", reason="the extra flower is not installed")

from semantic_net.commands.classic import _first_free
from semantic_net.federated.folder import RunFolder

PACED = ("training.steps=60", "data.num_train=512")


@contextlib.contextmanager
def serving(
    folder: Path, num_clients: int, *overrides: str, rounds: int = 3, waits_for: int | None = None
) -> Iterator[tuple[PeerProcess, list[PeerProcess]]]:
    """Start a server and its clients; none is left behind."""
    [port] = free_ports(1)
    shared = ["--rounds", str(rounds), *settings("data.partition.num_shards=8", *overrides)]
    flags = ["--host", "127.0.0.1", "--port", str(port), "--clients", str(waits_for or num_clients)]
    processes = [PeerProcess(folder / "server", [*flags, *shared], command="server")]
    try:
        for shard in range(num_clients):
            own = ["--server", f"127.0.0.1:{port}", "--set", f"data.partition.shard={shard}"]
            out = folder / f"client{shard}"
            processes.append(PeerProcess(out, [*shared, *own], command="client"))
        yield processes[0], processes[1:]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize("mode", ["none", "topk_quantize"])
def test_a_server_and_its_clients_learn_one_model(tmp_path: Path, mode: str) -> None:
    with serving(tmp_path, 3, f"semantic.mode={mode}") as (server, clients):
        assert [each.wait() for each in (server, *clients)] == [0, 0, 0, 0], server.said()
    server.read_rounds()
    assert [len(record.updates_in) for record in server.rounds] == [3, 3, 3]
    assert {record.close_reason for record in server.rounds} == {"all in"}
    sent = received = 0
    for client in clients:
        client.read_rounds()
        assert [record.round for record in client.rounds] == [1, 2, 3]
        assert client.digests() == clients[0].digests(), "what is shared is the same"
        assert (client.out / "model_best.safetensors").exists()
        sent += sum(record.bytes_sent for record in client.rounds)
        received += sum(record.bytes_received for record in client.rounds)
    # Flower says goodbye after the last record; in between both ends count the same bytes.
    totals = server.summary()
    assert abs(totals["bytes_received"] - sent) < 0.1 * sent
    assert abs(totals["bytes_sent"] - received) < 0.1 * received
    assert totals["finished"] is True
    assert "DEPRECATED" not in server.said()
    if mode == "none":
        assert totals["compression_ratio"] == 2.0, "who holds a version is not sent it to train"
    else:
        assert totals["compression_ratio"] > 4


def test_a_killed_client_costs_its_own_update_only(tmp_path: Path) -> None:
    with serving(tmp_path, 3, *PACED, rounds=12, waits_for=2) as (server, clients):
        server.wait_for_round(2)
        clients[2].kill()
        assert [each.wait() for each in (server, *clients[:2])] == [0, 0, 0], server.said()
    server.read_rounds()
    assert server.rounds[-1].round == 12
    assert len(server.rounds[-1].updates_in) == 2
    assert clients[0].digests()[-1] == clients[1].digests()[-1]


def test_an_interrupted_server_leaves_what_it_has(tmp_path: Path) -> None:
    with serving(tmp_path, 2, *PACED, rounds=10_000) as (server, _):
        server.wait_for_round(2)
        server.send(signal.SIGINT)
        assert server.wait() == 130, server.said()
    summary = server.summary()
    assert summary["finished"] is False
    assert summary["rounds"] >= 2
    assert (server.out / "model.safetensors").exists()


def test_a_client_that_learns_something_else_says_so_and_ends(tmp_path: Path) -> None:
    with serving(tmp_path, 1, rounds=1, waits_for=2) as (server, clients):
        port = server._arguments[3]
        shared = settings("aggregation.outer_momentum=0.25")
        flags = ["--server", f"127.0.0.1:{port}", *shared]
        other = PeerProcess(tmp_path / "other", flags, command="client")
        try:
            assert other.wait() == 2, other.said()
            assert "aggregation.outer_momentum: ours 0.25, theirs 0.5" in other.said()
        finally:
            other.kill()
        assert [each.wait() for each in (server, *clients)] == [0, 0], server.said()


def test_a_busy_port_is_told(tmp_path: Path) -> None:
    """GRPC would share it, and the two servers get every other client."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ["--host", "127.0.0.1", "--port", port, *settings()]
        server = PeerProcess(tmp_path / "server", flags, command="server")
        try:
            assert server.wait() == 3, server.said()
        finally:
            server.kill()
    assert f"cannot listen on 127.0.0.1:{port}" in server.said()
    assert "Traceback" not in server.said()


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    [port] = free_ports(1)
    flags = ["--server", f"127.0.0.1:{port}", *settings("p2p.start_timeout_s=1")]
    client = PeerProcess(tmp_path / "client", flags, command="client")
    try:
        assert client.wait() == 3, client.said()
    finally:
        client.kill()
    assert f"waiting for the server 127.0.0.1:{port}, at most 1 s" in client.said()
    assert "does not answer" in client.said()
    assert "Traceback" not in client.said()


def test_a_client_may_start_before_the_server(tmp_path: Path) -> None:
    [port] = free_ports(1)
    flags = ["--server", f"127.0.0.1:{port}", *settings()]
    client = PeerProcess(tmp_path / "client", flags, command="client")
    server = None
    try:
        client.wait_until(lambda each: "waiting for the server" in each.said(), "waits")
        flags = ["--host", "127.0.0.1", "--port", str(port), "--clients", "1", "--rounds", "1"]
        server = PeerProcess(tmp_path / "server", [*flags, *settings()], command="server")
        assert [client.wait(), server.wait()] == [0, 0], client.said()
    finally:
        client.kill()
        if server is not None:
            server.kill()


def test_a_client_goes_on_with_the_next_server(tmp_path: Path) -> None:
    """And leaves what it has learned where there is none."""
    [port] = free_ports(1)
    flags = ["--host", "127.0.0.1", "--port", str(port), "--clients", "1", "--rounds"]
    paced = settings(*PACED, "p2p.start_timeout_s=15", "semantic.mode=none")
    own = ["--server", f"127.0.0.1:{port}", "--rounds", "10000", *paced]
    servers: list[PeerProcess] = []
    client = PeerProcess(tmp_path / "client", own, command="client")
    try:
        for name, rounds in (("one", "10000"), ("two", "3")):
            out = tmp_path / name
            servers.append(PeerProcess(out, [*flags, rounds, *paced], command="server"))
            servers[-1].wait_for_round(2)
            if name == "one":
                servers[-1].kill()
        assert [client.wait(), servers[-1].wait()] == [0, 0], client.said()
    finally:
        for each in (client, *servers):
            each.kill()
    assert "lost the server" in client.said()
    assert client.summary()["finished"] is True
    assert (client.out / "model.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_client_that_is_stopped_leaves_a_summary(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, 2, *PACED, rounds=10_000, waits_for=1) as (_, clients):
        clients[0].wait_for_round(1)
        clients[0].send(number)
        assert clients[0].wait() == 130, clients[0].said()
    assert clients[0].summary()["finished"] is False


def test_two_clients_on_one_machine_take_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = Path("runs") / "client-here"
    with RunFolder(_first_free(base)) as one, RunFolder(_first_free(base)) as two:
        assert (one.root, two.root) == (base, Path("runs") / "client-here-2")
    assert _first_free(base) == base


def test_a_start_that_fails_leaves_the_run_before_alone(tmp_path: Path) -> None:
    out = tmp_path / "client"
    out.mkdir()
    (out / "rounds.jsonl").write_text("earlier\n")
    flags = ["--server", "127.0.0.1:1", *settings("p2p.start_timeout_s=0.1")]
    client = PeerProcess(out, flags, command="client")
    try:
        assert client.wait() == 3, client.said()
    finally:
        client.kill()
    assert (out / "rounds.jsonl").read_text() == "earlier\n"


def test_certificates_that_are_none_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for command, flags in (
        ("server", ["--tls", *[str(broken)] * 3]),
        ("client", ["--ca", str(broken)]),
    ):
        process = PeerProcess(tmp_path / command, [*flags, *settings()], command=command)
        try:
            assert process.wait() == 3, process.said()
        finally:
            process.kill()
        assert str(broken) in process.said()
        assert "Traceback" not in process.said()
