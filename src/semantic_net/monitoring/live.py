"""The live view of several peers on one machine, from nothing but their run folders.

On a terminal a table that is redrawn, one row a peer; elsewhere a line whenever a peer closes a
round. Records tell all that is shown: the view asks no process and no socket.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from semantic_net.monitoring.console import round_text
from semantic_net.monitoring.digests import Agreement, agreement
from semantic_net.monitoring.recorder import ROUNDS_FILE, RoundTail
from semantic_net.monitoring.text import (
    format_bytes,
    format_duration,
    format_loss,
    format_metric,
    main_metric,
    metric_label,
    short_digest,
)
from semantic_net.protocol.identity import short_id
from semantic_net.records import RoundRecord

_DIGEST_STYLES = {
    Agreement.OPEN: "dim",
    Agreement.EQUAL: "green",
    Agreement.OTHER_UPDATES: "yellow",
    Agreement.UNEQUAL: "bold red",
}


@dataclass(frozen=True, slots=True)
class Watched:
    """One peer's run folder, and the name that the view gives the peer."""

    name: str
    folder: Path


class LiveView:
    """Follows several run folders; a context manager, polled by its owner."""

    def __init__(
        self,
        peers: Sequence[Watched],
        rounds: int,
        metric: str = "",
        *,
        title: str = "",
        console: Console | None = None,
    ) -> None:
        """Take folders that may be empty so far.

        Args:
            peers: In the order of the rows.
            rounds: Rounds of the whole run.
            metric: Name of the main metric; the first one where it is empty or absent.
            title: Stands above the table.
            console: None shows on standard output.
        """
        self._records: list[dict[int, RoundRecord]] = [{} for _ in peers]
        """By round; one mapping a peer."""
        self._peers = peers
        self._rounds = rounds
        self._metric = metric
        self._title = title
        self._console = console or Console(highlight=False)
        self._tails = [RoundTail(peer.folder / ROUNDS_FILE) for peer in peers]
        self._started = time.monotonic()
        self._live = (
            Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        )

    @property
    def histories(self) -> list[list[RoundRecord]]:
        """The records so far, one list a peer."""
        return [list(records.values()) for records in self._records]

    def __enter__(self) -> LiveView:
        self._started = time.monotonic()
        if self._live is not None:
            self._live.start()
        self.poll()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def poll(self) -> None:
        """Read what is new and show it.

        Raises:
            DataError: A record cannot be read.
        """
        for peer, tail, records in zip(self._peers, self._tails, self._records, strict=True):
            for record in tail.poll():
                records[record.round] = record
                if self._live is None:
                    line = round_text(record, self._rounds, self._metric)
                    self._console.print(Text(f"{peer.name}  ").append_text(line), soft_wrap=True)
        if self._live is not None:
            self._live.update(self.table(time.monotonic() - self._started), refresh=True)

    def table(self, elapsed_s: float) -> Table:
        """Return the table as of the last `poll`."""
        last = [next(reversed(records.values()), None) for records in self._records]
        metrics = next((record.metrics for record in last if record is not None), {})
        metric = main_metric(metrics, self._metric) or self._metric or "metric"
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, title=self._title or None, title_justify="left"
        )
        table.add_column("peer", no_wrap=True)
        table.add_column("round", no_wrap=True)
        for name in ("loss", metric_label(metric), "sent", "received"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("missing")
        table.add_column("digest", no_wrap=True)
        for peer, records in zip(self._peers, self._records, strict=True):
            table.add_row(peer.name, *self._cells(list(records.values())))
        table.caption = self._caption(elapsed_s)
        table.caption_justify = "left"
        return table

    def _cells(self, history: Sequence[RoundRecord]) -> list[Text | Table]:
        done = history[-1].round if history else 0
        progress = Table.grid(padding=(0, 1))
        progress.add_row(
            ProgressBar(total=self._rounds, completed=done, width=8),
            f"{done}/{self._rounds}",
        )
        if not history:
            return [progress, Text("starting", style="dim")]
        last = history[-1]
        name = main_metric(last.metrics, self._metric)
        missing = ", ".join(self._name(peer) for peer in sorted(last.missing))
        return [
            progress,
            Text(format_loss(last.loss) if last.loss is not None else "-"),
            Text(format_metric(name, last.metrics[name]) if name else "-", style="bold"),
            Text(format_bytes(sum(record.bytes_sent for record in history))),
            Text(format_bytes(sum(record.bytes_received for record in history))),
            Text(missing or "-", style="yellow" if missing else "dim"),
            Text(
                short_digest(last.state_digest), style=_DIGEST_STYLES[self._agreement(last.round)]
            ),
        ]

    def _caption(self, elapsed_s: float) -> Text:
        text = Text(f"{format_duration(elapsed_s)}", style="dim")
        closed = min(max(records, default=0) for records in self._records)
        if not closed:
            return text
        found = {self._agreement(index): index for index in range(closed, 0, -1)}
        for kind in (Agreement.UNEQUAL, Agreement.OTHER_UPDATES, Agreement.OPEN):
            if kind in found:  # the first such round
                style = _DIGEST_STYLES[kind]
                return text.append(f"   round {found[kind]}: {kind.value}", style=style)
        count = f"rounds 1 to {closed}" if closed > 1 else "round 1"
        return text.append(f"   one digest on all peers in {count}", style="green")

    def _agreement(self, index: int) -> Agreement:
        return agreement([records.get(index) for records in self._records])

    def _name(self, peer_id: str) -> str:
        for peer, records in zip(self._peers, self._records, strict=True):
            if any(record.peer == peer_id for record in records.values()):
                return peer.name
        return short_id(peer_id)
