"""What must survive a crash: the journal of one's own rounds, and the held updates."""

from __future__ import annotations

import errno
import io
import logging
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protocol_support import ADMISSION, ORIGIN, payload, signer, update

from semantic_net.errors import CheckpointError, RemoteProtocolError, StartError
from semantic_net.federated.folder import RunFolder
from semantic_net.federated.journal import Journal
from semantic_net.federated.store import UpdateStore
from semantic_net.protocol.passed import Needed
from semantic_net.protocol.update import Update
from semantic_net.protocol.update_set import UpdateSet

ALICE = signer("alice")


def parse(codec: str, data: memoryview) -> bytes:
    if bytes(data) == b"poison":
        raise RemoteProtocolError("does not decode")
    return bytes(data)


def make_store(folder: Path | None, budget: int = 1 << 30) -> UpdateStore[bytes]:
    return UpdateStore(parse, folder, budget)


def put(store: UpdateStore[bytes], round_index: int, content: str = "x") -> Update:
    made = update(ALICE, round_index, content)
    store.put(made, payload(content), payload(content))
    return made


# The journal


def test_a_journal_remembers_across_processes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    first = Journal(path)
    assert (first.last_round, first.last_id) == (0, b"")
    incarnation = first.start(floor=100)
    first.author(3, b"\x01" * 32)
    first.author(5, b"\x02" * 32, {b"\x01" * 32: 3})
    first.close()
    second = Journal(path)
    assert (second.last_round, second.last_id) == (5, b"\x02" * 32)
    assert second.taken_back == {b"\x01" * 32: 3}
    assert second.start(floor=0) > incarnation
    second.close()


def test_rounds_in_a_journal_strictly_increase(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.author(3, b"\x01" * 32)
    with pytest.raises(AssertionError, match="strictly increase"):
        journal.author(3, b"\x02" * 32)
    journal.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.integers(0, 400))
def test_a_journal_torn_at_any_byte_keeps_its_whole_lines(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    journal.start(floor=0)
    ends = []
    for number in (1, 2, 3):
        journal.author(number, bytes([number]) * 32)
        ends.append(path.stat().st_size)
    journal.close()
    os.truncate(path, min(cut, ends[-1]))
    reopened = Journal(path)
    assert reopened.last_round == sum(end <= cut for end in ends)
    reopened.author(9, b"\x09" * 32)
    reopened.close()
    again = Journal(path)
    assert again.last_round == 9
    again.close()


def test_a_damaged_journal_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"incarnation": 1, "round": 1, "id": "00"}\nnonsense\n')
    with pytest.raises(CheckpointError, match=r"line 2: not readable"):
        Journal(path)


def test_a_journal_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="use another --out"):
        Journal(tmp_path / "file" / "j")


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.author(1, b"\x01" * 32)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            journal.author(2, b"\x02" * 32)
    journal.author(2, b"\x03" * 32)
    journal.close()
    reopened = Journal(path)
    assert (reopened.last_round, reopened.last_id) == (2, b"\x03" * 32)
    reopened.close()


def test_a_journal_without_a_file_lasts_as_long_as_its_peer() -> None:
    journal = Journal(None)
    assert journal.start(floor=7) == 7
    journal.author(3, b"\x01" * 32)
    assert (journal.last_round, journal.last_id) == (3, b"\x01" * 32)
    assert journal.start(floor=7) == 8
    journal.close()


def test_a_disk_that_takes_half_a_line_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.author(1, b"\x01" * 32)
    assert journal._file is not None
    file: io.FileIO = journal._file

    class NearlyFull:
        """A file that takes five bytes of what it is given, and says so, as a full disk does."""

        def __getattr__(self, name: str) -> object:
            return getattr(file, name)

        def write(self, data: bytes) -> int:
            return file.write(data[:5])

    with monkeypatch.context() as patched:
        patched.setattr(journal, "_file", NearlyFull())
        with pytest.raises(OSError, match="No space left"):
            journal.author(2, b"\x02" * 32)
        with pytest.raises(StartError, match="cannot be written: No space left"):
            journal.start(floor=0)
    journal.author(2, b"\x03" * 32)
    journal.close()
    reopened = Journal(path)
    assert (reopened.last_round, reopened.last_id) == (2, b"\x03" * 32)
    reopened.close()


def test_a_key_whose_journal_is_gone_is_never_used_again(tmp_path: Path) -> None:
    def identity() -> str:
        found = folder.identity()
        found.journal.close()
        return found.signer.peer_id

    with RunFolder(tmp_path) as folder:
        first = identity()
        assert identity() == first
        folder.journal.unlink()
        assert identity() != first, "nobody could tell which rounds it has signed"


