"""What a person reads of a round, and where what is logged goes."""

from __future__ import annotations

import errno
import io
import logging
import re
from pathlib import Path

import pytest
from monitoring_support import PEERS, make_record
from rich.console import Console

from semantic_net.monitoring import console as console_module
from semantic_net.monitoring.console import (
    RoundPrinter,
    logging_to,
    print_interrupted,
    record_printer,
    round_text,
)
from semantic_net.records import decode_record

log = logging.getLogger("semantic_net.test")


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


class Interrupted(io.StringIO):
    """A terminal of somebody who presses Ctrl-C at the first thing that he reads."""

    has_interrupted = False

    def flush(self) -> None:
        super().flush()
        if not self.has_interrupted and self.getvalue():
            self.has_interrupted = True
            raise KeyboardInterrupt


def test_a_round_is_one_line() -> None:
    line = round_text(make_record(round=3), 20).plain
    assert line == (
        "round 3/20  loss 1.234  mIoU 41.2  sent 12.3 kB  recv 25.0 kB  with 2 of 2  6.1 s"
        "  digest 3fa9c1"
    )


def test_one_that_knows_of_no_others_says_nothing_of_them() -> None:
    client = make_record(updates_in=["client"], close_reason="server")
    assert "with" not in round_text(client, 20).plain
    alone = make_record(updates_in=["single"], close_reason="alone", state_digest="")
    assert round_text(alone, 20).plain.endswith("recv 25.0 kB  6.1 s")


def test_who_is_missing_and_what_happened_follows() -> None:
    record = make_record(
        loss=None,
        metrics={},
        updates_in=[PEERS[1]],
        missing=[PEERS[2]],
        close_reason="deadline, 1 missing",
        notes=["skipped training: the loss was not finite"],
    )
    assert round_text(record, 20).plain.splitlines() == [
        "round 1/20  not trained  sent 12.3 kB  recv 25.0 kB  with 1 of 2  6.1 s  digest 3fa9c1",
        "  missing qrst-uvwx (deadline, 1 missing)",
        "  skipped training: the loss was not finite",
    ]


def test_the_preferred_metric_is_shown_where_there_is_one() -> None:
    assert "pixel_accuracy 80.0" in round_text(make_record(), 20, "pixel_accuracy").plain
    assert "mIoU 41.2" in round_text(make_record(), 20, "rmse").plain


def test_a_pipe_gets_plain_lines_that_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    RoundPrinter(20).print(make_record(notes=["x" * 300]))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


def test_a_terminal_gets_colours() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system="standard", width=200)
    RoundPrinter(20, console=console).print(make_record(missing=[PEERS[2]]))
    assert "\x1b[33m" in screen.getvalue()


def test_standard_output_on_a_full_disk_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    printer = RoundPrinter(20, console=Console(file=FullDisk()))
    printer.print(make_record())
    printer.print(make_record())
    assert caplog.messages == [
        "standard output cannot be written, the run goes on: No space left on device"
    ]


def test_rounds_as_json_are_their_records(capsys: pytest.CaptureFixture[str]) -> None:
    show = record_printer("json", 20)
    records = [make_record(round=n, notes=["<a note>"]) for n in (1, 2)]
    for record in records:
        show(record)
    lines = capsys.readouterr().out.splitlines()
    assert [decode_record(line.encode()) for line in lines] == records


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    record_printer("quiet", 20)(make_record())
    assert capsys.readouterr().out == ""
    record_printer("lines", 20)(make_record())
    assert "round 1/20" in capsys.readouterr().out


def test_the_console_shows_its_level_and_the_file_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / "log.txt"
    with logging_to("info", path):
        log.debug("one")
        log.info("two %d", 2)
        log.warning("three\nlines")
    log.warning("after the end")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["two 2", "warning: three lines"]
    lines = path.read_text(encoding="utf-8").splitlines()
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
    assert re.fullmatch(rf"{time} DEBUG semantic_net\.test: one", lines[0])
    assert re.fullmatch(rf"{time} INFO semantic_net\.test: two 2", lines[1])
    assert not any("after the end" in line for line in lines)


def test_a_traceback_goes_to_the_file_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to("warning", tmp_path / "log.txt"):
        try:
            raise ValueError("bad value")
        except ValueError:
            log.exception("it broke")
    assert capsys.readouterr().err.splitlines() == [
        "error: it broke (ValueError: bad value; see log.txt)"
    ]
    assert "Traceback" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_log_file_that_cannot_be_opened_is_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocker = tmp_path / "out"
    blocker.write_text("")
    with logging_to("info", blocker / "log.txt"):
        log.info("goes on")
    warning, goes_on = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: ")
    assert "log.txt cannot be written: " in warning
    assert goes_on == "goes on"


def test_a_log_file_on_a_full_disk_is_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.txt"
    path.symlink_to("/dev/full")
    with logging_to("info", path):
        log.info("one")
        log.info("two")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "one"
    assert lines[1].endswith("log.txt cannot be written, the run goes on: No space left on device")
    assert lines[2:] == ["two"]


def test_standard_error_on_a_full_disk_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", FullDisk())
    with logging_to("info", tmp_path / "log.txt"):
        log.info("goes on")
    assert "goes on" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_the_log_file_has_no_token_and_the_console_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to("info", tmp_path / "log.txt"):
        log.info("page at %s", "http://10.0.0.1:8080/?token=aB_3-x")
    assert "/?token=aB_3-x" in capsys.readouterr().err
    text = (tmp_path / "log.txt").read_text()
    assert "page at http://10.0.0.1:8080/?token=...\n" in text


def test_log_files_do_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "MAX_LOG_BYTES", 1000)
    with logging_to("error", tmp_path / "log.txt"):
        for index in range(100):
            log.debug("line %d", index)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "log.txt.1"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())


def test_what_an_interruption_falls_into_is_not_said_twice() -> None:
    terminal = Interrupted()
    console = Console(file=terminal, highlight=False)
    with pytest.raises(KeyboardInterrupt):
        console.print("10 peers learn")
    print_interrupted("no round was closed", console)
    assert terminal.getvalue() == "10 peers learn\ninterrupted; no round was closed\n"
