"""The mesh: how many links a peer keeps, which it lets go, and what it tells."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import only

from semantic_net.protocol import mesh as module
from semantic_net.protocol.actions import Action, Dial, Forget, HangUp, Send
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.links import GUEST_LIVES, MeshConfig
from semantic_net.protocol.mesh import (
    FIRST_HINTS,
    LATER_HINTS,
    MAX_NAMES,
    MAX_PAST,
    MAX_SHUNNED,
    SEED_DEFERRALS,
    SEED_LIVES,
    Mesh,
    Parting,
)
from semantic_net.protocol.messages import Hint, Hints

K, LIVENESS_S = 4, 10.0
GUEST_S = GUEST_LIVES * LIVENESS_S
MANY = 99
"""Links of whoever has enough."""
SEED = "seed:1"


def at(name: str) -> str:
    return f"{name}:1"


def make(links: int = K, seeds: tuple[str, ...] = (SEED,)) -> Mesh:
    return Mesh(MeshConfig(links=links, seeds=seeds), b"secret", LIVENESS_S)


def step(
    mesh: Mesh,
    now: float,
    others: Mapping[str, int] | Callable[[str], int] | int = MANY,
    near: tuple[str, ...] = (),
) -> list[Action]:
    def of(peer: PeerId) -> int:
        if callable(others):
            return others(peer)
        return others if isinstance(others, int) else others.get(peer, MANY)

    return mesh.step(now, of, near)


def meet(mesh: Mesh, name: str, now: float = 0.0, *, dialled: bool = False) -> list[Action]:
    """Connect to a peer; without ``dialled`` it has called us, and says where it is."""
    return mesh.connected(PeerId(name), (at(name),), at(name) if dialled else "", now)


def hear(mesh: Mesh, teller: str, *names: str, now: float = 0.0) -> None:
    mesh.told(PeerId(teller), Hints(tuple(Hint(at(name), 0) for name in names)), now)


def dials(actions: list[Action]) -> list[str]:
    return [dial.address for dial in only(actions, Dial)]


def linked(num_links: int, *, chosen: int | None = None, seeds: tuple[str, ...] = ()) -> Mesh:
    """Return a mesh with links, some of them of its own choice, that has looked at all of it."""
    mesh = make(seeds=seeds)
    chosen = mesh.cfg.own_links if chosen is None else chosen
    names = [f"n{number}" for number in range(num_links)]
    for name in names[:chosen]:
        mesh.found(at(name), 0.0)
    step(mesh, 0.0)
    for number, name in enumerate(names):
        meet(mesh, name, dialled=number < chosen)
    return mesh


def test_a_peer_begins_with_its_seeds_and_goes_on_with_what_they_tell() -> None:
    mesh = make()
    assert dials(step(mesh, 0.0)) == [SEED]
    assert dials(step(mesh, 1.0)) == [], "it is being dialled"
    assert only(meet(mesh, "seed", 1.0, dialled=True), Forget) == [Forget(SEED)]
    hear(mesh, "seed", *"abcdefg", now=1.0)
    told = dials(step(mesh, 1.0))
    assert len(told) == K - 1
    assert set(told) < {at(name) for name in "abcdefg"}
    for address in told:
        meet(mesh, address.partition(":")[0], 2.0, dialled=True)
    assert dials(step(mesh, 3.0)) == []


def test_what_is_chosen_depends_on_a_secret() -> None:
    chosen = set()
    for secret in (b"1", b"2", b"3"):
        mesh = Mesh(MeshConfig(links=2), secret, LIVENESS_S)
        for n in range(8):
            mesh.found(f"{n}:1", 0.0)
        chosen.add(tuple(dials(step(mesh, 0.0))))
    assert len(chosen) == 3


def test_callers_do_not_take_the_places_of_ones_own_choice() -> None:
    mesh = linked(K, chosen=0)
    hear(mesh, "n0", *"abcdef")
    assert len(dials(step(mesh, 1.0))) == mesh.cfg.own_links == 2


def test_the_neighbours_of_neighbours_are_dialled_where_nobody_has_told_of_others() -> None:
    mesh = make()
    meet(mesh, "a", dialled=True)
    assert sorted(dials(step(mesh, 0.0, near=(at("b"), at("c"), at("a"))))) == [at("b"), at("c")]


def test_where_a_caller_says_it_is_costs_nobody_else_anything() -> None:
    mesh = make(seeds=())
    hear(mesh, "t1", *(f"a{n}" for n in range(8)))
    hear(mesh, "t2", *(f"b{n}" for n in range(8)))
    dialled, known = dials(step(mesh, 0.0)), set(mesh.view)
    assert len(dialled) == K
    for n, claimed in enumerate(sorted(known)):
        told = mesh.connected(PeerId(f"liar{n}"), (claimed,), "", 1.0)
        assert only(told, Forget) == []
    assert set(mesh.dialled) == set(dialled)
    assert not any(link.is_chosen for link in mesh._links.values())
    for n in range(len(known)):
        mesh.disconnected(PeerId(f"liar{n}"), list(Parting)[n % 3], 1.0)
    hear(mesh, "t1", *(address.partition(":")[0] for address in known), now=1.0)
    assert set(mesh.view) == known
    step(mesh, 0.9 * LIVENESS_S)
    assert set(mesh.dialled) >= set(dialled)


def test_a_dial_that_ends_at_a_caller_makes_it_one_of_our_own_choice() -> None:
    mesh = make(seeds=())
    meet(mesh, "a")
    hear(mesh, "a", "a")
    assert dials(step(mesh, 0.0)) == [at("a")], "where it says it is, another may be"
    assert mesh.led_to(PeerId("a"), at("a"), 0.1) == [Forget(at("a"))]
    for second in range(1, 300):
        hear(mesh, "a", "a", now=float(second))
        assert dials(step(mesh, float(second))) == []
    assert mesh._links[PeerId("a")].is_chosen
    assert mesh.num_links == 1
    mesh.disconnected(PeerId("a"), Parting.LOST, 300.0)
    assert dials(step(mesh, 300.0)) == [at("a")]


def test_who_called_before_it_was_chosen_replaces_nobody_that_was_chosen_first() -> None:
    mesh = make(seeds=())
    for n in range(K):
        meet(mesh, f"caller{n}", 0.0)
    for n in range(mesh.cfg.own_links):
        meet(mesh, f"first{n}", 1.0, dialled=True)
    for n in range(K):
        mesh.led_to(PeerId(f"caller{n}"), at(f"caller{n}"), 2.0)
    for n in range(2 * K):
        meet(mesh, f"late{n}", 3.0)
    others = {f"caller{n}": K for n in range(K)} | {f"late{n}": K - 2 for n in range(2 * K)}
    gone = {hang_up.peer for hang_up in only(step(mesh, 4.0, others), HangUp)}
    assert gone
    assert not gone & {f"first{n}" for n in range(mesh.cfg.own_links)}


def test_a_dial_that_ends_at_whom_we_have_let_go_changes_nothing() -> None:
    mesh = make()
    step(mesh, 0.0)
    assert mesh.led_to(PeerId("gone"), SEED, 0.1) == []
    assert set(mesh.dialled) == {SEED}


def test_addresses_that_lead_to_one_neighbour_are_bounded() -> None:
    mesh = make()
    meet(mesh, "a", dialled=True)
    for n in range(3 * MAX_NAMES):
        mesh.led_to(PeerId("a"), f"other-name{n}:1", 1.0)
    assert len(mesh._links[PeerId("a")].addresses) == MAX_NAMES


def test_what_leads_somewhere_on_one_network_alone_is_no_hint() -> None:
    mesh = make()
    mesh.found("[fe80::7%3]:5000", 0.0)
    hear(mesh, "a", "far")
    actions = mesh.connected(PeerId("b"), ("[fe80::8%3]:5000",), "", 1.0)
    actions += mesh.connected(PeerId("c"), (), "", 1.0)
    told = [hint.address for send in only(actions, Send) for hint in send.message.known]  # type: ignore[union-attr]  # hints
    assert told == ["far:1", "far:1"]


def test_a_dial_ends_and_another_begins() -> None:
    mesh = make()
    meet(mesh, "a")
    hear(mesh, "a", *"bcdefgh")
    first = dials(step(mesh, 0.0))
    later = step(mesh, LIVENESS_S)
    assert sorted(only(later, Forget), key=str) == sorted(map(Forget, first), key=str)
    assert not set(dials(later)) & set(first)
    hear(mesh, "a", *(address.partition(":")[0] for address in first), now=LIVENESS_S)
    assert not set(mesh.view) & set(first), "where nobody was just now"


def test_who_does_not_answer_makes_room_at_once_if_others_are_known() -> None:
    mesh = make()
    step(mesh, 0.0)
    assert mesh.in_vain(SEED, 0.1) == [], "there is no other: the dialler tries again"
    assert mesh.in_vain("elsewhere:1", 0.1) == []
    mesh.found(at("a"), 0.2)
    assert mesh.in_vain(SEED, 0.3) == [Forget(SEED)]
    assert dials(step(mesh, 0.3)) == [at("a")]


def test_who_has_nobody_shuns_nobody() -> None:
    mesh = make()
    step(mesh, 0.0)
    for lives in range(1, 20):
        actions = step(mesh, lives * LIVENESS_S)
        assert only(actions, Forget) == [Forget(SEED)]
        assert dials(actions) == [SEED]


def test_who_knows_no_others_asks_those_again_that_have_let_it_go() -> None:
    mesh = linked(K)
    mesh.disconnected(PeerId("n0"), Parting.CROWDED, 5.0)
    assert dials(step(mesh, 5.0)) == dials(step(mesh, 14.0)) == []
    assert dials(step(mesh, 17.0)) == [at("n0")]


def test_where_all_began_is_looked_at_again_if_nobody_is_heard_to_be_there() -> None:
    mesh = linked(K + 2, seeds=(SEED,))

    def dialled(first: int, last: int, *, age_s: int | None = None) -> list[str]:
        found = []
        for second in range(first, last, 10):
            heard = Hints(() if age_s is None else (Hint(SEED, age_s),))
            mesh.told(PeerId("n0"), heard, float(second))
            mesh.view.drop(SEED)
            hear(mesh, "n0", f"other{second}", now=float(second))
            actions = step(mesh, float(second))
            found += [d for d in dials(actions) if d == SEED]
            for address in list(mesh.dialled):
                mesh._give_up(address, float(second))
        return found

    assert dialled(10, 200), "it has never been heard of"
    assert dialled(200, 2000, age_s=100) == []
    assert dialled(2000, 2400) == []
    assert dialled(2400, 4000)


def test_who_is_told_again_and_again_of_where_it_began_looks_there_all_the_same() -> None:
    mesh = linked(K + 2, seeds=(SEED,))
    silent_s = SEED_LIVES * LIVENESS_S
    found = []
    for second in range(0, 12 * round(silent_s), 5):
        mesh.told(PeerId("n0"), Hints((Hint(SEED, 0),)), float(second))
        mesh.view.drop(SEED)
        hear(mesh, "n0", f"other{second}", now=float(second))
        found += [second for dial in dials(step(mesh, float(second))) if dial == SEED]
        for address in list(mesh.dialled):
            mesh._give_up(address, float(second))
    waits = [b - a for a, b in itertools.pairwise(found)]
    assert len(waits) == 2, "rarely, so that not all of a large fleet do at once"
    assert all(wait_s > SEED_DEFERRALS * silent_s for wait_s in waits)


def test_a_small_group_that_knows_nobody_else_looks_again_where_it_began() -> None:
    mesh = make()
    for number in range(K):
        meet(mesh, f"n{number}", dialled=True)
    times = [second for second in range(300) if SEED in dials(step(mesh, float(second)))]
    assert len(times) >= 3


def test_beyond_twice_as_many_as_wanted_those_go_who_have_most_others() -> None:
    mesh = linked(2 * K + 2)
    others = {"n0": 50, "n4": 9, "n5": 3, "n6": 8, "n7": 2, "n8": 0, "n9": 1}
    others = {f"n{n}": 3 for n in range(2 * K + 2)} | others
    gone = only(step(mesh, 5.0, others), HangUp)
    assert gone == [HangUp(PeerId(n), is_surplus=True) for n in ("n4", "n6")], "n0 we have chosen"
    assert mesh.num_links == 2 * K
    assert only(step(mesh, 10.0, others), HangUp) == []


def test_nobody_loses_its_only_link() -> None:
    mesh = linked(4 * K)
    assert only(step(mesh, 5.0, 0), HangUp) == []
    assert only(step(mesh, 50.0, K - 2), HangUp) == []
    assert len(only(step(mesh, 100.0, K - 1), HangUp)) == 2 * K


def test_of_a_crowd_all_go_who_have_met_another() -> None:
    mesh = linked(6 * K)
    assert only(step(mesh, 5.0, 0), HangUp) == []
    assert len(only(step(mesh, 50.0, 1), HangUp)) == 4 * K


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(2, 9))
def test_however_many_others_each_has_enough_stay(others: list[int], links: int) -> None:
    mesh = make(links)
    for number in range(len(others)):
        meet(mesh, str(number))
    gone = only(step(mesh, 5.0, {str(n): o for n, o in enumerate(others)}), HangUp)
    assert mesh.num_links == len(others) - len(gone) >= min(len(others), 2 * links)
    least = links - 1 if len(others) <= 4 * links else 1
    assert all(others[int(hang_up.peer)] >= least for hang_up in gone)


def test_callers_who_claim_no_others_do_not_push_out_whom_we_have_chosen() -> None:
    mesh = linked(2 * K)
    others = {f"n{n}": 2 * K - 1 for n in range(2 * K)}
    now = GUEST_S
    for n in range(4 * K):
        others[f"idle{n}"] = 0
        meet(mesh, f"idle{n}", now)
    gone = {hang_up.peer for hang_up in only(step(mesh, now, others), HangUp)}
    assert gone < {f"n{n}" for n in range(mesh.cfg.own_links, 2 * K)}
    assert len(gone) == K, "places of as many as we want links, and no more"
    assert only(step(mesh, now + GUEST_S - 3, others), HangUp) == []
    gone = {hang_up.peer for hang_up in only(step(mesh, now + GUEST_S, others), HangUp)}
    assert gone == {f"idle{n}" for n in range(K, 4 * K)}, "the youngest"
    assert mesh.num_links == 2 * K


def test_who_calls_again_and_again_without_others_leaves_room_for_newcomers() -> None:
    mesh = linked(2 * K)
    most, now = 0, 10.0
    for n in range(2000):
        now = 10.0 + n / 10
        if mesh.num_links < 64:  # as many as a transport lets call
            meet(mesh, f"idle{n}", now)
        step(mesh, now, lambda peer: 0 if peer.startswith("idle") else 2 * K - 1)
        most = max(most, mesh.num_links)
    assert most == 64
    step(mesh, now + GUEST_S, 0)
    assert mesh.num_links == 2 * K


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.floats(0, 20)), max_size=80),
    st.integers(2, 9),
)
def test_whatever_others_claim_links_are_bounded_and_our_own_choice_stays(
    callers: list[tuple[bool, int, float]], links: int
) -> None:
    mesh = make(links)
    for n, (is_dialled, _, at_s) in enumerate(sorted(callers, key=lambda caller: caller[2])):
        if is_dialled:
            mesh._dial(at(str(n)), at_s)
        meet(mesh, str(n), at_s, dialled=is_dialled)
    others = {str(n): num for n, (_, num, _) in enumerate(callers)}
    chosen = [p for p, link in mesh._links.items() if link.is_chosen][: mesh.cfg.own_links]
    for now in (20.0, 20.0 + GUEST_S):
        step(mesh, now, others)
        assert set(chosen) <= mesh._links.keys()
    assert mesh.num_links <= mesh.cfg.max_links


def test_who_lets_us_go_is_not_dialled_for_a_while_and_never_forgotten() -> None:
    mesh = linked(K)
    hear(mesh, "n1", "a", "b")
    mesh.disconnected(PeerId("n0"), Parting.CROWDED, 5.0)
    hear(mesh, "n1", "n0", now=5.0)
    assert at("n0") not in mesh.view
    assert at("n0") not in dials(step(mesh, 5.0))
    for name in ("n1", "n2", "n3"):
        mesh.disconnected(PeerId(name), Parting.OVER, 6.0)
    for address in list(mesh.dialled):
        mesh.in_vain(address, 6.0)
    dialled = [a for n in range(1, 30) for a in dials(step(mesh, 6.0 + n * LIVENESS_S))]
    assert at("n0") in dialled
    assert at("n1") not in dialled, "with whom it is over"


def test_a_lost_neighbour_is_dialled_at_once_and_then_less_and_less_often() -> None:
    mesh = linked(K + 1)
    mesh.disconnected(PeerId("n4"), Parting.LOST, 5.0)
    times = [float(s) for s in range(5, 400) if at("n4") in dials(step(mesh, float(s)))]
    assert times[0] == 5.0
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert waits == sorted(waits)
    assert 3.5 * LIVENESS_S < waits[-1] < 5 * LIVENESS_S
    meet(mesh, "n4", 400.0, dialled=True)
    assert at("n4") not in [a for s in range(400, 500) for a in dials(step(mesh, float(s)))]


def test_a_link_is_exchanged_for_another_once_in_a_while() -> None:
    mesh = linked(K + 2)
    times = []
    for second in range(3000):
        hear(mesh, "n1", f"a{second // 200}", f"b{second // 200}", now=float(second))
        for address in dials(step(mesh, float(second))):
            times.append(second)
            meet(mesh, address.partition(":")[0], float(second), dialled=True)
            gone = only(step(mesh, second + 0.5), HangUp)
            assert len(gone) == 1
            assert mesh.num_links == K + 2
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert 5 < times[0] < 15
    assert waits == sorted(waits)
    assert 200 < waits[-1] < 500


def test_no_link_is_exchanged_where_others_would_miss_it() -> None:
    mesh = linked(K + 2)
    hear(mesh, "n1", "a")
    [address] = [a for s in range(60) for a in dials(step(mesh, float(s)))]
    meet(mesh, address.partition(":")[0], 60.0, dialled=True)
    assert only(step(mesh, 65.0, K - 1), HangUp) == []
    assert mesh.num_links == K + 3


def hints_to(actions: list[Action], name: str) -> list[str]:
    found: list[str] = []
    for send in only(actions, Send):
        assert isinstance(send.message, Hints)
        if send.to == (PeerId(name),):
            found += [hint.address for hint in send.message.known]
    return found


def test_a_newcomer_is_told_of_others_and_all_of_some_from_then_on() -> None:
    mesh = linked(K)
    for teller in range(K):
        hear(mesh, f"n{teller}", *(f"{teller}-{n}" for n in range(8)))
    first = hints_to(meet(mesh, "new", 1.0), "new")
    assert len(first) == FIRST_HINTS
    assert sum(address.startswith("n") for address in first) == K
    assert at("new") not in first
    assert hints_to(step(mesh, 2.0), "new") == []
    later = [hints_to(step(mesh, 1.0 + s), "new") for s in range(1, 25)]
    told = [some for some in later if some]
    assert [len(some) for some in told] == [LATER_HINTS, LATER_HINTS]
    assert told[0] != told[1]
    assert not any(at("new") in some for some in told)


def test_ages_grow_on_the_way() -> None:
    mesh = linked(1)
    mesh.told(PeerId("n0"), Hints((Hint(at("a"), 30),)), 10.0)
    [send] = only(meet(mesh, "new", 15.0), Send)
    assert isinstance(send.message, Hints)
    assert {h.address: h.age_s for h in send.message.known} == {at("n0"): 0, at("a"): 35}


def test_who_knows_nobody_tells_nothing() -> None:
    assert only(meet(make(), "a"), Send) == []


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SHUNNED", 50)
    mesh = make()
    for n in range(300):
        meet(mesh, str(n), float(n))
        hear(mesh, str(n), *(f"{n}x{m}" for m in range(16)), now=float(n))
        step(mesh, float(n))
        how = (Parting.LOST, Parting.CROWDED, Parting.OVER)[n % 3]
        mesh.disconnected(PeerId(str(n)), how, float(n))
        assert len(mesh._past) <= MAX_PAST
        assert len(mesh._shunned) <= 50 < MAX_SHUNNED
        assert len(mesh.view) <= mesh.cfg.view_size
        assert len(mesh._dialled) <= K + 2
