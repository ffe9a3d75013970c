"""Whole simulations: what they leave is a run's, the same for the same seed, whatever befalls."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from processes_support import ROOT
from safetensors.torch import load_file

from semantic_net.cli import main
from semantic_net.config import Config
from semantic_net.errors import ConfigError, StartError
from semantic_net.monitoring.runs import read_run
from semantic_net.monitoring.text import format_energy
from semantic_net.protocol.identity import short_id
from semantic_net.records import RoundRecord, Summary
from semantic_net.simulation import simulate as module
from semantic_net.simulation.costs import VirtualRunner
from semantic_net.simulation.engines import local_engine
from semantic_net.simulation.lives import PEER, Life, NoisePeers
from semantic_net.simulation.progress import Progress, RoundOfAll
from semantic_net.simulation.scenario import Scenario, scenario
from semantic_net.simulation.simulate import Outcome, simulate
from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.transport.memory import MemoryNetwork

TASK = ROOT / "tests" / "federated" / "demo_task.py"
LEARNS = (f"task.name={TASK}", "training.steps=2", "training.batch_size=4", "training.device=cpu")

OUTAGES = "random_outages: {mean_between_s: 9, mean_for_s: 3}"
"""Faults without end."""

SLOW_TASK = """
import pathlib
import time
import torch
from torch import nn
from torch.utils.data import TensorDataset
from semantic_net.task import Task, regression

def load(cfg):
    def loss(output, target):
        slower = pathlib.Path(__file__).with_name("slower")
        if slower.exists():  # a pipe that says who is at it
            with slower.open("wb") as pipe:
                pipe.write(b".")
            time.sleep(300)
        time.sleep(0.1)
        return nn.functional.mse_loss(output, target)

    data = TensorDataset(torch.ones(8, 4), torch.ones(8, 4))
    model = lambda: nn.Linear(4, 4)
    return Task(make_model=model, train_data=data, val_data=data, loss=loss, metrics=regression)
