"""Transfers: who is asked for what, and what happens when nothing comes."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_support import signer, update

from semantic_net.protocol import transfers as module
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.item import Item
from semantic_net.protocol.transfers import (
    PATIENCE,
    PROGRESS_BYTES,
    WINDOW,
    Slot,
    Transfer,
    Transfers,
)

ALICE, BOB, AUTHOR = (signer(name).peer_id for name in ("alice", "bob", "author"))
STALL_S = 10.0
LARGE = 100 * PROGRESS_BYTES


def item(number: int) -> Item:
    return Item(number.to_bytes(32, "big"))


def arrive(transfers: Transfers, transfer: Transfer, num_bytes: int, now: float) -> None:
    """Let the next bytes of an item come from its source."""
    assert transfer.source is not None
    transfers.serves(transfer.source, transfer.item, num_bytes, now)
    transfers.bytes_arrived(transfer, num_bytes, now)


@pytest.fixture
def transfers() -> Transfers:
    made = Transfers(STALL_S)
    made.connected(ALICE)
    made.connected(BOB)
    return made


def hold(transfers: Transfers, peer: PeerId, *numbers: int, size: int = 4) -> list[Transfer]:
    for number in numbers:
        transfers.hold(peer, item(number), (number, AUTHOR), size)
    found = [transfers.get(item(number)) for number in numbers]
    return [transfer for transfer in found if transfer is not None]


def asked(transfers: Transfers, now: float) -> list[tuple[PeerId, int]]:
    return [(peer, transfer.slot[0]) for peer, transfer in transfers.request(now)]


def test_older_rounds_come_first_and_the_work_is_shared(transfers: Transfers) -> None:
    hold(transfers, ALICE, 4, 2, 3, 1)
    hold(transfers, BOB, 1, 2, 3, 4)
    assert asked(transfers, 0.0) == [(ALICE, 1), (BOB, 2), (ALICE, 3), (BOB, 4)]
    assert asked(transfers, 0.0) == [], "nothing is asked of two"


def test_a_neighbour_is_asked_for_a_bounded_number_of_items(transfers: Transfers) -> None:
    held = hold(transfers, ALICE, *range(1, WINDOW + 3))
    assert len(asked(transfers, 0.0)) == WINDOW
    arrive(transfers, held[0], 4, 0.0)
    transfers.check(held[0])
    assert asked(transfers, 0.0) == [], "or checks would pile up instead"
    transfers.drop(held[0])
    assert asked(transfers, 0.0) == [(ALICE, WINDOW + 1)]


def test_what_stalls_is_asked_of_another(transfers: Transfers) -> None:
    hold(transfers, ALICE, 1)
    assert asked(transfers, 0.0) == [(ALICE, 1)]
    hold(transfers, BOB, 1)
    assert transfers.next_stall() == STALL_S
    transfers.give_up_stalled(9.9)
    assert asked(transfers, 9.9) == []
    transfers.give_up_stalled(10.0)
    assert asked(transfers, 10.0) == [(BOB, 1)]


def test_what_stalls_at_its_only_holder_is_asked_again(transfers: Transfers) -> None:
    hold(transfers, ALICE, 1)
    transfers.request(0.0)
    transfers.give_up_stalled(10.0)
    assert asked(transfers, 10.0) == [(ALICE, 1)]


def test_a_queue_behind_a_slow_payload_has_not_stalled(transfers: Transfers) -> None:
    first, _ = hold(transfers, ALICE, 1, 2, size=LARGE)
    transfers.request(0.0)
    for now in (8.0, 16.0, 24.0, 32.0):
        arrive(transfers, first, PROGRESS_BYTES, now)
        transfers.give_up_stalled(now)
    assert asked(transfers, 32.0) == []
    assert transfers.next_stall() == 42.0


def test_a_byte_now_and_then_is_no_progress(transfers: Transfers) -> None:
    first, _ = hold(transfers, ALICE, 1, 2, size=LARGE)
    transfers.request(0.0)
    for now in (4.0, 8.0):
        arrive(transfers, first, 1, now)
    hold(transfers, BOB, 1, 2)
    transfers.give_up_stalled(10.0)
    assert asked(transfers, 10.0) == [(BOB, 1), (BOB, 2)]


def test_nor_is_a_header_that_is_known(transfers: Transfers) -> None:
    known = update(signer("author"), 1)
    transfers.hold(ALICE, Item(known.id), (1, AUTHOR))
    [(_, transfer)] = transfers.request(0.0)
    transfers.header_arrived(transfer, known, 4.0)
    transfers.header_arrived(transfer, known, 8.0)
    assert transfers.next_stall() == 14.0


def test_what_waits_for_long_behind_others_is_asked_of_an_idle_holder(
    transfers: Transfers,
) -> None:
    first, _ = hold(transfers, ALICE, 1, 2, size=LARGE)
    transfers.request(0.0)
    hold(transfers, BOB, 1, 2)
    waited = PATIENCE * STALL_S
    for now in (8.0, 16.0, 24.0, waited):
        assert asked(transfers, now) == []
        arrive(transfers, first, PROGRESS_BYTES, now)
        transfers.give_up_stalled(now)
    assert asked(transfers, waited) == [(BOB, 2)], "what arrives stays where it is"


def test_two_slow_holders_keep_to_their_queues(transfers: Transfers) -> None:
    """What one of them was asked for it will send; asking the other as well wastes the links."""
    num_items, chunk_s = 40, 4.0  # of one chunk each
    for peer in (ALICE, BOB):
        hold(transfers, peer, *range(1, num_items + 1), size=PROGRESS_BYTES)
    line: dict[PeerId, list[int]] = {ALICE: [], BOB: []}
    now, num_sent = 0.0, 0
    while len(transfers):
        transfers.give_up_stalled(now)
        for peer, number in asked(transfers, now):
            line[peer].append(number)
        now += chunk_s
        for peer, queue in line.items():
            if queue:
                num_sent += 1
                transfer = transfers.get(item(queue.pop(0)))
                if transfer is not None and transfer.source == peer:
                    arrive(transfers, transfer, PROGRESS_BYTES, now)
                    transfers.check(transfer)
                    transfers.drop(transfer)
    assert now <= num_items * chunk_s / 2 + 2 * chunk_s
    assert num_sent <= num_items + 2


def test_what_is_passed_over_is_asked_of_another(transfers: Transfers) -> None:
    _, second = hold(transfers, ALICE, 1, 2)
    transfers.request(0.0)
    hold(transfers, BOB, 1)
    arrive(transfers, second, 1, 1.0)  # a connection serves in order: 1 will not come
    assert asked(transfers, 1.0) == [(BOB, 1)]


def test_after_a_stall_a_neighbour_is_tried_with_one_item(transfers: Transfers) -> None:
    held = hold(transfers, ALICE, 1, 2, 3)
    transfers.request(0.0)
    transfers.give_up_stalled(10.0)
    assert asked(transfers, 10.0) == [(ALICE, 1)]
    arrive(transfers, held[0], 4, 11.0)
    assert asked(transfers, 11.0) == [(ALICE, 2), (ALICE, 3)], "it serves again"


def test_a_liar_with_time_to_spare_does_not_keep_an_item_for_long(transfers: Transfers) -> None:
    hold(transfers, ALICE, 1)  # Alice never serves; Bob is honest, and always busy
    asked_of_bob: list[Transfer] = []
    now = 0.0
    while item(1) in transfers:
        hold(transfers, BOB, *(range(1, 6) if now == 1.0 else [100 + int(now)]))
        asked_of_bob += [transfer for peer, transfer in transfers.request(now) if peer == BOB]
        if asked_of_bob:
            served = asked_of_bob.pop(0)
            arrive(transfers, served, 4, now)
            transfers.check(served)
            transfers.drop(served)
        transfers.give_up_stalled(now)
        now += 1.0
    assert now <= 2 * STALL_S


def test_a_lost_neighbours_work_goes_on_elsewhere_where_it_broke_off(
    transfers: Transfers,
) -> None:
    [transfer] = hold(transfers, ALICE, 1)
    transfers.request(0.0)
    hold(transfers, BOB, 1)
    arrive(transfers, transfer, 3, 0.0)
    transfers.disconnected(ALICE)
    assert transfers.forgotten() == []
    assert asked(transfers, 0.0) == [(BOB, 1)]
    assert transfer.received == 3


def test_a_rumour_goes_with_its_last_holder_but_bytes_are_kept(transfers: Transfers) -> None:
    begun, _ = hold(transfers, ALICE, 1, 2)
    transfers.request(0.0)
    arrive(transfers, begun, 3, 0.0)
    transfers.disconnected(ALICE)
    assert transfers.forgotten() == []
    assert item(1) in transfers
    assert item(2) not in transfers
    hold(transfers, BOB, 1)
    [(peer, again)] = transfers.request(1.0)
    assert (peer, again.received) == (BOB, 3)


def test_only_so_many_items_without_a_holder_are_kept(
    transfers: Transfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PARKED", 1)
    for number in (1, 2, 3):
        transfers.connected(PeerId(str(number)))
        [transfer] = hold(transfers, PeerId(str(number)), number)
        transfers.request(0.0)
        arrive(transfers, transfer, 1, 0.0)
    for number in (1, 2, 3):
        transfers.disconnected(PeerId(str(number)))
    assert transfers.forgotten() == [item(1), item(2)]
    assert len(transfers) == 1


def test_only_so_many_bytes_without_a_holder_are_kept(
    transfers: Transfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base of a tiny model may be large, and most of it can be sent in no time."""
    monkeypatch.setattr(module, "MAX_PARKED_BYTES", 10)
    for number, size in ((1, 6), (2, 4), (3, 6), (4, 99)):
        peer = PeerId(str(number))
        transfers.connected(peer)
        [transfer] = hold(transfers, peer, number, size=size)
        transfers.request(0.0)
        arrive(transfers, transfer, 1, 0.0)
    for number, forgotten in ((1, []), (2, []), (3, [1]), (4, [2, 3])):
        transfers.disconnected(PeerId(str(number)))
        assert transfers.forgotten() == [item(n) for n in forgotten]
    assert len(transfers) == 1, "one alone may be of any size"