# The store


def test_without_a_folder_everything_stays_in_memory() -> None:
    store = make_store(None, budget=1)
    one, two = put(store, 1, "one"), put(store, 2, "two")
    assert (store.parsed(one), store.parsed(two)) == (b"one", b"two")
    store.persist()
    assert list(store.load(ADMISSION)) == []
    store.discard(one.id)
    store.discard(one.id)
    assert one.id not in store
    assert two.id in store


def test_over_the_budget_the_oldest_payloads_go_to_disk_and_come_back(tmp_path: Path) -> None:
    store = make_store(tmp_path / "updates", budget=8)
    made = [put(store, n, f"load{n}") for n in range(4)]  # 5 bytes each: one fits
    assert len(list((tmp_path / "updates").iterdir())) == 3
    for number, one in enumerate(made):
        assert store.parsed(one) == f"load{number}".encode()
        assert bytes(store.payload(one.id)) == f"load{number}".encode()
    store.discard(made[0].id)
    assert len(list((tmp_path / "updates").iterdir())) == 2


def test_what_a_payload_parses_to_counts_against_the_budget(tmp_path: Path) -> None:
    """A hundred bytes may parse to two models: they would fill the memory for nothing."""
    store = UpdateStore(parse, tmp_path, 100, parsed_bytes=lambda parsed: 60)
    made = [put(store, n, "x") for n in range(3)]
    assert len(list(tmp_path.iterdir())) == 2, "one of 61 bytes fits"
    store.discard(made[2].id)
    put(store, 4, "x")
    assert len(list(tmp_path.iterdir())) == 2, "and another in the place of one that is gone"


def test_a_new_process_finds_what_was_persisted(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    made = [put(store, n, f"load{n}") for n in (1, 2)]
    empty = put(store, 3, "")
    store.persist()
    store.persist()
    later = make_store(tmp_path)
    assert list(later.load(ADMISSION)) == [*made, empty]
    assert later.parsed(made[1]) == b"load2"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("position", [0, 3, 4, 30, 150, -1])
def test_a_damaged_update_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, position: int
) -> None:
    store = make_store(tmp_path)
    put(store, 1, "damaged"), put(store, 2, "sound")
    store.persist()
    first = sorted(tmp_path.iterdir())[0]
    content = bytearray(first.read_bytes())
    content[position] ^= 0xFF
    first.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        loaded = list(make_store(tmp_path).load(ADMISSION))
    assert [u.round for u in loaded] == [2]
    assert first.name in caplog.text


@pytest.mark.parametrize("size", [0, 2, 100, 260])
def test_a_torn_update_is_left_out(tmp_path: Path, size: int) -> None:
    store = make_store(tmp_path)
    put(store, 1, "torn apart")
    store.persist()
    [path] = tmp_path.iterdir()
    os.truncate(path, size)
    assert list(make_store(tmp_path).load(ADMISSION)) == []


