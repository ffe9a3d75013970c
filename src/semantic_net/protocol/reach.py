"""Who is reached by a chain of trust, and whose words are kept: as much as has a place. Pure.

Whoever may let in others may let in any number, each of whom may do so again. So there is a place
for only so many devices and statements, which are gone through in one order:

- By distance from those that the peer trusts itself: all that devices of one distance say comes
  before anything of those further away. Of the devices of one distance each says one thing in
  turn, so that none takes up the room of the others with what it says: first where it has put out
  somebody or has changed its word, which no later word makes less urgent, then by id.
- A device that is out by what those no further away than itself say has let others in only once
  everybody is reached that can be without it. So it takes nobody's place.

A word is kept, or not, by what comes before it in that order, and adding one changes nothing of
what comes before. It follows that two who trust the same devices, and of whom neither has a word
that the other would keep, keep the same. (Let w be the first that one of them keeps and the other
does not: both have kept the same before it, so the other would keep it.) And whoever takes in a
word that it keeps has a better one at the first place that changes: so that ends.

Two who trust different devices keep the same as long as everything has a place. What has not is
what is far away, from each as it sees it. Once those that have let in too many are out for both in
that way, as they are when all say so that let them in, both keep the same again, if there is a
place for everybody else: what then comes last is ordered by the distance from who is out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.update import MAX_AUTHORS, MAX_ROUND

MAX_DEVICES = MAX_AUTHORS
"""Most devices that belong or may come to, unless the peer itself trusts more."""

MAX_STATEMENTS = 16 * MAX_DEVICES
"""Most statements of all devices together."""


class Word(Protocol):
    """What a device says of another."""

    @property
    def out_from(self) -> int:
        """The first round in which nothing of it counts; more than `MAX_ROUND`: it is not out."""

    @property
    def version(self) -> int:
        """Grows with every word of this device on that one."""

    @property
    def vouches(self) -> bool:
        """Whether it lets that one in."""


class Said(Protocol):
    """A word, and whatever goes with it."""

    @property
    def body(self) -> Word:
        """The word."""


S = TypeVar("S", bound=Said)

Words = Mapping[PeerId, Mapping[PeerId, S]]
"""By who says it, and of whom."""


@dataclass(frozen=True, slots=True)
class Reach(Generic[S]):
    """Who is reached, and by which words."""

    belonging: dict[PeerId, None]
    """Nobody before one that vouches for it."""
    heard_of: dict[PeerId, None]
    """Those, and others that somebody who belongs vouches for."""
    said: dict[PeerId, dict[PeerId, S]] = field(default_factory=dict)
    """The words that are kept."""
    against: dict[PeerId, list[tuple[int, PeerId]]] = field(default_factory=dict)
    """Of each device the words that put it out: from which round on, and whose."""


def reach(found: Iterable[PeerId], words: Words[S], votes: int) -> Reach[S]:
    """Return who belongs if some do: those for whom enough of them vouch, and so on.

    Each statement is looked at once, but for sorting.

    Args:
        found: Who belongs in any case.
        words: The latest word of each device on each other.
        votes: Devices that must say the same before it holds.
    """
    level = sorted(found)
    reached: Reach[S] = Reach(dict.fromkeys(level), {})
    vouched: Counter[PeerId] = Counter()
    num_kept, out = 0, list[PeerId]()
    while level or out:
        if level:
            ranked = {by: _ranked(words[by]) for by in level if by in words}
            for by, about in islice(_in_turn(ranked), MAX_STATEMENTS - num_kept):
                num_kept += 1
                each = words[by][about]
                reached.said.setdefault(by, {})[about] = each
                if each.body.out_from <= MAX_ROUND:
                    reached.against.setdefault(about, []).append((each.body.out_from, by))
            is_out = {d for d in level if len(reached.against.get(d, ())) >= votes}
            out += is_out
            vouching = [device for device in level if device not in is_out]
        else:  # nobody else is left
            vouching, out = sorted(out), []
        level = []  # the next one
        if len(reached.belonging) >= MAX_DEVICES:
            continue
        kept = {by: reached.said[by] for by in vouching if by in reached.said}
        for by, about in _in_turn(kept):
            if not kept[by][about].body.vouches:
                continue
            vouched[about] += 1
            if (
                vouched[about] >= votes
                and about not in reached.belonging
                and len(reached.belonging) < MAX_DEVICES
            ):
                reached.belonging[about] = None
                level.append(about)
        level.sort()
    reached.heard_of.update(reached.belonging)
    room = MAX_DEVICES - len(reached.belonging)
    others = (about for about in vouched if about not in reached.belonging)
    reached.heard_of.update(dict.fromkeys(islice(others, max(room, 0))))
    return reached


def _ranked(words: Mapping[PeerId, Said]) -> list[PeerId]:
    """Return of whom a device speaks: what it has said first, and of who is in, comes last."""
    urgent, others = list[PeerId](), list[PeerId]()
    for about in sorted(words):
        word = words[about].body
        (others if word.version == 1 and word.out_from > MAX_ROUND else urgent).append(about)
    return urgent + others


def _in_turn(
    spoken_of: Mapping[PeerId, Iterable[PeerId]],
) -> Iterator[tuple[PeerId, PeerId]]:
    """Return who speaks of whom: the first word of each device, then the second of each."""
    turns: list[list[tuple[PeerId, PeerId]]] = []
    for by, devices in spoken_of.items():
        for turn, about in enumerate(devices):
            if turn == len(turns):
                turns.append([])
            turns[turn].append((by, about))
    return chain.from_iterable(turns)
