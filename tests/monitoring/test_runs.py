"""A run is what its processes left in their folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from monitoring_support import leave_run, make_record, make_summary

from semantic_net.errors import DataError
from semantic_net.monitoring.runs import read_run


def test_a_run_is_one_folder_or_several_in_one(tmp_path: Path) -> None:
    one = leave_run(tmp_path / "run/peer1", [make_record()], make_summary())
    leave_run(tmp_path / "run/server", [make_record()], make_summary(role="server"))
    (tmp_path / "run/config.yaml").write_text("")
    assert [each.name for each in read_run(one)] == ["peer1"]
    assert [(each.name, each.role) for each in read_run(tmp_path / "run")] == [
        ("peer1", "peer"),
        ("server", "server"),
    ]


def test_of_each_round_the_last_record_counts(tmp_path: Path) -> None:
    records = [make_record(round=n, loss=float(n)) for n in (1, 2)] + [make_record(round=2, loss=7)]
    (found,) = read_run(leave_run(tmp_path, records, None))
    assert [(r.round, r.loss) for r in found.records] == [(1, 1.0), (2, 7)]
    assert (found.summary, found.role) == (None, "peer")


def test_without_a_summary_the_records_tell_what_it_was(tmp_path: Path) -> None:
    for name, changes in {
        "server": {"peer": "server"},
        "client": {"close_reason": "server"},
        "single": {"close_reason": "alone"},
        "peer": {},
    }.items():
        (found,) = read_run(leave_run(tmp_path / name, [make_record(**changes)], None))
        assert found.role == name


def test_what_holds_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run's record \(rounds.jsonl\) in it or a folder of"):
        read_run(tmp_path)
    leave_run(tmp_path / "a/b/peer1", [make_record()], None)
    with pytest.raises(DataError, match=r"; there are some in .*/a/b$"):
        read_run(tmp_path)
    leave_run(tmp_path / "empty", [], None)
    with pytest.raises(DataError, match="no run's record"):
        read_run(tmp_path)


def test_a_broken_summary_is_named(tmp_path: Path) -> None:
    leave_run(tmp_path, [make_record()], None)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json: cannot be read"):
        read_run(tmp_path)
