"""Who is said to be where: what a stranger makes up pushes nobody out for good."""

from __future__ import annotations

import random

import pytest
from transport_support import signer

from semantic_net.transport.zenoh_directory import MAX_ADDRESSES, MAX_INSTANCES, Directory
from semantic_net.transport.zenoh_place import Place

PEER = signer(1).peer_id
HONEST = Place(PEER, 5000, b"honest".ljust(16))


def made_up(index: int) -> Place:
    """Return another process of the same address."""
    return Place(PEER, 5000, index.to_bytes(16, "big"))


def first(directory: Directory) -> Place:
    """Return who is called first where the honest one is."""
    return directory.to_call(HONEST.address)[0].place


@pytest.fixture
def directory() -> Directory:
    """Know one process."""
    made = Directory(random.Random(0))
    assert not made.add(HONEST)
    return made


def test_who_was_met_stays_and_is_called_first(directory: Directory) -> None:
    directory.meet(HONEST)
    assert [directory.add(made_up(index)) for index in range(20)].count(True) == 17
    assert len(directory.to_call(HONEST.address)) == MAX_INSTANCES
    assert first(directory) == HONEST
    directory.meet(made_up(99))
    assert first(directory) == made_up(99), "it started anew"
    assert HONEST in directory


def test_who_was_called_is_called_again_after_the_others(directory: Directory) -> None:
    directory.meet(HONEST)
    for index in range(3):
        directory.add(made_up(index))
    called = []
    for _ in range(8):
        instance = directory.to_call(HONEST.address)[0]
        directory.called(instance)
        called.append(instance.place)
    assert called[:4] == [HONEST, *map(made_up, range(3))]
    assert called[4:] == called[:4]
    assert [each.tries for each in directory.to_call(HONEST.address)] == [2] * 4
    instances = directory.to_call(HONEST.address)
    directory.meet(HONEST)
    assert [each.tries for each in directory.to_call(HONEST.address)] == [0, 2, 2, 2]
    directory.called(instances[0])  # by who began with its calls before
    assert directory.to_call(HONEST.address)[-1].met


def test_of_those_never_met_who_was_called_in_vain_makes_room(directory: Directory) -> None:
    for index in range(3):
        directory.add(made_up(index))
    directory.called(directory.to_call(HONEST.address)[0])
    assert directory.add(made_up(3))
    assert HONEST not in directory
    assert all(made_up(index) in directory for index in range(4))


def test_of_many_never_met_each_is_sometimes_among_those_kept() -> None:
    rng = random.Random(0)
    kept = 0
    for _ in range(200):
        directory = Directory(rng)
        for place in rng.sample([HONEST, *map(made_up, range(19))], 20):
            directory.add(place)
        kept += HONEST in directory
    assert 20 < kept < 60, "four of twenty"


def test_addresses_that_were_never_met_make_room_first(directory: Directory) -> None:
    directory.meet(HONEST)
    others = [signer(2).peer_id, signer(3).peer_id]
    flood = [Place(others[index % 2], 1 + index // 2, bytes(16)) for index in range(5000)]
    crowded = [directory.add(place) for place in flood]
    assert crowded.count(True) == 5001 - MAX_ADDRESSES
    assert HONEST in directory
    assert flood[-1] in directory
    assert flood[0] not in directory


def test_who_is_gone_is_forgotten(directory: Directory) -> None:
    directory.meet(HONEST)
    directory.remove(HONEST)
    directory.remove(HONEST)
    assert HONEST not in directory
    assert not directory.to_call(HONEST.address)


def test_where_all_were_met_the_one_met_first_makes_room(directory: Directory) -> None:
    for index in range(MAX_INSTANCES):
        directory.meet(made_up(index))
    assert HONEST not in directory
    directory.meet(HONEST)
    assert made_up(0) not in directory
    assert first(directory) == HONEST