def test_an_update_that_does_not_decode_is_left_out(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    put(store, 1, "poison")
    store.persist()
    assert list(make_store(tmp_path).load(ADMISSION)) == []


def test_a_disk_that_cannot_be_written_costs_the_budget_and_no_update(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    store = make_store(tmp_path / "file" / "updates", budget=1)
    with caplog.at_level(logging.WARNING):
        made = [put(store, n, f"load{n}") for n in range(3)]
        store.persist()
    assert [store.parsed(u) for u in made] == [b"load0", b"load1", b"load2"]
    assert caplog.text.count("updates stay in memory") == 1, "said once, not per update"


def test_a_disk_that_fills_up_keeps_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    put(store, 1, "payload")

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        store.persist()
    assert list(tmp_path.iterdir()) == []
    store.persist()
    assert [path.suffix for path in tmp_path.iterdir()] == [".update"]


@pytest.mark.parametrize("large_bytes", [1, 1 << 20], ids=["mapped", "read"])
def test_a_file_that_is_damaged_in_a_run_is_never_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int
) -> None:
    monkeypatch.setattr("semantic_net.federated.store.LARGE_BYTES", large_bytes)
    store = make_store(tmp_path, budget=1)
    made = put(store, 1, "payload")
    [path] = tmp_path.iterdir()
    assert store.parsed(made) == b"payload"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged; remove it"):
        store.parsed(made)
    os.truncate(path, len(content) - 1)
    with pytest.raises(CheckpointError, match=r"damaged; remove it"):
        store.payload(made.id)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read: No such file"):
        store.payload(made.id)


def test_half_the_evidence_of_a_void_slot_voids_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    both = UpdateSet(ORIGIN, [update(ALICE, 1, "ours"), update(ALICE, 1, "theirs")])
    store.persist(both.evidence())
    first, _ = sorted(tmp_path.iterdir())
    first.unlink()
    later = make_store(tmp_path)
    assert list(later.load(ADMISSION)) == [], "nobody has the payload of the one that is left"
    later.persist(both.evidence())
    assert UpdateSet(ORIGIN, make_store(tmp_path).load(ADMISSION)).is_void(1, ALICE.peer_id)


def test_evidence_beside_a_held_update_voids_it(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    ours = put(store, 1, "ours")
    both = UpdateSet(ORIGIN, [ours, update(ALICE, 1, "theirs")])
    store.persist(both.evidence())
    for path in tmp_path.glob("*.void"):
        if ours.id.hex()[:32] in path.name:
            path.unlink()
    assert UpdateSet(ORIGIN, make_store(tmp_path).load(ADMISSION)).is_void(1, ALICE.peer_id)


def test_the_evidence_of_a_void_slot_outlives_its_payloads_and_a_restart(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    ours = put(store, 1, "ours")
    theirs = update(ALICE, 1, "theirs")
    both = UpdateSet(ORIGIN, [ours, theirs])
    assert both.is_void(1, ALICE.peer_id)
    store.discard(ours.id)
    store.persist(both.evidence())
    store.persist(both.evidence())
    later = UpdateSet(ORIGIN, make_store(tmp_path).load(ADMISSION))
    assert later.is_void(1, ALICE.peer_id)
    assert later.set_digest(1) == both.set_digest(1)
    for path in tmp_path.glob("*.void"):
        path.write_bytes(b"torn")
    assert list(make_store(tmp_path).load(ADMISSION)) == []


# Compaction


def test_what_a_base_includes_leaves_memory_first_and_the_disk_with_its_last_checkpoint(
    tmp_path: Path,
) -> None:
    store = make_store(tmp_path)
    first, own, last = (put(store, number, f"{number}") for number in (1, 2, 3))
    store.persist()
    (tmp_path / "00000001-ab.void").write_bytes(b"")
    assert not store.retire(2, lambda: Needed(1, frozenset())), "the base has changed again"
    assert first.id in store
    assert store.retire(2, lambda: Needed(2, frozenset({own.id})))
    assert [u.id in store for u in (first, own, last)] == [False, True, True]
    assert len(list(tmp_path.glob("*.update"))) == 3, "the checkpoint before may need it"
    store.remove_files(2)
    left = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert left == {"00000002", "00000003"}
    assert {u.id for u in make_store(tmp_path).load(ADMISSION)} == {own.id, last.id}


def test_what_is_held_no_more_leaves_memory_and_disk_evidence_too(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    held, gone, fresh = put(store, 1), put(store, 2), put(store, 3)
    void = [update(ALICE, 4, content) for content in "xy"]
    store.keep(held.id)
    store.keep(gone.id)
    store.persist(void)
    store.remove([gone, fresh, *void, update(ALICE, 9)])
    assert [u.id in store for u in (held, gone, fresh)] == [True, False, False]
    assert [path.name for path in tmp_path.iterdir()] == [f"{1:08d}-{held.id.hex()[:32]}.update"]
    store.persist(void)
    assert len(list(tmp_path.glob("*.void"))) == 2, "it may come back"


def test_what_comes_back_before_it_is_removed_counts_once_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    store = make_store(tmp_path)
    update = put(store, 1)
    store.persist()
    put(store, 1)
    store.discard(update.id)
    assert store._bytes_in_memory == 0
    assert not list(tmp_path.rglob("*.update"))


def test_retired_payloads_count_no_longer(tmp_path: Path) -> None:
    store = make_store(tmp_path, budget=2)
    for number in (1, 2, 3):
        put(store, number, f"{number}")
    store.retire(3, lambda: Needed(3, frozenset()))
    later = put(store, 4, "44")
    assert bytes(store.payload(later.id)) == b"44"
    assert not (tmp_path / "x").exists()
    assert len(list(tmp_path.glob("00000004-*"))) == 0, "there is room in memory again"


def test_without_a_disk_there_is_nothing_to_remove() -> None:
    store = make_store(None)
    put(store, 1)
    store.remove_files(1)
    assert len(list(store.load(ADMISSION))) == 0
