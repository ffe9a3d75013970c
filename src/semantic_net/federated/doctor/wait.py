"""Wait for the doctors of other devices, so that they can measure the link to this one."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

import semantic_net
from semantic_net.config import Config
from semantic_net.errors import StartError
from semantic_net.federated.doctor.examine import Place, own_peer, seed_of
from semantic_net.federated.doctor.peers import find_device
from semantic_net.federated.doctor.prepared import prepare
from semantic_net.federated.security import PINNED, security_mode
from semantic_net.monitoring.text import format_bytes
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import Signer
from semantic_net.transport.identity import RAW_KEY_BYTES
from semantic_net.transport.probe import DOCTOR
from semantic_net.transport.waiter import Call, Waiter


async def wait_for_doctors(
    config: Config, place: Place, for_s: float, tell: Callable[[str], None]
) -> None:
    """Listen where the peer would, and answer those who measure.

    Args:
        config: Of the run that this device is to take part in.
        place: Where it would be.
        for_s: Seconds until it ends by itself.
        tell: Shows a person a line.

    Raises:
        SemanticNetError: The task cannot be loaded, the port is busy, or there is no key.
    """
    security, device = find_device(config, place.device_folder)
    if device is None and security_mode(config) == PINNED:
        raise StartError(f"security.mode pinned: {security.text}; {security.hint}")
    own = own_peer(place.out)
    facts = prepare(config, seed_of(config, own)).facts
    signer: Signer = own or Signer(secrets.token_bytes(RAW_KEY_BYTES))
    content = HelloContent(
        facts,
        time.time_ns(),
        f"semantic-net {semantic_net.__version__}{DOCTOR}",
        endorsement=b"" if device is None else device.endorse(signer.public_key),
    )
    waiter = Waiter(
        signer, content, None if device is None else device.pins(), lambda call: tell(_line(call))
    )
    address = await waiter.start(config.p2p.host, config.p2p.port)
    tell(
        f"waiting on {address} for `semantic-net doctor --peers ...` on other devices, "
        f"{for_s:g} s or until Ctrl-C"
    )
    try:
        await asyncio.sleep(for_s)
    finally:
        await waiter.close()


def _line(call: Call) -> str:
    if call.throughput is None:
        return f"{call.address}: not measured: {call.reason}"
    return f"{call.address}: measured; {format_bytes(call.throughput.up.bytes_s)}/s came from it"
