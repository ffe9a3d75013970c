"""A whole peer without a model, as a process: real shell, protocol and sockets, stub learner.

    python stub_peer.py REPORT PAYLOAD_BYTES LISTEN PEER [ROUTER LIVENESS_S]

With a router it finds the other one there, over Zenoh. It runs one round, with everything but
`p2p.liveness_s` as in a default configuration, and reports in REPORT (JSON) when it asked for bytes
and when they came, on the clock that all processes share.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from federated_support import FACTS, StubLearner

from semantic_net.config import P2PConfig, SemanticConfig
from semantic_net.federated.parts import ClosedRound, PeerParts
from semantic_net.federated.peer import Peer
from semantic_net.federated.runner import ThreadRunner
from semantic_net.federated.store import UpdateStore
from semantic_net.protocol.address import parse_address
from semantic_net.protocol.bases import Base, BaseConfig
from semantic_net.protocol.facts import run_digest
from semantic_net.protocol.frames import HEADER, Frame, Kind
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.history import history_of_origin
from semantic_net.protocol.identity import PeerId, Signer
from semantic_net.protocol.machine import MachineConfig, PeerMachine
from semantic_net.protocol.messages import Chunk, Want, decode_message
from semantic_net.protocol.rounds import RoundsConfig
from semantic_net.protocol.update import Admission, hash_payload
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.semantic.rate import FixedRate
from semantic_net.semantic.schema import ModelSchema
from semantic_net.transport.ad_hoc import AdHocTransport
from semantic_net.transport.base import (
    Connected,
    Received,
    TransportEvent,
    TransportHandler,
)
from semantic_net.transport.common import HubTransport
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.zenoh_config import ZenohSettings

MAX_PAYLOAD_BYTES = 1 << 24
SETTLE_S = 2.0


class Timed(HubTransport):
    """Writes down what is asked for and what comes, and when."""

    wants: list[tuple[float, int]]
    chunks: list[tuple[float, int, int]]
    sessions: list[float]

    async def start(self, handler: TransportHandler) -> None:
        """Listen and begin to dial."""
        self.wants, self.chunks, self.sessions = [], [], []

        def timed(event: TransportEvent) -> None:
            self._note(event)
            handler(event)

        await super().start(timed)

    def send(self, peer: PeerId, frame: bytes, replaces: bytes | None = None) -> None:
        """Queue one encoded control frame."""
        kind = Kind(HEADER.unpack_from(frame)[2])
        if kind is Kind.WANT:
            want = decode_message(Frame(kind, frame[HEADER.size :]))
            assert isinstance(want, Want)
            self.wants.append((_now(), want.offset))
        super().send(peer, frame, replaces)

    def _note(self, event: TransportEvent) -> None:
        if isinstance(event, Connected):
            self.sessions.append(_now())
        elif isinstance(event, Received) and event.frame.kind is Kind.CHUNK:
            chunk = decode_message(event.frame)
            assert isinstance(chunk, Chunk)
            self.chunks.append((_now(), chunk.offset, len(chunk.data)))


class TimedAdHoc(Timed, AdHocTransport):
    """That over TCP."""


def over_zenoh(
    router: str, signer: Signer, settings: TransportSettings, hello: HelloContent
) -> Timed:
    """Return a transport that reaches a router alone."""
    from semantic_net.transport.zenoh import ZenohTransport  # of an extra

    class TimedZenoh(Timed, ZenohTransport):
        """That over Zenoh."""

    return TimedZenoh(ZenohSettings(run="test", routers=(router,)), signer, settings, hello)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def run(
    payload_bytes: int, listen: str, other: str, router: str = "", liveness: str = "10"
) -> dict[str, Any]:
    """Run a round with the peer at ``other``; return what to report."""
    p2p = P2PConfig(liveness_s=float(liveness))
    signer = Signer(hashlib.sha256(listen.encode()).digest())
    learner = StubLearner(listen, payload_bytes)
    store: UpdateStore[int] = UpdateStore(learner.parse)
    origin = hash_payload(learner.origin)
    history = history_of_origin(origin)
    rounds: list[ClosedRound] = []
    machine = PeerMachine(
        MachineConfig(
            rounds=RoundsConfig(
                rounds=1,
                listen_timeout_s=p2p.listen_timeout_s,
                start_timeout_s=p2p.start_timeout_s,
                settle_s=SETTLE_S if router else 0.0,
            ),
            bases=BaseConfig(every=16, origin_bytes=len(origin), max_bytes=1 << 20),
            admission=Admission(run_digest(FACTS), {"stub": MAX_PAYLOAD_BYTES}.get),
            incarnation=1,
            heartbeat_s=p2p.beat_s,
            liveness_s=p2p.liveness_s,
        ),
        signer,
        Base.of(origin, len(learner.origin), history, given=False),
        UpdateSet(history),
    )
    address = parse_address(listen)
    transport_settings = TransportSettings(
        host=address.host,
        port=address.port,
        peers=() if router else (other,),
        liveness_s=p2p.liveness_s,
    )
    hello = HelloContent(FACTS, 1, "test")
    transport: Any  # what both are has no address
    if router:
        transport = over_zenoh(router, signer, transport_settings, hello)
    else:
        transport = TimedAdHoc(signer, transport_settings, hello)
    runner = ThreadRunner()
    peer = Peer(
        PeerParts(
            machine=machine,
            signer=signer,
            transport=transport,
            learner=learner,
            store=store,
            bases=learner.bases,
            rate=FixedRate(SemanticConfig(), ModelSchema(())),
            runner=runner,
            journal=lambda round_index, update_id: None,
            on_round=rounds.append,
        )
    )
    try:
        await peer.run(asyncio.Event())
    finally:
        runner.close()
    return {
        "wants": transport.wants,
        "chunks": transport.chunks,
        "sessions": transport.sessions,
        "bytes_received": transport.traffic().bytes_received,
        "digests": [closed.state_digest.hex() for closed in rounds],
        "updates": [len(closed.authors) for closed in rounds],
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s %(message)s")
    seen = asyncio.run(run(int(sys.argv[2]), *sys.argv[3:]))
    Path(sys.argv[1]).write_text(json.dumps(seen))
