"""A simulation that is spread over processes: the same bytes, and no hang where one ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from semantic_net.cli import main
from semantic_net.errors import StartError
from semantic_net.federated.parts import Trained
from semantic_net.monitoring.runs import read_run
from semantic_net.simulation.engines import local_engine
from semantic_net.simulation.protocol_only import NoiseLearner
from semantic_net.simulation.scenario import Scenario, scenario
from semantic_net.simulation.simulate import Outcome, simulate
from semantic_net.simulation.virtual_time import DeadlockError, run_virtual

# Whatever else runs in the process that runs the tests has threads; what is forked uses none.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

NETWORKS = {
    "all alike": "{preset: lan}",
    "uneven, and lossy": (
        "{preset: lte, link: {loss: 0.03}, links: [{between: ['0-3', '4-9'], delay_s: 0.004}],"
        " machine: {half_duplex: true}, machines: [{peers: ['2-5'], up_mbit_s: 0.5}]}"
    ),
    "falls apart": (
        "{preset: lte, random_outages: {mean_between_s: 15, mean_for_s: 12, share: 0.6},"
        " outages: [{from_s: 6, for_s: 14, groups: ['0-4']}, {from_s: 30, for_s: 5, peers: 3}],"
        " energy: {idle_w: 5, training_w: 12, sent_j_per_mb: 3, received_j_per_mb: 1}}"
    ),
}


def planned(
    tmp_path: Path,
    network: str = "{preset: lan}",
    rounds: int = 3,
    *,
    peers: int = 10,
    seed: int = 3,
    payload_bytes: int = 4000,
    train_s: float = 2.0,
    overrides: tuple[str, ...] = ("p2p.participants=5", "p2p.topology=random-3"),
) -> Scenario:
    path = tmp_path / "network.yaml"
    path.write_text(network)
    return scenario(
        None,
        (f"training.rounds={rounds}", *overrides),
        num_peers=peers,
        network=str(path),
        seed=seed,
        payload_bytes=payload_bytes,
        train_s=train_s,
    )


def play(
    found: Scenario, out: Path, num_parts: int, until_s: float | None = None
) -> tuple[Outcome, str]:
    outcome = simulate(
        found, out, lambda config: local_engine(config, 1), num_parts=num_parts, until_s=until_s
    )
    hasher = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        hasher.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return outcome, hasher.hexdigest()


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_it_is_the_same_to_the_last_byte_however_many_share_it(
    tmp_path: Path, network: str
) -> None:
    found = planned(tmp_path, network)
    alone, digest = play(found, tmp_path / "1", 1)
    assert len(alone.rounds[-1].records) == 10
    for num_parts in (2, 3):
        spread, same = play(found, tmp_path / str(num_parts), num_parts)
        assert same == digest
        assert spread.rounds == alone.rounds
        assert spread.virtual_s == alone.virtual_s


def test_an_answer_and_room_for_what_waits_may_come_at_one_instant(tmp_path: Path) -> None:
    network = "{link: {delay_s: 0.2}, machines: [{peers: '0-2', down_mbit_s: 0.5}]}"
    found = planned(
        tmp_path, network, peers=6, seed=272, payload_bytes=20_000, train_s=0.5, overrides=()
    )
    _, digest = play(found, tmp_path / "1", 1)
    for num_parts in (2, 3, 6, 9):
        assert play(found, tmp_path / str(num_parts), num_parts)[1] == digest


def test_messages_may_be_larger_than_a_pipe(tmp_path: Path) -> None:
    network = "{link: {delay_s: 0.05}}"
    found = planned(tmp_path, network, 2, peers=6, payload_bytes=1_500_000, overrides=())
    _, digest = play(found, tmp_path / "1", 1)
    assert play(found, tmp_path / "3", 3)[1] == digest


def test_an_end_that_was_asked_for_comes_at_the_same_instant(tmp_path: Path) -> None:
    found = planned(tmp_path, rounds=50)
    alone, digest = play(found, tmp_path / "1", 1, until_s=9.0)
    assert 1 < len(alone.rounds) < 50
    spread, same = play(found, tmp_path / "2", 2, until_s=9.0)
    assert (same, spread.virtual_s) == (digest, alone.virtual_s)


def in_one_peer(monkeypatch: pytest.MonkeyPatch, index: int, do: Callable[[], object]) -> None:
    """Let something happen when one peer trains for its third round."""
    train = NoiseLearner.train
    made: list[NoiseLearner] = []
    begin = NoiseLearner.__init__

    def note(learner: NoiseLearner, seed: str, *rest: object) -> None:
        if f":noise:{index}:" in seed:
            made.append(learner)
        begin(learner, seed, *rest)  # type: ignore[arg-type]  # as it was called

    def maybe(learner: NoiseLearner, round_index: int, *, is_ahead: bool = False) -> Trained:
        if learner in made and round_index >= 2:
            do()
        return train(learner, round_index, is_ahead=is_ahead)

    monkeypatch.setattr(NoiseLearner, "__init__", note)
    monkeypatch.setattr(NoiseLearner, "train", maybe)


def fail_with(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("a bug"), EOFError("a bug"), ZeroDivisionError("a bug" * 100_000)],
    ids=["plain", "like a pipe's", "larger than a pipe"],
)
def test_an_error_of_any_peer_ends_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int, error: Exception
) -> None:
    found = planned(tmp_path, rounds=8)
    in_one_peer(monkeypatch, index, fail_with(error))
    with pytest.raises(type(error), match="a bug") as raised:
        play(found, tmp_path / "run", 3)
    where = raised.value if index == 0 else raised.value.__cause__
    text = "".join(traceback.format_exception(where))
    assert "in fail\n" in text, "whoever looks for the fault finds it"


def test_errors_in_several_processes_end_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = planned(tmp_path, rounds=8)
    for index in (0, 1, 2):
        in_one_peer(monkeypatch, index, fail_with(ZeroDivisionError("a bug" * 100_000)))
    with pytest.raises(ZeroDivisionError):
        play(found, tmp_path / "run", 3)


def test_a_process_that_is_killed_ends_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = planned(tmp_path, rounds=8)
    in_one_peer(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(StartError, match=r"has ended \(exit code -9.*set --workers lower"):
        play(found, tmp_path / "run", 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_leaves_what_all_have_recorded_and_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    flags = ["simulate", "--protocol-only", "--peers", "8", "--rounds", "100000", "--workers", "2"]
    command = [sys.executable, "-m", "semantic_net.cli", *flags, "--out", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while b"round 2/" not in (line := process.stdout.readline()):
            assert line, "it has ended"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.killpg(process.pid, number)  # as a terminal does, and `timeout`
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == b""
    assert rest.splitlines()[-1].decode().startswith("interrupted; ")
    assert len(children) == 1
    assert not Path("/proc", children[0]).exists()
    assert [len(each.records) >= 2 for each in read_run(out)] == [True] * 8


def test_an_interruption_before_any_round_points_to_nothing(tmp_path: Path) -> None:
    flags = ["simulate", "--protocol-only", "--peers", "60", "--workers", "2"]
    command = [sys.executable, "-m", "semantic_net.cli", *flags, "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"60 peers exchange" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert (process.returncode, rest) == (130, b"interrupted; no round was closed\n")


def test_too_many_processes_are_refused_in_a_line(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with pytest.raises(StartError, match="--workers 40: Too many open files"):
            play(planned(tmp_path, peers=40), tmp_path / "run", 40)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("network", "what"),
    [
        ("{preset: wifi}", "a channel"),
        ("{machines: [{peers: 1, up_mbit_s: 1, queue: fifo}]}", "plain queues"),
        ("{link: {delay_s: 0}}", "links without delay"),
        ("{link: {delay_s: 1.0e-17}}", "links without delay"),
        ("{links: [{between: [0, 1], delay_s: 0}]}", "links without delay"),
        ("{absences: [{peers: 1, from_s: 5}]}", "peers that go and come"),
    ],
)
def test_peers_that_share_more_than_links_stay_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], network: str, what: str
) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(network)
    flags = ["simulate", "--protocol-only", "--peers", "3", "--network", str(path), "--rounds", "1"]
    flags += ["--out", str(tmp_path / "run")]
    assert main([*flags, "--workers", "2"]) == 2
    assert f"this network has {what}, and all its peers are in one" in capsys.readouterr().err
    assert main(flags) == 0


def test_what_is_due_at_one_instant_comes_by_rank_and_then_as_it_was_asked_for() -> None:
    async def scenario() -> list[str]:
        loop = asyncio.get_running_loop()
        found: list[str] = []
        loop.call_at(1.0, found.append, "own 1")
        for rank, text in (("b", "from b"), ("a", "from a"), ("b", "from b again")):
            loop.call_in_rank(1.0, (0, rank, "me"), found.append, text)  # type: ignore[attr-defined]  # a VirtualTimeLoop
        loop.call_at(1.0, found.append, "own 2")
        loop.call_at(0.5, found.append, "early")
        await asyncio.sleep(2.0)
        return found

    expected = ["early", "from a", "from b", "from b again", "own 1", "own 2"]
    assert run_virtual(scenario()) == expected


def test_parts_of_which_none_has_anything_to_do_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: object, stop: object) -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr("semantic_net.federated.peer.Peer.run", never)
    with pytest.raises(DeadlockError, match="in any process"):
        play(planned(tmp_path), tmp_path / "run", 2)
