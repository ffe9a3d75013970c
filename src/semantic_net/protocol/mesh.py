"""Whom a peer of a large mesh connects to and whom it lets go, from bounded views. Pure.

    told of ---> view ---dialled---> links, from k to 2k ---let go, or lost---> past ---> dialled

A peer keeps k links at least and 2k at most, half of k of its own choice, and knows as many
addresses as its view holds, whatever the size of the fleet (Leitao et al. 2007, "HyParView"). Each
tells its neighbours of some of those that it knows (Voulgaris et al. 2005, "CYCLON"), so views
are nearly random samples of the fleet, and so are links: a graph with few steps between any two.

Nothing flaps: over 2k somebody is let go who has enough other links, and nobody who has no other
before it had time to find some. Once in a while a link is exchanged for another, so that no group
stays among itself; lost links are tried again, so that the halves of a network that was cut find
each other. Hashes under a secret stand in for random numbers: nobody can make up an address that
is surely chosen. Who is at an address only a dial of our own shows: where a caller says that it is,
others may be, whom that shall cost nothing.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from semantic_net.protocol.actions import Action, Dial, Forget, HangUp, Send
from semantic_net.protocol.address import means_the_same_to_all
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.links import (
    GUEST_LIVES,
    Link,
    MeshConfig,
    OthersOf,
    exchanged,
    surplus,
)
from semantic_net.protocol.messages import Hint, Hints
from semantic_net.protocol.view import View

FIRST_HINTS, LATER_HINTS = 12, 6
"""Addresses that a new neighbour is told, and how many later on, once a liveness."""

NEAR_SHARE = 1 / 3
"""Share of those that are our own neighbours: fresh ones, of which all views live."""

MAX_PAST = 32
"""Former neighbours that are remembered."""

MAX_NAMES = 8
"""Addresses of one neighbour that are remembered."""

MAX_SHUNNED = 256
"""Addresses that are not dialled for a while."""

# All in units of the liveness, within which a peer is known to be there or not.
DIAL_LIVES = 1.0
"""How long an address is dialled before another one is."""
AGE_LIVES = 12.0
"""Age from which on an address is forgotten."""
VAIN_LIVES = 6.0
"""How long an address where nobody was is not dialled again."""
CROWDED_LIVES = 12.0
"""How long one is not that has let us go."""
EXPLORE_LIVES = (1.0, 32.0)
"""Time between two exchanges of a link: it doubles, and begins anew when links are lost."""
RETRY_LIVES = (1.0, 4.0)
"""Time between two dials of neighbours that were lost; in the same way."""
SEED_LIVES = 64.0
"""How long nobody is heard to be connected where we began, before we look there ourselves."""
SEED_DEFERRALS = 4
"""How many times as long we look at the latest, whatever we hear: it is anybody's word."""
SETTLE_LIVES = 0.2
"""How long a link lasts before it is exchanged, and time between two looks at all of them."""

NEVER = (-math.inf, -math.inf)

RETRIES = 60
"""Dials of a lost neighbour before it is one of the past."""


class Parting(enum.Enum):
    """How a session has ended."""

    LOST = "lost"
    """By the network, or a crash: it may come back."""
    CROWDED = "crowded"
    """One side has let the other go, which has others."""
    OVER = "over"
    """One side wants nothing of the other any more, or has said goodbye."""


@dataclass(frozen=True, slots=True)
class _Dialled:
    until: float
    explores: bool
    """Beyond the need for it."""


@dataclass(slots=True)
class _Seed:
    """Where we began."""

    dialled_at: float = -math.inf
    heard_at: float = -math.inf
    """When somebody was connected there, by what is said."""

    def is_unheard(self, now: float, silent_s: float) -> bool:
        """Tell whether it is time to look there; what is said puts that off a few times."""
        heard_at = min(self.heard_at, self.dialled_at + SEED_DEFERRALS * silent_s)
        return now >= heard_at + silent_s


