"""Scalars as TensorBoard itself reads them back."""

from __future__ import annotations

import importlib.util
import logging
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monitoring_support import make_record

from semantic_net.errors import ConfigError
from semantic_net.monitoring.tracking import Tracker, scalars_of

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs the extra tracking"
)


def accumulate(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def read(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in accumulate(folder).Scalars(tag)]


def tracked(folder: Path, *rounds: int, resumed: int = 0) -> None:
    tracker = Tracker(folder)
    tracker.start([make_record(round=each, loss=each / 4) for each in range(1, resumed + 1)])
    for each in rounds:
        tracker.record(make_record(round=each, loss=each / 4))
    tracker.close()


@needs_tensorboard
def test_every_number_of_a_round_is_a_scalar_at_its_step(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.start()
    records = [
        make_record(round=1, loss=0.5, missing=["x", "y"], rejected={"facts": 2, "payload": 1}),
        make_record(round=2, loss=None, epsilon=1.5, metrics={"miou": math.nan, "extra": 2.0}),
    ]
    for record in records:
        tracker.record(record)
    assert read(tmp_path, "peers/missing") == [(1, 2), (2, 0)]  # at once, not when it is closed
    tracker.close()
    assert read(tmp_path, "loss") == [(1, 0.5)]
    [(step, miou)] = read(tmp_path, "metrics/miou")  # the second one is not finite
    assert step == 1
    assert miou == pytest.approx(0.412)
    assert read(tmp_path, "metrics/extra") == [(2, 2.0)]
    assert read(tmp_path, "bytes/sent") == [(1, 12_345), (2, 12_345)]
    assert read(tmp_path, "seconds/round")[0][1] == pytest.approx(6.13)
    assert read(tmp_path, "peers/rejected") == [(1, 3), (2, 0)]
    assert read(tmp_path, "privacy/epsilon") == [(2, 1.5)]
    tags = set(accumulate(tmp_path).Tags()["scalars"])
    assert tags == set(scalars_of(records[0])) | set(scalars_of(records[1]))


@needs_tensorboard
def test_a_resumed_run_has_each_round_once_and_when_it_was(tmp_path: Path) -> None:
    tracked(tmp_path, 1, 2, 3)
    before = accumulate(tmp_path).Scalars("loss")
    tracked(tmp_path, 3, 4, resumed=2)
    after = accumulate(tmp_path).Scalars("loss")
    assert [(event.step, event.value) for event in after] == [(n, n / 4) for n in (1, 2, 3, 4)]
    assert [event.wall_time for event in after[:2]] == [e.wall_time for e in before[:2]]
    tracked(tmp_path, resumed=2)
    tracked(tmp_path, 3, resumed=2)
    assert [step for step, _ in read(tmp_path, "loss")] == [1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 2, "one for each start would fill a disk"


@needs_tensorboard
def test_whoever_looks_on_forgets_what_is_run_again(tmp_path: Path) -> None:
    tracked(tmp_path, 1, 2, 3)
    looks_on = accumulate(tmp_path)
    tracked(tmp_path, 2, resumed=1)
    looks_on.Reload()
    assert [event.step for event in looks_on.Scalars("loss")] == [1, 2]


@needs_tensorboard
def test_a_clock_that_was_set_back_changes_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked(tmp_path, 1, 2, 3)
    [before] = tmp_path.iterdir()
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    tracked(tmp_path, 3, resumed=2)
    after = max(tmp_path.iterdir())
    assert after.name > before.name
    assert [step for step, _ in read(tmp_path, "loss")] == [1, 2, 3]


@needs_tensorboard
def test_a_file_that_was_cut_short_or_is_none_costs_times_alone(tmp_path: Path) -> None:
    tracked(tmp_path, 1, 2)
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / "events.out.tfevents.0").write_bytes(
        b"\x03" + bytes(11) + b"\xff\xff\xff" + bytes(4)
    )
    tracked(tmp_path, 3, resumed=2)
    assert read(tmp_path, "loss") == [(n, n / 4) for n in (1, 2, 3)]


@pytest.fixture
def small_files() -> Iterator[int]:
    """Let no file grow beyond some bytes, as a disk that is about to be full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield 1500
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@needs_tensorboard
def test_a_full_disk_is_one_warning_and_what_waits_is_written_later(
    tmp_path: Path, small_files: int, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    tracker = Tracker(tmp_path)
    tracker.start()
    resource.setrlimit(resource.RLIMIT_FSIZE, (small_files, hard))
    with caplog.at_level(logging.WARNING, "semantic_net"):
        for each in range(1, 9):
            tracker.record(make_record(round=each))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    [path] = tmp_path.iterdir()
    assert path.stat().st_size == small_files, "the last write was a part"
    [warning] = caplog.messages
    assert warning.startswith(f"{tmp_path} cannot be written, the run goes on: ")
    tracker.record(make_record(round=9))
    tracker.close()
    assert [step for step, _ in read(tmp_path, "loss")] == list(range(1, 10))


@needs_tensorboard
def test_a_folder_that_cannot_be_made_costs_nothing_but_the_scalars(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "tensorboard"
    folder.touch()
    tracked(folder, 1, 2)
    assert len(caplog.messages) == 1
    folder.unlink()
    tracked(folder, 3, resumed=2)
    assert [step for step, _ in read(folder, "loss")] == [1, 2, 3]


def test_without_tensorboard_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(ConfigError, match=r"pip install 'semantic-net\[tracking]'"):
        Tracker(tmp_path)


def test_nothing_of_it_is_imported_unless_it_is_asked_for() -> None:
    code = (
        "import sys, semantic_net.monitoring.tracking\n"
        "assert not {'tensorboard', 'google.protobuf'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