"""


def planned(
    *overrides: str, peers: int = 4, network: str = "lan", seed: int = 0, noise: bool = False
) -> Scenario:
    return scenario(
        None,
        [*LEARNS, *overrides],
        num_peers=peers,
        network=network,
        seed=seed,
        payload_bytes=2000 if noise else None,
        train_s=3.0,
    )


def play(found: Scenario, out: Path, until_s: float | None = None) -> Outcome:
    return simulate(found, out, lambda config: local_engine(config, 1), until_s=until_s)


def records(out: Path) -> dict[str, tuple[RoundRecord, ...]]:
    return {each.name: each.records for each in read_run(out)}


def network(tmp_path: Path, text: str) -> str:
    path = tmp_path / "network.yaml"
    path.write_text(text)
    return str(path)


def digest_of(out: Path) -> str:
    hasher = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        hasher.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return hasher.hexdigest()


def test_simulated_peers_learn_one_model_and_leave_what_real_ones_do(tmp_path: Path) -> None:
    shown: list[RoundOfAll] = []
    out = tmp_path / "run"
    found = planned("training.rounds=3")
    outcome = simulate(found, out, lambda config: local_engine(config, 1), show=shown.append)
    assert [of_all.number for of_all in shown] == [1, 2, 3]
    assert [o.num_participants for o in outcome.rounds] == [4, 4, 4]
    run = read_run(out)
    assert [each.name for each in run] == ["peer0", "peer1", "peer2", "peer3"]
    for each in run:
        assert [record.round for record in each.records] == [1, 2, 3]
        assert {record.close_reason for record in each.records} == {"all in"}
        assert each.summary is not None
        assert each.summary.finished
        assert each.summary.metrics
    assert len({each.records[-1].state_digest for each in run}) == 1
    first, *others = (load_file(out / each.name / "model.safetensors") for each in run)
    assert all(torch.equal(other[name], first[name]) for other in others for name in first)
    assert main(["report", str(out), "--out", str(tmp_path / "report")]) == 0


def test_time_is_what_the_device_and_the_network_take(tmp_path: Path) -> None:
    slow = network(
        tmp_path,
        "{link: {bandwidth_mbit_s: 0.08, delay_s: 0.5, header_bytes: 0},"
        " device: {step_s: 2, encode_s_per_million: 0, fold_s_per_million: 0, evaluate_s: 0}}",
    )
    found = planned("training.rounds=2", "semantic.preset=lossless", peers=2, network=slow)
    outcome = play(found, tmp_path / "run")
    for found_records in records(tmp_path / "run").values():
        second = found_records[1]
        assert second.train_s == 4.0, "two steps"
        takes_s = second.payload_bytes / 10_000  # 80 kbit/s
        assert takes_s + 0.5 < second.exchange_s < 1.3 * takes_s + 3.0
    assert outcome.virtual_s > 2 * 4.0


@pytest.mark.unmeasured
@pytest.mark.parametrize("noise", [True, False])
def test_the_same_seed_gives_the_same_bytes_in_any_process(tmp_path: Path, noise: bool) -> None:
    text = "{preset: mesh-disaster, churn: {mean_up_s: 30, mean_down_s: 10, share: 0.5}}"
    flags = ["simulate", "--network", network(tmp_path, text), "--seed", "5"]
    for override in (*LEARNS, "p2p.participants=4", "p2p.checkpoint_every=1"):
        flags += ["--set", override]
    if noise:
        flags += ["--peers", "18", "--rounds", "6", "--protocol-only", "--payload-kb", "2"]
    else:
        flags += ["--peers", "6", "--rounds", "3", "--workers", "1"]
    found = set()
    for hash_seed in ("1", "2"):
        out = tmp_path / hash_seed
        subprocess.run(
            [sys.executable, "-m", "semantic_net.cli", *flags, "--out", str(out)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            timeout=300,
        )
        found.add(digest_of(out))
    assert len(found) == 1


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    for seed in (0, 1):
        play(planned("training.rounds=2", noise=True, seed=seed), tmp_path / str(seed))
    assert digest_of(tmp_path / "0") != digest_of(tmp_path / "1")


def test_who_crashes_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    text = "{absences: [{peers: 1, from_s: 20, for_s: 15}], device: {step_s: 2}}"
    found = planned("training.rounds=8", network=network(tmp_path, text))
    play(found, tmp_path / "run")
    by_peer = records(tmp_path / "run")
    one = by_peer["peer1"]
    assert one[-1].round == 8
    published = [record.round for record in one if record.payload_bytes]
    assert len(set(published)) == len(published)
    assert 1 in published
    missed = [r.round for r in by_peer["peer0"] if one[0].peer not in r.updates_in]
    assert missed, "the others went on without it"
    assert len({found_records[-1].state_digest for found_records in by_peer.values()}) == 1
    summary = msgspec.json.decode(
        (tmp_path / "run" / "peer1" / "summary.json").read_bytes(), type=Summary
    )
    assert summary.finished


def test_who_says_goodbye_is_not_waited_for_and_comes_back(tmp_path: Path) -> None:
    text = "{absences: [{peers: 1, from_s: 20, for_s: 15, how: leave}], device: {step_s: 2}}"
    found = planned("training.rounds=8", network=network(tmp_path, text))
    play(found, tmp_path / "run")
    by_peer = records(tmp_path / "run")
    without = [r for r in by_peer["peer0"] if len(r.updates_in) == 3]
    assert without
    assert max(r.time_s for r in without) < 6.0, "its goodbye is not a silence"
    assert len({found_records[-1].state_digest for found_records in by_peer.values()}) == 1


def test_two_halves_go_on_and_become_one_again(tmp_path: Path) -> None:
    text = "{outages: [{groups: [['0-1'], ['2-3']], from_s: 15, for_s: 30}], device: {step_s: 2}}"
    found = planned("training.rounds=14", "p2p.listen_timeout_s=6", network=network(tmp_path, text))
    play(found, tmp_path / "run")
    by_peer = records(tmp_path / "run")
    apart = {
        record.round
        for record in by_peer["peer0"]
        if len(record.updates_in) == 2 and record.round < 14
    }
    assert apart, "each half closed rounds of its own"
    last = {found_records[-1].state_digest for found_records in by_peer.values()}
    assert len(last) == 1


def test_a_peer_that_is_away_when_all_others_end_does_not_keep_them(tmp_path: Path) -> None:
    text = "{absences: [{peers: 2, from_s: 0, for_s: 100000}]}"
    outcome = play(
        planned("training.rounds=2", network=network(tmp_path, text), noise=True),
        tmp_path / "run",
    )
    assert outcome.virtual_s < 1000
    assert sorted(records(tmp_path / "run")) == ["peer0", "peer1", "peer3"]


def test_a_simulation_ends_when_it_is_told_to(tmp_path: Path) -> None:
    found = planned("training.rounds=1000", noise=True)
    outcome = play(found, tmp_path / "run", until_s=60.0)
    assert 60 <= outcome.virtual_s < 70
    summaries = [each.summary for each in read_run(tmp_path / "run")]
    assert all(summary is not None and not summary.finished for summary in summaries)


def test_in_turns_only_some_train_and_all_have_the_model(tmp_path: Path) -> None:
    outcome = play(planned("training.rounds=4", "p2p.participants=2", peers=8), tmp_path / "run")
    assert sum(of_all.num_participants for of_all in outcome.rounds) == 8, "once in four rounds"
    assert all(len(of_all.records) == 8 for of_all in outcome.rounds)
    last = {record.state_digest for record in outcome.rounds[-1].records.values()}
    assert len(last) == 1


def record_of(
    peer: int,
    number: int,
    *,
    updates_in: tuple[str, ...] = ("0", "1", "2"),
    missing: tuple[str, ...] = (),
    why: str = "all in",
) -> RoundRecord:
    return RoundRecord(
        round=number,
        peer=str(peer),
        time_s=1.0,
        train_s=1.0,
        encode_s=0.0,
        exchange_s=0.0,
        fold_s=0.0,
        loss=None,
        metrics={},
        payload_bytes=1,
        dense_bytes=1,
        bytes_sent=1,
        bytes_received=1,
        updates_in=[*updates_in],
        missing=[*missing],
        close_reason=why,
        state_digest="",
        set_digest="",
        num_examples=1,
        rejected={},
    )


def test_a_round_is_shown_when_all_that_run_are_through_with_it() -> None:
    shown: list[int] = []
    progress = Progress(lambda of_all: shown.append(of_all.number))
    for peer in range(3):
        progress.begun(peer)
    for peer in range(3):
        progress.closed(peer, record_of(peer, 1))
    assert shown == [1]
    progress.closed(0, record_of(0, 2))
    progress.closed(1, record_of(1, 3))
    assert shown == [1], "2 has not closed the second"
    progress.gone(2)
    assert shown == [1, 2], "1 has skipped it"
    progress.begun(2)
    progress.closed(0, record_of(0, 3))
    assert shown == [1, 2], "one that has come later has closed none"
    progress.closed(2, record_of(2, 3))
    assert shown == [1, 2, 3]
    progress.closed(0, record_of(0, 4))
    for peer in (1, 2, 0):
        progress.gone(peer)
    assert shown == [1, 2, 3, 4], "who is gone is not waited for"
    progress.begun(1)
    progress.closed(1, record_of(1, 5))
    progress.begun(0)
    progress.gone(0)
    progress.gone(1)
    progress.over()
    assert shown == [1, 2, 3, 4, 5]


def test_a_round_tells_how_many_updates_are_missing_and_why() -> None:
    def missing(*records: RoundRecord) -> tuple[float, str]:
        return RoundOfAll(1, {int(record.peer): record for record in records}).missing

    assert missing(*(record_of(peer, 1) for peer in range(3))) == (0, "")
    alone = (
        record_of(peer, 1, updates_in=(str(peer),), why=why)
        for peer, why in enumerate(("deadline, cut off", "nobody expected", "deadline, cut off"))
    )
    assert missing(*alone) == (2, "cut off")
    late = record_of(0, 1, missing=("3", "4"), why="2 gone or moved on")
    assert missing(late, record_of(1, 1)) == (1, "gone or moved on")
    late = record_of(0, 1, missing=("7",), why="deadline, 1 missing")
    assert missing(late) == (1, "deadline")
    assert missing(record_of(0, 1), record_of(5, 1)) == (1, "not expected")


def test_signs_of_life_are_shown_while_no_round_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALIVE_S", 0.001)
    found, told = planned("training.rounds=4", noise=True), set[tuple[float, int]]()
    simulate(
        found,
        tmp_path / "run",
        lambda config: local_engine(config, 1),
        show_alive=lambda virtual_s, num_running: told.add((virtual_s, num_running)),
    )
    assert len(told) > 1
    assert (told.pop()[1]) in range(5)


def test_each_line_of_the_log_is_its_peers(tmp_path: Path) -> None:
    text = "{outages: [{from_s: 5, for_s: 25, peers: [1]}]}"
    found = planned("training.rounds=6", noise=True, network=network(tmp_path, text))
    told: list[tuple[str, str]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append((PEER.get("nobody"), record.getMessage()))

    logger, handler = logging.getLogger("semantic_net.federated.peer"), Handler()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        play(found, tmp_path / "run")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    name_of = {short_id(found.signer_of(i).peer_id): name for i, name in enumerate(found.names)}
    ends = [
        (name, name_of[match[1]])
        for name, line in told
        if (match := re.match(r"(?:lost|connected to) ([\w-]+)", line))
    ]
    assert len(ends) > 2 * 6, "both ends of each session tell of it"
    assert all(one != other for one, other in ends)
    assert all(ends.count((a, b)) == ends.count((b, a)) for a, b in ends)
    assert {name for name, line in told if "goes on alone" in line} == {"peer1"}


def test_energy_is_added_up_where_the_network_tells_of_it(tmp_path: Path) -> None:
    text = "{energy: {idle_w: 2, training_w: 10, sent_j_per_mb: 0, received_j_per_mb: 0}}"
    found = planned("training.rounds=2", noise=True, network=network(tmp_path, text))
    play(found, tmp_path / "run")
    for each in read_run(tmp_path / "run"):
        for record in each.records:
            expected = 2 * record.time_s + 8 * record.train_s
            assert record.energy_j == pytest.approx(expected, abs=0.01)
        assert each.summary is not None
        total = sum(record.energy_j or 0.0 for record in each.records)
        assert each.summary.energy_j == pytest.approx(total, abs=0.01)


def test_an_error_of_the_task_ends_the_simulation_and_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    text = TASK.read_text().replace("def load(", "def loads(", 1)
    broken.write_text(text + "\n\ndef load(cfg):\n    raise ValueError('not today')\n")
    found = planned("training.rounds=2", f"task.name={broken}")
    with pytest.raises(StartError, match="ValueError: not today"):
        play(found, tmp_path / "run")


@pytest.mark.parametrize("away_s", [9.0, 1.0])
def test_an_error_of_a_peer_that_comes_back_ends_the_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away_s: float
) -> None:
    """Whether it comes back later (9 s), or before it is quite gone."""
    begun: list[int] = []
    begin = NoisePeers.__call__

    def broken(peers: NoisePeers, index: int, net: MemoryNetwork) -> Life:
        if index in begun:
            raise StartError("its disk is broken")
        begun.append(index)
        return begin(peers, index, net)

    monkeypatch.setattr(NoisePeers, "__call__", broken)
    text = f"{{absences: [{{peers: 1, from_s: 11, for_s: {away_s}}}]}}"
    found = planned("training.rounds=8", noise=True, network=network(tmp_path, text))
    with pytest.raises(StartError, match="its disk is broken"):
        play(found, tmp_path / "run")
    assert begun == [0, 1, 2, 3]


@pytest.mark.parametrize("text", ["{}", "{absences: [{peers: 1, from_s: 11, for_s: 30}]}"])
def test_a_peer_that_cannot_leave_its_files_ends_the_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def leave(peers: NoisePeers, index: int, config: Config, *, finished: bool) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(NoisePeers, "_leave", leave)
    found = planned("training.rounds=3", noise=True, network=network(tmp_path, text))
    with pytest.raises(OSError, match="No space left on device"):
        play(found, tmp_path / "run")


def test_peers_that_are_all_away_at_once_come_back_and_go_on(tmp_path: Path) -> None:
    text = "{absences: [{peers: '0-3', from_s: 14, for_s: 30}]}"
    found = planned("training.rounds=8", noise=True, network=network(tmp_path, text))
    outcome = play(found, tmp_path / "run")
    assert outcome.virtual_s > 44
    for found_records in records(tmp_path / "run").values():
        assert found_records[-1].round == 8


def test_peers_that_all_go_for_ever_end_the_simulation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"{{absences: [{{peers: '0-3', from_s: 14}}], {OUTAGES}}}"
    flags = ["--peers", "4", "--rounds", "8", "--network", network(tmp_path, text)]
    flags += ["--protocol-only", "--train-s", "3", "--out", str(tmp_path / "run")]
    assert main(["simulate", *flags]) == 0
    assert re.search(
        r"\nended in round \d of 8: \d of 4 peers closed it, ", capsys.readouterr().out
    )


def test_where_nobody_ever_comes_is_refused(tmp_path: Path) -> None:
    for away in ("{peers: '0-2', from_s: 0}", "{peers: '0-3', from_s: 0, for_s: 9}"):
        planned(network=network(tmp_path, f"{{absences: [{away}]}}"))
    with pytest.raises(ConfigError, match="absences: all peers are away from the start"):
        planned(network=network(tmp_path, "{absences: [{peers: '0-3', from_s: 0}]}"))


def test_nobody_comes_to_say_goodbye(tmp_path: Path) -> None:
    text = "{absences: [{peers: 2, from_s: 12, for_s: 38.0005}]}"
    found = planned("training.rounds=1000", noise=True, network=network(tmp_path, text))
    outcome = play(found, tmp_path / "run", until_s=50.0)
    assert 50 <= outcome.virtual_s < 60


def test_nothing_befalls_peers_that_say_goodbye(tmp_path: Path) -> None:
    text = f"{{churn: {{mean_up_s: 6, mean_down_s: 2}}, {OUTAGES}}}"
    found = planned("training.rounds=1000", noise=True, network=network(tmp_path, text))
    outcome = play(found, tmp_path / "run", until_s=60.0)
    assert 60 <= outcome.virtual_s < 75


@contextlib.contextmanager
def training_slowly(tmp_path: Path, workers: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Yield a simulation that has closed its first round."""
    slow, out = tmp_path / "slow.py", tmp_path / "run"
    slow.write_text(SLOW_TASK)
    flags = ["simulate", "--peers", "3", "--rounds", "1000", "--workers", workers]
    for override in (f"task.name={slow}", *LEARNS[1:]):
        flags += ["--set", override]
    command = [sys.executable, "-m", "semantic_net.cli", *flags, "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"round 1/1000" not in (line := process.stdout.readline()):
            assert line, "it has ended"  # a busy machine shows signs of life before
        yield process, out


def children_of(process: subprocess.Popen[bytes]) -> list[Path]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [Path("/proc", child) for child in path.read_text().split()]


@pytest.mark.parametrize(("workers", "number"), [("1", signal.SIGINT), ("2", signal.SIGTERM)])
def test_a_signal_ends_it_with_one_line_and_no_process_left(
    tmp_path: Path, workers: str, number: signal.Signals
) -> None:
    with training_slowly(tmp_path, workers) as (process, out):
        children = children_of(process)
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == b""
    assert rest.splitlines()[-1].decode().startswith("interrupted; ")
    assert len(children) == (2 if workers == "2" else 0)
    assert not any(child.exists() for child in children)
    assert all(each.summary is not None for each in read_run(out))


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with training_slowly(tmp_path, "2") as (process, _):
        children = [os.pidfd_open(int(child.name)) for child in children_of(process)]
        os.mkfifo(tmp_path / "slower")
        at_it = 0
        while at_it < len(children):
            at_it += len((tmp_path / "slower").read_bytes())
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for what is under way
            process.wait(timeout=1.0)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        for child in children:
            assert select.select([child], [], [], 10)[0], "it has ended"
            os.close(child)
    assert process.returncode == 130
    assert errors == b""


def test_a_folder_of_something_else_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StartError, match="holds something that is no simulation's"):
        play(planned("training.rounds=1", noise=True), tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    "refused",
    [
        "p2p.transport=zenoh",
        "training.local_layers=[nothing.*]",  # which only the model tells
        f"task.name={ROOT / 'nowhere.py'}",
    ],
)
def test_what_is_refused_costs_no_earlier_results(
    refused: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    play(planned("training.rounds=1", noise=True, peers=2), out)
    before = digest_of(out)
    flags = ["--peers", "2", "--workers", "1", "--out", str(out)]
    for override in (*LEARNS, refused):
        flags += ["--set", override]
    assert main(["simulate", *flags]) != 0
    assert capsys.readouterr().out == "", "nothing is announced"
    assert digest_of(out) == before


def test_a_files_list_of_real_devices_says_nothing_of_a_simulation(tmp_path: Path) -> None:
    path = tmp_path / "field.yaml"
    path.write_text("{p2p: {fleet: 500, participants: 3}, data: {partition: {num_shards: 7}}}")
    found = scenario(path, [], num_peers=6, network="lan", seed=0)
    assert found.config.p2p.fleet == 6
    assert found.config.data.partition.num_shards == 6


def test_a_later_simulation_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    play(planned("training.rounds=1", noise=True, peers=3), tmp_path / "run")
    play(planned("training.rounds=1", noise=True, peers=2), tmp_path / "run")
    assert sorted(records(tmp_path / "run")) == ["peer0", "peer1"]


def test_what_is_no_peers_outlives_another_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    play(planned("training.rounds=1", noise=True, peers=3), Path("."))
    (tmp_path / "notes.md").write_text("years of work")
    (tmp_path / "field").mkdir()
    (tmp_path / "field" / "peer0").write_text("a key")
    play(planned("training.rounds=1", noise=True, peers=2), Path("."))
    assert (tmp_path / "notes.md").exists()
    assert (tmp_path / "field" / "peer0").exists()
    assert not (tmp_path / "peer2").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--peers", "0"], "--peers must be in [1, 10000], got 0"),
        (["--payload-kb", "3"], "--payload-kb: only with --protocol-only"),
        (["--train-s", "3"], "--train-s: only with --protocol-only"),
        (["--protocol-only", "--payload-kb", "0"], "--payload-kb: must be in [0.001, 1000000]"),
        (["--protocol-only", "--payload-kb", "inf"], "--payload-kb: must be in [0.001, 1000000]"),
        (["--protocol-only", "--payload-kb", "1e9"], "--payload-kb: must be in [0.001, 1000000]"),
        (["--protocol-only", "--train-s", "-1"], "--train-s: must be 0 or more, and finite, got"),
        (["--protocol-only", "--train-s", "inf"], "--train-s: must be 0 or more, and finite, got"),
        (["--protocol-only", "--workers", "65"], "--workers: at most 64 processes can share"),
        (["--workers", "0"], "--workers: must be positive, got 0"),
        (["--until", "0"], "--until: must be positive, got 0"),
        (["--network", "wify"], "did you mean wifi?"),
        (["--set", "p2p.observe=true"], "p2p.observe: simulated peers would all watch"),
        (["--set", "p2p.discovery=mdns"], "p2p.discovery: simulated peers know each other"),
        (["--set", "p2p.transport=zenoh"], "p2p.transport: simulated peers meet in memory; set"),
        (["--set", "p2p.peers=['a:1']"], "p2p.peers: simulated peers have addresses of their own"),
        (["--set", "security.mode=pinned"], "security.mode: simulated peers are not paired"),
        (["--set", "monitoring.dashboard=':1'"], "monitoring.dashboard: simulated peers serve no"),
        (["--set", "data.partition.num_shards=9"], "--set data.partition.num_shards: each simul"),
        (["--set", "p2p.participants=40"], "p2p.participants must be at most --peers, got 40 with"),
        (["--set", "p2p.fleet=40"], "p2p.fleet must be at most --peers, got 40 with 10 peers"),
        (["--peers", "1025"], "p2p.participants: 1025 peers, of which 1024 count in a round"),
        (["--protocol-only", "--engine", "ray"], "--engine ray: with --protocol-only nobody"),
    ],
)
def test_wrong_usage_is_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["simulate", *flags, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_command_tells_of_each_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--peers", "3", "--rounds", "2", "--workers", "1", "--out", str(tmp_path / "run")]
    for override in LEARNS:
        flags += ["--set", override]
    assert main(["simulate", *flags]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"3 peers learn {TASK}: network lan, topology full, seed 0")
    assert [line.split("  ")[0] for line in out[1:3]] == ["round 1/2", "round 2/2"]
    assert "3 updates" in out[1]
    assert "one model" in out[1]
    assert out[3].startswith("3 of 3 peers closed round 2, with one model; ")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--peers", "1"], "1 peer exchanges noise, 3.0 kB an update: network"),
        (
            ["--peers", "10", "--set", "p2p.participants=4"],
            "10 peers exchange noise, 3.0 kB an update, about 5 of them a round: network",
        ),
        (
            ["--peers", "3", "--set", "p2p.participants=2"],
            "3 peers exchange noise, 3.0 kB an update, all of them a round: network",
        ),
    ],
)
def test_what_is_announced_is_what_is_run(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = ["--protocol-only", "--payload-kb", "3", "--rounds", "1"]
    assert main(["simulate", *noise, *flags, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith(told)


def test_of_a_run_of_the_protocol_nothing_is_told_that_was_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    energy = network(tmp_path, "{energy: {idle_w: 5, training_w: 12}}")
    flags = ["--peers", "3", "--rounds", "2", "--network", energy, "--out", str(out)]
    assert main(["simulate", "--protocol-only", "--payload-kb", "3", *flags]) == 0
    joules = sum(record.energy_j or 0.0 for each in records(out).values() for record in each)
    assert f"; {format_energy(joules)} of all devices" in capsys.readouterr().out
    assert {record.codec for each in records(out).values() for record in each} == {"noise"}
    assert main(["report", str(out)]) == 0
    page = (out / "report" / "report.html").read_text()
    assert "<h1>noise: 3 processes</h1>" in page
    assert "Updates went out as noise, 3.0 kB an update." in page
    assert ">energy</th>" in page
    for word in ("disaster", "float32", "best", "metric", "parameters", "topk"):
        assert word not in page
    assert main(["compare", str(out), "--out", str(tmp_path / "compared")]) == 0
    table = (tmp_path / "compared" / "compare.md").read_text()
    assert "| messages in a round | time | energy of a device |" in table
    counts = [r.messages_received for each in records(out).values() for r in each]
    assert all(count is not None and count >= 2 for count in counts), "one of each other at least"


def test_work_takes_as_long_as_it_says_one_after_the_other() -> None:
    async def run() -> list[tuple[str, float]]:
        runner, loop = VirtualRunner(), asyncio.get_running_loop()
        found: list[tuple[str, float]] = []

        async def do(name: str, seconds: float) -> None:
            await runner.learn(lambda: runner.spend(seconds))
            found.append((name, loop.time()))

        async def check() -> None:
            await runner.check(lambda: runner.spend(0.5))
            found.append(("check", loop.time()))

        await asyncio.gather(do("first", 3.0), do("second", 2.0), check())
        return found

    assert run_virtual(run()) == [("check", 0.5), ("first", 3.0), ("second", 5.0)]


def test_many_peers_get_few_neighbours_unless_the_configuration_says_whom() -> None:
    assert planned(peers=16).config.p2p.topology == "full"
    assert planned(peers=17).config.p2p.topology == "random-3"
    assert planned("p2p.topology=ring", peers=17).config.p2p.topology == "ring"
    assert planned("p2p.participants=5", peers=17).config.p2p.turn_period == 3
    with pytest.raises(ConfigError, match=r"p2p\.participants"):
        planned("p2p.participants=0")
