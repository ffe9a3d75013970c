"""What a run leaves behind: one record a round and one summary.

Keys are only ever added; ``schema`` holds the version. Everything that shows a run to a person
(console, report, page, comparisons) reads these and nothing else.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA = 1

NOISE = "noise"
"""The task and the mode of a run in which nothing is learned: a simulation of the protocol only."""

Role = Literal["peer", "server", "client", "single"]
"""What kind of a process left the record of a run."""


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``rounds.jsonl``: what one peer did and saw in one round."""

    schema: int = SCHEMA
    round: int
    peer: str
    time_s: float
    """Seconds of the whole round, from opening to record."""
    train_s: float
    encode_s: float
    exchange_s: float
    """From the own update being published (or skipped) to the close of the round."""
    fold_s: float
    loss: float | None
    """Mean training loss; None when training was skipped or not finite."""
    metrics: dict[str, float]
    """Validation after the fold."""
    epsilon: float | None = None
    """What all rounds so far may have told of one example, with `delta`; None without privacy."""
    delta: float | None = None
    """Chance that `epsilon` does not hold."""
    codec: str = ""
    """Of the own update: its mode, and the share or the bits that it keeps."""
    codec_reason: str = ""
    payload_bytes: int
    """Bytes of the own encoded update; 0 when none was published."""
    dense_bytes: int
    """Bytes of the same update as dense float32."""
    bytes_sent: int
    """Socket bytes since the last record, all traffic."""
    bytes_received: int
    updates_in: list[str]
    """Authors whose updates this round's fold holds, this peer included."""
    missing: list[str]
    """Authors expected but absent when the round closed."""
    unreachable: list[str] = []
    """Addresses of ``--peers`` at which nobody has ever said hello."""
    close_reason: str
    state_digest: str
    set_digest: str
    num_examples: int
    rejected: dict[str, int]
    """Refused connections, frames and updates since the last record, by reason."""
    energy_j: float | None = None
    """Joules that the device took for the round, where that is known: in a simulation."""
    messages_received: int | None = None
    """Frames since the last record, where they are counted: in a simulation of the protocol."""
    notes: list[str] = []
    """What a person should know: skipped rounds, halved batches, re-folds, cut off, ..."""


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A device that took part, as far as this peer knows."""

    id: str
    name: str
    peers: list[str]
    """The peers that run on it."""
    out_from: int | None = None
    """The first round in which its updates count no more; None: they do."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """``summary.json``: a finished or interrupted run as a whole."""

    schema: int = SCHEMA
    peer: str
    role: Role = "peer"
    task: str
    mode: str
    rounds: int
    finished: bool
    """False when the run was interrupted."""
    metrics: dict[str, float]
    """Of the last round."""
    metric: str = ""
    """The main one's name."""
    higher_is_better: bool = True
    """Of the main metric."""
    best_round: int | None
    best_metrics: dict[str, float]
    bytes_sent: int
    bytes_received: int
    payload_bytes: int
    """Of all own updates."""
    dense_bytes: int
    compression_ratio: float
    """dense_bytes / payload_bytes; 1 when nothing was published."""
    time_s: float
    energy_j: float | None = None
    """Joules of all rounds, where they are known."""
    state_digest: str
    set_digest: str
    num_parameters: int
    versions: dict[str, str]
    """Of semantic-net, Python, torch and numpy."""
    devices: list[DeviceRecord] = []
    """That take part, or did; empty where devices are not pinned."""
    refused_by: list[str] = []
    """Who has turned this peer away, and has not let it in since. What it has learned may have
    reached them through others."""


class HeldUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """An update, as far as a divergence may lie in it."""

    round: int
    author: str
    id: str
    weight: int
    codec: str
    payload_bytes: int
    payload_hash: str
    void: bool
    """Two of its author's for one round: neither counts."""


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """``diverged-*.json``: two peers that hold one set and, so one of them says, two states.

    Each of the two writes its own; where the files differ is the fault.
    """

    schema: int = SCHEMA
    peer: str
    """Whose file it is."""
    other: str
    round: int
    base: str
    set_digest: str
    state_digest: str
    other_state_digest: str
    updates: list[HeldUpdate]
    """What the state was folded from, through the round."""
    versions: dict[str, str]


def encode_record(record: RoundRecord) -> bytes:
    """Return the record's line for ``rounds.jsonl``, newline included."""
    return msgspec.json.encode(record) + b"\n"


def decode_record(line: bytes) -> RoundRecord:
    """Read a line of ``rounds.jsonl``; keys of newer versions are ignored.

    Raises:
        ValueError: The line is no round's record.
    """
    try:
        return msgspec.json.decode(line, type=RoundRecord)
    except msgspec.DecodeError as exc:
        raise ValueError(f"not a round's record: {exc}") from exc
