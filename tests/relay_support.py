"""A lossy network in user space: a TUN interface in each host's namespace, and a thread between.

Like a radio cell: packets of one host wait for their turn at its rate, some are lost on the way,
and the others reach whom they are addressed to, at that one's rate. It is here because not every
kernel has `netem`.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from namespaces_support import COMMAND_S, QUEUE_BYTES, Host, namespaces, run

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MTU = 1400
READS_A_TURN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Radio:
    """What the links are like, each in both directions."""

    rate_bit_s: float
    delay_s: float
    loss: float
    """Share of the packets, in [0, 1)."""
    seed: int = 0


@dataclass(slots=True)
class Counts:
    """What became of the packets."""

    delivered: int = 0
    lost: int = 0
    overflown: int = 0
    """Dropped because too many waited."""
    delivered_bytes: int = 0


class _Line:
    """One direction of one host's link: packets leave it one after the other."""

    def __init__(self, rate_bit_s: float) -> None:
        self._byte_s = 8 / rate_bit_s
        self._free_at = 0.0

    def leave_at(self, num_bytes: int, now: float) -> float | None:
        """Return when a packet that comes now has left, or None if too many wait."""
        begins_at = max(now, self._free_at)
        if (begins_at - now) / self._byte_s > QUEUE_BYTES:
            return None
        self._free_at = begins_at + num_bytes * self._byte_s
        return self._free_at


@dataclass(slots=True)
class _Device:
    """A host's TUN interface, from our side."""

    fd: int
    up: _Line
    down: _Line


@dataclass(order=True, slots=True)
class _Passage:
    """A packet on its way."""

    at: float
    number: int
    packet: bytes = field(compare=False)
    arrived: bool = field(compare=False, default=False)
    """It has crossed the air and waits for its receiver's line."""


class Relay:
    """Moves packets until it is closed."""

    def __init__(self, radio: Radio) -> None:
        self.counts = Counts()
        self.error: OSError | None = None
        self._radio = radio
        self._random = random.Random(radio.seed)
        self._devices: dict[bytes, _Device] = {}
        self._passages: list[_Passage] = []
        self._number = 0
        self._wake, self._closing = os.pipe()
        self._thread = threading.Thread(target=self._run, name="relay")

    def attach(self, host: Host) -> None:
        """Make a host's interface; only before the start."""
        name = host.interface
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        line = self._radio.rate_bit_s
        self._devices[_packed(host.address)] = _Device(fd, _Line(line), _Line(line))
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
        run("ip", "link", "set", name, "netns", host.namespace)
        run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", name)
        run("ip", "-n", host.namespace, "link", "set", name, "mtu", str(MTU), "up")

    def start(self) -> None:
        """Begin to move packets."""
        self._thread.start()

    def close(self) -> None:
        """Stop; the interfaces go."""
        os.close(self._closing)
        if self._thread.ident is not None:
            self._thread.join(COMMAND_S)
        for device in self._devices.values():
            os.close(device.fd)
        os.close(self._wake)
        assert not self._thread.is_alive(), "the relay hangs"

    def _run(self) -> None:
        devices = {device.fd: device for device in self._devices.values()}
        try:
            while True:
                wait_s = self._passages[0].at - time.monotonic() if self._passages else None
                if wait_s is not None:
                    wait_s = max(0.0, wait_s)
                ready, _, _ = select.select([self._wake, *devices], [], [], wait_s)
                if self._wake in ready:
                    return
                for fd in ready:
                    self._read(devices[fd])
                self._move(time.monotonic())
        except OSError as exc:
            self.error = exc

    def _read(self, device: _Device) -> None:
        for _ in range(READS_A_TURN):
            try:
                packet = os.read(device.fd, 2048)
            except BlockingIOError:
                return
            if packet[16:20] in self._devices:  # IPv4, to one of us; multicasts of IPv6 are not
                self._put(packet, device.up, self._radio.delay_s, time.monotonic())

    def _put(self, packet: bytes, line: _Line, delay_s: float, now: float) -> None:
        leaves_at = line.leave_at(len(packet), now)
        if leaves_at is None:
            self.counts.overflown += 1
            return
        self._number += 1
        passage = _Passage(leaves_at + delay_s, self._number, packet, arrived=not delay_s)
        heapq.heappush(self._passages, passage)

    def _move(self, now: float) -> None:
        while self._passages and self._passages[0].at <= now:
            passage = heapq.heappop(self._passages)
            device = self._devices[passage.packet[16:20]]
            if passage.arrived:
                os.write(device.fd, passage.packet)
                self.counts.delivered += 1
                self.counts.delivered_bytes += len(passage.packet)
            elif self._random.random() < self._radio.loss:
                self.counts.lost += 1
            else:
                self._put(passage.packet, device.down, 0.0, passage.at)


def _packed(address: str) -> bytes:
    return bytes(int(part) for part in address.split("."))


@contextlib.contextmanager
def radio_cell(num_hosts: int, radio: Radio) -> Iterator[tuple[list[Host], Relay]]:
    """Connect hosts through a relay; its failure is the test's."""
    with namespaces(num_hosts) as names:
        hosts = [
            Host(name, f"semnet{os.getpid() % 100_000}-{number}", f"10.78.0.{number}")
            for number, name in enumerate(names, 1)
        ]
        relay = Relay(radio)
        try:
            for host in hosts:
                relay.attach(host)
            relay.start()
            yield hosts, relay
        finally:
            relay.close()
    if relay.error is not None:
        raise relay.error
