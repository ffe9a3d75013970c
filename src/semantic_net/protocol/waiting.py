"""Why a peer is not further: what its round waits for, in words and by peer. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

from semantic_net.protocol.identity import PeerId, short_id
from semantic_net.protocol.machine import PeerMachine
from semantic_net.protocol.rounds import Phase

MAX_NAMED = 4
"""Peers or addresses that a sentence names; the rest is counted."""

_DOING = {
    Phase.TRAINING: "training",
    Phase.AUTHORING: "encoding and signing its update",
    Phase.FOLDING: "folding and evaluating",
    Phase.FINISHED: "done",
}

Name = Callable[[PeerId], str]


def why_waiting(machine: PeerMachine, now: float, name: Name = short_id) -> str:
    """Return what a peer is at, and what it waits for.

    Args:
        machine: Of the peer.
        now: The time.
        name: What people call a peer.
    """
    rounds = machine.rounds
    if rounds.phase in _DOING:
        return _DOING[rounds.phase]
    limit = _limit(rounds.deadline, now)
    if rounds.phase is Phase.STARTING:
        if rounds.waiting_for:
            return f"waiting for somebody to say hello at {_listed(rounds.waiting_for)}{limit}"
        if (settles_at := rounds.settles_at) is not None:
            found = machine.roster.num_known
            left_s = max(settles_at - now, 0)
            return f"found {found} peers; starting if nobody new turns up for {left_s:.0f} s"
        here, size = machine.sync.progress_of_all()
        part = f": {here:,} of {size:,} bytes" if size else ""
        return f"fetching what the others hold{part}{limit}"
    if rounds.phase is Phase.SERVING:
        return f"serving its updates until all peers hold the same{limit}"
    outstanding = rounds.outstanding(now)
    if outstanding:
        return f"waiting for {_listed([name(peer) for peer in outstanding])}{limit}"
    if not machine.roster.alive(now):
        return f"no peer is heard; waiting for one{limit}"
    if rounds.is_watching:
        return f"watching; nobody has published in this round yet{limit}"
    return f"about to close the round{limit}"


def why_waited_for(machine: PeerMachine, peer: PeerId) -> str:
    """Return why an update of this round is not here, of one that is `Rounds.outstanding`."""
    rounds = machine.rounds
    if (progress := machine.sync.progress(rounds.round, peer)) is not None:
        here, size = progress
        if size is None:
            return "its update is announced, and asked for"
        return f"its update is on the way: {here:,} of {size:,} bytes"
    body = machine.roster.latest(peer)
    if body is None or body.next_round > rounds.round:
        return "it has published, and nobody that is connected has its update yet"
    if 0 < body.round < rounds.round:
        return f"it is in round {body.round}"
    if peer not in machine.sync.neighbours():
        return "it was training when it was heard last"
    return "it is training"


def _limit(deadline: float | None, now: float) -> str:
    if deadline is None or math.isinf(deadline):
        return ""
    return f", at most {max(deadline - now, 0):.0f} s more"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