def test_a_byte_of_each_of_many_items_is_not_kept(
    transfers: Transfers,
) -> None:
    """Each may be as large as the model: an attacker's bytes must not make ours."""
    for transfer in hold(transfers, ALICE, *range(1, 30), size=LARGE):
        transfers.request(0.0)
        arrive(transfers, transfer, 1, 0.0)
    assert len(transfers.forgotten()) == 28, "what was passed over"
    assert sum(bool(t.received) for t in map(transfers.get, map(item, range(1, 30))) if t) == 1


def test_what_was_asked_for_and_is_not_wanted_any_more_still_takes_its_place(
    transfers: Transfers,
) -> None:
    """Or a holder that is busy would be asked for ever more."""
    held = hold(transfers, ALICE, *range(1, WINDOW + 3))
    assert len(asked(transfers, 0.0)) == WINDOW
    for transfer in held[:WINDOW]:
        transfers.drop(transfer)
    assert asked(transfers, 0.0) == [], "it has not answered yet"
    transfers.not_served(ALICE, item(1))
    assert asked(transfers, 0.0) == [(ALICE, WINDOW + 1)]
    transfers.serves(ALICE, item(5), 4, 0.0)
    assert asked(transfers, 0.0) == [(ALICE, WINDOW + 2)], "and more before it were passed over"


