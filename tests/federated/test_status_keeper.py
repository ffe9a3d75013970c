"""What a peer says that it is at: from its machine, its links and what the transport told."""

from __future__ import annotations

from typing import Any

import pytest
from monitoring_support import make_status
from protocol_support import (
    ADMISSION,
    BASE,
    BASES,
    heartbeat,
    heartbeat_body,
    origin,
    signer,
    update,
)

from semantic_net.federated.status import MAX_PROBLEMS, StatusKeeper
from semantic_net.monitoring.status_text import status_text
from semantic_net.protocol.actions import Author, Train
from semantic_net.protocol.handshake import Hello
from semantic_net.protocol.history import history_of_origin
from semantic_net.protocol.identity import PeerId, Signer, short_id
from semantic_net.protocol.machine import MachineConfig, PeerMachine
from semantic_net.protocol.messages import Have, HaveEntry
from semantic_net.protocol.rounds import RoundsConfig
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.protocol.vitals import Vitals, VitalSigns
from semantic_net.status import DeviceVitals, LastRound, PeerStatus, Status
from semantic_net.transport.base import (
    Connected,
    Disconnected,
    Duplicate,
    LinkTotals,
    Refused,
    Traffic,
    Unreachable,
)

ME, ALICE, BOB = signer("me"), signer("alice"), signer("bob")
A, B = ALICE.peer_id, BOB.peer_id


def machine() -> PeerMachine:
    cfg = MachineConfig(
        rounds=RoundsConfig(rounds=9, listen_timeout_s=60, start_timeout_s=120),
        bases=BASES,
        admission=ADMISSION,
        incarnation=5,
        heartbeat_s=1,
        liveness_s=10,
        watches=True,
    )
    return PeerMachine(cfg, ME, origin(BASE), UpdateSet(history_of_origin(BASE)))


def keeper(of: PeerMachine) -> StatusKeeper:
    return StatusKeeper(of, short_id, run="field", task="disaster", rounds=9)


def told(of: StatusKeeper, now: float, *, connected: tuple[str, ...] = (A, B)) -> Status:
    links = {peer: LinkTotals(4000, 2.0, 0) for peer in connected}
    return of.status(now, links, Traffic(10, 20), of.machine.rounds.waiting_for, None)  # type: ignore[arg-type]  # peer ids


def about(status: Status, peer: str) -> PeerStatus:
    [found] = [each for each in status.peers if each.peer == peer]
    return found


_sequence = iter(range(1, 1000))


def hear(of: PeerMachine, who: Signer, now: float, **says: Any) -> None:
    of.received(who.peer_id, heartbeat(who, heartbeat_body(sequence=next(_sequence), **says)), now)
    of.look(now)


def collecting() -> PeerMachine:
    """Return a machine that has published in round 1, and waits for two others."""
    made = machine()
    made.rounds.waiting_for = ("10.0.0.9:5000",)
    made.start(0.0)
    for who in (ALICE, BOB):
        made.connected(who.peer_id, 0.0)
        made.received(who.peer_id, Have((), True), 0.0)
        hear(made, who, 0.0, ready=True, next_round=1, round_index=1)
    made.waiting_for((), 1.0)
    [author] = [a for a in made.trained(5.0) if isinstance(a, Author)]
    made.authored(update(ME, author.round), 6.0)
    return made


def test_at_the_start_it_says_for_whom_it_waits_and_why() -> None:
    made = machine()
    made.rounds.waiting_for = ("10.0.0.9:5000", "10.0.0.8:5000")
    made.start(0.0)
    kept = keeper(made)
    kept.saw(Unreachable("10.0.0.9:5000", "Connection refused"))
    status = told(kept, 20.0, connected=())
    assert (status.phase, status.round, status.rounds) == ("starting", 0, 9)
    assert status.doing == (
        "waiting for somebody to say hello at 10.0.0.9:5000, 10.0.0.8:5000, at most 100 s more"
    )
    assert status.unmet == {"10.0.0.9:5000": "Connection refused", "10.0.0.8:5000": ""}
    assert status.deadline_s == 100.0


def test_while_it_collects_it_says_of_each_why_it_is_waited_for() -> None:
    made = collecting()
    kept = keeper(made)
    status = told(kept, 8.0)
    assert status.phase == "collecting"
    names = ", ".join(sorted(map(short_id, (A, B))))
    assert status.doing == f"waiting for {names}, at most 58 s more"
    assert about(status, A).waited_for == "it is training"

    theirs = update(ALICE, 1)
    made.received(A, Have((HaveEntry(1, A, theirs.id),), False), 9.0)
    made.look(9.0)
    assert about(told(kept, 9.0), A).waited_for == "its update is announced, and asked for"
    made.received(A, theirs.message, 9.5)
    made.look(9.5)
    size = theirs.payload_bytes
    assert about(told(kept, 9.5), A).waited_for == (
        f"its update is on the way: 0 of {size:,} bytes"
    )
    made.disconnected(B, 9.7)
    gone = about(told(kept, 9.7, connected=(A,)), B)
    assert gone.waited_for == "it was training when it was heard last"
    status = told(kept, 10.5)
    assert not about(status, A).is_alive
    assert about(status, B).waited_for == "", "nobody waits for who is gone"


