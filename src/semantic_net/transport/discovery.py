"""Peers of one run find each other on a network by multicast DNS (extra ``mdns``).

Each announces a service and looks for others of it; what comes of that is addresses, which the
transport dials like any that it has learned. All of it lives in the peer's event loop. Whatever
fails here costs discovery, never the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import ifaddr
from zeroconf import (
    BadTypeInNameException,
    Error,
    InterfaceChoice,
    IPVersion,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from semantic_net.errors import RemoteProtocolError
from semantic_net.protocol.address import Address, parse_address
from semantic_net.protocol.identity import PeerId
from semantic_net.transport.announcement import (
    SERVICE,
    Announcement,
    IPInterface,
    addresses_to_announce,
    addresses_to_dial,
    read_announcement,
    run_tag,
)
from semantic_net.transport.connection import reason_of

log = logging.getLogger(__name__)

LOOK_S = 10.0
"""Seconds between two looks at this machine's interfaces, and until a failure is tried again."""

LOOKS_PER_REMINDER = 6
"""Looks after which a peer announces itself again: radios part and meet, and no interface tells."""

ASK_S = 3.0
"""Seconds that a service may take to answer who it is, where its announcement did not say."""

MAX_ASKED = 32
"""Services that are asked at a time."""

MAX_OFFERS = 256
"""Addresses that are offered at once, beyond which it is one every `OFFER_S`: no flood of made-up
services may have us dial without end."""

OFFER_S = 10.0

MAX_ADDED = 10_000
"""Services that turn up between two looks, beyond which all that is known of them is let go of:
zeroconf plans to ask for each again, for as long as its announcement says it lives."""

CLOSE_S = 1.0
"""Seconds that the goodbye may take."""