def test_a_line_of_things_not_wanted_any_more_does_not_block_for_ever(
    transfers: Transfers,
) -> None:
    held = hold(transfers, ALICE, *range(1, WINDOW + 2))
    transfers.request(0.0)
    for transfer in held[:WINDOW]:
        transfers.drop(transfer)
    assert transfers.next_stall() == STALL_S
    transfers.give_up_stalled(STALL_S)
    assert asked(transfers, STALL_S) == [(ALICE, WINDOW + 1)]


def test_corrupt_bytes_of_one_source_are_its_fault(transfers: Transfers) -> None:
    [transfer] = hold(transfers, ALICE, 1)
    transfers.request(0.0)
    hold(transfers, BOB, 1)
    arrive(transfers, transfer, 4, 0.0)
    transfers.check(transfer)
    assert transfers.restart(transfer) == ALICE
    assert asked(transfers, 0.0) == [(BOB, 1)]
    assert transfer.received == 0


def test_corrupt_bytes_of_two_sources_are_nobodys_fault_and_next_come_from_one(
    transfers: Transfers,
) -> None:
    [transfer] = hold(transfers, ALICE, 1)
    transfers.request(0.0)
    hold(transfers, BOB, 1)
    arrive(transfers, transfer, 3, 0.0)
    transfers.unhold(transfer, ALICE)
    transfers.request(0.0)
    arrive(transfers, transfer, 1, 0.0)
    transfers.check(transfer)
    assert transfers.restart(transfer) is None
    hold(transfers, ALICE, 1)
    [(peer, _)] = transfers.request(0.0)
    arrive(transfers, transfer, 3, 0.0)
    transfers.unhold(transfer, peer)
    [(other, again)] = transfers.request(0.0)
    assert {peer, other} == {ALICE, BOB}
    assert again.received == 0, "not from where the other broke off"


