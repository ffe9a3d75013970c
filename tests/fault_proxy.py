"""A network on loopback that breaks on command: peers reach each other through it alone.

One `Cable` a pair of peers, with a listening port for each of the two to dial. Everything runs in
one background thread; whoever calls from another waits until it is done. Faults happen when a
script says so, or when exactly so many bytes have passed: never because time went by.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

PIECE_BYTES = 4096
BUFFER_BYTES = 64 * 1024
"""What the kernel may hold at each end: a sender soon feels what the other side does not take."""

CALL_S = 10.0


@dataclass(eq=False, slots=True)
class Trigger:
    """Something to do once so many bytes have passed one way."""

    at: int
    action: Callable[[], None]
    fired: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False, slots=True)
class _Way:
    """One direction of a cable, over all its connections."""

    passed: int = 0
    rate_bytes_s: float | None = None
    delay_s: float = 0.0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    triggers: list[Trigger] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Joint:
    """Two connections that are one to the peers; by the index of the peer at each end."""

    readers: dict[int, asyncio.StreamReader]
    writers: dict[int, asyncio.StreamWriter]
    deaf_to: set[int] = field(default_factory=set)
    """Whose bytes go nowhere: the other side has been told that there will be no more."""

    def reset(self) -> None:
        for writer in self.writers.values():
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Cable:
    """All that passes between two peers."""

    def __init__(self, proxy: FaultProxy, ports: dict[int, int]) -> None:
        """Make the cable of the two peers whose listening ports are given by their index."""
        self._proxy = proxy
        self._ports = ports
        self._addresses: dict[int, str] = {}
        self._ways = {sender: _Way() for sender in ports}
        self._joints: set[_Joint] = set()
        self._refuses = False
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        for way in self._ways.values():
            way.open.set()

    # What a script does; from any thread, triggers included.

    def address_for(self, dialler: int) -> str:
        """Return what this peer dials to reach the other one."""
        return self._addresses[dialler]

    def passed(self, sender: int) -> int:
        """Return the bytes that have come through from this peer."""
        return self._ways[sender].passed

    def when_passed(self, sender: int, num_bytes: int, action: Callable[[], None]) -> Trigger:
        """Act once so many more bytes from this peer have come through, and not one more."""
        way = self._ways[sender]

        def arm() -> Trigger:
            trigger = Trigger(way.passed + num_bytes, action)
            way.triggers.append(trigger)
            return trigger

        return self._proxy.call(arm)

    def cut(self) -> None:
        """Reset every connection, at both ends."""
        self._proxy.call(self._cut)

    def sever(self) -> None:
        """Reset every connection, and each new one until `heal`."""

        def sever() -> None:
            self._refuses = True
            self._cut()

        self._proxy.call(sever)

    def stall(self) -> None:
        """Let nothing through and hold connections open, new ones too, until `heal`."""

        def stall() -> None:
            for way in self._ways.values():
                way.open.clear()

        self._proxy.call(stall)

    def half_close(self, sender: int) -> None:
        """Tell the other peer that this one sends no more, on every connection there is."""

        def half_close() -> None:
            [receiver] = [peer for peer in self._ports if peer != sender]
            for joint in self._joints:
                joint.deaf_to.add(sender)
                with contextlib.suppress(OSError):
                    joint.writers[receiver].write_eof()

        self._proxy.call(half_close)

    def throttle(self, bytes_s: float | None, *senders: int) -> None:
        """Let at most so many bytes a second through, from these peers or both; None: no limit."""
        for sender in senders or tuple(self._ways):
            self._ways[sender].rate_bytes_s = bytes_s

    def delay(self, delay_s: float) -> None:
        """Hold each piece back for so long, both ways."""
        for way in self._ways.values():
            way.delay_s = delay_s

    def heal(self) -> None:
        """Let everything through again."""

        def heal() -> None:
            self._refuses = False
            for way in self._ways.values():
                way.rate_bytes_s, way.delay_s = None, 0.0
                way.open.set()

        self._proxy.call(heal)

    # What happens in the proxy's thread.

    def _cut(self) -> None:
        for joint in list(self._joints):
            joint.reset()

    async def start(self) -> None:
        """Listen for both peers."""
        for dialler in self._ports:
            server = await self._listen(dialler)
            self._servers.append(server)
            self._addresses[dialler] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _listen(self, dialler: int) -> asyncio.Server:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._join(dialler, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        sock = _small_socket()
        sock.bind(("127.0.0.1", 0))
        return await asyncio.start_server(accepted, sock=sock, limit=PIECE_BYTES)

    async def _join(
        self, dialler: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        [dialled] = [peer for peer in self._ports if peer != dialler]
        joint = _Joint({dialler: reader}, {dialler: writer})
        self._joints.add(joint)
        try:
            if self._refuses:
                return
            sock = _small_socket()
            sock.setblocking(False)
            try:
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, ("127.0.0.1", self._ports[dialled]))
            except OSError:
                sock.close()
                return
            opened = await asyncio.open_connection(sock=sock, limit=PIECE_BYTES)
            joint.readers[dialled], joint.writers[dialled] = opened
            if self._refuses:
                return
            # As soon as one way breaks nothing more can pass; an end of stream breaks nothing.
            pumps = [
                asyncio.ensure_future(self._pump(joint, dialler, dialled)),
                asyncio.ensure_future(self._pump(joint, dialled, dialler)),
            ]
            try:
                await asyncio.gather(*pumps)
            except OSError:
                pass
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._joints.discard(joint)
            joint.reset()

    async def _pump(self, joint: _Joint, sender: int, receiver: int) -> None:
        way, writer = self._ways[sender], joint.writers[receiver]
        while data := await joint.readers[sender].read(PIECE_BYTES):
            if way.delay_s:
                await asyncio.sleep(way.delay_s)
            if way.rate_bytes_s:
                await asyncio.sleep(len(data) / way.rate_bytes_s)
            while data:
                await way.open.wait()
                if sender in joint.deaf_to:
                    break
                allowed = min((t.at - way.passed for t in way.triggers), default=len(data))
                writer.write(data[:allowed])
                await writer.drain()
                way.passed += len(data[:allowed])
                data = data[allowed:]
                self._fire(way)
                if writer.transport.is_closing():
                    raise ConnectionResetError
        await way.open.wait()
        if sender not in joint.deaf_to:
            with contextlib.suppress(OSError):
                writer.write_eof()

    def _fire(self, way: _Way) -> None:
        for trigger in [t for t in way.triggers if t.at <= way.passed]:
            way.triggers.remove(trigger)
            trigger.action()
            trigger.fired.set()

    async def close(self) -> None:
        """Reset everything and stop listening."""
        self._refuses = True
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()


class FaultProxy:
    """The thread in which the cables live."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy")
        self._cables: list[Cable] = []

    def call(self, work: Callable[[], T]) -> T:
        """Do something in the proxy's thread, and return when it is done."""
        if threading.current_thread() is self._thread:
            return work()

        async def do() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(CALL_S)

    def cable(self, ports: dict[int, int]) -> Cable:
        """Make a cable between two peers, whose listening ports are given by their index."""

        async def make() -> Cable:
            cable = Cable(self, ports)
            await cable.start()
            return cable

        cable = asyncio.run_coroutine_threadsafe(make(), self._loop).result(CALL_S)
        self._cables.append(cable)
        return cable

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Take everything down."""
        for cable in self._cables:
            asyncio.run_coroutine_threadsafe(cable.close(), self._loop).result(CALL_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def fault_proxy() -> Iterator[FaultProxy]:
    """Run a proxy."""
    proxy = FaultProxy()
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def _small_socket() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return sock
