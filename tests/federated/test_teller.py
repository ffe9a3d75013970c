"""Who tells of a peer: one status after the other, the last one last, and no error ends a run."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from monitoring_support import PEERS, make_record, make_status

from semantic_net.federated.status import StatusKeeper
from semantic_net.federated.teller import Teller
from semantic_net.monitoring.device import DeviceSensors
from semantic_net.monitoring.sd_notify import ServiceManager
from semantic_net.monitoring.status_file import StatusFile
from semantic_net.status import Status
from semantic_net.transport.base import Traffic, Transport

LIMIT_S = 30.0


class Keeper:
    """Says that a peer trains, as long as nothing breaks."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def status(self, *_: object) -> Status:
        if self.error is not None:
            raise self.error
        return make_status(phase="training")


class NoLinks:
    """A transport of one that knows nobody."""

    def links(self) -> dict[str, object]:
        return {}

    def traffic(self) -> Traffic:
        return Traffic(0, 0)

    def unmet_addresses(self) -> tuple[str, ...]:
        return ()


class SlowFile(StatusFile):
    """A disk that takes its time with the first status."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.began, self.may_end = threading.Event(), threading.Event()
        self.written: list[str] = []

    def write(self, status: Status, now: float) -> None:
        if not self.began.is_set():
            self.began.set()
            assert self.may_end.wait(LIMIT_S)
        self.written.append(status.phase)


def teller_of(file: StatusFile, keeper: Keeper | None = None, **more: Any) -> Teller:
    return Teller(
        cast(StatusKeeper, keeper or Keeper()),
        cast(Transport, NoLinks()),
        file,
        ServiceManager(),
        "accuracy",
        sensors=DeviceSensors(Path("/nowhere")),
        **more,
    )


def test_the_last_status_is_the_last_one_written(tmp_path: Path) -> None:
    file = SlowFile(tmp_path / "status.json")

    async def run() -> None:
        async with teller_of(file):
            assert await asyncio.to_thread(file.began.wait, LIMIT_S)
            # The end begins while the disk is still at it.
            asyncio.get_running_loop().call_later(0.05, file.may_end.set)
        file.may_end.set()

    asyncio.run(run())  # which waits for all threads
    assert file.written == ["training", "finished"]


@pytest.mark.parametrize("breaks_at_once", [True, False])
def test_a_bug_in_what_is_told_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, breaks_at_once: bool
) -> None:
    keeper = Keeper()
    error = RuntimeError("a bug")
    file = SlowFile(tmp_path / "status.json")
    file.may_end.set()

    async def run() -> str:
        keeper.error = error if breaks_at_once else None
        async with teller_of(file, keeper):
            if not breaks_at_once:
                assert await asyncio.to_thread(file.began.wait, LIMIT_S)
            keeper.error = error
            return "learned"

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(run()) == "learned"
    assert [record.getMessage() for record in caplog.records] == [
        "what the peer is at is not told any more: RuntimeError('a bug')"
    ]


def test_others_hear_losses_and_metrics_unless_the_run_is_private(tmp_path: Path) -> None:
    record = make_record(round=4, metrics={"accuracy": 0.5}, missing=[PEERS[1]])
    totals = {"bytes_sent": 10, "bytes_received": 20}
    file = StatusFile(tmp_path / "status.json")
    told = teller_of(file).closed(record, totals).last
    assert (told.round, told.loss, told.metric, told.value) == (4, record.loss, "accuracy", 0.5)
    told = teller_of(file, is_private=True).closed(record, totals).last
    assert (told.round, told.loss, told.value) == (4, None, None)
    assert (told.bytes_sent, told.bytes_received, told.num_missing) == (10, 20, 1)