def test_a_corrupt_item_that_nobody_else_holds_is_forgotten(transfers: Transfers) -> None:
    for leaves in (False, True):
        [transfer] = hold(transfers, ALICE, 1)
        transfers.request(0.0)
        arrive(transfers, transfer, 4, 0.0)
        transfers.check(transfer)
        if leaves:
            transfers.disconnected(ALICE)
            assert item(1) in transfers, "it may turn out sound"
        assert transfers.restart(transfer) == (None if leaves else ALICE)
        assert item(1) not in transfers


def test_pending_is_what_a_live_peer_holds_or_what_is_here_unchecked(
    transfers: Transfers,
) -> None:
    [transfer] = hold(transfers, ALICE, 3)
    slot = (3, AUTHOR)
    assert transfers.is_pending(slot, {ALICE})
    assert not transfers.is_pending(slot, {BOB})
    assert not transfers.is_pending((2, AUTHOR), {ALICE})
    assert transfers.any_pending({ALICE}, before=4, author=BOB)
    assert not transfers.any_pending({ALICE}, before=3, author=BOB)
    assert transfers.any_pending({ALICE}, before=3, author=AUTHOR)
    transfers.request(0.0)
    arrive(transfers, transfer, 4, 0.0)
    transfers.check(transfer)
    transfers.disconnected(ALICE)
    assert transfers.is_pending(slot, ())


def test_who_announces_and_never_serves_is_not_waited_for(transfers: Transfers) -> None:
    hold(transfers, ALICE, 1)
    transfers.request(0.0)
    assert transfers.is_pending((1, AUTHOR), {ALICE})
    transfers.give_up_stalled(STALL_S)
    assert not transfers.is_pending((1, AUTHOR), {ALICE})
    hold(transfers, BOB, 1)
    assert transfers.is_pending((1, AUTHOR), {ALICE, BOB}), "Bob may be honest"


# What a neighbour announces may cost memory in proportion, and never time with each event.


def looked_for_one_by_one(
    transfers: Transfers, peers: set[PeerId], before: int, author: PeerId
) -> bool:
    """Be `Transfers.any_pending` as it is meant."""
    items = (transfers.get(item(number)) for number in range(6))
    able = {peer for peer in peers if not transfers._holders[peer].num_stalls}

    def counts(slot: Slot) -> bool:
        return slot[0] < before or slot[1] == author

    return any(
        (t.checking and counts(t.slot))
        or any(counts(claim.slot) for peer, claim in t.holders.items() if peer in able)
        for t in items
        if t is not None
    )


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["hold", "unhold", "drop", "move", "check", "restart", "stall", "send"]
            ),
            st.sampled_from([ALICE, BOB]),
            st.integers(0, 5),
            st.integers(0, 5),
        ),
        max_size=60,
    )
)
def test_pending_agrees_with_a_look_at_every_item(
    steps: list[tuple[str, PeerId, int, int]],
) -> None:
    transfers = Transfers(STALL_S)
    transfers.connected(ALICE)
    transfers.connected(BOB)
    now = 0.0
    for step, peer, number, other in steps:
        transfer = transfers.get(item(number))
        if step == "stall":
            transfers.request(now)
            now += STALL_S
            transfers.give_up_stalled(now)
        elif step == "hold":
            transfers.hold(peer, item(number), (number, AUTHOR if other % 2 else peer), 4)
        elif transfer is None:
            continue
        elif step == "send":
            if transfer.source is not None and transfer.received < 4:
                arrive(transfers, transfer, 4 - transfer.received, now)
        elif step == "unhold":
            transfers.unhold(transfer, peer)
        elif step == "drop":
            transfers.drop(transfer)
        elif step == "move":
            transfers.move(transfer, (other, AUTHOR))
        elif step == "check" and not transfer.checking:
            transfers.check(transfer)
        elif step == "restart" and transfer.checking:
            transfers.restart(transfer)
        for peers in ({ALICE}, {BOB}, {ALICE, BOB}):
            for before in (0, 3, 6):
                for author in (ALICE, AUTHOR):
                    expected = looked_for_one_by_one(transfers, peers, before, author)
                    assert transfers.any_pending(peers, before, author) == expected


def test_saying_and_unsaying_leaves_nothing_behind(transfers: Transfers) -> None:
    for number in range(1, 5000):
        [transfer] = hold(transfers, ALICE, number)
        transfers.unhold(transfer, ALICE)
    tracemalloc.start()
    for number in range(5000, 10_000):
        [transfer] = hold(transfers, ALICE, number)
        transfers.unhold(transfer, ALICE)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100_000
