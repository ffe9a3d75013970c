"""Who is reached by a chain of trust, and whose words are kept: as many as have a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_net.protocol import reach as module
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.reach import Reach, reach
from semantic_net.protocol.update import MAX_ROUND

IN = MAX_ROUND + 1


@dataclass(frozen=True)
class Word:
    out_from: int = IN
    version: int = 1
    vouches: bool = True

    @property
    def body(self) -> Word:
        return self


Words = dict[PeerId, dict[PeerId, Word]]


def word(
    words: Words, by: str, *about: str, out_from: int = IN, vouches: bool = True, version: int = 1
) -> None:
    for each in about:
        words.setdefault(PeerId(by), {})[PeerId(each)] = Word(out_from, version, vouches)


def ids(text: str) -> list[PeerId]:
    return [PeerId(each) for each in text]


def numbered(kind: str, count: int) -> list[str]:
    return [f"{kind}{number:04d}" for number in range(count)]


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(module, "MAX_DEVICES", 6)
    return monkeypatch


NAMES = st.sampled_from(ids("abcdefgh"))
WORDS = st.builds(Word, st.sampled_from([3, IN]), st.integers(1, 2), st.booleans())
ALL_WORDS = st.dictionaries(NAMES, st.dictionaries(NAMES, WORDS))


def plainly(
    found: set[PeerId], words: Mapping[PeerId, Mapping[PeerId, Word]], votes: int
) -> set[PeerId]:
    """Return who belongs, as one would say it."""
    while True:
        said = [a for by in found for a, each in words.get(by, {}).items() if each.vouches]
        new = {about for about in said if said.count(about) >= votes} - found
        if not new:
            return found
        found = found | new


@given(st.sets(NAMES), ALL_WORDS, st.sampled_from([1, 2]))
def test_as_long_as_there_is_a_place_all_who_are_vouched_for_are_reached(
    found: set[PeerId], words: Words, votes: int
) -> None:
    known = reach(found, words, votes)
    assert set(known.belonging) == plainly(found, words, votes)
    assert known.said == {by: words[by] for by in known.belonging if words.get(by)}
    vouched = {a for by in known.belonging for a, w in words.get(by, {}).items() if w.vouches}
    assert set(known.heard_of) == vouched | set(known.belonging)
    for about in ids("abcdefgh"):
        out = {by for by in known.belonging if words.get(by, {}).get(about, Word()).out_from < IN}
        assert {by for _, by in known.against.get(about, ())} == out


def cut(known: Reach[Word]) -> Words:
    return {by: dict(words) for by, words in known.said.items()}


@given(st.sets(NAMES), ALL_WORDS, st.sampled_from([1, 2]), st.integers(1, 12), st.integers(1, 8))
def test_what_is_kept_of_what_is_kept_is_all_of_it(
    found: set[PeerId], words: Words, votes: int, statements: int, devices: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_STATEMENTS", statements)
        patch.setattr(module, "MAX_DEVICES", devices)
        known = reach(found, words, votes)
        assert len(known.heard_of) <= max(devices, len(found))
        assert sum(map(len, known.said.values())) <= statements
        assert reach(found, cut(known), votes) == known


@given(
    st.sets(NAMES),
    ALL_WORDS,
    ALL_WORDS,
    st.sampled_from([1, 2]),
    st.integers(1, 12),
    st.integers(1, 8),
)
def test_two_who_trust_the_same_and_have_nothing_to_tell_each_other_keep_the_same(
    found: set[PeerId], mine: Words, theirs: Words, votes: int, statements: int, devices: int
) -> None:
    """Each tells one word at a time, and each forgets at once what has no place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_STATEMENTS", statements)
        patch.setattr(module, "MAX_DEVICES", devices)
        kept = [reach(found, words, votes) for words in (mine, theirs)]
        is_over = False
        while not is_over:
            is_over = True
            for teller, hearer in ((0, 1), (1, 0)):
                for by, said in cut(kept[teller]).items():
                    for about, each in said.items():
                        words = cut(kept[hearer])
                        before = words.get(by, {}).get(about)
                        if before is not None and _rank(each) <= _rank(before):
                            continue
                        words.setdefault(by, {})[about] = each
                        is_over = is_over and reach(found, words, votes).said == kept[hearer].said
                        kept[hearer] = reach(found, words, votes)
        assert kept[0] == kept[1]


def _rank(each: Word) -> tuple[int, int, bool]:
    return each.version, each.out_from, each.vouches


PLAIN = st.dictionaries(NAMES, st.dictionaries(NAMES, st.just(Word())))


@given(st.sets(NAMES, min_size=1, max_size=2), PLAIN, st.integers(1, 8), st.integers(0, 3))
def test_nobody_is_pushed_out_by_what_those_say_that_are_no_nearer(
    found: set[PeerId], words: Words, devices: int, distance: int
) -> None:
    near, nearer = set(found), set[PeerId]()
    for _ in range(distance):
        nearer = near
        near = near | {about for by in near for about in words.get(by, {})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_DEVICES", devices)
        known = reach(found, words, 1).belonging
        alone = reach(found, {by: words[by] for by in nearer if by in words}, 1).belonging
    assert near & known.keys() == near & alone.keys()


def test_who_says_much_takes_nobodys_place(bounds: pytest.MonkeyPatch) -> None:
    words: Words = {}
    word(words, "a", *numbered("a", 50))
    word(words, "b", "y", "z")
    assert list(reach(ids("ab"), words, 1).belonging) == ["a", "b", "a0000", "y", "a0001", "z"]
    bounds.setattr(module, "MAX_STATEMENTS", 4)
    assert set(reach(ids("ab"), words, 1).said[PeerId("b")]) == {"y", "z"}


def test_whom_the_peer_trusts_itself_has_a_place(bounds: pytest.MonkeyPatch) -> None:
    words: Words = {}
    word(words, "a", "x")
    assert list(reach(ids("abcdefgh"), words, 1).heard_of) == ids("abcdefgh")


def test_of_too_many_words_those_are_kept_that_put_out_or_have_changed(
    bounds: pytest.MonkeyPatch,
) -> None:
    bounds.setattr(module, "MAX_STATEMENTS", 2)
    words: Words = {}
    word(words, "a", "b", "c", "d")
    word(words, "a", "y", out_from=3)
    word(words, "a", "z", version=2)
    assert set(reach(ids("a"), words, 1).said[PeerId("a")]) == {"y", "z"}


def test_those_whom_one_that_is_out_has_let_in_take_nobodys_place(
    bounds: pytest.MonkeyPatch,
) -> None:
    words: Words = {}
    word(words, "a", "e")
    word(words, "e", *numbered("e", 5))
    word(words, "b", "c")
    word(words, "c", "d")
    word(words, "d", "f")
    assert set(reach(ids("ab"), words, 1).belonging) == {*"abcde", "e0000"}
    word(words, "b", "e", out_from=3, vouches=False)
    assert set(reach(ids("ab"), words, 1).belonging) == set("abcdef")
    bounds.setattr(module, "MAX_DEVICES", 7)
    assert set(reach(ids("ab"), words, 1).belonging) == {*"abcdef", "e0000"}, "they stay"
