"""The report says what the records say, and shows what strangers wrote as text."""

from __future__ import annotations

from pathlib import Path

import pytest
from monitoring_support import PEERS, leave_run, make_record, make_summary

from semantic_net.cli import main
from semantic_net.monitoring import plots
from semantic_net.monitoring import report as module
from semantic_net.monitoring.plots import plot_run
from semantic_net.monitoring.report import events, fleet_cells, metrics_cells, peers_cells, report
from semantic_net.monitoring.runs import Participant, main_metric_of

FIRST = Participant(
    "peer1",
    (
        make_record(round=1, metrics={"miou": 0.3, "iou_Tree": 0.2}, missing=[PEERS[1], PEERS[2]]),
        make_record(round=2, metrics={"miou": 0.2, "iou_Tree": 0.1}, rejected={"hello": 3}),
    ),
    make_summary(versions={"torch": "2.13"}),
)
SECOND = Participant(
    "peer2",
    (
        make_record(peer=PEERS[1], round=1, metrics={}, payload_bytes=0, loss=None),
        make_record(peer=PEERS[1], round=2, metrics={}, notes=["<b>late</b>"], unreachable=["a:1"]),
    ),
    None,
)
RUN = [FIRST, SECOND]


def test_a_row_for_each_process() -> None:
    cells = peers_cells(RUN)
    assert cells.head[2:4] == ("mIoU, last", "best")
    first, second = cells.rows
    assert first == (
        "peer1 (abcd-efgh)",
        "2",
        "20.0",
        "30.0",
        "24.7 kB",
        "50.0 kB",
        "333 times",
        "12.3 s",
        "1",
        "3fa9c1",
    )
    assert second[:4] == ("peer2 (ijkl-mnop)", "2, not ended", "", "")


def test_an_errors_best_is_its_lowest() -> None:
    records = tuple(make_record(round=n, metrics={"rmse": v}) for n, v in ((1, 3.0), (2, 5.0)))
    run = [Participant("a", records, make_summary(metric="rmse", higher_is_better=False))]
    assert peers_cells(run).rows[0][2:4] == ("5", "3")
    assert main_metric_of(run) == ("rmse", False)


def test_the_metric_is_the_first_one_where_no_summary_names_it() -> None:
    assert main_metric_of([Participant("a", (make_record(),), None)]) == ("miou", True)
    assert main_metric_of([Participant("a", (make_record(metrics={}),), None)]) == ("", True)


def test_classes_are_among_the_metrics() -> None:
    assert metrics_cells(RUN).rows == (("mIoU, %", "20.0", ""), ("iou_Tree, %", "10.0", ""))


def test_what_happened_is_told_in_order() -> None:
    assert events(RUN) == [
        "round 1, peer1: without peer2, qrst-uvwx (all updates in)",
        "round 2, peer1: refused 3 times: hello",
        "round 2, peer2: never met a:1",
        "round 2, peer2: <b>late</b>",
    ]


def test_much_that_happened_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 1)
    assert events(RUN)[1] == "and 3 more, in the records"


def test_the_page_shows_all_of_it_as_text() -> None:
    text = report(RUN, ["a: 1", "a: 1", "a: 2"], [])
    assert "&lt;b&gt;late&lt;/b&gt;" in text
    assert "<b>late" not in text
    assert text.count("configuration, as peers differ") == 2
    assert "torch 2.13; task disaster, 500,000 parameters" in text
    assert "state_digest NOT equal" not in text
    quiet = Participant("a", (make_record(),), None)
    assert "Nobody was missing" in report([quiet], [], [])


def fleet(size: int) -> list[Participant]:
    made = []
    for index in range(size):
        metrics = {"miou": index / 100}
        made.append(Participant(f"peer{index}", (make_record(metrics=metrics),), make_summary()))
    return made


