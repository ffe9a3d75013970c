"""The view: as large as it may be, of all that tell, and of nothing that is long gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.view import TELLERS, View

SIZE, MAX_AGE_S = 12, 60.0
SHARE = SIZE // TELLERS
A, B, LIAR = PeerId("a"), PeerId("b"), PeerId("liar")

tellings = st.tuples(
    st.integers(0, 60).map(lambda number: f"10.0.0.{number}:5000"),
    st.sampled_from([None, A, B, LIAR, *map(PeerId, "cdefgh")]),
    st.integers(0, 100),
    st.integers(0, 200),
)


def make(*told: tuple[str, PeerId | None]) -> View:
    view = View(SIZE, MAX_AGE_S)
    for address, teller in told:
        view.add(address, teller, 0, 0.0)
    return view


@given(st.lists(tellings, max_size=80))
def test_whatever_is_told_a_view_is_bounded_and_nobodys_own(
    told: list[tuple[str, PeerId | None, int, int]],
) -> None:
    view = View(SIZE, MAX_AGE_S)
    for address, teller, age_s, now in told:
        view.add(address, teller, age_s, now)
        assert len(view) <= SIZE
        assert view.num_told_by(teller) <= SHARE
        assert (address in view) or age_s >= MAX_AGE_S


def test_a_liar_replaces_its_own_lies_only() -> None:
    honest = [(f"{name}{n}:1", PeerId(name)) for name in "abc" for n in range(SHARE)]
    view = make(*honest)
    for n in range(1000):
        view.add(f"lie{n}:1", LIAR, 0, 0.0)
    assert view.num_told_by(LIAR) == SHARE
    assert [a for a in view if a.startswith("lie")] == ["lie997:1", "lie998:1", "lie999:1"]
    assert {address for address, _ in honest} <= set(view)


def test_where_all_places_are_taken_who_has_most_makes_room() -> None:
    names = [*"aaabbbccc", "d", "d", "e"]
    view = make(*((f"{n}:1", PeerId(name)) for n, name in enumerate(names)))
    view.add("new:1", PeerId("f"), 0, 0.0)
    assert len(view) == SIZE
    assert "new:1" in view
    assert sum(view.num_told_by(PeerId(name)) for name in "abc") == 8


def test_who_told_first_keeps_the_place_and_the_youngest_age_counts() -> None:
    view = make(("x:1", A))
    view.add("x:1", LIAR, 5, 20.0)
    assert view.num_told_by(A) == 1
    assert view.age_s("x:1", 20.0) == 5
    view.add("x:1", B, 50, 20.0)
    assert view.age_s("x:1", 20.0) == 5


def test_the_old_are_forgotten_and_are_not_taken_in() -> None:
    view = make(("x:1", A))
    view.add("y:1", A, 30, 0.0)
    view.add("z:1", A, int(MAX_AGE_S), 0.0)
    assert list(view) == ["x:1", "y:1"]
    view.settle(30.0)
    assert list(view) == ["x:1"]
    view.drop("x:1")
    view.drop("x:1")
    assert not list(view)


def test_a_sample_is_of_the_lowest_ranks() -> None:
    view = make(("x:1", A), ("y:1", A), ("z:1", B))
    assert view.sample(2, lambda address: address.encode()[::-1]) == ["x:1", "y:1"]
    assert len(view.sample(9, str.encode)) == 3
