"""Where bases lie: on disk by their digest, in memory where the disk fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from semantic_net.errors import CheckpointError
from semantic_net.federated.base_store import BaseStore
from semantic_net.protocol.update import hash_payload


def test_a_base_is_found_by_its_digest_by_the_next_process_too(tmp_path: Path) -> None:
    digest, size = BaseStore(tmp_path).put([b"head", memoryview(b"body")])
    assert (digest, size) == (hash_payload(b"headbody"), 8)
    again = BaseStore(tmp_path)
    assert bytes(again.read(digest)) == bytes(again.read_checked(digest)) == b"headbody"
    with pytest.raises(CheckpointError, match="cannot be read"):
        again.read(b"o" * 32)


def test_a_large_base_is_mapped(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192
    store = BaseStore(tmp_path)
    digest, _ = store.put([content])
    assert bytes(store.read_checked(digest)) == content


def test_damage_is_found(tmp_path: Path) -> None:
    store = BaseStore(tmp_path)
    digest, _ = store.put([b"base"])
    [path] = tmp_path.iterdir()
    path.write_bytes(b"bass")
    with pytest.raises(CheckpointError, match="does not match its name"):
        store.read_checked(digest)


@pytest.mark.parametrize("has_disk", [True, False])
def test_a_bad_disk_costs_memory(tmp_path: Path, has_disk: bool) -> None:
    folder = tmp_path / "folder"
    folder.write_text("in the way")
    store = BaseStore(folder if has_disk else None)
    digest, _ = store.put([b"ba", b"se"])
    assert bytes(store.read_checked(digest)) == b"base"
    if not has_disk:
        store.persist(digest)
        with pytest.raises(CheckpointError, match="not here"):
            store.read(b"o" * 32)
        return
    with pytest.raises(OSError, match=r"exists|directory"):
        store.persist(digest)
    folder.unlink()
    store.persist(digest)
    assert bytes(BaseStore(folder).read(digest)) == b"base"


def test_a_base_that_two_have_put_is_settled_by_both(tmp_path: Path) -> None:
    store = BaseStore(tmp_path)
    one, _ = store.put([b"one"])
    assert store.put([b"one"]) == (one, 3)
    store.settle(one)
    store.keep_only(list)
    assert bytes(store.read(one)) == b"one"
    store.settle(one)
    store.keep_only(list)
    with pytest.raises(CheckpointError):
        store.read(one)


def test_what_is_needed_is_asked_while_nothing_can_be_settled(tmp_path: Path) -> None:
    """A base could be taken over between the question and the removal."""
    store = BaseStore(tmp_path)
    digest, _ = store.put([b"base"])
    settled = threading.Event()

    def settle() -> None:
        store.settle(digest)
        settled.set()

    settling = threading.Thread(target=settle)

    def needed() -> list[bytes]:
        settling.start()  # it waits until this is over
        return []

    store.keep_only(needed)
    settling.join()
    assert settled.is_set()
    assert bytes(store.read(digest)) == b"base"


@pytest.mark.parametrize("has_disk", [True, False])
def test_a_base_stays_until_it_is_decided_that_nobody_needs_it(
    tmp_path: Path, has_disk: bool
) -> None:
    store = BaseStore(tmp_path if has_disk else None)
    one, two = (store.put([text])[0] for text in (b"one", b"two"))
    store.settle(one)
    store.keep_only(list)
    assert bytes(store.read(two)) == b"two"
    with pytest.raises(CheckpointError):
        store.read(one)
    store.settle(two)
    store.keep_only(lambda: [two])
    assert bytes(store.read(two)) == b"two"
    store.keep_only(list)
    with pytest.raises(CheckpointError):
        store.read(two)