class _Pace:
    """Times that lie further and further apart."""

    def __init__(self, lives: tuple[float, float], liveness_s: float) -> None:
        self._first_s, self._last_s = (each * liveness_s for each in lives)
        self._wait_s = self._first_s
        self._at: float | None = None

    def restart(self, now: float, *, at_once: bool = False) -> None:
        """Begin with the shortest wait, or without one."""
        self._wait_s = self._first_s
        self._at = now if at_once else now + self._wait_s

    def is_due(self, now: float) -> bool:
        """Tell whether it is time, and if so choose the next."""
        if self._at is None:
            self.restart(now)
            return False
        if now < self._at:
            return False
        self._wait_s = min(2 * self._wait_s, self._last_s)
        self._at = now + self._wait_s
        return True


class Mesh:
    """The links of one peer, and what it knows of others."""

    def __init__(self, cfg: MeshConfig, secret: bytes, liveness_s: float) -> None:
        """Begin without links.

        Args:
            cfg: How many are wanted.
            secret: Of what is drawn; nobody else knows it.
            liveness_s: Seconds after which a silent peer counts as gone.
        """
        self.cfg = cfg
        self._secret = secret
        self._liveness_s = liveness_s
        self._links: dict[PeerId, Link] = {}
        self._dialled: dict[str, _Dialled] = {}
        self._shunned: dict[str, tuple[float, float]] = {}  # since and until when, in order
        self._seeds = {address: _Seed() for address in cfg.seeds}
        self._past: dict[str, int] = {}  # how often each is tried again, the first lost first
        spread = 0.75 + hashlib.sha256(secret).digest()[0] / 512  # not all at the same time
        self._explore = _Pace(EXPLORE_LIVES, liveness_s * spread)
        self._retry = _Pace(RETRY_LIVES, liveness_s)
        self._num_swaps = 0
        self._epoch = 0
        self._is_changed = True
        self._due_at = 0.0
        self.view = View(cfg.view_size, AGE_LIVES * liveness_s)

    @property
    def num_links(self) -> int:
        """Number of sessions that are to last."""
        return len(self._links)

    @property
    def dialled(self) -> Iterable[str]:
        """Addresses that are being dialled."""
        return self._dialled.keys()

    # What happens.

    def connected(
        self, peer: PeerId, addresses: tuple[str, ...], seen_at: str, now: float
    ) -> list[Action]:
        """Note a session: what was dialled for it is not any more; return what to tell it.

        Args:
            peer: Who is at the other end.
            addresses: Where it says that it can be dialled.
            seen_at: Where we have dialled it; empty if it has called.
            now: The time.
        """
        self._links[peer] = Link(addresses, now, now + self._liveness_s)
        self._is_changed = True
        for address in addresses:
            self._heard_of(address, now)
        dialled = self._dialled.get(seen_at)
        self._num_swaps += dialled is not None and dialled.explores
        actions = self.led_to(peer, seen_at, now) if seen_at else []
        hints = self._hints(peer, FIRST_HINTS, now)
        return [*actions, Send((peer,), hints)] if hints.known else actions

    def led_to(self, peer: PeerId, address: str, now: float) -> list[Action]:
        """Note which neighbour is at an address that was dialled, whoever called first."""
        link = self._links.get(peer)
        if link is None:
            return []  # let go by us
        link.addresses = (*link.addresses, address)[-MAX_NAMES:]
        link.chosen_at = min(link.chosen_at, now)
        self.view.drop(address)
        self._past.pop(address, None)
        self._heard_of(address, now)
        self._is_changed = True
        return [] if self._dialled.pop(address, None) is None else [Forget(address)]

    def disconnected(self, peer: PeerId, how: Parting, now: float) -> None:
        """Note the end of a session."""
        link = self._links.pop(peer, None)
        if link is None:
            return  # let go by us
        self._is_changed = True
        if how is Parting.LOST:
            self._remember(link, RETRIES)
            self._explore.restart(now)
            self._retry.restart(now, at_once=True)
        else:
            self._part(link, now, is_over=how is Parting.OVER)

    def told(self, teller: PeerId, message: Hints, now: float) -> None:
        """Take in what a neighbour knows, of which each address is worth a dial."""
        linked = self._linked()
        for hint in message.known:
            self._heard_of(hint.address, now - hint.age_s)
            if not (hint.address in linked or self._is_shunned(hint.address, now)):
                self.view.add(hint.address, teller, hint.age_s, now)
        self._is_changed |= self._num_needed() > 0

    def found(self, address: str, now: float) -> None:
        """Take in what no peer has told: it was found on the network."""
        if address not in self._linked():
            self.view.add(address, None, 0.0, now)
            self._is_changed = True

    def in_vain(self, address: str, now: float) -> list[Action]:
        """Dial another address than one that does not answer, or has no room, if there is one."""
        if address not in self._dialled or not self._candidates(now, ()):
            return []
        self._is_changed = True
        return self._give_up(address, now)

    def changed(self) -> None:
        """Note that neighbours have told of their links."""
        self._is_changed = True

    # What to do.

    def step(self, now: float, others_of: OthersOf, near: Iterable[str]) -> list[Action]:
        """Return what to dial, whom to let go and what to tell.

        Args:
            now: The time.
            others_of: How many links a neighbour has beside that with us.
            near: Addresses of the neighbours of neighbours.
        """
        if not self._is_changed and now < self._due_at:
            return []
        self._is_changed = False
        self._due_at = now + SETTLE_LIVES * self._liveness_s
        self._epoch += 1
        self.view.settle(now)
        actions: list[Action] = []
        for address, dialled in list(self._dialled.items()):
            if now >= dialled.until:
                actions += self._give_up(address, now)
        return [
            *actions,
            *self._dial_needed(now, near),
            *self._try_again(now),
            *self._look_around(now),
            *self._let_go(now, others_of),
            *self._tell(now),
        ]

    def _num_needed(self) -> int:
        """Return how many links are missing that nothing is dialled for."""
        chosen = sum(link.is_chosen for link in self._links.values())
        missing = max(self.cfg.links - len(self._links), self.cfg.own_links - chosen)
        return missing - sum(not dialled.explores for dialled in self._dialled.values())

    def _dial_needed(self, now: float, near: Iterable[str]) -> list[Action]:
        missing = self._num_needed()
        if missing <= 0:
            return []
        return [self._dial(a, now) for a in self._candidates(now, near)[:missing]]

    def _candidates(self, now: float, near: Iterable[str]) -> list[str]:
        """Return what may be dialled, the best first.

        What is told comes from far and mixes the mesh; the neighbours of neighbours, where all
        began and where we were come after it. Whoever knows no others shuns nobody for long.
        """
        for source in (self.view, near, (*self.cfg.seeds, *self._past)):
            if usable := self._usable(source, now):
                return sorted(usable, key=self._rank)
        if self._dialled or len(self._links) >= self.cfg.links:
            return []
        since = now - DIAL_LIVES * self._liveness_s if self._links else now
        known = {*self.view, *self.cfg.seeds, *self._past} - self._linked()
        ready = [a for a in known if self._shunned.get(a, NEVER)[0] <= since]
        return sorted(ready, key=lambda a: (self._shunned.get(a, NEVER), self._rank(a)))[:1]

    def _try_again(self, now: float) -> list[Action]:
        """Dial a neighbour that was lost: the network may have been cut, and be whole again."""
        lost = [a for a, tries in self._past.items() if tries and a not in self._dialled]
        if not lost or not self._retry.is_due(now):
            return []
        address = lost[0]
        self._past[address] = self._past.pop(address) - 1
        return [self._dial(address, now, explores=len(self._links) >= self.cfg.links)]

    def _look_around(self, now: float) -> list[Action]:
        """Dial one more, now of those told of and now of the past, to exchange a link for it.

        Where we began we only look again if nobody has been heard to be connected there for long:
        with so many others perhaps, of whom nobody knows us. So one address that all know is not
        dialled by all of a large fleet, or rarely.
        """
        if self._num_needed() > 0 or not self._explore.is_due(now):
            return []
        view, past = list(self.view), list(self._past)
        silent_s = SEED_LIVES * self._liveness_s
        unheard = [a for a, seed in self._seeds.items() if seed.is_unheard(now, silent_s)]
        for source in (unheard, *((view, past) if self._epoch % 2 else (past, view))):
            if usable := self._usable(source, now):
                return [self._dial(min(usable, key=self._rank), now, explores=True)]
        if {*view, *past} - self._linked():
            return []
        self._explore.restart(now)  # we know of nobody else: that may be few of many
        usable = self._usable(self._seeds, now)
        return [self._dial(a, now, explores=True) for a in sorted(usable, key=self._rank)[:1]]

    def _let_go(self, now: float, others_of: OthersOf) -> list[Action]:
        """Hang up on those with the most other links, where there are such."""
        swaps, self._num_swaps = self._num_swaps, 0
        if len(self._links) > self.cfg.max_links:
            since = now - GUEST_LIVES * self._liveness_s
            going = surplus(self.cfg, self._links, since, others_of, self._rank)
        else:
            # A link that was looked for takes the place of another, which is not missed.
            since = now - SETTLE_LIVES * self._liveness_s
            going = exchanged(self.cfg, self._links, swaps, since, others_of, self._rank)
        for peer in going:
            self._part(self._links.pop(peer), now)
        self._is_changed |= bool(going)
        return [HangUp(peer, is_surplus=True) for peer in going]

    def _tell(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for peer, link in self._links.items():
            if now < link.tell_at:
                continue
            link.tell_at = now + self._liveness_s
            hints = self._hints(peer, LATER_HINTS, now)
            if hints.known:
                actions.append(Send((peer,), hints))
        return actions

    def _hints(self, peer: PeerId, size: int, now: float) -> Hints:
        """Return some of what we know, for a neighbour: of our own neighbours, and of the view."""
        near = [
            link.known_at[0]
            for other, link in self._links.items()
            if other != peer and link.known_at
        ]

        def rank(address: str) -> bytes:
            return self._rank(f"{peer} {address}")

        chosen = sorted(near, key=rank)[: round(NEAR_SHARE * size)]
        far = self.view.sample(size - len(chosen), rank)
        ages = {address: int(self.view.age_s(address, now)) for address in far}
        ages |= dict.fromkeys(chosen, 0)
        its_own = self._links[peer].known_at
        told = (a for a in ages if a not in its_own and means_the_same_to_all(a))
        return Hints(tuple(Hint(a, ages[a]) for a in told))

    # The inside.

    def _dial(self, address: str, now: float, *, explores: bool = False) -> Action:
        self._dialled[address] = _Dialled(now + DIAL_LIVES * self._liveness_s, explores)
        if seed := self._seeds.get(address):
            seed.dialled_at = now
        return Dial(address)

    def _give_up(self, address: str, now: float) -> list[Action]:
        del self._dialled[address]
        self.view.drop(address)
        self._shun((address,), now, VAIN_LIVES)
        return [Forget(address)]

    def _part(self, link: Link, now: float, *, is_over: bool = False) -> None:
        self._shun(link.addresses, now, CROWDED_LIVES)
        if not is_over:
            self._remember(link, 0)

    def _remember(self, link: Link, tries: int) -> None:
        for address in (link.addresses or link.claimed)[:1]:
            self._past.pop(address, None)
            self._past[address] = tries
            if len(self._past) > MAX_PAST:
                del self._past[next(iter(self._past))]

    def _shun(self, addresses: Iterable[str], now: float, lives: float) -> None:
        for address in addresses:
            self._shunned.pop(address, None)
            self._shunned[address] = now, now + lives * self._liveness_s
        while len(self._shunned) > MAX_SHUNNED:
            del self._shunned[next(iter(self._shunned))]

    def _is_shunned(self, address: str, now: float) -> bool:
        _, until = self._shunned.get(address, NEVER)
        return now < until

    def _heard_of(self, address: str, alive_at: float) -> None:
        if seed := self._seeds.get(address):
            seed.heard_at = max(seed.heard_at, alive_at)

    def _usable(self, addresses: Iterable[str], now: float) -> set[str]:
        taken = self._linked() | self._dialled.keys()
        return {a for a in addresses if a not in taken and not self._is_shunned(a, now)}

    def _linked(self) -> set[str]:
        return {address for link in self._links.values() for address in link.addresses}

    def _rank(self, text: str) -> bytes:
        key = b"%d %s" % (self._epoch, text.encode())
        return hashlib.blake2b(key, key=self._secret[:64], digest_size=8).digest()