class Discovery:
    """Announces one peer, and offers the addresses of others of its run."""

    def __init__(self, run: str, peer: PeerId) -> None:
        """Prepare to announce a peer of a run; nothing is opened before the start."""
        self._me = Announcement(peer, run_tag(run))
        self._propose: Callable[[str], None] = lambda address: None
        self._host, self._port = "", 0
        self._own: tuple[IPInterface, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._offers, self._counted_at = float(MAX_OFFERS), 0.0
        self._num_added = 0
        self._told: set[str] = set()
        self._is_closing = False

    def start(
        self, address: str, propose: Callable[[str], None], known: Iterable[str] = ()
    ) -> None:
        """Begin, in the running loop.

        Args:
            address: Where this peer listens, as ``host:port``.
            propose: Gets each ``host:port`` that is worth a dial, in the loop, perhaps repeatedly;
                it may raise ValueError for one that cannot be dialled.
            known: Addresses to begin with.
        """
        listening = parse_address(address)
        self._host, self._port, self._propose = listening.host, listening.port, propose
        self._counted_at = asyncio.get_running_loop().time()
        for each in known:
            self._offer(each)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="discovery")
        self._task.add_done_callback(_tell_of_bug)

    async def close(self) -> None:
        """Say goodbye within a bounded time; harmless when not started, and when called again."""
        if self._task is None:
            return
        self._is_closing = True
        for _ in range(2):  # the second time it breaks off the goodbye as well
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_S)

    async def _run(self) -> None:
        while True:
            try:
                await self._serve()
            # RuntimeError: how zeroconf says that there is no interface.
            except (OSError, RuntimeError, Error) as exc:
                if self._is_closing:
                    return  # zeroconf may make its own error of being broken off
                self._tell(
                    "down",
                    f"no discovery on this network (p2p.discovery mdns): {reason_of(exc)}; the run "
                    "goes on without, and tries again",
                )
            await asyncio.sleep(LOOK_S)

    async def _serve(self) -> None:
        """Announce and look for others until something fails, or too many turn up."""
        await self._resolve_host()
        self._own = own_interfaces()
        self._num_added = 0
        async with (
            _opened(self._host) as mdns,
            # First: whoever contests our name keeps us from being found, not from finding.
            AsyncServiceBrowser(mdns.zeroconf, SERVICE, handlers=[self._changed]),
        ):
            try:
                info = self._service()
                if "down" in self._told:
                    self._told.discard("down")
                    log.info("discovery works now")
                await (await mdns.async_register_service(info, allow_name_change=True))
                await self._keep_announced(mdns, info)
            finally:
                for task in self._asking.values():
                    task.cancel()

    async def _resolve_host(self) -> None:
        """Use the address that the transport listens on, where its host is a name."""
        if not Address(self._host, 0).is_wildcard:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._host = str(found[0][4][0])

    def _service(self) -> AsyncServiceInfo:
        addresses = addresses_to_announce(self._host, self._own)
        if not addresses:
            raise OSError("no network interface has an address")
        return AsyncServiceInfo(
            SERVICE,
            self._me.instance,
            port=self._port,
            properties=self._me.text(),
            server=self._me.host,
            addresses=[ip.packed for ip in addresses],
        )

    async def _keep_announced(self, mdns: AsyncZeroconf, info: AsyncServiceInfo) -> None:
        """Follow the interfaces as they come and go, and remind the others now and then."""
        looks = 0
        while True:
            await asyncio.sleep(LOOK_S)
            looks += 1
            if self._num_added > MAX_ADDED:
                self._tell("storm", "this network announces more services than can be followed")
                return
            self._num_added = 0
            own = own_interfaces()
            if own != self._own:
                self._own = own
                addresses = addresses_to_announce(self._host, own)
                info.addresses = [ip.packed for ip in addresses]
                if Address(self._host, 0).is_wildcard:
                    await mdns.async_update_interfaces()
            elif looks % LOOKS_PER_REMINDER:
                continue
            await (await mdns.async_update_service(info))

    def _changed(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            return  # it may come back, and who said goodbye is dialled in silence
        self._num_added += 1
        try:
            info = AsyncServiceInfo(service_type, name)
        except BadTypeInNameException:
            return  # anyone may write what it likes
        if info.load_from_cache(zeroconf):
            self._found(info)
        elif name not in self._asking and len(self._asking) < MAX_ASKED:
            task = asyncio.get_running_loop().create_task(self._ask(zeroconf, info))
            self._asking[name] = task
            task.add_done_callback(lambda _: self._asking.pop(name))
            task.add_done_callback(_tell_of_bug)

    async def _ask(self, zeroconf: Zeroconf, info: AsyncServiceInfo) -> None:
        with contextlib.suppress(OSError, Error):  # of no use, or we are closing
            if await info.async_request(zeroconf, 1000 * ASK_S):
                self._found(info)

    def _found(self, info: AsyncServiceInfo) -> None:
        me = self._me
        try:
            other = read_announcement(info.properties)
        except RemoteProtocolError as exc:
            self._tell("malformed", f"{exc} is ignored, and so are others", logging.DEBUG)
            return
        if other.peer == me.peer or other.run != me.run:
            return
        if other.version != me.version:
            self._tell(
                "version",
                f"a peer of this run on this network speaks wire version {other.version}, this one "
                f"{me.version}: install the same version of semantic-net on both",
            )
            return
        announced = info.parsed_scoped_addresses(IPVersion.All)
        is_local = _is_loopback(self._host)
        for address in addresses_to_dial(announced, info.port, self._own, is_local=is_local):
            self._offer(address)

    def _offer(self, address: str) -> None:
        now = asyncio.get_running_loop().time()
        self._offers = min(self._offers + (now - self._counted_at) / OFFER_S, MAX_OFFERS)
        self._counted_at = now
        if self._offers < 1:
            self._tell("flood", "this network announces more peers than are dialled")
            return
        self._offers -= 1
        log.debug("found %s", address)
        try:
            self._propose(address)
        except ValueError as exc:
            log.debug("not dialled: %s", exc)

    def _tell(self, what: str, text: str, level: int = logging.WARNING) -> None:
        """Log something of a kind once: who can cause it can cause it without end."""
        if what not in self._told:
            self._told.add(what)
            log.log(level, "%s", text)


def own_interfaces() -> tuple[IPInterface, ...]:
    """Return the addresses of this machine and the networks that they are on."""
    return tuple(
        ipaddress.ip_interface(f"{ip.ip if ip.is_IPv4 else ip.ip[0]}/{ip.network_prefix}")
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    )


@contextlib.asynccontextmanager
async def _opened(host: str) -> AsyncIterator[AsyncZeroconf]:
    """Open, and leave no socket behind, however far the goodbye has come."""
    mdns = _open(host)
    try:
        async with mdns:
            await _started(mdns)
            yield mdns
    finally:
        mdns.zeroconf.engine.close()  # broken off before, it would stay open


async def _started(mdns: AsyncZeroconf) -> None:
    """Wait until it has begun, also where this task is cancelled meanwhile.

    What zeroconf begins is not made to be broken off: sockets would be closed under transports, and
    a browser's task would leave its exception to nobody.
    """
    began = asyncio.ensure_future(mdns.zeroconf.async_wait_for_start())
    try:
        await asyncio.shield(began)
    except asyncio.CancelledError:
        await asyncio.wait({began}, timeout=CLOSE_S)
        if began.done():
            began.exception()
        raise


def _open(host: str) -> AsyncZeroconf:
    """Join the multicast groups of the interfaces that a host stands for.

    Raises:
        OSError: The port 5353 cannot be shared, or the like.
        RuntimeError: There is no such interface.
    """
    if Address(host, 0).is_wildcard:
        version = IPVersion.All if host == "::" else IPVersion.V4Only
        return AsyncZeroconf(InterfaceChoice.All, ip_version=version)
    # Of the loopback addresses only this one can be joined; it carries records of any.
    return AsyncZeroconf(["127.0.0.1" if _is_loopback(host) else host])


def _is_loopback(host: str) -> bool:
    return not Address(host, 0).is_wildcard and ipaddress.ip_address(host).is_loopback


def _tell_of_bug(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("discovery has stopped, the run goes on: %r", error, exc_info=error)
