"""Records for tests: complete, and different only in what a test names."""

from __future__ import annotations

from typing import Any

import msgspec

from semantic_net.records import RoundRecord

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
