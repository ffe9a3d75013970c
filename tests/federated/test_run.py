"""One peer from its folder and back: what a restart of the whole of it must not forget."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from torch import Tensor

from semantic_net.config import Config, DataConfig, P2PConfig, TaskConfig, TrainingConfig
from semantic_net.federated import loaded
from semantic_net.federated.assembly import Assembled, assemble
from semantic_net.federated.folder import RunFolder
from semantic_net.federated.journal import Journal
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.parts import Trained
from semantic_net.federated.run import RunOptions, run_peer
from semantic_net.federated.runner import ThreadRunner
from semantic_net.monitoring.recorder import RoundTail
from semantic_net.protocol.machine import PeerMachine
from semantic_net.protocol.update import Update, UpdateBody, sign_update
from semantic_net.records import RoundRecord, Summary
from semantic_net.semantic.decoder import ParsedDelta
from semantic_net.transport.identity import load_or_create_key

TASK = Path(__file__).parents[2] / "examples" / "digits_task.py"
LONE = P2PConfig(host="127.0.0.1", port=0)
Watch = Callable[[PeerMachine, ModelLearner], None]


def run_alone(
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    watch: Watch,
    *,
    rounds: int,
    show: Callable[[RoundRecord], None] = lambda record: None,
    p2p: P2PConfig = LONE,
) -> None:
    """Run a peer without others to a round; ``watch`` sees its parts before the first event."""

    def assemble_watched(*args: Any, **settings: Any) -> Assembled[ParsedDelta]:
        assembled = assemble(*args, **settings)
        watch(assembled.machine, args[3])
        return assembled

    monkeypatch.setattr(loaded, "assemble", assemble_watched)
    config = Config(
        task=TaskConfig(name=str(TASK)),
        data=DataConfig(num_train=16),
        training=TrainingConfig(rounds=rounds, steps=1, device="cpu"),
        p2p=p2p,
    )
    options = RunOptions(printer=lambda rounds, metric: show)
    assert asyncio.run(run_peer(config, folder, options, asyncio.Event()))


def test_a_void_slot_stays_void_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines: list[PeerMachine] = []

    def watch(machine: PeerMachine, learner: ModelLearner) -> None:
        machines.append(machine)

    def sign_twice(record: RoundRecord) -> None:
        [machine] = machines
        body = UpdateBody(machine.run, record.round, 1, "none", 0, b"h" * 32)
        assert machine.updates.add(sign_update(body, load_or_create_key(folder.key)))

    with RunFolder(tmp_path) as folder:
        run_alone(folder, monkeypatch, watch, rounds=1, show=sign_twice)
        run_alone(folder, monkeypatch, watch, rounds=2)
    before, after = machines
    assert before.updates.is_void(1, before.me)
    assert after.updates.is_void(1, after.me)
    assert after.updates.set_digest(1) == before.updates.set_digest(1)


def test_what_was_taken_back_is_taken_back_once_over_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_back: list[int] = []

    def watch(machine: PeerMachine, learner: ModelLearner) -> None:
        life, take_back = len(taken_back), learner.take_back
        taken_back.append(0)

        def count(own: Update, parsed: ParsedDelta) -> None:
            taken_back[life] += 1
            take_back(own, parsed)

        monkeypatch.setattr(learner, "take_back", count)

    def learn_of_a_second(machine: PeerMachine, learner: ModelLearner) -> None:
        watch(machine, learner)
        [own] = machine.updates
        body = UpdateBody(machine.run, own.round, 1, "none", 0, b"h" * 32)
        machine.updates.add(sign_update(body, load_or_create_key(folder.key)))

    with RunFolder(tmp_path) as folder:
        run_alone(folder, monkeypatch, watch, rounds=1)
        run_alone(folder, monkeypatch, learn_of_a_second, rounds=2)
        run_alone(folder, monkeypatch, watch, rounds=3)
    assert taken_back == [0, 1, 0]


def test_an_update_that_was_stored_and_not_journaled_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of it has left; beside another of its round it would void both."""
    machines: list[PeerMachine] = []

    def die(self: Journal, round_index: int, update_id: bytes, taken_back: object) -> None:
        raise RuntimeError("the power fails")

    def watch(machine: PeerMachine, learner: ModelLearner) -> None:
        machines.append(machine)

    with RunFolder(tmp_path) as folder:
        run_alone(folder, monkeypatch, watch, rounds=1)
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "author", die)
            with pytest.raises(RuntimeError, match="power"):
                run_alone(folder, monkeypatch, watch, rounds=2)
        assert list(folder.updates.glob("00000002-*.update"))
        run_alone(folder, monkeypatch, watch, rounds=3)
    after = machines[-1]
    assert [len(after.updates.slot(number, after.me)) for number in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize("signed_more", [False, True])
def test_a_residual_counts_only_beside_its_update(
    signed_more: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Tensor | None] = []
    reaches: list[float] = []

    def watch(machine: PeerMachine, learner: ModelLearner) -> None:
        train = learner.train

        def train_and_look(round_index: int, *, is_ahead: bool = False) -> Trained:
            found.append(learner.residual)
            reaches.append(learner.changed_norm)
            return train(round_index, is_ahead=is_ahead)

        monkeypatch.setattr(learner, "train", train_and_look)

    with RunFolder(tmp_path) as folder:
        run_alone(folder, monkeypatch, watch, rounds=1)
        if signed_more:  # and died before a checkpoint
            journal = Journal(folder.journal)
            journal.author(2, b"\x02" * 32)
            journal.close()
        run_alone(folder, monkeypatch, watch, rounds=3)
    assert found[0] is None
    assert (found[1] is None) == signed_more
    assert reaches[0] == 0
    assert (reaches[1] > 0) != signed_more, "training after a restart begins as without one"


def test_no_update_goes_that_one_of_the_two_checkpoints_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing: set[int] = set()
    left: set[int] = set()

    def look(record: RoundRecord) -> None:  # before its checkpoint is written
        left.clear()
        left.update(int(path.name[:8]) for path in folder.updates.glob("*.update"))
        missing.update(set(range((folder.progress.frontier or 0) + 1, record.round)) - left)

    keeps_no_own = replace(LONE, base_every=2, disk_budget_mb=1e-6)
    with RunFolder(tmp_path) as folder:
        run_alone(folder, monkeypatch, lambda *_: None, rounds=9, show=look, p2p=keeps_no_own)
    assert not missing
    assert 1 not in left, "what is compacted goes in the end"


def test_rounds_without_a_checkpoint_leave_no_more_and_no_more_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def num_files() -> tuple[int, int]:
        bases = folder.checkpoint.glob("base-*.snapshot")
        return len(list(bases)), len(list(folder.updates.glob("*.update")))

    seen: dict[int, tuple[int, int]] = {}

    def look(record: RoundRecord) -> None:
        seen[record.round] = num_files()

    keeps_no_own = replace(LONE, base_every=2, disk_budget_mb=1e-6, checkpoint_every=0)
    with RunFolder(tmp_path) as folder:
        run_alone(folder, monkeypatch, lambda *_: None, rounds=20, show=look, p2p=keeps_no_own)
    assert seen[20] == seen[10]


def test_a_start_that_closes_no_round_forgets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did, and the totals of the rounds before were counted twice from then on."""

    def stop(machine: PeerMachine, learner: ModelLearner) -> None:
        def train(round_index: int, *, is_ahead: bool = False) -> Trained:
            raise RuntimeError("a fault of a task's own code")

        monkeypatch.setattr(learner, "train", train)

    with RunFolder(tmp_path) as folder:
        run_alone(folder, monkeypatch, lambda *_: None, rounds=3)
        with pytest.raises(RuntimeError, match="own code"):
            run_alone(folder, monkeypatch, stop, rounds=5)
        checkpoint = folder.progress.load()
        assert checkpoint is not None
        assert checkpoint.progress.closed_round == 3
        run_alone(folder, monkeypatch, lambda *_: None, rounds=5)
        records = RoundTail(folder.root / "rounds.jsonl").poll()
        summary = msgspec.json.decode((folder.root / "summary.json").read_bytes(), type=Summary)
    assert [record.round for record in records] == [1, 2, 3, 4, 5]
    assert summary.payload_bytes == sum(record.payload_bytes for record in records)


def test_a_run_with_nothing_to_do_leaves_the_configuration_that_made_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder(tmp_path) as folder:
        run_alone(folder, monkeypatch, lambda *_: None, rounds=3)
        made = folder.config.read_text()
        run_alone(folder, monkeypatch, lambda *_: None, rounds=2)
        assert folder.config.read_text() == made


def test_a_folder_that_has_become_read_only_is_left_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        with RunFolder(tmp_path) as folder:
            patched.setattr(Path, "unlink", read_only)
        patched.undo()
    with RunFolder(tmp_path):
        assert folder.root == tmp_path, "and free for the next one"


def test_neither_the_event_loop_nor_a_check_waits_for_the_learner() -> None:
    async def scenario() -> bool:
        runner = ThreadRunner()
        checked = threading.Event()
        learned = runner.learn(lambda: checked.wait(5))  # as long as training takes
        await runner.check(checked.set)
        went_on = await learned
        runner.close()
        return went_on

    assert asyncio.run(scenario())
