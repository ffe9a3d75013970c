"""What runs have come to, over devices and seeds: small numbers that can be checked by hand."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from monitoring_support import PEERS, make_record, make_summary
from rich.console import Console

from semantic_net.errors import DataError
from semantic_net.monitoring.page import Cells
from semantic_net.monitoring.plots import plot
from semantic_net.monitoring.runs import Participant
from semantic_net.monitoring.side_by_side import (
    Outcome,
    SideBySide,
    Spread,
    Way,
    best,
    differences,
    final,
    mean_curve,
    mean_sent,
    outcome_of,
)
from semantic_net.monitoring.side_by_side_page import (
    console_table,
    html,
    main_cells,
    markdown,
    metric_cells,
    notes,
)
from semantic_net.records import NOISE, Role, RoundRecord


def participant(name: str, mious: list[float], role: Role = "peer", **changes: Any) -> Participant:
    records = tuple(
        make_record(round=n, peer=name, metrics={"miou": value}, **changes)
        for n, value in enumerate(mious, start=1)
    )
    return Participant(name, records, make_summary(role=role))


def test_an_outcome_is_the_mean_over_devices() -> None:
    run = [
        participant("a", [0.2, 0.4], bytes_sent=100, bytes_received=30, train_s=1.0),
        participant("b", [0.4, 0.8], bytes_sent=300, bytes_received=50, train_s=2.5),
    ]
    found = outcome_of(run, last=1, seed=3, energy_j=12.0)
    assert found.curve == {1: {"miou": pytest.approx(0.3)}, 2: {"miou": pytest.approx(0.6)}}
    assert found.sent == {1: 200, 2: 400}
    assert (found.bytes_sent, found.bytes_received, found.server_bytes) == (400, 80, None)
    assert (found.energy_j, found.rounds, found.seed) == (12.0, 2, 3)
    assert found.time_s == pytest.approx(2 * (2.5 + 0.1 + 1 + 0.03))
    assert final(found, "miou") == pytest.approx(0.6)
    assert best(found, "miou", higher_is_better=True) == 0.8
    assert best(found, "miou", higher_is_better=False) == 0.4
    assert final(found, "rmse") is None
    assert best(found, "rmse", higher_is_better=True) is None
    assert found.is_common  # the records of one digest
    assert found.notes == []


def test_a_result_may_be_the_mean_of_the_last_rounds() -> None:
    found = outcome_of([participant("a", [0.9, 0.2, 0.4])], last=2)
    assert final(found, "miou") == pytest.approx(0.3)


def test_who_left_early_does_not_count_in_what_came_of_a_run() -> None:
    run = [
        participant("a", [0.2, 0.6, 0.7], state_digest="x"),
        participant("b", [0.2, 0.6, 0.9], state_digest="x", energy_j=3.0),
        participant("c", [0.1], state_digest="early", bytes_sent=0),
    ]
    found = outcome_of(run, last=1)
    assert final(found, "miou") == pytest.approx(0.8)
    assert found.is_common
    assert found.bytes_sent == pytest.approx(2 * 3 * 12_345 / 3), "its bytes were sent"
    assert "1 of 3 devices did not come to round 3, and their models do not count" in found.notes


def test_who_was_out_of_turn_could_have_trained() -> None:
    reason = "round 1: nothing published: out of memory"
    watched, failed, at_once = (
        Participant(name, (make_record(loss=None, train_s=s, notes=notes),), make_summary())
        for name, s, notes in (("a", 0.0, []), ("b", 2.0, []), ("c", 0.0, [reason]))
    )
    assert outcome_of([watched], last=1).notes == []
    untrained = "2 times a device could not train in a round"
    assert outcome_of([watched, failed, at_once], last=1).notes == [untrained]


def test_energy_of_devices_is_shown_where_all_runs_tell_it() -> None:
    outcome = outcome_of(
        [participant("a", [0.5, 0.5], energy_j=40.0), participant("b", [0.5, 0.5], energy_j=60.0)],
        last=1,
    )
    assert outcome.device_energy_j == 100.0
    told = Way(name="told", title="told", text="", outcomes=[outcome])
    found = msgspec.structs.replace(TWO, reference="told", ways=[told])
    assert main_cells(found).head[-1] == "energy of a device"
    assert main_cells(found).rows[0][-1] == "100 J"
    found = msgspec.structs.replace(found, ways=[told, way("silent", 0.5)])
    assert "energy of a device" not in main_cells(found).head
    assert "NOTE: only some runs tell the energy of a device: told." in notes(found)


def test_of_a_run_that_learns_nothing_what_it_costs_is_shown() -> None:
    records = tuple(
        make_record(round=n, metrics={}, loss=None, messages_received=4 + n) for n in (1, 2)
    )
    run = [Participant("a", records, make_summary(task=NOISE, mode=NOISE, metric=""))]
    outcome = outcome_of(run, last=1)
    assert outcome.notes == []
    noise = Way(name="po", title="po", text="", outcomes=[outcome])
    found = msgspec.structs.replace(TWO, metric="", reference="po", ways=[noise])
    assert main_cells(found) == Cells(
        ("way of training", "sent by a device", "received", "messages in a round", "time"),
        (("po", "24.7 kB", "50.0 kB", "5.5", "12.3 s"),),
    )
    assert "Nothing was learned: these runs are of the protocol only." in notes(found)
    assert "Every metric" not in markdown(found, None, []) + html(found, None, [])


def test_a_server_is_no_device() -> None:
    run = [
        participant("client1", [0.5], "client", bytes_sent=10, train_s=9.0, state_digest="x"),
        participant(
            "server", [0.9], "server", bytes_sent=70, bytes_received=7, train_s=0.0, loss=None
        ),
    ]
    found = outcome_of(run, last=1)
    assert final(found, "miou") == 0.5
    assert (found.bytes_sent, found.server_bytes) == (10, 77)
    assert found.time_s == pytest.approx(0.1 + 1 + 0.03)  # the server's: it waits for all
    assert found.notes == []


def test_one_that_waits_for_an_evaluation_does_not_tell_the_time() -> None:
    judge = participant("a", [0.5], exchange_s=1.0)
    waits = Participant("b", (make_record(metrics={}, exchange_s=30.0),), make_summary())
    assert outcome_of([judge, waits], last=1).time_s == pytest.approx(5 + 0.1 + 1 + 0.03)


def test_a_server_alone_is_shown_as_what_it_is() -> None:
    found = outcome_of([participant("server", [0.9], "server")], last=1)
    assert final(found, "miou") == 0.9
    assert found.notes == ["metrics are the clients' as the server heard them, and its own bytes"]


def test_runs_that_are_not_one_are_refused() -> None:
    other = Participant("b", (make_record(),), make_summary(task="netqos"))
    with pytest.raises(DataError, match="of more than one run: disaster, netqos"):
        outcome_of([participant("a", [0.5]), other], last=1)


def test_a_run_that_has_not_ended_is_noted() -> None:
    (note,) = outcome_of([Participant("a", (make_record(),), None)], last=1).notes
    assert note == "not ended: a"


def test_models_of_devices_that_differ_are_not_one() -> None:
    run = [participant("a", [0.5], state_digest="x"), participant("b", [0.5], state_digest="y")]
    assert not outcome_of(run, last=1).is_common
    alone = [participant(n, [0.5], "single", state_digest="") for n in "ab"]
    assert not outcome_of(alone, last=1).is_common
    assert outcome_of(alone, last=1).notes == []


def test_what_makes_figures_less_than_they_seem_is_noted() -> None:
    run = [
        participant("a", [0.5, 0.5], missing=[PEERS[1]], state_digest="x"),
        participant("b", [0.5, 0.5], loss=None, state_digest="y"),
    ]
    missing, untrained, digest = outcome_of(run, last=1).notes
    assert missing == "somebody was missing when 2 of the rounds closed"
    assert untrained == "2 times a device could not train in a round"
    assert digest.startswith("state_digest NOT equal: round 1: unequal digests")


def test_a_run_without_an_evaluation_is_refused() -> None:
    empty = Participant("a", (make_record(metrics={}),), None)
    with pytest.raises(DataError, match="a: no device has evaluated a model; give a folder"):
        outcome_of([empty], last=1)
    with pytest.raises(DataError, match="a, a, a, a and 96 more: no device has evaluated"):
        outcome_of(100 * [empty], last=1)


def way(name: str, *values: float, title: str = "", **changes: Any) -> Way:
    outcomes = [
        msgspec.structs.replace(
            outcome_of([participant("a", [value / 2, value])], last=1, seed=seed), **changes
        )
        for seed, value in enumerate(values)
    ]
    return Way(name=name, title=title or name, text="", outcomes=outcomes)


def test_differences_are_of_equal_seeds() -> None:
    assert differences(way("a", 0.5, 0.75), way("b", 0.25, 0.25, 0.9), "miou") == [0.25, 0.5]


def test_curves_are_over_seeds() -> None:
    curve = mean_curve(way("a", 0.4, 0.8), "miou")
    assert curve[2] == Spread.of([0.4, 0.8])
    assert curve[2].mean == pytest.approx(0.6)
    assert mean_curve(way("a", 0.4), "rmse") == {}
    assert mean_sent(way("a", 0.4, 0.8)) == {1: 12_345, 2: 2 * 12_345}


TWO = SideBySide(
    task="disaster, 2 devices, 2 rounds",
    metric="miou",
    higher_is_better=True,
    last=1,
    reference="fedavg",
    ways=[
        way("alone", 0.4, 0.5, title="each | alone", bytes_sent=0.0, bytes_received=0.0),
        way("fedavg", 0.6, 0.5, title="<FedAvg>", server_bytes=5_000_000, energy_j=2500.0),
    ],
)


def test_what_a_person_reads() -> None:
    cells = main_cells(TWO)
    assert cells.head == (
        "way of training",
        "mIoU, %",
        "against fedavg, points",
        "sent by a device",
        "received",
        "through the server",
        "time",
        "energy",
    )
    alone, fedavg = cells.rows
    assert alone[:5] == (
        "each | alone",
        "45.00 (40.00 to 50.00)",
        "-10.00 (-20.00 to +0.00)",
        "none",
        "none",
    )
    assert fedavg[3:] == ("24.7 kB", "50.0 kB", "5.0 MB", "12.3 s", "2.5 kJ")
    assert metric_cells(TWO).rows[0][1:] == ("45.00 (40.00 to 50.00)", "55.00 (50.00 to 60.00)")
    lines = notes(TWO)
    assert lines[0] == "Means of seeds 0, 1; in brackets the lowest and the highest."
    assert any(line.startswith("Energy is the whole machine's") for line in lines)


def test_the_best_of_models_that_differ_has_a_row() -> None:
    run = [participant("a", [0.4], state_digest=""), participant("b", [0.6], state_digest="")]
    alone = Way(name="alone", title="alone", text="", outcomes=[outcome_of(run, last=1, seed=0)])
    found = SideBySide(
        task="t", metric="miou", higher_is_better=True, last=3, reference="alone", ways=[alone]
    )
    assert main_cells(found).rows[1][:2] == ("alone: the best", "60.00")
    one = msgspec.structs.replace(alone.outcomes[0], is_common=True)
    common = msgspec.structs.replace(found, ways=[msgspec.structs.replace(alone, outcomes=[one])])
    assert len(main_cells(common).rows) == 1, "one model, judged on data that differ"
    lines = notes(found)
    assert lines[0] == "Seed 0 alone: another one may turn out otherwise."
    assert "Every metric is the mean over the last 3 rounds." in lines


def test_metrics_that_are_in_per_cent_already_stay_so() -> None:
    found = msgspec.structs.replace(TWO, ways=[way("fedavg", 83.0, 0.5)])  # one is below 1
    assert main_cells(found).rows[0][1] == "41.75 (0.50 to 83.00)"


def test_a_difference_has_the_digits_of_what_it_is_of() -> None:
    ways = [
        Way(
            name=name,
            title=name,
            text="",
            outcomes=[outcome_of([_forecaster(rmse)], last=1, seed=0)],
        )
        for name, rmse in (("fedavg", 35.1512), ("dense", 35.1512 - 2e-7))
    ]
    found = msgspec.structs.replace(TWO, metric="rmse", ways=ways)
    assert [row[1:3] for row in main_cells(found).rows] == [("35.15", ""), ("35.15", "-0.00")]


def _forecaster(rmse: float) -> Participant:
    return Participant("a", (make_record(metrics={"rmse": rmse}),), make_summary())


def test_runs_of_other_lengths_are_noted() -> None:
    found = msgspec.structs.replace(TWO, ways=[*TWO.ways, way("b", 0.5, rounds=9)])
    assert "NOTE: the runs differ in rounds: 2, 9." in notes(found)


def test_runs_of_different_tasks_are_noted() -> None:
    found = msgspec.structs.replace(TWO, ways=[*TWO.ways, way("b", 0.5, task="netqos")])
    assert "NOTE: the runs are of different tasks: disaster, netqos." in notes(found)


def test_names_are_no_markup() -> None:
    odd = way("fedavg", 0.5, title="_run[old] $x_{$ <b>")
    found = msgspec.structs.replace(TWO, ways=[odd])
    output = io.StringIO()
    Console(file=output, width=120).print(console_table(found))
    assert "_run[old] $x_{$ <b>" in output.getvalue()
    assert "&lt;b&gt;" in markdown(found, None, [])
    assert b"_run[old] $x_{$ &lt;b&gt;" in plot(found)["svg"]


def test_an_error_is_said_to_be_better_low_and_notes_are_told() -> None:
    noted = way("a", 0.5, notes=["somebody was missing"])
    found = msgspec.structs.replace(
        TWO, metric="rmse", higher_is_better=False, reference="a", ways=[noted]
    )
    lines = notes(found)
    assert "Of RMSE, lower is better." in lines
    assert lines[-1] == "NOTE a, seed 0: somebody was missing."
    assert main_cells(found).rows[0][1] == ""  # no such metric


def test_markdown_keeps_its_columns() -> None:
    text = markdown(TWO, "compare.png", [("Python", "3.11"), ("configuration", "a: 1\nb: 2")])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table[:4]}) == 1
    assert "![mIoU over rounds and over bytes](compare.png)" in text
    assert "- Python: 3.11" in text
    assert "configuration:\n\n```\na: 1\nb: 2\n```" in text


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_shows_names_as_they_are() -> None:
    svg = plot(TWO)["svg"].decode()
    text = html(TWO, svg, [("command", "a < b")])
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    assert {"main", "table", "caption", "svg", "h1"} <= tags.seen
    assert not {"script", "link", "img", "iframe"} & tags.seen
    assert "&lt;FedAvg&gt;" in text
    assert "<FedAvg>" not in text
    assert "a &lt; b" in text
    assert "<svg" not in html(TWO, None, [])


def test_a_plot_is_the_same_file_from_the_same_figures() -> None:
    one, other = plot(TWO), plot(TWO)
    assert one == other
    assert one["png"].startswith(b"\x89PNG")
    assert b"bytes sent by a device" in one["svg"]


def test_a_plot_of_errors_and_of_nothing_sent() -> None:
    silent = way("alone", 0.5, bytes_sent=0.0, sent={1: 0.0, 2: 0.0})
    found = msgspec.structs.replace(TWO, higher_is_better=False, ways=[silent])
    up = plot(msgspec.structs.replace(found, higher_is_better=True))
    assert plot(found)["svg"] != up["svg"]  # its axis points down


def test_the_table_fits_a_terminal() -> None:
    output = io.StringIO()
    Console(file=output, width=80).print(console_table(TWO))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(" each | alone") for line in lines)
    assert "received" not in output.getvalue()


def test_an_outcome_survives_json() -> None:
    found = TWO.ways[1].outcomes[0]
    assert msgspec.json.decode(msgspec.json.encode(found), type=Outcome) == found


def test_records_of_one_round_have_one_curve_point() -> None:
    late = Participant("a", (make_record(round=3, metrics={"miou": 0.5}),), None)
    early = participant("b", [0.1, 0.2, 0.3])
    found = outcome_of([late, early], last=1)
    assert found.curve[3]["miou"] == pytest.approx(0.4)
    assert isinstance(late.records[0], RoundRecord)
    assert found.sent[1] == 12_345
