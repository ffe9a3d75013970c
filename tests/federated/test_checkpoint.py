"""Checkpoints: whatever a crash or a bad disk leaves, a sound one is found."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semantic_net.errors import CheckpointError
from semantic_net.federated.base_store import BaseStore
from semantic_net.federated.checkpoint import Checkpoint, CheckpointFolder, Progress
from semantic_net.federated.weights import save_state_dict
from semantic_net.protocol.update import hash_payload

BASES = [bytes([value]) * 20 for value in (1, 2, 3)]


def checkpoint(closed_round: int, base: int = 0) -> Checkpoint:
    progress = Progress(
        facts={"run": "test"},
        closed_round=closed_round,
        base=hash_payload(BASES[base]).hex(),
        frontier=base,
        base_given=False,
        residual_of="ab",
        best_round=None,
        best_metrics={},
        totals={"time_s": 1.5},
        trainer={},
    )
    trainer = {"optimizer": {"0": {"m": torch.full((3,), float(closed_round)), "step": 7}}}
    return Checkpoint(progress, torch.arange(4.0), trainer)


def open_folder(folder: Path) -> CheckpointFolder:
    bases = BaseStore(folder)
    for base in BASES:
        if not (folder / f"base-{hash_payload(base).hex()[:16]}.snapshot").exists():
            bases.put([base])
    return CheckpointFolder(folder, bases)


def closed_round(folder: Path) -> int | None:
    loaded = open_folder(folder).load()
    return None if loaded is None else loaded.progress.closed_round


def save(folder: Path, *rounds: int) -> CheckpointFolder:
    checkpoints = open_folder(folder)
    for number in rounds:
        checkpoints.save(checkpoint(number))
    return checkpoints


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert not open_folder(tmp_path)
    assert open_folder(tmp_path).load() is None
    save(tmp_path, 3)
    assert open_folder(tmp_path)
    loaded = open_folder(tmp_path).load()
    assert loaded is not None
    expected = checkpoint(3)
    assert loaded.progress == msgspec.structs.replace(
        expected.progress, trainer={"optimizer": {"0": {"step": 7}}}
    )
    assert torch.equal(loaded.residual, expected.residual)
    assert torch.equal(loaded.trainer["optimizer"]["0"]["m"], torch.full((3,), 3.0))
    assert loaded.trainer["optimizer"]["0"]["step"] == 7


def test_equal_contents_are_equal_bytes(tmp_path: Path) -> None:
    metadata = {name: f"of {name}\x07\u00e9" for name in "edcba"}
    written = set()
    for index in range(5):
        path = tmp_path / f"{index}.safetensors"
        save_state_dict(path, {"w": torch.ones(3), "b": torch.zeros(2)}, metadata)
        written.add(path.read_bytes())
        with safetensors.safe_open(path, framework="pt") as file:
            assert file.metadata() == metadata
            assert torch.equal(file.get_tensor("w"), torch.ones(3))
    assert len(written) == 1


def test_what_the_newest_two_need_is_known(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 1)
    one, two, three = (hash_payload(base) for base in BASES)
    assert (checkpoints.bases, checkpoints.frontier) == ({one}, 0)
    checkpoints.save(checkpoint(2, base=1))
    assert (checkpoints.bases, checkpoints.frontier) == ({one, two}, 0)
    checkpoints.save(checkpoint(3, base=2))
    assert (checkpoints.bases, checkpoints.frontier) == ({two, three}, 1)
    again = open_folder(tmp_path)
    again.load()
    assert (again.bases, again.frontier) == ({two, three}, 1), "the one before may be needed yet"
    again.save(checkpoint(4, base=2))
    assert (again.bases, again.frontier) == ({three}, 2)
    (tmp_path / "progress.safetensors").write_bytes(b"")
    assert closed_round(tmp_path) == 3


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_sound_one_before(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1, 2)
    newest = tmp_path / "progress.safetensors"
    newest.write_bytes(b"bent")
    again = open_folder(tmp_path)
    again.load()
    again.save(checkpoint(3))
    newest.write_bytes(b"bent once more")
    assert closed_round(tmp_path) == 1
    again.save(checkpoint(4))
    again.save(checkpoint(5))
    newest.write_bytes(b"bent for the last time")
    assert closed_round(tmp_path) == 4


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_torn_or_bent_at_any_byte_costs_one_checkpoint(
    tmp_path: Path, data: st.DataObject
) -> None:
    save(tmp_path, 1, 2)
    newest = tmp_path / "progress.safetensors"
    content = newest.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        torn = content[:place]
        torn += bytes(len(content) - place) * data.draw(st.booleans())  # blocks never written
    else:
        flipped = content[place] ^ (1 << data.draw(st.integers(0, 7)))
        torn = content[:place] + bytes([flipped]) + content[place + 1 :]
    newest.write_bytes(torn)
    # Zeros may have been zeros, and bits of the JSON may stand for the same.
    assert closed_round(tmp_path) == (2 if torn == content else 1)


def test_a_fall_back_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "progress.safetensors").write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        assert closed_round(tmp_path) == 1
    assert "damaged" in caplog.text
    assert "going on from the one before" in caplog.text


def test_two_damaged_checkpoints_are_an_error_not_a_new_run(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for path in tmp_path.glob("progress*"):
        path.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"damaged .*; start afresh with --resume never"):
        closed_round(tmp_path)


def test_another_bases_content_under_a_name_is_found(tmp_path: Path) -> None:
    save(tmp_path, 1)
    base = tmp_path / f"base-{hash_payload(BASES[0]).hex()[:16]}.snapshot"
    content = bytearray(base.read_bytes())
    content[-1] ^= 1
    base.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="does not match its name"):
        closed_round(tmp_path)


def test_another_format_is_named(tmp_path: Path) -> None:
    checkpoints = open_folder(tmp_path)
    later = checkpoint(1)
    checkpoints.save(
        Checkpoint(
            msgspec.structs.replace(later.progress, format=99),
            later.residual,
            later.trainer,
        )
    )
    with pytest.raises(CheckpointError, match="format 99, this version reads 3"):
        closed_round(tmp_path)


@pytest.mark.parametrize("step", range(6))
def test_a_crash_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each call that changes the disk may be the last one."""
    checkpoints = save(tmp_path, 1, 2)
    calls = iter(range(100))

    class PowerCutError(BaseException):
        pass

    def last_call(original: object) -> object:
        def call(*arguments: object, **options: object) -> object:
            if next(calls) == step:
                raise PowerCutError
            return original(*arguments, **options)  # type: ignore[operator]

        return call

    for name in ("link", "replace", "fsync"):
        monkeypatch.setattr(os, name, last_call(getattr(os, name)))
    try:
        checkpoints.save(checkpoint(3))
        last = 3
    except PowerCutError:
        last = 2
    monkeypatch.undo()
    assert closed_round(tmp_path) in (last, 3)


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*arguments: object) -> NoReturn:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    save(tmp_path, 1, 2)
    (tmp_path / "progress.safetensors").write_bytes(b"torn")
    assert closed_round(tmp_path) == 1


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = save(tmp_path, 1, 2)

    def full(*arguments: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(checkpoint(3))
    assert closed_round(tmp_path) == 2
    assert not list(tmp_path.glob("*.part"))
