"""Records for tests: complete, and different only in what a test names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from semantic_net.monitoring.recorder import Recorder
from semantic_net.records import RoundRecord, Summary
from semantic_net.status import Status

PEERS = ("abcdefgh" * 4, "ijklmnop" * 4, "qrstuvwx" * 4)

_RECORD = RoundRecord(
    round=1,
    peer=PEERS[0],
    time_s=6.13,
    train_s=5.0,
    encode_s=0.1,
    exchange_s=1.0,
    fold_s=0.03,
    loss=1.234,
    metrics={"miou": 0.412, "pixel_accuracy": 0.8},
    payload_bytes=6_000,
    dense_bytes=2_000_000,
    bytes_sent=12_345,
    bytes_received=25_000,
    updates_in=list(PEERS),
    missing=[],
    close_reason="all updates in",
    state_digest="3fa9c1" + "0" * 58,
    set_digest="a" * 64,
    num_examples=96,
    rejected={},
)


def make_record(**changes: Any) -> RoundRecord:
    """Return a record of peer 0 in round 1 with some fields changed."""
    return msgspec.structs.replace(_RECORD, **changes)


_SUMMARY = Summary(
    peer=PEERS[0],
    task="disaster",
    mode="topk_quantize",
    rounds=1,
    finished=True,
    metrics=_RECORD.metrics,
    metric="miou",
    best_round=1,
    best_metrics=_RECORD.metrics,
    bytes_sent=12_345,
    bytes_received=25_000,
    payload_bytes=6_000,
    dense_bytes=2_000_000,
    compression_ratio=333.3,
    time_s=6.13,
    state_digest=_RECORD.state_digest,
    set_digest=_RECORD.set_digest,
    num_parameters=500_000,
    versions={},
)


def make_summary(**changes: Any) -> Summary:
    """Return the summary of a run of one round with some fields changed."""
    return msgspec.structs.replace(_SUMMARY, **changes)


def leave_run(folder: Path, records: Sequence[RoundRecord], summary: Summary | None) -> Path:
    """Write what one process of a run leaves, and return its folder."""
    recorder = Recorder(folder)
    for record in records:
        recorder.record(record)
    if summary is not None:
        recorder.summary(summary)
    recorder.close()
    return folder


_STATUS = Status(
    peer=PEERS[0],
    pid=77,
    run="field",
    task="disaster",
    address="0.0.0.0:5000",
    written_at=1.0,
    phase="collecting",
    round=3,
    rounds=9,
    doing="waiting for ijkl-mnop, at most 20 s more",
    phase_s=1.5,
)


def make_status(**changes: Any) -> Status:
    """Return the status of peer 0, which collects in round 3, with some fields changed."""
    return msgspec.structs.replace(_STATUS, **changes)