def test_a_status_asks_once_for_whom_the_round_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for each peer: it is told once a second, in the loop, with a thousand peers, too."""
    made = collecting()
    asked: list[float] = []
    outstanding = made.rounds.outstanding

    def counted(now: float) -> tuple[PeerId, ...]:
        asked.append(now)
        return outstanding(now)

    monkeypatch.setattr(made.rounds, "outstanding", counted)
    told(keeper(made), 8.0)
    assert len(asked) <= 2, "for the peers, and for the sentence"


def test_how_long_a_phase_lasts_begins_anew_with_each() -> None:
    made = machine()
    made.rounds.waiting_for = ("10.0.0.9:5000",)
    kept = keeper(made)
    made.start(0.0)
    assert told(kept, 1.0).phase_s == 0
    assert told(kept, 4.0).phase_s == 3.0
    assert any(isinstance(a, Train) for a in made.tick(121.0))
    assert told(kept, 121.0).phase_s == 0
    assert told(kept, 121.5).doing == "training"


def test_of_others_it_tells_what_heartbeats_links_and_vitals_say() -> None:
    made = collecting()
    vitals = Vitals(
        last=LastRound(round=1, loss=0.5, metric="miou", value=0.25, bytes_sent=7),
        device=DeviceVitals(power_w=9.5),
    )
    signs = VitalSigns(made.run, 1, ADMISSION.signature_valid)
    made.received(A, signs.sign(vitals, ALICE), 7.0)
    found = about(told(keeper(made), 8.0, connected=(A,)), A)
    assert (found.is_alive, found.is_connected, found.has_left) == (True, True, False)
    assert (found.heard_s, found.round) == (8.0, 1)
    assert (found.sent_bytes, found.bytes_per_s) == (4000, 2000.0)
    assert found.last is not None
    assert (found.last.loss, found.last.value, found.last.bytes_sent) == (0.5, 0.25, 7)
    assert found.device is not None
    assert found.device.power_w == 9.5
    assert about(told(keeper(made), 8.0, connected=(A,)), B).device is None


def test_what_is_asked_of_a_round_does_not_grow_with_the_peers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once a peer it was: 6 s of the loop, each second, where a stranger made up a thousand."""
    made, asked = collecting(), 0
    outstanding = made.rounds.outstanding

    def counted(now: float) -> tuple[PeerId, ...]:
        nonlocal asked
        asked += 1
        return outstanding(now)

    monkeypatch.setattr(made.rounds, "outstanding", counted)
    for name in ("c", "d", "e", "f"):
        who = signer(name)
        made.connected(who.peer_id, 7.0)
        hear(made, who, 7.0)
    assert len(told(keeper(made), 8.0).peers) == 6
    assert asked <= 2


def test_what_others_name_their_metric_cannot_steer_a_terminal() -> None:
    made = collecting()
    vitals = Vitals(last=LastRound(round=1, metric="\x1b]0;owned\x07\nround 9", value=0.25))
    made.received(A, VitalSigns(made.run, 1, ADMISSION.signature_valid).sign(vitals, ALICE), 7.0)
    status = told(keeper(made), 8.0, connected=(A,))
    line = next(line for line in status_text(status).splitlines() if "0.25" in line)
    assert line.isprintable()
    assert "?]0;owned??round 9" in line


def test_it_remembers_why_somebody_is_away_until_that_ends() -> None:
    made = collecting()
    kept = keeper(made)
    kept.saw(Disconnected(A, "Connection reset by peer"))
    assert about(told(kept, 8.0, connected=(B,)), A).problem == "Connection reset by peer"
    kept.saw(Refused("10.0.0.1:5000", "revoked", "the device is revoked", A, by_us=False))
    away = about(told(kept, 8.0, connected=(B,)), A)
    assert away.problem == "it refuses us: the device is revoked"
    hello = Hello(ALICE.public_key, b"n" * 32, 1, [], {}, "none")
    kept.saw(Connected(A, hello, "10.0.0.1:5000"))
    assert about(told(kept, 8.0), A).problem == ""
    kept.saw(Unreachable("10.0.0.1:5000", "no", A))
    kept.saw(Duplicate("10.0.0.1:5000", A))
    assert about(told(kept, 8.0), A).problem == ""
    for index in range(3 * MAX_PROBLEMS):
        kept.saw(Unreachable(f"10.0.0.1:{index}", "no"))
    assert len(kept._problems) == MAX_PROBLEMS


@pytest.mark.parametrize(
    ("phase", "doing"), [("finished", "done"), ("training", "ended while training")]
)
def test_how_it_has_ended(phase: str, doing: str) -> None:
    status = make_status(phase=phase, deadline_s=3.0).ended()
    assert (status.phase, status.doing, status.deadline_s) == ("finished", doing, None)
