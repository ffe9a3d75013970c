"""Who is dialled, when, and how long to wait after it failed.

One task an address: dial, wait until no session with the peer behind it is left, dial again.
Waits grow from dial to dial, with jitter, and start over once a session has lasted. Who is behind
an address only a dial shows that was answered with a proof: in its hello a stranger may write the
address of anybody, and at an address say to be anybody. What was learned is dialled in turns, and
given up where nobody proves to be.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from semantic_net.protocol.address import Address, parse_address
from semantic_net.protocol.handshake import (
    BUSY,
    DUPLICATE_CONNECTION,
    DUPLICATE_KEY,
    QUARANTINED,
    SELF,
    Refusal,
)
from semantic_net.protocol.identity import PeerId
from semantic_net.transport.base import Duplicate, Unreachable
from semantic_net.transport.connection import CLOSED, LOST, REPLACED, Connection, reason_of
from semantic_net.transport.dial_turns import DialTurns
from semantic_net.transport.hub import Hub
from semantic_net.transport.target import VAIN_DIALS, Target

log = logging.getLogger(__name__)

LASTING_S = 5.0
"""A session that lasted this long is redialled at once when it is lost, however often."""

FIRST_REFUSED_S = 1.0
"""Longest wait before the second dial of an address that refuses us."""

PASSING = (DUPLICATE_CONNECTION, DUPLICATE_KEY, BUSY, QUARANTINED)
"""Refusals that pass by themselves: sessions come up and end, an old instance falls silent."""

UNPROVEN_S = 600.0
"""Longest wait until an address is dialled again of which only its own word says that this very
peer is there, or one with whom there is a session. It doubles: who lies there for a while is
believed for as long again."""

STRANGERS_AT_ONCE, KNOWN_AT_ONCE = 8, 8
"""Most dials of learned addresses under way: each is an open file, perhaps for many seconds. Where
somebody has proven a key waits for no strangers."""

STRANGERS_BURST, STRANGERS_A_SECOND = 256, 4.0
"""Dials of strange addresses at once, as many as peers of a full mesh may be met at the start, and
from then on: they may all lead to somebody who has nothing to do with this run."""

TURN_S = 60.0
"""Longest wait of a strange address for its turn. Whoever knows of it may tell of it again."""

MAX_GIVEN_UP = 1024
"""Addresses that were given up and are remembered: they do not begin anew when told of again."""


class Dialer:
    """Keeps a session with whoever answers at each of a set of addresses."""

    def __init__(
        self, dial: Callable[[Address], Awaitable[Connection]], hub: Hub, rng: random.Random
    ) -> None:
        """Dial with ``dial``, which raises `OSError` when nobody answers."""
        self._dial = dial
        self._hub = hub
        self._rng = rng
        self._named = frozenset(map(parse_address, hub.settings.seeds))
        self._targets: dict[Address, Target] = {}
        self._given_up: dict[Address, Target] = {}  # in order
        self._said: dict[PeerId, list[str]] = {}  # where each with a session says that it listens
        self._strangers = DialTurns(
            STRANGERS_AT_ONCE, rng, burst=STRANGERS_BURST, a_second=STRANGERS_A_SECOND
        )
        self._known = DialTurns(KNOWN_AT_ONCE, rng)
        self._tasks: set[asyncio.Task[None]] = set()
        self._dials: set[asyncio.Future[Connection]] = set()
        self._closed = False
        hub.session_began = self._session_began
        hub.session_ended = self._session_ended
        hub.is_named = self._is_named

    def add(self, text: str, *, learned: bool) -> bool:
        """Dial an address from now on; tell whether there is room for it.

        Raises:
            ValueError: It is no address that can be dialled.
        """
        address = parse_address(text)
        if address.is_wildcard or not address.port:
            raise ValueError(f"{text!r} names no host and port that could be dialled")
        if self._closed:
            return True
        if target := self._targets.get(address):
            if learned or not target.learned:
                return True
            self._forget(target)  # from now on it waits for no others
        if learned and not self._room_for_learned():
            log.debug("%s is not dialled: too many learned addresses", address)
            return False
        again = self._given_up.pop(address, None) if learned else None
        is_named = not learned or address in self._named
        target = again or Target(address, learned, is_named)
        target.is_met |= any(str(address) in said for said in self._said.values())
        self._targets[address] = target
        target.task = asyncio.get_running_loop().create_task(
            self._keep_connected(target), name=f"dial {address}"
        )
        self._tasks.add(target.task)
        target.task.add_done_callback(self._tasks.discard)
        return True

    def is_named(self, address: Address) -> bool:
        """Tell whether the user has named an address that is dialled."""
        target = self._targets.get(address)
        return target is not None and target.is_named

    def look_again(self) -> None:
        """Dial once more what was given up: somebody else may be let in now, here or there."""
        for address in list(self._given_up):
            self.add(str(address), learned=True)

    def forget(self, text: str) -> None:
        """Dial a learned address no more; a session with its peer stays.

        Raises:
            ValueError: It is no address.
        """
        target = self._targets.get(parse_address(text))
        if target is not None and target.learned:
            self._forget(target)

    def _room_for_learned(self) -> bool:
        learned = [target for target in self._targets.values() if target.learned]
        if len(learned) < self._hub.settings.max_learned:
            return True
        refusing = [t for t in learned if t.is_strange and t.failures >= VAIN_DIALS]
        if not refusing:
            return False
        self._forget(max(refusing, key=lambda target: target.failures))
        return True

    def _forget(self, target: Target) -> None:
        del self._targets[target.address]
        if target.task is not None:
            target.task.cancel()

    def _give_up(self, target: Target) -> None:
        """Dial an address no more until somebody tells of it again, and then once."""
        if self._targets.get(target.address) is not target:
            return  # forgotten by who has just heard of a vain dial
        del self._targets[target.address]
        log.debug("%s is given up after %d dials", target.address, target.failures)
        if not target.failures:
            return  # it had no turn
        target.given_up_at = asyncio.get_running_loop().time()
        self._given_up[target.address] = target
        if len(self._given_up) > MAX_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    def unmet(self) -> tuple[str, ...]:
        """Return the addresses, learned ones apart, with whose peers there was no session yet."""
        return tuple(
            str(target.address)
            for target in self._targets.values()
            if not (target.is_met or target.is_self or target.learned)
        )

    def refused(self) -> frozenset[str]:
        """Return the addresses with whose peers there will be no session as things are."""
        return frozenset(str(t.address) for t in self._targets.values() if t.is_refused)

    def stop(self) -> None:
        """Dial no more; sessions stay."""
        self._closed = True
        self._strangers.close()
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Stop, and wait until nothing is under way."""
        self.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*self._dials, return_exceptions=True)
        self._targets.clear()

    def _session_began(self, peer: PeerId, addresses: list[str]) -> None:
        """Note with whom there is a session, whoever dialled.

        That somebody says it is at an address only ends the wait for a peer there, which may be one
        that nobody can dial. The dial goes on: at worst it ends as a duplicate.
        """
        self._said[peer] = addresses
        for target in self._targets.values():
            if target.peer == peer:
                target.is_met, target.is_refused = True, False
            elif str(target.address) in addresses:
                target.is_met = True

    def _is_named(self, peer: PeerId) -> bool:
        return any(t.peer == peer and not t.learned for t in self._targets.values())

    def _session_ended(self, peer: PeerId) -> None:
        self._said.pop(peer, None)
        for target in self._targets.values():
            if peer in (target.peer, target.claimed):
                target.wake.set()

    async def _keep_connected(self, target: Target) -> None:
        try:
            if target.given_up_at is not None:
                now = asyncio.get_running_loop().time()
                least_s = self._hub.settings.refused_backoff_s
                await asyncio.sleep(target.given_up_at + least_s - now)
            while True:
                wait_s = await self._connect(target)
                if wait_s is None:
                    break
                await asyncio.sleep(wait_s)
            self._give_up(target)
        except Exception as exc:  # a bug of ours must not end as a task that nobody looks at
            self._hub.failed(exc)

    async def _connect(self, target: Target) -> float | None:
        """Return the seconds to wait before the next dial, or None for no next one."""
        await self._no_session(target)
        if target.is_named:
            answer = await self._answer(target)
        elif target.is_strange:
            if not await self._strangers.take(target.failures, TURN_S):
                return None
            answer = await self._answer_in_turn(target, self._strangers)
        else:
            await self._known.take(target.failures)
            if target.peer in self._hub.table:
                self._known.give_back()  # it has called meanwhile
                return 0.0
            answer = await self._answer_in_turn(target, self._known)
        wait_s = await self._settle(target, answer)
        return None if target.is_hopeless else wait_s

    async def _answer_in_turn(self, target: Target, turns: DialTurns) -> Connection | str:
        try:
            return await self._answer(target)
        finally:
            turns.give_back()

    async def _answer(self, target: Target) -> Connection | str:
        """Dial, and return a connection of which the handshake is over, or what went wrong."""
        try:
            connection = await self._open(target.address)
        except (OSError, ValueError) as exc:  # no text that a stranger tells of ends the process
            return reason_of(exc)
        outcome = await connection.outcome
        return outcome if isinstance(outcome, str) else connection

    async def _settle(self, target: Target, answer: Connection | str) -> float:
        """Make of an answer what it is worth; return the seconds to wait then."""
        target.is_self = False
        if isinstance(answer, str):
            return self._unreachable(target, answer)
        outcome, peer = answer.outcome.result(), answer.peer
        said_no = isinstance(outcome, Refusal) and not outcome.by_us
        target.is_answered = said_no or peer is not None or answer.device is not None
        if answer.is_proven:
            target.peer = peer
        if not isinstance(outcome, Refusal):
            return await self._connected(target, answer)
        if outcome.code == SELF and outcome.by_us:
            return self._oneself(target)
        if outcome.code == DUPLICATE_CONNECTION and peer is not None and peer in self._hub.table:
            target.is_met = True  # it may call itself by another name than we do
            if answer.is_proven or self._agree(peer, target.address):
                return self._duplicate(target, peer)
            return await self._said_to_be_duplicate(target, peer)
        return self._refused(target, outcome, answer)

    async def _open(self, address: Address) -> Connection:
        # `asyncio.wait_for` of Python 3.10 and 3.11 can swallow a cancellation; this cannot.
        dial = asyncio.ensure_future(self._dial(address))
        self._dials.add(dial)
        dial.add_done_callback(self._dial_over)
        timeout_s = self._hub.settings.connect_timeout_s
        try:
            await asyncio.wait({dial}, timeout=timeout_s)
            if dial.done():
                return dial.result()
        finally:
            dial.cancel()
        raise TimeoutError(f"no answer within {timeout_s:g} s")

    def _dial_over(self, dial: asyncio.Future[Connection]) -> None:
        self._dials.discard(dial)
        if not dial.cancelled():
            dial.exception()  # seen, even where nobody waits for it any more

    async def _no_session(self, target: Target) -> None:
        while target.peer in self._hub.table:
            target.wake.clear()
            await target.wake.wait()

    async def _connected(self, target: Target, connection: Connection) -> float:
        target.reported, target.is_met, target.is_refused = None, True, False
        target.unproven = 0
        began_s = asyncio.get_running_loop().time()
        await self._no_session(target)
        if asyncio.get_running_loop().time() - began_s >= LASTING_S:
            target.failures = 0
        failures, target.failures = target.failures, target.failures + 1
        if connection.end_code not in (LOST, CLOSED, REPLACED):
            return self._refused_s(target.failures)  # one side had its reasons
        return self._backoff_s(failures) if failures else 0.0

    def _unreachable(self, target: Target, reason: str) -> float:
        target.is_refused = False  # it may come back as one that fits
        if target.reported != reason:
            target.reported = reason
            self._hub.report(Unreachable(str(target.address), reason, target.peer))
        target.failures += 1
        strange = target.is_strange
        return self._refused_s(target.failures) if strange else self._backoff_s(target.failures)

    def _oneself(self, target: Target) -> float:
        """Look again later whoever says that it is we: whatever returns our words can say that."""
        target.is_self, target.is_refused = True, False
        target.failures += 1
        target.unproven += 1
        return self._waiting_s(target.unproven, FIRST_REFUSED_S, UNPROVEN_S)

    def _agree(self, peer: PeerId, address: Address) -> bool:
        """Tell whether a peer, in its session, says that it is where somebody says to be that peer.

        One end refuses a second connection before it has proven its key, but no other than the peer
        itself has us believe both.
        """
        return str(address) in self._said.get(peer, ())

    def _duplicate(self, target: Target, peer: PeerId) -> float:
        """Wait for the end of the session that is there, whoever dialled it."""
        target.peer, target.unproven = peer, 0
        self._hub.report(Duplicate(str(target.address), peer))
        return 0.0

    async def _said_to_be_duplicate(self, target: Target, peer: PeerId) -> float:
        """Wait for the end of a session, but not for long: who says so may not be that peer."""
        target.unproven += 1
        longest_s = self._waiting_s(target.unproven, FIRST_REFUSED_S, UNPROVEN_S)
        target.claimed = peer
        target.wake.clear()
        late = asyncio.get_running_loop().call_later(longest_s, target.wake.set)
        try:
            await target.wake.wait()
        finally:
            late.cancel()
            target.claimed = None
        return 0.0

    def _refused(self, target: Target, refusal: Refusal, connection: Connection) -> float:
        passes = refusal.code in PASSING
        target.is_refused = not passes
        if target.reported != refusal.reason:
            target.reported = refusal.reason
            address, device = str(target.address), connection.device
            self._hub.report_refusal(address, refusal, connection.peer, device, dialled=True)
        target.failures += 1
        return self._backoff_s(target.failures) if passes else self._refused_s(target.failures)

    def _backoff_s(self, failures: int) -> float:
        settings = self._hub.settings
        return self._waiting_s(failures, settings.first_backoff_s, settings.max_backoff_s)

    def _refused_s(self, failures: int) -> float:
        return self._waiting_s(failures, FIRST_REFUSED_S, self._hub.settings.refused_backoff_s)

    def _waiting_s(self, failures: int, first_s: float, max_s: float) -> float:
        longest_s = min(max_s, first_s * 2.0 ** min(failures - 1, 30))
        return longest_s * self._rng.uniform(0.5, 1.0)
