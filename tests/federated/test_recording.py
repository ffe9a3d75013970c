"""What a run leaves beside its rounds: reports of what must never happen, and of bad disks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest
from protocol_support import signer, update

from semantic_net.config import Config
from semantic_net.federated import recording as module
from semantic_net.federated.folder import RunFolder
from semantic_net.federated.learner import ModelLearner
from semantic_net.federated.recording import Recording
from semantic_net.protocol.actions import Diverged
from semantic_net.protocol.machine import PeerMachine
from semantic_net.records import Divergence

OTHER = signer("other").peer_id


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path) as made:
        yield made


def make(folder: RunFolder) -> Recording:
    learner, machine = Mock(spec=ModelLearner), Mock(spec=PeerMachine)
    learner.base, machine.me = b"b" * 32, "me"
    return Recording(Config(), Mock(), folder, learner, machine, Mock(), {}, None, 0, Mock())


def report(number: int) -> Diverged:
    return Diverged(OTHER, number, b"s" * 32, b"o" * 32, b"t" * 32)


def test_a_divergence_is_written_down_with_the_whole_set(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DIVERGENCES", 2)
    held = (update(signer("a"), 1), update(signer("b"), 1, "x"), update(signer("b"), 1, "y"))
    recording = make(folder)
    for number in (7, 8, 9):
        recording.diverged(report(number), held)
    recording._recorder.close()
    files = sorted(folder.root.glob("diverged-*.json"))
    assert [path.name for path in files] == [
        f"diverged-00000{number}-{OTHER[:8]}.json" for number in (7, 8)
    ]
    written = msgspec.json.decode(files[0].read_bytes(), type=Divergence)
    assert (written.peer, written.other, written.round) == ("me", OTHER, 7)
    assert written.state_digest == (b"o" * 32).hex()
    assert written.other_state_digest == (b"t" * 32).hex()
    assert [u.id for u in written.updates] == [u.id.hex() for u in held]
    assert [u.void for u in written.updates] == [False, True, True]
    assert "torch" in written.versions
