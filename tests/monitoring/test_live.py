"""The live view shows what the run folders say, as a table on a terminal and as lines elsewhere."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from monitoring_support import PEERS, make_record
from rich.console import Console, RenderableType

from semantic_net.monitoring.live import LiveView, Watched
from semantic_net.records import encode_record


def make_view(folder: Path, console: Console, rounds: int = 4) -> LiveView:
    watched = [Watched(f"peer {i + 1}", folder / f"peer{i + 1}") for i in range(3)]
    return LiveView(watched, rounds, title="3 peers learn", console=console)


def record(folder: Path, peer: int, **changes: Any) -> None:
    """Append a record to the run folder of peer 1, 2 or 3."""
    path = folder / f"peer{peer}" / "rounds.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(encode_record(make_record(peer=PEERS[peer - 1], **changes)))


def screen() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)


def text_of(shown: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(shown)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_peers_without_a_record_are_starting(tmp_path: Path) -> None:
    view = make_view(tmp_path, screen())
    text = text_of(view.table(0.5))
    assert text.count("starting") == 3
    assert "0/4" in text
    assert "0.5 s" in text


def test_a_row_tells_of_a_peer(tmp_path: Path) -> None:
    for peer in (1, 2, 3):
        record(tmp_path, peer)
    missing = [PEERS[2], "stranger" * 4]
    record(tmp_path, 1, round=2, updates_in=PEERS[:2], missing=missing, loss=None)
    with make_view(tmp_path, screen()) as view:
        lines = text_of(view.table(65.0)).splitlines()
    first, second = (next(line for line in lines if f"peer {i}" in line) for i in (1, 2))
    assert first.split()[3:] == [
        "2/4", "-", "41.2", "24.7", "kB", "50.0", "kB", "peer", "3,", "3fa9c1"
    ]  # fmt: skip
    assert "stra-nger" in text_of(view.table(65.0))
    assert second.split()[3:5] == ["1/4", "1.234"]
    assert "mIoU" in "\n".join(lines)
    assert "1 min 05 s   one digest on all peers in round 1" in "\n".join(lines)


def test_the_worst_disagreement_is_named(tmp_path: Path) -> None:
    for peer in (1, 2, 3):
        record(tmp_path, peer)
        record(tmp_path, peer, round=2, set_digest=str(peer))
        record(tmp_path, peer, round=3, state_digest=str(peer))
    with make_view(tmp_path, screen()) as view:
        assert "round 3: unequal digests of the same updates: a bug" in text_of(view.table(1.0))


def test_rounds_without_disagreement_are_counted(tmp_path: Path) -> None:
    for peer in (1, 2, 3):
        record(tmp_path, peer, metrics={})
        record(tmp_path, peer, round=2, metrics={})
    with make_view(tmp_path, screen()) as view:
        text = text_of(view.table(1.0))
    assert "one digest on all peers in rounds 1 to 2" in text
    assert "metric" in text


def test_a_peer_that_skipped_a_round_leaves_it_open(tmp_path: Path) -> None:
    for peer in (1, 2):
        record(tmp_path, peer)
    for peer in (1, 2, 3):
        record(tmp_path, peer, round=2)
    with make_view(tmp_path, screen()) as view:
        assert "round 1: not all peers have recorded it" in text_of(view.table(1.0))


def test_a_terminal_gets_a_table_that_is_redrawn(tmp_path: Path) -> None:
    console = screen()
    with make_view(tmp_path, console) as view:
        record(tmp_path, 1)
        view.poll()
    output = console.file
    assert isinstance(output, io.StringIO)
    assert "3 peers learn" in output.getvalue()
    assert "1/4" in output.getvalue()


def test_a_pipe_gets_a_line_a_record(tmp_path: Path) -> None:
    output = io.StringIO()
    with make_view(tmp_path, Console(file=output, width=80)) as view:
        record(tmp_path, 1)
        view.poll()
        record(tmp_path, 2)
        view.poll()
        view.poll()
    assert [line[:16] for line in output.getvalue().splitlines()] == [
        "peer 1  round 1/",
        "peer 2  round 1/",
    ]
    assert [[record.round for record in history] for history in view.histories] == [[1], [1], []]
