"""``id``, ``pair``, ``peers``, ``revoke``: which devices take part, decided beforehand.

Each device lets in those that it was paired with; two meet when each has been told of the other.
All of it can be scripted: ``--json`` for what is shown, and the trust file may be copied.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import socket
from pathlib import Path
from typing import Any

from semantic_net.errors import ConfigError
from semantic_net.protocol.address import parse_address
from semantic_net.protocol.facts import printable
from semantic_net.protocol.identity import PeerId
from semantic_net.transport.device import DeviceIdentity, Profile
from semantic_net.transport.invite import Invite, read_id, read_invite, write_id, write_invite
from semantic_net.transport.trust import MAX_VOID_FROM, Device, looks_like_id

DEFAULT_PORT = 5000
HOME_VARIABLE = "SEMANTIC_NET_HOME"
MIN_ID_START = 4
"""Letters of an id that may stand for it."""

ID_HELP = """show who this device is, and the invite that others pair with; make its key at first

Examples:
  semantic-net id
  semantic-net id --address 192.168.0.2:5000 --run field --json
"""

PAIR_HELP = """let another device in, by the invite that `semantic-net id` shows there

Both devices have to: each lets in those that it was told of.

Examples:
  semantic-net pair "semantic-net:..."
  semantic-net pair "semantic-net:..." --name drone-3
"""

PEERS_HELP = """list the devices that this one knows

Examples:
  semantic-net peers
  semantic-net peers --json
"""

REVOKE_HELP = """keep a device out from now on, in a run under way as well

It is enough to do it on one device (with security.max_liars = f on f + 1): the peers of a run tell
each other, and from the next round on nothing of it counts for any of them. --void-from takes back
what it has taught already, in rounds that are not yet part of a snapshot (p2p.base_every).

Examples:
  semantic-net revoke 5u2g-jd4k-q3ma-7xt2-pplw-n6se-yc4b-ho5z-k7vd
  semantic-net revoke drone-3
  semantic-net revoke drone-3 --void-from 40
"""


def device_folder(configured: str | None) -> Path:
    """Return where this device's key lies: as configured, or at home."""
    if configured is not None:
        return Path(configured).expanduser()
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home)
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "semantic-net"


