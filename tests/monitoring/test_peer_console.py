"""A peer at a terminal and in a pipe."""

from __future__ import annotations

import io
import logging
import threading
from typing import Any

import msgspec
import pytest
from monitoring_support import PEERS, make_record, make_status
from rich.console import Console

from semantic_net.monitoring.console import logging_to
from semantic_net.monitoring.peer_console import MAX_ROWS, PeerConsole
from semantic_net.monitoring.progress import logged_if_long, shown_if_long
from semantic_net.status import LastRound, PeerStatus, Status

LAST = LastRound(
    round=2, loss=0.5, metric="miou", value=0.25, bytes_sent=1500, bytes_received=1, num_missing=0
)


def console(*, is_terminal: bool = True) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=is_terminal, width=110, highlight=False), file


def peer(index: int, **changes: object) -> PeerStatus:
    told = PeerStatus(
        peer=PEERS[index % 3],
        name=f"peer-{index}",
        is_connected=True,
        is_alive=True,
        round=3,
        last=LAST,
        bytes_per_s=125_000.0,
    )
    return msgspec.structs.replace(told, **changes)


def status(*peers: PeerStatus, **changes: Any) -> Status:
    told = {"peers": list(peers), "num_peers": len(peers), "doing": "waiting for peer-1"}
    return make_status(bytes_sent=12_000, **{**told, **changes})


def drawn(of: PeerConsole, what: Status) -> list[str]:
    out, file = console(is_terminal=False)
    out.print(of.view(what))
    return file.getvalue().splitlines()


def test_on_a_terminal_lines_go_by_above_a_table() -> None:
    out, file = console()
    errors, error_file = console()
    with (
        PeerConsole("lines", out, errors) as shown,
        logging_to("info", None, shown.log_console),
    ):
        show = shown.printer(9, "miou")
        shown.status(status(peer(1)))
        show(make_record(round=1, notes=["told in the log"]))
        logging.getLogger("semantic_net.test").info("something has happened")
        shown.status(status(peer(1)))
    text = file.getvalue()
    assert "round 1/9" in text
    assert "something has happened" in text
    assert "told in the log" not in text
    assert text.count("waiting for peer-1") >= 2
    assert error_file.getvalue() == "", "the log does not cut through the table"


@pytest.mark.parametrize("output", ["quiet", "json"])
def test_who_wants_no_lines_gets_no_table(output: str) -> None:
    out, file = console()
    with PeerConsole(output, out, out) as shown:  # type: ignore[arg-type]  # parametrized
        assert shown.log_console is None
        shown.status(status(peer(1)))
    assert file.getvalue() == ""


@pytest.mark.parametrize(("of_lines", "of_log"), [(False, True), (True, False), (False, False)])
def test_in_a_pipe_there_are_plain_lines(of_lines: bool, of_log: bool) -> None:
    (out, file), (errors, _) = console(is_terminal=of_lines), console(is_terminal=of_log)
    with PeerConsole("lines", out, errors) as shown:
        assert shown.log_console is None
        shown.printer(9, "miou")(make_record(round=1))
        shown.status(status(peer(1)))
    [line] = file.getvalue().splitlines()
    assert "round 1/9" in line


def test_what_the_table_says() -> None:
    shown = PeerConsole("lines", *(console(is_terminal=False)[0] for _ in range(2)))
    shown.printer(9, "miou")(make_record(round=2))
    lines = drawn(shown, status(
        peer(1),
        peer(2, is_connected=False, is_alive=False, heard_s=12.0, problem="Connection reset"),
        peer(3, waited_for="it is training"),
        unmet={"10.0.0.9:5000": "No route to host"},
        num_peers=5,
    ))  # fmt: skip
    assert lines[1] == "round 3/9: waiting for peer-1 (1.5 s)"
    assert lines[2].split() == ["peer", "state", "round", "mIoU", "loss", "sent", "link"]
    assert [" ".join(line.split()) for line in lines[4:]] == [
        "this peer collecting 3 41.2 1.234 12.0 kB",
        "peer-3 connected 3 25.0 0.5000 1.5 kB 125 kB/s",
        "peer-1 connected 3 25.0 0.5000 1.5 kB 125 kB/s",
        "peer-2 silent for 12.0 s 3 25.0 0.5000 1.5 kB 125 kB/s",
        "and 2 more peers",
        "peer-3: it is training",
        "peer-2: Connection reset",
        "10.0.0.9:5000: nobody has said hello there (No route to host)",
    ]


@pytest.mark.parametrize(
    ("width", "last"), [(90, "link"), (80, "sent"), (60, "mIoU"), (20, "mIoU")]
)
def test_a_narrow_terminal_has_fewer_columns_and_every_reason(width: int, last: str) -> None:
    out = Console(file=io.StringIO(), width=width, highlight=False)
    shown = PeerConsole("lines", out, out)
    shown.printer(9, "miou")
    told = status(peer(1, waited_for="it is training"))
    wide, file = console(is_terminal=False)
    wide.print(shown.view(told))
    lines = file.getvalue().splitlines()
    assert lines[2].split()[-1] == last
    assert lines[-1] == "peer-1: it is training"


def test_a_crowd_fits_and_those_that_are_waited_for_come_first() -> None:
    shown = PeerConsole("lines", *(console(is_terminal=False)[0] for _ in range(2)))
    crowd = [peer(i, waited_for="it is training" if i == 29 else "") for i in range(30)]
    lines = drawn(shown, status(*crowd))
    assert lines[5].startswith("peer-29")
    assert lines[-2:] == [f"and {30 - MAX_ROWS} more peers", "peer-29: it is training"]


def test_what_takes_long_is_logged_and_what_does_not_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="semantic_net"):
        with logged_if_long("preparing the data", patience_s=60.0):
            pass
        assert caplog.messages == []
        logged = threading.Event()

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                logged.set()

        logger, handler = logging.getLogger("semantic_net"), Handler()
        logger.addHandler(handler)
        try:
            with logged_if_long("preparing the data", patience_s=0.01):
                assert logged.wait(30), "told while it is under way"
        finally:
            logger.removeHandler(handler)
    assert caplog.messages[0] == "preparing the data ..."
    assert caplog.messages[1].startswith("preparing the data took ")


def test_a_command_spins_on_a_terminal_and_says_a_line_elsewhere() -> None:
    out, file = console()
    with shown_if_long("evaluating", out):
        pass
    assert "evaluating ..." in file.getvalue()
    out, file = console(is_terminal=False)
    with shown_if_long("evaluating", out, patience_s=60.0):
        pass
    assert file.getvalue() == ""
