"""A router by which peers reach each other over Zenoh, for those who have no `zenohd`.

    python -m semantic_net.transport.zenoh_router --listen 0.0.0.0:7447 --folder FOLDER

It is a device like others: with a folder it lets in those that are paired with it, over TLS, and
has to be paired with each of them. Without one anyone may use it. It reads no frame of any peer.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from semantic_net.errors import ConfigError, StartError
from semantic_net.extras import needed_for
from semantic_net.protocol.address import parse_address
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.zenoh_config import LinkIdentity, zenoh_config

with needed_for("a router", "zenoh"):
    import zenoh

    from semantic_net.transport.zenoh_session import first_words

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Seconds between two looks at the trust file."""


class Router:
    """One router, which starts anew when its trust file says something else."""

    def __init__(
        self, listen: str, connect: Sequence[str] = (), folder: Path | None = None
    ) -> None:
        """Prepare.

        Args:
            listen: ``host:port``.
            connect: Other routers, for sites that each have one.
            folder: Of the device's key and its trust file; None for no TLS.

        Raises:
            ConfigError: An address is none.
            StartError: The device's files cannot be used.
        """
        for address in (listen, *connect):
            try:
                parse_address(address)
            except ValueError as exc:
                raise ConfigError(str(exc)) from exc
        self._listen, self._connect = listen, connect
        self._pins = self._identity = None
        if folder is not None:
            device = DeviceIdentity(folder)
            self._pins = device.pins()
            self._identity = LinkIdentity(device.key)
        self._session: zenoh.Session | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            StartError: The port is busy or the address is not ours.
        """
        tls = None
        if self._pins is not None and self._identity is not None:
            tls = self._identity.section(self._pins.trust)
        text = zenoh_config(connect=self._connect, listen=[self._listen], tls=tls)
        try:
            self._session = zenoh.open(zenoh.Config.from_json5(text))
        except zenoh.ZError as exc:
            raise StartError(f"cannot listen on {self._listen}: {first_words(exc)}") from exc

    def look_at_trust(self) -> None:
        """Start anew if the trust file says something else: links are judged when they begin."""
        if self._pins is not None and self._pins.refresh():
            self.close()
            self.start()

    def close(self) -> None:
        """Listen no more; harmless when not started."""
        if self._session is not None:
            with contextlib.suppress(zenoh.ZError):
                self._session.close()  # type: ignore[no-untyped-call]  # of zenoh's
            self._session = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a router until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="A router by which peers meet over Zenoh.")
    parser.add_argument("--listen", metavar="HOST:PORT", default="0.0.0.0:7447")
    parser.add_argument(
        "--connect", metavar="HOST:PORT", action="append", default=[], help="another router"
    )
    parser.add_argument(
        "--folder", type=Path, help="of this device's key; without it anyone may use the router"
    )
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        router = Router(args.listen, args.connect, args.folder)
        router.start()
        if args.folder is None:
            log.warning("no --folder: anyone may use this router, and see who talks with whom")
        log.info("a router listens on %s", args.listen)
        while not stop.wait(LOOK_S):
            router.look_at_trust()
    except ConfigError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    except StartError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 3
    router.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
