"""Which base to stand on, and when to make a later one: compaction.

What everybody says of itself decides: each signs the set digest through its base's frontier,
through those of others' bases, and through a later round: its *marks*. A base with a later frontier
is made, of one's own updates, once every member has signed what one holds through it. Members are
all that were heard of and did not say goodbye, and the authors of what is held: somebody who is out
of reach may come back with updates of those rounds, and nobody could fold them in any more. Where
the disk budget does not last until then, those who are silent are not waited for.

So peers rarely stand on bases that contradict each other: when somebody comes late, has lost its
disk, or was out of reach for longer than the budget lasted. Then that base is taken over which more
live peers stand by, then the one that includes more updates, then the lower digest. Whoever stands
on a later base that goes on from this one, or signs what it includes, stands by it too; of two of
which one goes on from the other, the earlier has only those who do not go that way. All of it
follows from heartbeats that everyone hears, so everyone moves to the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from semantic_net.protocol.history import History
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.messages import MAX_MARKS, HeartbeatBody, Mark
from semantic_net.protocol.roster import Roster
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
    own_passed_bytes: int | None = None
    """Own payloads that are kept of rounds that the base includes; None: any."""
    others_passed_bytes: int | None = None
    """Payloads of others that are."""
    max_liars: int = 0
    """Devices that may stand on something else than they say."""
    knows_all: bool = True
    """Everybody is heard of. In a large fleet only neighbours are, and whose turn it is: then
    members are those, and a base is made a while later, when what comes late has come."""

    @property
    def margin(self) -> int:
        """Rounds that have to be closed beyond a frontier before its base is made."""
        return 0 if self.knows_all else self.every


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
        have, one given by hand wins. Where some may lie, more than those have to stand on it.

        Args:
            base: A live peer's.
            now: The time.
            in_use: Whether we have folded rounds on ours.
        """
        alive = self._roster.alive(now)
        if base.digest == self.base.digest or not any(
            self.offered(body) == base and self._contradicts(body) for body in alive.values()
        ):
            return False
        if self._cfg.max_liars and not self._has_vouchers(base, alive):
            return False
        if _claim(base) == _claim(self.base):
            # Equal sets fold to equal states: one of the two is a lie, or an error.
            return self._num_on(base, alive) > self._num_on(self.base, alive) + int(in_use)
        rivals = (other for body in alive.values() if (other := self.offered(body)) is not None)
        same = {other.digest: other for other in rivals if _claim(other) == _claim(base)}
        if any(self._num_on(o, alive) > self._num_on(base, alive) for o in same.values()):
            return False
        theirs = self._standing_by(base, alive, in_use=in_use)
        ours = self._standing_by(self.base, alive, in_use=in_use)
        # Where one base goes on from the other, who stands by the later one stands by both.
        if base.frontier < self._frontier:
            theirs -= ours
        else:
            ours -= theirs
        by = self._roster.num_devices
        return _rank(base, by(theirs)) < _rank(self.base, by(ours))

    def marks(self, through: int, now: float) -> tuple[Mark, ...]:
        """Return the rounds to sign the set digests of, with the digests.

        What is signed through the frontier of another base shows everyone who stands by that one
        as well, though on a base of its own; the last one is for the next base to come.

        Args:
            through: Nothing more of ours will come up to here.
            now: The time.
        """
        alive = self._roster.alive(now).values()
        stood_by = Counter(body.frontier for body in alive)
        for number in {through, through - self._cfg.margin}:
            stood_by[self._floor(number)] += len(alive) + 1  # in any case
        included = {body.frontier: body.num_included for body in alive}
        ranked = sorted(stood_by, key=lambda n: (-stood_by[n], -included.get(n, 0), n))
        marks = [
            (number, digest)
            for number in ranked
            if 0 < number <= through
            and number != self._frontier
            and (digest := self._updates.digest_at(number)) is not None
        ]
        return tuple(sorted(marks[:MAX_MARKS]))

    def due(self, through: int, now: float, *, all_met: bool) -> Due | None:
        """Return the latest frontier that a base can be made for, if it is later than ours.

        Args:
            through: The last round that we have closed.
            now: The time.
            all_met: Whether everybody that we were told of has been met.
        """
        latest = self._floor(through - self._cfg.margin)
        if latest <= self._frontier:
            return None
        budget = self._cfg.budget_bytes
        is_over = budget is not None and self._updates.payload_bytes > budget
        alive = {p: self._agreed(b) for p, b in self._roster.alive(now).items()}
        ignored = self._furthest_behind(alive) if is_over else set()
        for peer in alive.keys() - ignored:
            latest = min(latest, self._floor(alive[peer]))
            if latest <= self._frontier:
                return None
        silent = {p: self._agreed(b) for p, b in self._roster.silent(now).items()}
        silent |= {peer: alive[peer] for peer in ignored}
        if self._cfg.knows_all:
            silent |= dict.fromkeys(self._updates.authors - self._roster.known - {self._me}, 0)
        behind = tuple(sorted(p for p, agreed in silent.items() if agreed < latest))
        stable = min([latest, *(self._floor(agreed) for agreed in silent.values())])
        agreed = alive | silent
        if all_met and stable > self._frontier and self._has_enough(agreed, stable):
            return Due(stable, is_stable=True)
        if alive and is_over and self._has_enough(agreed, latest):
            return Due(latest, is_stable=False, silent=behind)
        return None

    def _has_enough(self, agreed: Mapping[PeerId, int], frontier: int) -> bool:
        """Tell whether one that does not lie, beside us, may stand on what we would make.

        Where some may lie, nobody takes over what too few stand on: of bases that contradict each
        other none would ever yield.
        """
        standing = {peer for peer, number in agreed.items() if number >= frontier}
        return self._roster.num_devices({*standing, self._me}) > self._cfg.max_liars

    def _furthest_behind(self, agreed: Mapping[PeerId, int]) -> set[PeerId]:
        """Return the peers of as many devices as may lie, those that agree with least of ours."""
        by_device: dict[PeerId, int] = {}
        for peer, number in agreed.items():
            whose = self._roster.device_of(peer)
            by_device[whose] = min(by_device.get(whose, number), number)
        worst = sorted(by_device, key=lambda device: (by_device[device], device))
        left_out = set(worst[: self._cfg.max_liars])
        return {peer for peer in agreed if self._roster.device_of(peer) in left_out}

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

    def _standing_by(
        self, base: Base, alive: Mapping[PeerId, HeartbeatBody], *, in_use: bool
    ) -> set[PeerId]:
        """Return who has folded rounds and has signed what a base includes, ourselves as well."""
        claim = _claim(base)
        peers = {p for p, body in alive.items() if is_in_use(body) and claim in _claims(body)}
        if in_use and self._updates.digest_at(base.frontier) == base.set_digest:
            peers.add(self._me)
        return peers

    def _num_on(self, base: Base, alive: Mapping[PeerId, HeartbeatBody]) -> int:
        """Return how many have folded rounds on this very base, and not on one of an equal set."""
        on_it = (p for p, b in alive.items() if is_in_use(b) and b.base == base.digest)
        return self._roster.num_devices(on_it)

    def _has_vouchers(self, base: Base, alive: Mapping[PeerId, HeartbeatBody]) -> bool:
        """Tell whether more devices than may lie vouch for a base.

        That is, stand on this very one. Where the honest ones are apart, each on a later base than
        the other, there is none such: then those count that have signed what it includes.
        """
        if self._num_vouching(base, alive) > self._cfg.max_liars:
            return True
        others = (other for body in alive.values() if (other := self.offered(body)) is not None)
        if any(self._num_vouching(other, alive) > self._cfg.max_liars for other in others):
            return False
        signed = self._standing_by(base, alive, in_use=False)
        return self._roster.num_devices(signed) > self._cfg.max_liars

    def _num_vouching(self, base: Base, alive: Mapping[PeerId, HeartbeatBody]) -> int:
        is_origin = base.frontier == 0
        on_it = (
            p for p, b in alive.items() if b.base == base.digest and (is_origin or is_in_use(b))
        )
        return self._roster.num_devices(on_it)

    def _contradicts(self, body: HeartbeatBody) -> bool:
        """Tell whether a peer's rounds differ from ours where one of us takes in nothing more."""
        if body.base_set != self._updates.digest_at(body.frontier):
            return True
        if body.frontier == self._frontier and body.base != self.base.digest:
            return True
        if body.frontier >= self._frontier:
            return False  # set digests are a chain: through no earlier round can they differ
        over = ((n, digest) for n, digest in body.marks if n <= self._frontier)
        return any(digest != self._updates.digest_at(n) for n, digest in over)


def _claim(base: Base) -> Mark:
    return base.frontier, base.set_digest


def _claims(body: HeartbeatBody) -> tuple[Mark, ...]:
    return (body.frontier, body.base_set), *body.marks


def is_in_use(body: HeartbeatBody) -> bool:
    """Tell whether a peer has folded rounds on its base."""
    return body.round > 0 or 1 < body.next_round <= MAX_ROUND


def _rank(base: Base, num_standing_by: int) -> tuple[int, int, bool, UpdateId]:
    """Return what orders two bases: the better first."""
    is_seed = not base.given and not num_standing_by
    return -num_standing_by, -base.num_included, is_seed, base.digest
