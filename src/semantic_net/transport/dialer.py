"""Who is dialled, when, and how long to wait after it failed.

One task an address: dial, wait until no session with the peer behind it is left, dial again.
Waits grow from dial to dial, with jitter, and start over once a session has lasted. Who is behind
an address only a dial shows: in its hello a stranger may write the address of anybody.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from semantic_net.protocol.handshake import (
    BUSY,
    DUPLICATE_CONNECTION,
    DUPLICATE_KEY,
    QUARANTINED,
    SELF,
    Refusal,
)
from semantic_net.protocol.identity import PeerId
from semantic_net.transport.address import Address, parse_address
from semantic_net.transport.base import Duplicate, Unreachable
from semantic_net.transport.connection import CLOSED, LOST, REPLACED, Connection, reason_of
from semantic_net.transport.hub import Hub

log = logging.getLogger(__name__)

LASTING_S = 5.0
"""A session that lasted this long is redialled at once when it is lost, however often."""

FIRST_REFUSED_S = 1.0
"""Longest wait before the second dial of an address that refuses us."""

PASSING = (DUPLICATE_CONNECTION, DUPLICATE_KEY, BUSY, QUARANTINED)
"""Refusals that pass by themselves: sessions come up and end, an old instance falls silent."""

HOPELESS_DIALS = 20
"""Dials after which a learned address that has never answered is tried less often, and gives way
to others when there are too many."""


@dataclass(eq=False, slots=True)
class _Target:
    address: Address
    learned: bool
    task: asyncio.Task[None] | None = None
    peer: PeerId | None = None
    """Who answered there last, when we dialled it."""
    is_met: bool = False
    """There has been a session with it, or with somebody who said that it listens there."""
    is_refused: bool = False
    """One end has turned the other away, for a reason that does not pass by itself."""
    failures: int = 0
    """In a row; sessions that did not last count."""
    reported: str | None = None
    """What the handler was told last, so that it is told once."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_hopeless(self) -> bool:
        """Whether somebody told us of an address where nobody ever was."""
        return self.learned and self.peer is None and self.failures >= HOPELESS_DIALS


class Dialer:
    """Keeps a session with whoever answers at each of a set of addresses."""

    def __init__(
        self, dial: Callable[[Address], Awaitable[Connection]], hub: Hub, rng: random.Random
    ) -> None:
        """Dial with ``dial``, which raises `OSError` when nobody answers."""
        self._dial = dial
        self._hub = hub
        self._rng = rng
        self._targets: dict[Address, _Target] = {}
        self._own: set[Address] = set()
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
        if self._closed or address in self._own:
            return True
        if target := self._targets.get(address):
            target.learned = target.learned and learned
            return True
        if learned and not self._room_for_learned():
            log.debug("%s is not dialled: too many learned addresses", address)
            return False
        target = self._targets[address] = _Target(address, learned)
        target.task = asyncio.get_running_loop().create_task(
            self._keep_connected(target), name=f"dial {address}"
        )
        self._tasks.add(target.task)
        target.task.add_done_callback(self._tasks.discard)
        return True

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
        hopeless = [target for target in learned if target.is_hopeless]
        if not hopeless:
            return False
        self._forget(max(hopeless, key=lambda target: target.failures))
        return True

    def _forget(self, target: _Target) -> None:
        del self._targets[target.address]
        if target.task is not None:
            target.task.cancel()

    def unmet(self) -> tuple[str, ...]:
        """Return the addresses, learned ones apart, with whose peers there was no session yet."""
        return tuple(
            str(target.address)
            for target in self._targets.values()
            if not (target.is_met or target.learned)
        )

    def refused(self) -> frozenset[str]:
        """Return the addresses with whose peers there will be no session as things are."""
        return frozenset(str(t.address) for t in self._targets.values() if t.is_refused)

    def stop(self) -> None:
        """Dial no more; sessions stay."""
        self._closed = True
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
        for target in self._targets.values():
            if target.peer == peer:
                target.is_met, target.is_refused = True, False
            elif str(target.address) in addresses:
                target.is_met = True

    def _is_named(self, peer: PeerId) -> bool:
        return any(t.peer == peer and not t.learned for t in self._targets.values())

    def _session_ended(self, peer: PeerId) -> None:
        for target in self._targets.values():
            if target.peer == peer:
                target.wake.set()

    async def _keep_connected(self, target: _Target) -> None:
        try:
            while True:
                wait_s = await self._connect(target)
                if wait_s is None:
                    break
                await asyncio.sleep(wait_s)
            self._targets.pop(target.address, None)
        except Exception as exc:  # a bug of ours must not end as a task that nobody looks at
            self._hub.failed(exc)

    async def _connect(self, target: _Target) -> float | None:
        """Return the seconds to wait before the next dial, or None for no next one."""
        await self._no_session(target)
        try:
            connection = await self._open(target.address)
        except (OSError, ValueError) as exc:  # no text that a stranger tells of ends the process
            return self._unreachable(target, reason_of(exc))
        outcome = await connection.outcome
        if isinstance(outcome, str):
            return self._unreachable(target, outcome)
        target.peer = connection.peer
        if isinstance(outcome, Refusal):
            return self._refused(target, outcome, connection.device)
        return await self._connected(target, connection)

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

    async def _no_session(self, target: _Target) -> None:
        while target.peer in self._hub.table:
            target.wake.clear()
            await target.wake.wait()

    async def _connected(self, target: _Target, connection: Connection) -> float:
        target.reported, target.is_met, target.is_refused = None, True, False
        began_s = asyncio.get_running_loop().time()
        await self._no_session(target)
        if asyncio.get_running_loop().time() - began_s >= LASTING_S:
            target.failures = 0
        failures, target.failures = target.failures, target.failures + 1
        if connection.end_code not in (LOST, CLOSED, REPLACED):
            return self._refused_s(target.failures)  # one side had its reasons
        return self._backoff_s(failures) if failures else 0.0

    def _unreachable(self, target: _Target, reason: str) -> float:
        target.is_refused = False  # it may come back as one that fits
        if target.reported != reason:
            target.reported = reason
            self._hub.report(Unreachable(str(target.address), reason, target.peer))
        target.failures += 1
        if target.is_hopeless:
            return self._hub.settings.refused_backoff_s * self._rng.uniform(0.5, 1.0)
        return self._backoff_s(target.failures)

    def _refused(self, target: _Target, refusal: Refusal, device: PeerId | None) -> float | None:
        if refusal.code == SELF and refusal.by_us:
            self._own.add(target.address)
            return None
        passes = refusal.code in PASSING
        target.is_refused = not passes
        if refusal.code == DUPLICATE_CONNECTION and target.peer in self._hub.table:
            assert target.peer is not None, "no session is with nobody"
            target.is_met = True  # it may call itself by another name than we do
            self._hub.report(Duplicate(str(target.address), target.peer))
            return 0.0  # its session is there, whoever dialled it; wait for its end
        if target.reported != refusal.reason:
            target.reported = refusal.reason
            address, peer = str(target.address), target.peer
            self._hub.report_refusal(address, refusal, peer, device, dialled=True)
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
