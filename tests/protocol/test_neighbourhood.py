"""Neighbourhood: whom each hears directly, so that nothing is passed on twice."""

from __future__ import annotations

from protocol_support import signer

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import Neighbour, Neighbours
from semantic_net.protocol.neighbourhood import Neighbourhood

A, B, C = (signer(name).peer_id for name in ("alice", "bob", "carol"))
LIVENESS_S, SILENT_S = 9.0, 3.0


def make(*neighbours: PeerId) -> Neighbourhood:
    made = Neighbourhood(LIVENESS_S, heartbeat_s=1.0)
    for peer in neighbours:
        made.connected(peer, (f"{peer[:4]}:5000",), 0.0)
    return made


def heard(message: Neighbours | None) -> list[str] | None:
    return None if message is None else [neighbour.id for neighbour in message.heard]


def says(*peers: PeerId) -> Neighbours:
    return Neighbours(tuple(Neighbour(peer, (f"{peer[:4]}:5000",)) for peer in peers))


def test_a_neighbour_is_on_the_list_once_it_is_heard_itself() -> None:
    around = make(A, B)
    assert around.news(0.0) is None
    around.heard(A, 0.0)
    assert heard(around.news(0.0)) == [A]
    around.heard(A, 1.0)
    assert around.news(1.0) is None, "nothing new"
    assert around.list().heard == (Neighbour(A, (f"{A[:4]}:5000",)),)


def test_the_silent_and_the_lost_fall_off_the_list() -> None:
    around = make(A, B)
    around.heard(A, 0.0)
    around.heard(B, 1.0)
    around.news(1.0)
    assert around.next_silence() == SILENT_S
    assert around.news(2.9) is None
    assert heard(around.news(SILENT_S)) == [B]
    assert around.next_silence() == 1.0 + SILENT_S
    around.heard(A, 3.5)
    assert heard(around.news(3.5)) == [A, B]
    around.disconnected(B)
    assert heard(around.news(3.5)) == [A]
    around.disconnected(A)
    assert heard(around.news(3.5)) == []
    assert around.next_silence() is None


def test_a_slow_heartbeat_is_no_silence() -> None:
    around = Neighbourhood(liveness_s=20.0, heartbeat_s=10.0)
    around.connected(A, (), 0.0)
    around.heard(A, 0.0)
    assert around.next_silence() == 15.0


def test_where_many_come_and_go_lists_are_short_and_have_a_pace() -> None:
    around = Neighbourhood(LIVENESS_S, 1.0, pace_s=0.5, max_listed=1)
    for peer in (A, B):
        around.connected(peer, (), 0.0)
    assert around.next_news() is None
    around.heard(A, 0.0)
    assert heard(around.news(0.0)) == [A]
    around.heard(B, 0.1)
    assert around.news(0.4) is None
    assert around.next_news() == 0.5
    assert heard(around.news(0.5)) == [A]
    assert around.next_news() is None


def test_a_neighbour_has_as_many_others_as_it_says() -> None:
    around = make(A)
    assert around.num_others(A, C) == 0
    around.told(A, says(B, C))
    assert around.num_others(A, C) == 1


def test_what_a_neighbour_hears_itself_need_not_be_passed_on() -> None:
    around = make(A, B)
    assert around.needs(A, C), "nothing is known yet"
    assert around.told(A, says(C)) == []
    assert not around.needs(A, C)
    assert around.needs(B, C)
    assert around.told(A, says(B)) == [C], "it lost Carol, and wants to hear of her"
    assert around.needs(A, C)


def test_addresses_are_of_peers_that_are_no_neighbours() -> None:
    around = make(A, B)
    around.told(A, says(B, C))
    assert list(around.addresses()) == [(C, f"{C[:4]}:5000")]


def test_what_leads_somewhere_on_one_network_alone_is_told_nobody() -> None:
    around = Neighbourhood(liveness_s=20.0, heartbeat_s=1.0)
    around.connected(A, ("[fe80::1%2]:5000", "[fd00::1]:5000", "169.254.0.7:5000"), 0.0)
    around.heard(A, 0.0)
    assert around.list().heard == (Neighbour(A, ("[fd00::1]:5000", "169.254.0.7:5000")),)
    around.told(A, Neighbours((Neighbour(C, ("[fe80::2]:1", "[FEBF::2%9]:1", "far:1")),)))
    assert list(around.addresses()) == [(C, "far:1")]


def test_a_session_that_carries_nothing_is_dead() -> None:
    around = make(A, B)
    assert around.next_death() == LIVENESS_S
    around.touched(A, 4.0)
    assert around.dead(LIVENESS_S - 0.1) == []
    assert around.dead(LIVENESS_S) == [B]
    around.disconnected(B)
    assert around.next_death() == 4.0 + LIVENESS_S
    around.disconnected(A)
    assert around.next_death() is None
