"""rounds.jsonl holds whole lines of the run's rounds, whatever befalls the process or the disk."""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitoring_support import make_record

from semantic_net.errors import DataError
from semantic_net.monitoring.recorder import Recorder, RoundTail, read_rounds
from semantic_net.records import RoundRecord, Summary, encode_record

LINES = [encode_record(make_record(round=index)) for index in range(1, 4)]

SUMMARY = Summary(
    peer="p",
    task="disaster",
    mode="none",
    rounds=3,
    finished=True,
    metrics={"miou": 0.4},
    best_round=2,
    best_metrics={"miou": 0.5},
    bytes_sent=1,
    bytes_received=2,
    payload_bytes=3,
    dense_bytes=4,
    compression_ratio=1.3,
    time_s=5.0,
    state_digest="s",
    set_digest="t",
    num_parameters=6,
    versions={},
)


def rounds_of(records: list[RoundRecord]) -> list[int]:
    return [record.round for record in records]


def write(folder: Path, *lines: bytes) -> Path:
    path = folder / "rounds.jsonl"
    path.write_bytes(b"".join(lines))
    return path


@contextlib.contextmanager
def disk_full_at(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``num_bytes``; the kernel then writes in part."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_each_record_is_on_disk_as_soon_as_it_is_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "runs" / "a")
    for index in range(1, 4):
        recorder.record(make_record(round=index))
        assert rounds_of(read_rounds(tmp_path / "runs/a/rounds.jsonl"))[-1] == index
    recorder.close()
    assert (tmp_path / "runs/a/rounds.jsonl").read_bytes() == b"".join(LINES)


def test_a_resumed_run_keeps_the_rounds_up_to_its_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path, *LINES)
    recorder = Recorder(tmp_path, resume_from_round=2)
    assert path.read_bytes() == b"".join(LINES[:2])
    recorder.record(make_record(round=3, loss=None))
    recorder.close()
    assert read_rounds(path)[2].loss is None


def test_a_new_run_starts_a_new_record(tmp_path: Path) -> None:
    path = write(tmp_path, *LINES)
    Recorder(tmp_path).close()
    assert path.read_bytes() == b""


def test_a_sound_file_is_not_written_anew(tmp_path: Path) -> None:
    path = write(tmp_path, *LINES)
    inode = path.stat().st_ino
    Recorder(tmp_path, resume_from_round=3).close()
    assert path.stat().st_ino == inode


@given(st.integers(0, len(b"".join(LINES))), st.binary(max_size=5))
def test_a_crash_at_any_byte_costs_at_most_the_line_it_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("crash")
    content = b"".join(LINES)[:cut]
    path = write(folder, content, noise.replace(b"\n", b"\0"))
    recorder = Recorder(folder, resume_from_round=9)
    recorder.record(make_record(round=4))
    recorder.close()
    found = rounds_of(read_rounds(path))
    assert found[-1] == 4
    whole = content.count(b"\n")
    assert found[:whole] == [1, 2, 3][:whole]


def test_a_line_that_lacks_only_its_newline_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path, LINES[0], LINES[1][:-1])
    Recorder(tmp_path, resume_from_round=2).close()
    assert path.read_bytes() == LINES[0] + LINES[1]


def test_a_full_disk_is_one_warning_and_the_lines_come_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "semantic_net")
    path = tmp_path / "rounds.jsonl"
    recorder = Recorder(tmp_path)
    recorder.record(make_record(round=1))
    with disk_full_at(len(LINES[0]) + 10):
        recorder.record(make_record(round=2))
        recorder.record(make_record(round=3))
        recorder.summary(SUMMARY)
        assert path.read_bytes() == LINES[0]  # no part of a line stays behind
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len([message for message in warnings if "rounds.jsonl" in message]) == 1
    assert "cannot be written, the run goes on" in warnings[0]
    recorder.record(make_record(round=4))
    recorder.close()
    assert rounds_of(read_rounds(path)) == [1, 2, 3, 4]
    assert "is written again" in caplog.text


def test_a_folder_that_cannot_be_made_is_a_warning_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = tmp_path / "out"
    blocker.write_text("a file where the folder should be")
    recorder = Recorder(blocker)
    recorder.record(make_record(round=1))
    recorder.summary(SUMMARY)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    blocker.unlink()
    recorder.record(make_record(round=2))
    recorder.close()
    assert rounds_of(read_rounds(blocker / "rounds.jsonl")) == [1, 2]


def test_what_never_reached_the_disk_is_said_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = tmp_path / "out"
    blocker.write_text("")
    recorder = Recorder(blocker)
    recorder.record(make_record())
    recorder.close()
    assert "lacks the last 1 rounds" in caplog.text


def test_the_summary_is_replaced_whole(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.summary(msgspec.structs.replace(SUMMARY, finished=False))
    recorder.summary(SUMMARY)
    recorder.close()
    text = (tmp_path / "summary.json").read_bytes()
    assert msgspec.json.decode(text, type=Summary) == SUMMARY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rounds.jsonl", "summary.json"]


def test_a_reader_leaves_a_torn_last_line_out(tmp_path: Path) -> None:
    path = write(tmp_path, LINES[0], LINES[1], LINES[2][:40])
    assert rounds_of(read_rounds(path)) == [1, 2]


@pytest.mark.parametrize("line", [b"{}\n", b"noise\n", b"\xff\xfe\n", b"\n"])
def test_a_reader_refuses_a_whole_line_that_is_no_record(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path, LINES[0], line, LINES[1])
    with pytest.raises(DataError, match=r"rounds.jsonl: not a round's record"):
        read_rounds(path)
    with pytest.raises(DataError, match=r"rounds.jsonl: not a round's record"):
        RoundTail(path).poll()


def test_a_reader_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rounds.jsonl: cannot be read: No such file"):
        read_rounds(tmp_path / "rounds.jsonl")


@given(st.lists(st.integers(0, len(b"".join(LINES))), max_size=6))
def test_a_tail_returns_each_record_once_wherever_the_writes_are_cut(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("tail") / "rounds.jsonl"
    tail, content, got = RoundTail(path), b"".join(LINES), []
    assert tail.poll() == []  # no file yet
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(content)], strict=True):
        with path.open("ab") as file:
            file.write(content[start:end])
        got += tail.poll()
    assert rounds_of(got) == [1, 2, 3]
    assert tail.poll() == []


def test_a_tail_starts_again_where_the_file_was_replaced(tmp_path: Path) -> None:
    tail = RoundTail(write(tmp_path, *LINES))
    assert rounds_of(tail.poll()) == [1, 2, 3]
    recorder = Recorder(tmp_path, resume_from_round=1)
    recorder.record(make_record(round=2))
    recorder.close()
    assert rounds_of(tail.poll()) == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_an_unwritable_summary_leaves_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path)
    recorder.summary(SUMMARY)
    (tmp_path / "summary.json.tmp").symlink_to("/dev/full")
    recorder.summary(msgspec.structs.replace(SUMMARY, rounds=4))
    recorder.close()
    assert msgspec.json.decode((tmp_path / "summary.json").read_bytes(), type=Summary) == SUMMARY
    assert "summary.json cannot be written, the run goes on: No space left" in caplog.text
