"""What a peer shows a person: a line a round and, on a terminal, a table of who is there below.

The table is redrawn while lines of rounds and of the log go by above it. Elsewhere, in a pipe or a
file, there are the lines alone.
"""

from __future__ import annotations

from types import TracebackType

import msgspec
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from semantic_net.monitoring.console import Output, RoundPrinter, Show, record_printer
from semantic_net.monitoring.status_text import peer_state
from semantic_net.monitoring.text import (
    format_bytes,
    format_duration,
    format_loss,
    format_metric,
    main_metric,
    metric_label,
)
from semantic_net.records import RoundRecord
from semantic_net.status import PeerStatus, Status

WIDE = 90
"""Columns of a terminal that has room for the whole table."""

MAX_ROWS = 12
"""Peers in the table: a terminal has few lines, and those that are waited for come first."""


class PeerConsole:
    """Standard output, and standard error's log where both are one terminal; a context manager."""

    def __init__(
        self, output: Output, console: Console | None = None, errors: Console | None = None
    ) -> None:
        """Find out where it is.

        Args:
            output: What is asked for; a table comes with lines alone.
            console: Standard output by default.
            errors: Standard error by default.
        """
        self._output = output
        self._console = console or Console(highlight=False)
        errors = errors or Console(stderr=True, highlight=False)
        self._metric = ""
        self._last: RoundRecord | None = None
        self._live: Live | None = None
        is_one_terminal = self._console.is_terminal and errors.is_terminal
        if output == "lines" and is_one_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)

    @property
    def log_console(self) -> Console | None:
        """Where the log goes so that it does not cut through the table; None: where it would."""
        return None if self._live is None else self._console

    def __enter__(self) -> PeerConsole:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def printer(self, rounds: int, metric: str) -> Show:
        """Return what shows a record; without its notes, which the log has told already.

        Args:
            rounds: Of the run.
            metric: Name of the main one.
        """
        self._metric = metric
        if self._output != "lines":
            return record_printer(self._output, rounds, metric)
        show = RoundPrinter(rounds, metric, self._console).print

        def show_record(record: RoundRecord) -> None:
            self._last = record
            show(msgspec.structs.replace(record, notes=[]))

        return show_record

    def status(self, status: Status) -> None:
        """Redraw the table."""
        if self._live is not None:
            self._live.update(self.view(status), refresh=True)

    def view(self, status: Status) -> Group:
        """Return what stands below the lines."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        last = self._last
        label = self._metric or (last and next(iter(last.metrics), None)) or "metric"
        table.add_column("peer", no_wrap=True)
        table.add_column("state", no_wrap=True)
        numbers: tuple[str, ...] = ("round", metric_label(label), "loss", "sent", "link")
        numbers = numbers[: max(len(numbers) - max(WIDE - self._console.width, 0) // 10, 2)]
        for name in numbers:
            table.add_column(name, justify="right", no_wrap=True)
        count = len(table.columns)
        table.add_row(*self._own_cells(status)[:count])
        shown = sorted(status.peers, key=lambda peer: not peer.waited_for)[:MAX_ROWS]
        for peer in shown:
            table.add_row(*_cells(peer)[:count])
        head = Text(f"round {status.round}/{status.rounds}: ", style="bold")
        head.append(f"{status.doing} ({format_duration(status.phase_s)})", style="not bold")
        parts: list[Text | Table] = [Text(), head, table]
        if (more := status.num_peers - len(shown)) > 0:
            parts.append(Text(f"and {more} more peers", style="dim"))
        parts += [_why(peer) for peer in shown if peer.waited_for or _is_away(peer)]
        parts += [
            Text(f"{address}: nobody has said hello there{f' ({why})' if why else ''}", "yellow")
            for address, why in list(status.unmet.items())[:MAX_ROWS]
        ]
        return Group(*parts)

    def _own_cells(self, status: Status) -> list[Text]:
        last = self._last
        name = None if last is None else main_metric(last.metrics, self._metric)
        return [
            Text("this peer", style="bold"),
            Text(status.phase),
            Text(str(status.round)),
            Text("" if last is None or name is None else format_metric(name, last.metrics[name])),
            Text("" if last is None or last.loss is None else format_loss(last.loss)),
            Text(format_bytes(status.bytes_sent)),
            Text(),
        ]


def _cells(peer: PeerStatus) -> list[Text]:
    last = peer.last
    if peer.agrees is False or not (peer.is_alive or peer.has_left):
        style = "red"
    else:
        style = "green" if peer.is_connected else "yellow"
    return [
        Text(peer.name or peer.peer),
        Text(peer_state(peer), style=style),
        Text(str(peer.round) if peer.round else ""),
        Text("" if last is None or last.value is None else format_metric(last.metric, last.value)),
        Text("" if last is None or last.loss is None else format_loss(last.loss)),
        Text("" if last is None else format_bytes(last.bytes_sent)),
        Text("" if peer.bytes_per_s is None else f"{format_bytes(round(peer.bytes_per_s))}/s"),
    ]


def _is_away(peer: PeerStatus) -> bool:
    return bool(peer.problem) and not peer.is_connected and not peer.has_left


def _why(peer: PeerStatus) -> Text:
    """Return a line of its own: a column would have no room for it on a narrow terminal."""
    text = f"{peer.name or peer.peer}: {peer.waited_for or peer.problem}"
    return Text(text, style="yellow" if peer.waited_for else "dim")