def add_id(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``id``."""
    _add_shared(parser)
    parser.add_argument(
        "--address",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="where others can dial this device (default: as given last, else its address on the "
        f"network, port {DEFAULT_PORT}); repeatable",
    )
    parser.add_argument("--run", dest="run_name", default="default", metavar="NAME", help="p2p.run")
    parser.add_argument(
        "--name", help="what people call it (default: as given last, else its host name)"
    )
    parser.set_defaults(run=_id)


def add_pair(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``pair``."""
    _add_shared(parser)
    parser.add_argument("invite", metavar="INVITE", help="what `semantic-net id` shows there")
    parser.add_argument("--name", help="what you call it (default: as it calls itself)")
    parser.add_argument("--again", action="store_true", help="even if it has been revoked")
    parser.set_defaults(run=_pair)


def add_peers(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``peers``."""
    _add_shared(parser)
    parser.set_defaults(run=_peers)


def add_revoke(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``revoke``."""
    _add_shared(parser)
    parser.add_argument(
        "device", metavar="ID", help="its id or how that begins, or its name, if only one has it"
    )
    parser.add_argument(
        "--void-from",
        type=_round,
        metavar="ROUND",
        help="nothing that it taught from this round on counts, on any peer (default: the next)",
    )
    parser.set_defaults(run=_revoke)


def _round(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= MAX_VOID_FROM:
        raise argparse.ArgumentTypeError(f"a round, from 1 to {MAX_VOID_FROM}, not {text!r}")
    return number


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help=f"of the key and the trust file (default ${HOME_VARIABLE} or ~/.config/semantic-net)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for programs")


def _id(arguments: argparse.Namespace) -> int:
    device = _device(arguments)
    told = device.profile()
    addresses = arguments.address or list(told.addresses) or _own_addresses()
    name = arguments.name or told.name or socket.gethostname()
    known = _checked(device.certificate, addresses, name)
    if arguments.address or arguments.name:
        device.keep_profile(
            Profile(name, tuple(known.addresses) if arguments.address else told.addresses)
        )
    if len(arguments.run_name) > 64:
        raise ConfigError("--run: at most 64 characters")
    invite = write_invite(
        Invite(known.certificate, list(known.addresses), arguments.run_name, known.name)
    )
    described = _described(device.id, known) | {
        "run": arguments.run_name,
        "invite": invite,
        "folder": str(device.folder),
    }
    if arguments.json:
        print(json.dumps(described))
        return 0
    print(f"id         {write_id(device.id)}")
    print(f"name       {known.name}")
    print(f"addresses  {', '.join(known.addresses) or 'none found: give --address HOST:PORT'}")
    print(f"folder     {device.folder}")
    print(f"\nOn each of the other devices:\n\nsemantic-net pair {invite}")
    return 0


def _pair(arguments: argparse.Namespace) -> int:
    device = _device(arguments)
    try:
        invite = read_invite(arguments.invite)
    except ValueError as exc:
        raise ConfigError(f"INVITE: {exc}") from exc
    name = invite.name if arguments.name is None else arguments.name
    known = _checked(invite.certificate, invite.addresses, name)
    if known.id == device.id:
        raise ConfigError("INVITE: it is this device's own; pair with those of the others")
    device.trust_file.pair(known, again=arguments.again)
    if arguments.json:
        print(json.dumps(_described(known.id, known) | {"run": invite.run}))
        return 0
    print(f"{known.name or 'the device'} is let in: {write_id(known.id)}")
    if known.addresses:
        print(f"dialled at {', '.join(known.addresses)} unless --peers says otherwise")
    if invite.run != "default":
        print(f"for its run: --set p2p.run={shlex.quote(printable(invite.run, 64))}")
    print("It lets this one in once it has been told of it, too: `semantic-net id` here shows how.")
    if arguments.again:
        print("Where another device has revoked it, it stays out until that is run there as well.")
    return 0


def _peers(arguments: argparse.Namespace) -> int:
    devices = _device(arguments).trust_file.read().devices
    if arguments.json:
        print(json.dumps([_described(peer, known) for peer, known in devices.items()]))
        return 0
    if not devices:
        print("no other device is known: `semantic-net id` there, `semantic-net pair` here")
    for peer, known in devices.items():
        standing = "revoked" if known.is_revoked else "trusted"
        if known.void_from is not None:
            standing += f"@{known.void_from}"
        where = ", ".join(known.addresses) or "-"
        print(f"{standing}  {write_id(peer)}  {known.name or '-'}  {where}")
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    device = _device(arguments)
    peer = _peer_named(arguments.device, device)
    known = device.trust_file.revoke(peer, arguments.void_from)
    if known is None:
        raise ConfigError(f"ID: no device {write_id(peer)} is known here; see `semantic-net peers`")
    if arguments.json:
        print(json.dumps(_described(peer, known)))
        return 0
    print(f"{known.name or 'the device'} is kept out: {write_id(peer)}")
    if known.void_from is None:
        print("In a run of this device nothing of it counts from the next round on, for any peer.")
    else:
        print(
            f"In a run of this device nothing of it counts from round {known.void_from} on, or from"
        )
        print("the next one if that comes first, for any peer. What is part of a snapshot already")
        print("stays: the run says up to which round.")
    print("Other devices still connect to it: revoke it on them, too, or copy this trust file:")
    print(device.trust_file.path)
    return 0


def _device(arguments: argparse.Namespace) -> DeviceIdentity:
    return DeviceIdentity(device_folder(arguments.folder))


def _checked(certificate: bytes, addresses: list[str], name: str) -> Device:
    try:
        return Device.checked(certificate, addresses, name)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc


def _peer_named(text: str, device: DeviceIdentity) -> PeerId:
    known = device.trust_file.read().devices
    if looks_like_id(text):  # first: a name is what a device calls itself
        try:
            return read_id(text)
        except ValueError as exc:
            raise ConfigError(f"ID: {exc}") from exc
    begins = re.sub(r"[\s-]", "", text).lower()
    found = [
        peer
        for peer, other in known.items()
        # Both count: a device calls itself what it likes, also as another's id begins.
        if other.name == text or (len(begins) >= MIN_ID_START and peer.startswith(begins))
    ]
    if len(found) > 1:
        ids = ", ".join(map(write_id, found))
        raise ConfigError(f"ID: {text!r} stands for {len(found)} devices; give one's id: {ids}")
    if found:
        return found[0]
    raise ConfigError(
        f"ID: {text!r} is neither a device's id, nor how one begins, nor a name; see "
        "`semantic-net peers`"
    )


def _described(peer: PeerId, known: Device) -> dict[str, Any]:
    return {
        "id": peer,
        "id_for_people": write_id(peer),
        "name": known.name,
        "addresses": list(known.addresses),
        "is_revoked": known.is_revoked,
        "void_from": known.void_from,
    }


def _own_addresses() -> list[str]:
    """Return where this device is on its network, as far as its routes tell; nothing is sent."""
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((outside, 9))
                host = sock.getsockname()[0]
        except OSError:
            continue
        address = (
            f"[{host}]:{DEFAULT_PORT}" if family == socket.AF_INET6 else f"{host}:{DEFAULT_PORT}"
        )
        return [str(parse_address(address))]
    return []
