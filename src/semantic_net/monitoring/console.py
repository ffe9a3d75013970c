"""What one running peer shows a person: a line a round on the console, and log.txt.

Rounds go to standard output, everything that is logged to standard error. Both are coloured on a
terminal and plain elsewhere. Tracebacks go to log.txt only.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.text import Text

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
from semantic_net.records import RoundRecord, encode_record

log = logging.getLogger(__name__)

LOG_FILE = "log.txt"
MAX_LOG_BYTES = 10_000_000
"""log.txt moves on to log.txt.1 at this size, so that no device fills up with it."""

_LOGGER = "semantic_net"
_TIME = "%Y-%m-%d %H:%M:%S"
_TOKEN = re.compile(r"\?token=[\w-]+")
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}


_OTHERS_UNKNOWN = ("alone", "server")
"""Why rounds close where there are no others, or a server alone knows of them."""


def round_text(record: RoundRecord, rounds: int, metric: str = "") -> Text:
    """Return the line that tells of one round.

    Args:
        record: Of any peer.
        rounds: Rounds of the whole run.
        metric: Name of the main metric; the first one where it is empty or absent.
    """
    others = [peer for peer in record.updates_in if peer != record.peer]
    text = Text(f"round {record.round}/{rounds}")
    text.append(
        f"  loss {format_loss(record.loss)}" if record.loss is not None else "  not trained"
    )
    name = main_metric(record.metrics, metric)
    if name is not None:
        text.append(f"  {metric_label(name)} ")
        text.append(format_metric(name, record.metrics[name]), style="bold")
    if record.epsilon is not None:
        text.append(f"  epsilon {record.epsilon:.3g}")
    text.append(f"  sent {format_bytes(record.bytes_sent)}")
    text.append(f"  recv {format_bytes(record.bytes_received)}")
    if record.close_reason not in _OTHERS_UNKNOWN:
        text.append(
            f"  with {len(others)} of {len(others) + len(record.missing)}",
            style="yellow" if record.missing else "",
        )
    text.append(f"  {format_duration(record.time_s)}")
    if record.state_digest:
        text.append("  digest ")
        text.append(short_digest(record.state_digest), style="cyan")
    if record.missing:
        names = ", ".join(short_id(peer) for peer in sorted(record.missing))
        text.append(f"\n  missing {names} ({record.close_reason})", style="yellow")
    if record.unreachable:
        text.append(f"\n  not connected to {', '.join(record.unreachable)}", style="yellow")
    for note in record.notes:
        text.append(f"\n  {note}", style="dim")
    return text


Output = Literal["lines", "json", "quiet"]
"""What of a round goes to standard output: a line for people, the record, or nothing."""

Show = Callable[[RoundRecord], None]


def record_printer(output: Output, rounds: int, metric: str = "") -> Show:
    """Return what shows each record of a run.

    Args:
        output: How.
        rounds: Of the run.
        metric: Name of the main one.
    """
    if output == "quiet":
        return lambda record: None
    if output == "json":
        return _JsonPrinter().print
    return RoundPrinter(rounds, metric).print


class _Tolerant:
    """Says once that standard output takes nothing, as on a full disk or behind a closed pipe."""

    _failed = False

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as exc:
            if not self._failed:
                self._failed = True
                log.warning("standard output cannot be written, the run goes on: %s", exc.strerror)


class _JsonPrinter(_Tolerant):
    """Prints each record as it stands in rounds.jsonl."""

    def print(self, record: RoundRecord) -> None:
        line = encode_record(record).decode()
        self._try(lambda: print(line, end="", flush=True))


class RoundPrinter(_Tolerant):
    """Prints a line for each round of one peer."""

    def __init__(self, rounds: int, metric: str = "", console: Console | None = None) -> None:
        """Take the rounds of the run and the main metric's name; None prints to stdout."""
        self._rounds = rounds
        self._metric = metric
        self._console = console or Console(highlight=False)
        self._unreachable: list[str] = []

    def print(self, record: RoundRecord) -> None:
        """Print one round; never wrapped, so that one round stays one line in a pipe."""
        if record.unreachable == self._unreachable:  # said before
            record = msgspec.structs.replace(record, unreachable=[])
        else:
            self._unreachable = record.unreachable
        text = round_text(record, self._rounds, self._metric)
        self._try(lambda: self._console.print(text, soft_wrap=True))


def print_interrupted(left: str, console: Console) -> None:
    """Say what an interruption leaves behind.

    Rich forgets a text once it is flushed; interrupted in between, it would print it again first.

    Args:
        left: Or what goes on from there.
        console: May have been interrupted itself.
    """
    fresh = Console(file=console.file, highlight=False)
    fresh.print(f"interrupted; {left}", soft_wrap=True)


@contextlib.contextmanager
def logging_to(
    level: str, log_file: Path | None = None, console: Console | None = None
) -> Iterator[None]:
    """Send what semantic_net logs to standard error and to a file, until the block ends.

    Args:
        level: Least level on standard error: debug, info, warning or error.
        log_file: Gets everything from debug on, with times. A file that cannot be written is one
            warning; the console goes on.
        console: Takes the place of standard error: one that draws on the same terminal.
    """
    logger = logging.getLogger(_LOGGER)
    before = logger.level
    handlers: list[logging.Handler] = [_ConsoleHandler(getattr(logging, level.upper()), console)]
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handlers[0])
    try:
        if log_file is not None:
            try:
                handlers.append(_LogFile(log_file))
            except OSError as exc:
                logger.warning("%s cannot be written: %s", log_file, exc.strerror or exc)
            else:
                logger.addHandler(handlers[1])
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(before)


class _ConsoleHandler(logging.Handler):
    """One line a record on standard error."""

    def __init__(self, level: int, console: Console | None) -> None:
        super().__init__(level)
        self._console = console or Console(stderr=True, highlight=False)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = " ".join(record.getMessage().split())
            if record.levelno != logging.INFO:
                line = f"{record.levelname.lower()}: {line}"
            if record.exc_info is not None and record.exc_info[1] is not None:
                error = record.exc_info[1]
                line += f" ({type(error).__name__}: {error}; see {LOG_FILE})"
            style = _STYLES.get(record.levelno, "dim" if record.levelno < logging.INFO else "")
            self._console.print(Text(line, style=style), soft_wrap=True)
        except Exception:  # as logging's own handlers do: nothing that is logged ends a run
            self.handleError(record)


class _WithoutTokens(logging.Formatter):
    """Leaves out the token of a page's link: log files are open to others, and are sent around."""

    def format(self, record: logging.LogRecord) -> str:
        return _TOKEN.sub("?token=...", super().format(record))


class _LogFile(logging.handlers.RotatingFileHandler):
    """log.txt: everything, with times; a full disk is said once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, maxBytes=MAX_LOG_BYTES, backupCount=1, encoding="utf-8")
        self.setFormatter(
            _WithoutTokens("%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", _TIME)
        )
        self._failed = False

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what a full disk did not take; said by then
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True  # first: the warning comes here, too
            logging.getLogger(_LOGGER).warning(
                "%s cannot be written, the run goes on: %s",
                self.baseFilename,
                error.strerror or error,
            )
