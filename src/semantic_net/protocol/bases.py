"""Which base to stand on, and when to make a later one: compaction (DESIGN 2.8).

What everybody says of itself decides: each signs the set digest through its base's frontier, and
through one later round, its *mark*. A base with a later frontier is made, of one's own updates,
once every member has signed what one holds through it. Members are all that were heard of and did
not say goodbye, and the authors of what is held: somebody who is out of reach may come back with
updates of those rounds, and nobody could fold them in any more. Where the disk budget does not last
until then, those who are silent are not waited for.

So peers rarely stand on bases that contradict each other: when somebody comes late, has lost its
disk, or was out of reach for longer than the budget lasted. Then that base is taken over which more
live peers stand by, then the one that includes more updates, then the lower digest. All of it
follows from heartbeats that everyone hears, so everyone moves to the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from semantic_net.protocol.history import History
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.membership import Roster
from semantic_net.protocol.messages import HeartbeatBody
from semantic_net.protocol.update import MAX_ROUND, UpdateId
from semantic_net.protocol.update_set import UpdateSet


@dataclass(frozen=True, slots=True)
class Base:
    """What rounds are folded on."""

    digest: UpdateId
    """Hash of its transfer form."""
    given: bool
    """By hand (``--init``), not from a seed."""
    size: int
    """Bytes of its transfer form."""
    frontier: int
    """The last round that it includes; 0 for an origin."""
    set_digest: bytes
    """Through the frontier."""
    num_included: int = 0
    """Number of updates in it."""

    @classmethod
    def of(cls, digest: UpdateId, size: int, history: History, *, given: bool) -> Base:
        """Return the base with this history."""
        return cls(digest, given, size, history.frontier, history.set_digest, history.num_included)


@dataclass(frozen=True, slots=True)
class BaseConfig:
    """Of all bases of a run, and of this device."""

    every: int
    """A frontier is a multiple of it, in rounds."""
    origin_bytes: int
    """Size of an origin's transfer form."""
    max_bytes: int
    """Largest transfer form of any base."""
    budget_bytes: int | None = None
    """Payloads held from which on the silent are not waited for; None: they always are."""
    passed_bytes: int | None = None
    """Payloads that are kept of rounds that the base includes; None: any."""


@dataclass(frozen=True, slots=True)
class Due:
    """What `Bases.due` has found: a later base can be made."""

    frontier: int
    is_stable: bool
    """Nobody can come with more of the rounds up to there."""
    silent: tuple[PeerId, ...] = ()
    """Who is not waited for."""


class Bases:
    """The base that one peer stands on, and what the others say of theirs."""

    def __init__(
        self, cfg: BaseConfig, me: PeerId, base: Base, updates: UpdateSet, roster: Roster
    ) -> None:
        self._cfg = cfg
        self._me = me
        self.base = base
        self._updates = updates
        self._roster = roster

    def offered(self, body: HeartbeatBody) -> Base | None:
        """Return the base that a peer says it stands on; None if there is no such."""
        is_origin = body.frontier == 0
        size = self._cfg.origin_bytes if is_origin else body.base_bytes
        if size != body.base_bytes or size > self._cfg.max_bytes or len(body.base_set) != 32:
            return None
        if body.frontier % self._cfg.every or (is_origin and body.num_included):
            return None
        return Base(
            body.base, body.base_given, size, body.frontier, body.base_set, body.num_included
        )

    def is_wanted(self, base: Base, now: float, *, in_use: bool) -> bool:
        """Tell whether to take over a base.

        It must contradict ours: what we hold and what its peers hold can never become equal by
        updates alone. Of two such bases one that rounds have been folded on never yields to one
        that none have, so that a late joiner takes over what the others learned; of two that none
        have, one given by hand wins.

        Args:
            base: A live peer's.
            now: The time.
            in_use: Whether we have folded rounds on ours.
        """
        alive = self._roster.alive(now)
        if base.digest == self.base.digest or not any(
            body.base == base.digest and self._contradicts(body) for body in alive.values()
        ):
            return False
        return _rank(base, alive, 0) < _rank(self.base, alive, int(in_use))

    def mark(self, through: int, now: float) -> tuple[int, bytes]:
        """Return the round to sign the set digest of, and the digest; (0, b"") for none.

        Args:
            through: Nothing more of ours will come up to here.
            now: The time.
        """
        # What is signed through the frontier of the base that includes most shows everyone who
        # stands by it; that is of more use than a later mark.
        alive = self._roster.alive(now).values()
        most = max(alive, key=lambda b: (b.num_included, b.frontier), default=None)
        if most is not None and most.num_included > self.base.num_included:
            number = most.frontier
            digest = self._updates.digest_at(number) if 0 < number <= through else None
            if digest is not None:
                return number, digest
        number = through - through % self._cfg.every
        return (number, self._updates.set_digest(number)) if number > self._frontier else (0, b"")

    def due(self, through: int, now: float, *, all_met: bool) -> Due | None:
        """Return the latest frontier that a base can be made for, if it is later than ours.

        Args:
            through: The last round that we have closed.
            now: The time.
            all_met: Whether everybody that we were told of has been met.
        """
        latest = self._floor(through)
        if latest <= self._frontier:
            return None
        alive = self._roster.alive(now)
        for body in alive.values():
            latest = min(latest, self._floor(self._agreed(body)))
            if latest <= self._frontier:
                return None
        silent = {p: self._agreed(b) for p, b in self._roster.silent(now).items()}
        silent |= dict.fromkeys(self._updates.authors - self._roster.known - {self._me}, 0)
        behind = tuple(sorted(p for p, agreed in silent.items() if agreed < latest))
        stable = min([latest, *(self._floor(agreed) for agreed in silent.values())])
        if all_met and stable > self._frontier:
            return Due(stable, is_stable=True)
        budget = self._cfg.budget_bytes
        if alive and budget is not None and self._updates.payload_bytes > budget:
            return Due(latest, is_stable=False, silent=behind)
        return None

    @property
    def _frontier(self) -> int:
        return self.base.frontier

    def _floor(self, number: int) -> int:
        return number - number % self._cfg.every

    def _agreed(self, body: HeartbeatBody) -> int:
        """Return the last round through which a peer has signed that it holds what we hold."""
        return max(
            (n for n, digest in _claims(body) if digest == self._updates.digest_at(n)), default=0
        )

    def _contradicts(self, body: HeartbeatBody) -> bool:
        """Tell whether a peer's rounds differ from ours where one of us takes in nothing more."""
        if body.base_set != self._updates.digest_at(body.frontier):
            return True
        is_over = 0 < body.mark <= self._frontier
        return is_over and body.mark_set != self._updates.digest_at(body.mark)


def _claims(body: HeartbeatBody) -> Iterator[tuple[int, bytes]]:
    yield body.frontier, body.base_set
    if body.mark:
        yield body.mark, body.mark_set


def is_in_use(body: HeartbeatBody) -> bool:
    """Tell whether a peer has folded rounds on its base."""
    return body.round > 0 or 1 < body.next_round <= MAX_ROUND


def _rank(
    base: Base, alive: Mapping[PeerId, HeartbeatBody], num_others: int
) -> tuple[int, int, bool, UpdateId]:
    """Return what orders bases: the best first."""
    claim = (base.frontier, base.set_digest)
    num_users = num_others + sum(
        is_in_use(body) and claim in _claims(body) for body in alive.values()
    )
    is_seed = not base.given and not num_users
    return -num_users, -base.num_included, is_seed, base.digest
