"""CPU seconds per GB, sender and receiver together: our transport, with TLS and without, against a
raw blocking socket; and how long it takes until many devices that dial at once have a session.

    python benchmarks/transport_speed.py [--payload-mb 25] [--payloads 40] [--repeats 3]

Two processes on loopback. Both ways the receiver copies each payload to its place. The transport
sends framed chunks of up to 256 KiB on an authenticated session; the socket sends bare bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing as mp
import os
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from semantic_net.protocol.frames import MAX_CHUNK_BYTES, Kind, encode_frame, encode_header
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import Signer
from semantic_net.transport.ad_hoc import AdHocTransport
from semantic_net.transport.base import Buffer, Connected, Received, TransportEvent
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.trust import Device, TrustFile

CONTEXT = mp.get_context("spawn")
META_BYTES = 48
"""What stands before the payload's bytes in a chunk: an id and an offset."""


@dataclass(frozen=True)
class Load:
    """What one run moves."""

    payload_bytes: int
    payloads: int

    @property
    def total_gb(self) -> float:
        """All payloads together."""
        return self.payload_bytes * self.payloads / 1e9


Sender = Callable[[int, memoryview, Load], None]
Receiver = Callable[[Pipe, Load], None]


def cpu_s() -> float:
    """Return the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# A raw blocking socket.


def raw_receiver(pipe: Pipe, load: Load) -> None:
    """Receive bare bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        connection, _ = server.accept()
    with connection:
        payload = memoryview(bytearray(load.payload_bytes))
        began_s = cpu_s()
        for _ in range(load.payloads):
            filled = 0
            while filled < load.payload_bytes:
                filled += connection.recv_into(payload[filled : filled + MAX_CHUNK_BYTES])
        pipe.send(cpu_s() - began_s)
        connection.sendall(b"!")