def test_of_a_fleet_the_mean_is_told_and_one_configuration() -> None:
    run = fleet(module.MAX_COLUMNS + 1)
    cells = metrics_cells(run)
    assert cells.head == ("metric", "mean of 13", "lowest", "highest")
    assert cells.rows == (("mIoU, %", "6.0", "0.0", "12.0"),)
    text = report(run, [f"p2p: {{port: {index}}}" for index in range(13)], [])
    assert "configuration of peer0, one of 13" in text
    assert "port: 1}" not in text
    assert len(metrics_cells(fleet(module.MAX_COLUMNS)).head) == 13


def test_of_a_fleet_the_whole_cost_is_told_and_who_bore_most() -> None:
    run = [
        Participant("a", (make_record(bytes_sent=1_000, time_s=2.0, messages_received=7),), None),
        Participant(
            "b", (make_record(bytes_sent=4_000, time_s=9.0, messages_received=2000),), None
        ),
        Participant("c", (make_record(bytes_sent=7_000, missing=[PEERS[0]], time_s=1.0),), None),
    ]
    cells = fleet_cells(run)
    assert cells.head == ("quantity", "all together", "mean", "least", "most")
    assert cells.rows == (
        ("sent", "12.0 kB", "4.0 kB", "1.0 kB (a)", "7.0 kB (c)"),
        ("received", "75.0 kB", "25.0 kB", "25.0 kB (a)", "25.0 kB (a)"),
        ("messages received", "2,007", "1,004", "7 (a)", "2,000 (b)"),
        ("time", "", "4.0 s", "1.0 s (c)", "9.0 s (b)"),
        ("rounds without somebody", "1", "0.3333", "0 (a)", "1 (c)"),
    )
    assert "What it cost" not in report(run, [], [])
    assert "What it cost" in report(fleet(module.MAX_COLUMNS + 1), [], [])


def test_of_a_fleet_the_mean_is_drawn_and_nobody_named() -> None:
    svg = plot_run(fleet(13), "miou", higher_is_better=True)["learning"]["svg"].decode()
    assert "each of 13" in svg
    assert "mean" in svg
    assert "peer7" not in svg
    assert "peer7" in plot_run(fleet(12), "miou", higher_is_better=True)["learning"]["svg"].decode()


def test_where_nothing_was_learned_no_curve_is_drawn() -> None:
    run = [Participant("a", (make_record(metrics={}, loss=None),), None)]
    assert set(plot_run(run, "", higher_is_better=True)) == {"time"}


def test_plots_of_a_run_are_the_same_files_from_the_same_records() -> None:
    one = plot_run(RUN, "miou", higher_is_better=True)
    assert one == plot_run(RUN, "miou", higher_is_better=True)
    assert set(one) == {"learning", "time"}
    assert plot_run([SECOND], "", higher_is_better=False)["learning"]["svg"]


def test_the_command_reads_folders_and_leaves_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for each in RUN:
        leave_run(tmp_path / "run" / each.name, each.records, each.summary)
    (tmp_path / "run/peer1/config.yaml").write_text("training: {rounds: 2}  # exactly\n")
    assert main(["report", str(tmp_path / "run")]) == 0
    page = tmp_path / "run/report/report.html"
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text()
    assert "training: {rounds: 2}  # exactly" in text
    assert text.count("<svg") == 2
    assert (page.parent / "learning.png").read_bytes().startswith(b"\x89PNG")
    single = [str(tmp_path / "run/peer1"), "--out", str(tmp_path / "one")]
    assert main(["report", *single]) == 0
    assert "peer2" not in (tmp_path / "one/report.html").read_text().partition("What happened")[0]


def test_what_cannot_be_read_or_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["report", str(tmp_path)]) == 3
    assert "no run's record" in capsys.readouterr().err
    for task in ("disaster", "netqos"):
        leave_run(tmp_path / "runs" / task, FIRST.records, make_summary(task=task))
    assert main(["report", str(tmp_path / "runs")]) == 3
    assert "of more than one run: disaster, netqos" in capsys.readouterr().err
    leave_run(tmp_path / "run", FIRST.records, None)
    (tmp_path / "run/config.yaml").write_bytes(b"\xff")
    monkeypatch.setattr(plots, "can_plot", lambda: False)
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert "no plots without matplotlib" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "run/rounds.jsonl")]) == 3
    assert "cannot be written" in capsys.readouterr().err
