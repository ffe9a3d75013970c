"""Tells what a running peer is at: the machine, the links and what the transport has said, as one
`Status`, once a second at most.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from semantic_net.protocol.handshake import REFUSAL_CODES
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.machine import PeerMachine
from semantic_net.protocol.messages import HeartbeatBody
from semantic_net.protocol.rounds import Phase
from semantic_net.protocol.waiting import Name, why_waited_for, why_waiting
from semantic_net.status import DeviceVitals, PeerStatus, Status
from semantic_net.transport.base import (
    Connected,
    Disconnected,
    Duplicate,
    LinkTotals,
    Refused,
    Traffic,
    TransportEvent,
    Unreachable,
)

MAX_SHOWN = 256
"""Peers in a status; of more, those that are alive first."""

MAX_PROBLEMS = 256
"""Peers or addresses of which the last problem is remembered."""


@dataclass(slots=True)
class StatusKeeper:
    """Remembers what the machine forgets: since when a phase lasts, and why somebody is away."""

    machine: PeerMachine
    name: Name
    run: str
    task: str
    rounds: int
    address: str = ""
    """Where the peer listens, once it does."""
    _phase: tuple[Phase, int] = (Phase.STARTING, 0)
    _phase_began: float | None = None
    _problems: dict[str, str] = field(default_factory=dict)
    """By peer id or by address."""

    def saw(self, event: TransportEvent) -> None:
        """Note why somebody is not connected, or that it is."""
        if isinstance(event, Connected | Duplicate):
            self._problems.pop(event.peer, None)
            self._problems.pop(event.address, None)
        elif isinstance(event, Disconnected):
            whose = "we hung up" if event.by_us else "it hung up"
            why = f"{whose}: {event.reason}" if event.code in REFUSAL_CODES else event.reason
            self._note(event.peer, why)
        elif isinstance(event, Refused):
            verb = "we refuse it" if event.by_us else "it refuses us"
            self._note(event.peer or event.address, f"{verb}: {event.reason}")
            self._note(event.address, f"{verb}: {event.reason}")
        elif isinstance(event, Unreachable):
            self._note(event.address, event.reason)
            if event.peer is not None:
                self._note(event.peer, event.reason)

    def _note(self, whose: str, problem: str) -> None:
        self._problems.pop(whose, None)
        self._problems[whose] = problem
        if len(self._problems) > MAX_PROBLEMS:
            del self._problems[next(iter(self._problems))]

    def status(
        self,
        now: float,
        links: Mapping[PeerId, LinkTotals],
        traffic: Traffic,
        unmet: tuple[str, ...],
        device: DeviceVitals | None,
    ) -> Status:
        """Return what the peer is at.

        Args:
            now: By the clock of the machine.
            links: Of the transport, with all connected peers.
            traffic: Of the transport.
            unmet: Addresses at which nobody has said hello.
            device: How this device fares.
        """
        machine, rounds = self.machine, self.machine.rounds
        if self._phase_began is None or self._phase != (rounds.phase, rounds.round):
            self._phase, self._phase_began = (rounds.phase, rounds.round), now
        known = machine.roster.known | links.keys()
        alive = machine.roster.alive(now).keys()
        shown = sorted(known, key=lambda each: (each not in alive, each))[:MAX_SHOWN]
        # Asked for once: the loop has better to do, and anyone can make up a thousand peers.
        outstanding = frozenset(rounds.outstanding(now))
        deadline = rounds.deadline
        return Status(
            peer=machine.me,
            pid=os.getpid(),
            run=self.run,
            task=self.task,
            address=self.address,
            written_at=round(time.time(), 3),
            phase=rounds.phase.value,
            round=rounds.round,
            rounds=self.rounds,
            doing=why_waiting(machine, now, self.name),
            phase_s=round(now - self._phase_began, 1),
            deadline_s=None
            if deadline is None or deadline == float("inf")
            else round(max(deadline - now, 0.0), 1),
            bytes_sent=traffic.bytes_sent,
            bytes_received=traffic.bytes_received,
            peers=[
                self._peer(
                    peer,
                    now,
                    links.get(peer),
                    is_alive=peer in alive,
                    is_waited_for=peer in outstanding,
                )
                for peer in shown
            ],
            num_peers=len(known),
            unmet={address: self._problems.get(address, "") for address in unmet},
            device=device,
        )

    def _peer(
        self,
        peer: PeerId,
        now: float,
        link: LinkTotals | None,
        *,
        is_alive: bool,
        is_waited_for: bool,
    ) -> PeerStatus:
        machine = self.machine
        body: HeartbeatBody | None = machine.roster.latest(peer)
        heard_s = machine.roster.silence_of(peer, now)
        vitals = machine.vitals.latest(peer)
        return PeerStatus(
            peer=peer,
            name=self.name(peer),
            is_connected=link is not None,
            is_alive=is_alive,
            has_left=machine.has_left(peer),
            heard_s=None if heard_s is None else round(heard_s, 1),
            round=0 if body is None else body.round,
            closed_round=0 if body is None else body.closed_round,
            agrees=None if body is None else machine.agrees(body),
            waited_for=why_waited_for(machine, peer) if is_waited_for else "",
            problem="" if link is not None else self._problems.get(peer, ""),
            sent_bytes=0 if link is None else link.sent_bytes,
            bytes_per_s=None
            if link is None or link.busy_s <= 0
            else round(link.sent_bytes / link.busy_s, 1),
            last=None if vitals is None else vitals.last,
            device=None if vitals is None else vitals.device,
        )