def raw_sender(port: int, payload: memoryview, load: Load) -> None:
    """Send bare bytes."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(load.payloads):
            for start in range(0, load.payload_bytes, MAX_CHUNK_BYTES):
                connection.sendall(payload[start : start + MAX_CHUNK_BYTES])
        connection.recv(1)


# Our transport.


class PayloadSource:
    """A payload, chunk by chunk."""

    def __init__(self, payload: memoryview) -> None:
        self._rest = payload

    def next_frame(self, max_bytes: int) -> Sequence[Buffer] | None:
        """Return the next chunk, or None after the last."""
        chunk, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        if not chunk:
            return None
        return encode_header(Kind.CHUNK, META_BYTES + len(chunk)) + bytes(META_BYTES), chunk


def device(home: Path, key: int) -> DeviceIdentity:
    """Return one of the devices in a folder, which trust each other."""
    own = DeviceIdentity(home / str(key))
    own.trust_file = TrustFile(home / "trust.txt")
    own.trust_file.pair(Device(own.certificate))
    return own


def transport(home: Path | None, key: int, peers: tuple[str, ...] = ()) -> AdHocTransport:
    """Return a peer on loopback; over TLS, if there is a folder for devices."""
    settings = TransportSettings(host="127.0.0.1", peers=peers)
    hello = HelloContent({}, key, "bench")
    if home is None:
        return AdHocTransport(Signer(bytes([key]) * 32), settings, hello)
    own = device(home, key)
    hello = replace(hello, endorsement=own.endorse(own.signer.public_key))
    return AdHocTransport(own.signer, settings, hello, pins=own.pins())


def our_receiver(home: Path | None, pipe: Pipe, load: Load) -> None:
    """Receive chunks and say so after the last."""
    asyncio.run(_our_receiver(home, pipe, load))


async def _our_receiver(home: Path | None, pipe: Pipe, load: Load) -> None:
    done = asyncio.get_running_loop().create_future()
    payload = bytearray(load.payload_bytes)
    received = 0
    began_s = 0.0

    def handle(event: TransportEvent) -> None:
        nonlocal received, began_s
        if isinstance(event, Connected):
            began_s = cpu_s()
        elif isinstance(event, Received) and event.frame.kind is Kind.CHUNK:
            data = memoryview(event.frame.body)[META_BYTES:]
            place = received % load.payload_bytes
            payload[place : place + len(data)] = data
            received += len(data)
            if received == load.payload_bytes * load.payloads:
                ours.send(event.peer, encode_frame(Kind.HAVE, b"all"))
                done.set_result(cpu_s() - began_s)

    ours = transport(home, 1)
    await ours.start(handle)
    pipe.send(int(ours.address.rpartition(":")[2]))
    pipe.send(await done)
    await ours.close()


def our_sender(home: Path | None, port: int, payload: memoryview, load: Load) -> None:
    """Queue all payloads at once; the transport pulls."""
    asyncio.run(_our_sender(home, port, payload, load))


async def _our_sender(home: Path | None, port: int, payload: memoryview, load: Load) -> None:
    done = asyncio.get_running_loop().create_future()

    def handle(event: TransportEvent) -> None:
        if isinstance(event, Connected):
            for _ in range(load.payloads):
                ours.stream(event.peer, PayloadSource(payload))
        elif isinstance(event, Received):
            done.set_result(None)

    ours = transport(home, 2, (f"127.0.0.1:{port}",))
    await ours.start(handle)
    await done
    await ours.close()


# Many at once.


async def handshakes_s(home: Path | None, count: int) -> float:
    """Return how long it takes until one peer has a session with each of many that dial at once.

    All of them run in this process: both ends of each handshake are counted.
    """
    done = asyncio.get_running_loop().create_future()
    connected = set()

    def handle(event: TransportEvent) -> None:
        if isinstance(event, Connected):
            connected.add(event.peer)
            if len(connected) == count:
                done.set_result(None)

    listener = transport(home, 1)
    diallers = [transport(home, key) for key in range(2, count + 2)]
    await listener.start(handle)
    for dialler in diallers:
        await dialler.start(lambda event: None)
    began_s = time.perf_counter()
    for dialler in diallers:
        dialler.add_address(listener.address)
    await done
    seconds = time.perf_counter() - began_s
    for each in (listener, *diallers):
        await each.close()
    return seconds


def measure(sender: Sender, receiver: Receiver, load: Load) -> tuple[float, float, float]:
    """Return the sender's CPU, the receiver's CPU and wall seconds, each per GB."""
    pipe, remote = CONTEXT.Pipe()
    process = CONTEXT.Process(target=receiver, args=(remote, load))
    process.start()
    port = pipe.recv()
    payload = memoryview(os.urandom(load.payload_bytes))
    began_s, began = cpu_s(), time.perf_counter()
    sender(port, payload, load)
    wall, sent = time.perf_counter() - began, cpu_s() - began_s
    received = pipe.recv()
    process.join()
    return sent / load.total_gb, received / load.total_gb, wall / load.total_gb


def main() -> None:
    """Measure both, by turns, and print the medians."""
    parser = argparse.ArgumentParser(description="CPU cost of our transport per GB.")
    parser.add_argument("--payload-mb", type=float, default=25.0)
    parser.add_argument("--payloads", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=int, default=20, help="that dial at once")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _main(args, Path(folder))


def _main(args: argparse.Namespace, home: Path) -> None:
    load = Load(int(args.payload_mb * 1e6), args.payloads)
    ways: dict[str, tuple[Sender, Receiver]] = {
        "raw blocking socket": (raw_sender, raw_receiver),
        "AdHocTransport": (partial(our_sender, None), partial(our_receiver, None)),
        "the same over TLS": (partial(our_sender, home), partial(our_receiver, home)),
    }
    device(home, 1), device(home, 2)
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, (sender, receiver) in ways.items():
            figures[name].append(measure(sender, receiver, load))
    print(f"{load.payloads} x {args.payload_mb:g} MB, median of {args.repeats}, seconds per GB")
    print(f"{'':20}{'sender CPU':>12}{'receiver CPU':>14}{'both':>8}{'wall':>8}")
    for name, runs in figures.items():
        sent, received, wall = (statistics.median(column) for column in zip(*runs, strict=True))
        both = statistics.median(run[0] + run[1] for run in runs)
        print(f"{name:20}{sent:12.2f}{received:14.2f}{both:8.2f}{wall:8.2f}")
    print(f"\n{args.peers} peers that dial at once, until all have a session, median, seconds")
    for name, folder in (("AdHocTransport", None), ("the same over TLS", home)):
        times = [asyncio.run(handshakes_s(folder, args.peers)) for _ in range(args.repeats)]
        print(f"{name:20}{statistics.median(times):12.2f}")


if __name__ == "__main__":
    main()
