"""The records of the membership on disk: whole or as if they were not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from protocol_support import RUN, signer

from semantic_net.federated.record_file import read_records, write_records
from semantic_net.protocol.identity import consent, endorse
from semantic_net.protocol.membership import Binding, Membership, Standing


def test_records_come_back_in_an_order_in_which_they_can_be_taken_in(tmp_path: Path) -> None:
    mine, theirs, peer, other = (signer(name) for name in ("mine", "theirs", "peer", "other"))
    one = Membership(mine, peer, RUN)
    one.trust({theirs.peer_id: Standing(lets_in=True)})
    words = endorse(theirs, other.public_key), consent(other, theirs.public_key)
    one.take(Binding(other.public_key, theirs.public_key, *words))
    one.settle()
    one.speak(1)
    path = tmp_path / "members.msgpack"
    assert read_records(path) == []
    write_records(path, one.records())
    assert read_records(path) == one.records()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x92\x90", b"\x92\x91\x01\x90"])
def test_a_damaged_file_is_told_and_does_not_stop_a_run(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "members.msgpack"
    path.write_bytes(content)
    assert read_records(path) == []
    assert "the other devices will tell" in caplog.text
