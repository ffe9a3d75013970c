"""Tells of a running peer: its status into a file and onto the page, its rounds onto the page and,
as vitals, to others that watch.

Nothing waits for it: files are written and sensors read in a thread, and what fails is said once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from semantic_net.federated.status import StatusKeeper
from semantic_net.monitoring.dashboard.board import Board
from semantic_net.monitoring.device import DeviceSensors
from semantic_net.monitoring.sd_notify import ServiceManager
from semantic_net.monitoring.status_file import StatusFile
from semantic_net.protocol.vitals import Vitals
from semantic_net.records import RoundRecord
from semantic_net.status import MAX_METRIC_CHARS, DeviceVitals, LastRound, Sample, Status
from semantic_net.transport.base import Transport

log = logging.getLogger(__name__)

TELL_S = 1.0
"""Seconds between two looks at what the peer is at."""

SAMPLES_S = 5.0
"""Seconds between two looks at what the model makes of a few examples, at least."""

SAMPLES_SHARE = 0.01
"""Most of the time that they may take."""


@dataclass(slots=True)
class Teller:
    """Of one peer."""

    keeper: StatusKeeper
    transport: Transport
    file: StatusFile
    service: ServiceManager
    metric: str
    """Name of the main metric; empty takes the first one of each round."""
    show: Callable[[Status], None] = lambda status: None
    """Shows a status to a person at the terminal."""
    board: Board | None = None
    """Of the page, where there is one."""
    preview: Callable[[], Sequence[Sample]] | None = None
    """Returns what the model makes of a few examples."""
    sensors: DeviceSensors = field(default_factory=DeviceSensors)
    is_private: bool = False
    """Losses and metrics are of the data itself, and no noise covers them: others hear none."""
    _device: DeviceVitals | None = None
    _samples_due: float = 0.0
    _task: asyncio.Task[None] | None = None
    _ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Teller:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None, "entered"
        # Not cancelled: a thread that writes would go on, and its status might come after the last.
        self._ending.set()
        await self._task

    async def _run(self) -> None:
        try:
            while not self._ending.is_set():
                await self._tell()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), TELL_S)
            await self._tell(has_ended=True)
        except Exception as exc:  # a bug of ours is no reason to end a run that learns
            log.error("what the peer is at is not told any more: %r", exc, exc_info=exc)

    async def _tell(self, *, has_ended: bool = False) -> None:
        now = asyncio.get_running_loop().time()
        transport = self.transport
        status = self.keeper.status(
            now, transport.links(), transport.traffic(), transport.unmet_addresses(), self._device
        )
        if has_ended:
            status = status.ended()
        where = f"round {status.round}/{status.rounds}: " if status.round else ""
        self.service.status(where + status.phase)
        if self.board is not None:
            self.board.put_status(status)

        def write() -> None:
            self.file.write(status, now)
            self.show(status)
            self._device = self.sensors.read(now)

        await asyncio.to_thread(write)

    def closed(self, record: RoundRecord, totals: Mapping[str, float]) -> Vitals:
        """Show a round that is closed; return what others that watch should hear of it.

        Runs in the learner's thread, between two rounds.

        Args:
            record: Of the round.
            totals: Of the run so far; ``bytes_sent`` and ``bytes_received`` are used.
        """
        sent, received = int(totals["bytes_sent"]), int(totals["bytes_received"])
        if self.board is not None:
            self.board.put_record(record, sent + received)
            self._show_samples(self.board)
        name = self.metric or next(iter(record.metrics), "")
        last = LastRound(
            round=record.round,
            loss=None if self.is_private else record.loss,
            metric=name[:MAX_METRIC_CHARS],
            value=None if self.is_private else record.metrics.get(name),
            bytes_sent=sent,
            bytes_received=received,
            num_missing=len(record.missing),
        )
        return Vitals(last=last, device=self._device)

    def _show_samples(self, board: Board) -> None:
        """Look at a few examples, as often as that costs next to nothing."""
        began = time.monotonic()
        if self.preview is None or began < self._samples_due:
            return
        try:
            board.put_samples(self.preview())
        except Exception as exc:  # a user's own code, and for show: no reason to end a run
            self.preview = None
            log.warning("no sample predictions on the page: %s: %s", type(exc).__name__, exc)
            log.debug("the task's preview", exc_info=exc)
            return
        took_s = time.monotonic() - began
        self._samples_due = began + max(SAMPLES_S, took_s / SAMPLES_SHARE)
