"""Throughput of `ZenohTransport` as a share of what a plain Zenoh put of the same bytes reaches.

    python benchmarks/zenoh_speed.py [--payload-mb 25] [--payloads 40] [--pairs 7] [--tls]

Three processes on loopback: sender, router, receiver, of which only the router stays: what an
allocator has seen before makes a difference of a third. Both ways use the same configuration of
Zenoh's (BLOCK, reliable, express) and puts of the same size, and the receiver copies each payload
to its place. They take turns, so that each pair saw the same machine; the bar is the median share.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing as mp
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import zenoh
from transport_speed import META_BYTES, Load, PayloadSource, device

from semantic_net.protocol.frames import Kind, encode_frame
from semantic_net.protocol.handshake import HelloContent
from semantic_net.protocol.identity import Signer
from semantic_net.transport.base import Connected, Received, TransportEvent
from semantic_net.transport.outgoing import FASTEST_SEGMENTS
from semantic_net.transport.settings import TransportSettings
from semantic_net.transport.tls import Pins
from semantic_net.transport.window import MAX_WINDOW
from semantic_net.transport.zenoh import ZenohTransport
from semantic_net.transport.zenoh_config import LinkIdentity, ZenohSettings, zenoh_config
from semantic_net.transport.zenoh_router import Router

CONTEXT = mp.get_context("spawn")
BAR = 0.8
PUT_BYTES = MAX_WINDOW // FASTEST_SEGMENTS
"""What is in a segment on a fast path."""
KEY = "benchmark/payload"
TIMEOUT_S = 120.0

Sender = Callable[[memoryview, Load], float]
Receiver = Callable[[Pipe, Load], None]


def router(port: int, folder: Path | None, pipe: Pipe) -> None:
    """Be the router until told to end."""
    ours = Router(f"127.0.0.1:{port}", folder=folder)
    ours.start()
    pipe.send(None)
    pipe.recv()
    ours.close()


# A plain put.


def session(port: int, pins: Pins | None) -> zenoh.Session:
    """Connect as `ZenohTransport` does."""
    tls = None if pins is None else LinkIdentity(pins.key).section(pins.trust)
    text = zenoh_config(connect=[f"127.0.0.1:{port}"], tls=tls)
    return zenoh.open(zenoh.Config.from_json5(text))


def plain_receiver(port: int, home: Path | None, pipe: Pipe, load: Load) -> None:
    """Receive bare bytes."""
    payload = memoryview(bytearray(load.payload_bytes))
    received, ended_s, done = 0, 0.0, threading.Event()

    def take(sample: zenoh.Sample) -> None:
        nonlocal received, ended_s
        data = sample.payload.to_bytes()
        place = received % load.payload_bytes
        payload[place : place + len(data)] = data
        received += len(data)
        if received == load.payload_bytes * load.payloads:
            ended_s = time.perf_counter()
            done.set()

    with session(port, pins_of(home, 1)) as ours:
        ours.declare_subscriber(KEY, zenoh.handlers.Callback(take, indirect=False))
        pipe.send(None)
        assert done.wait(TIMEOUT_S)
        pipe.send(ended_s)
        ours.put(f"{KEY}/done", b"")


def plain_sender(port: int, home: Path | None, payload: memoryview, load: Load) -> float:
    """Send bare bytes; return when it began."""
    parts = [
        bytes(payload[start : start + PUT_BYTES])
        for start in range(0, load.payload_bytes, PUT_BYTES)
    ]
    with session(port, pins_of(home, 2)) as ours:
        publisher = ours.declare_publisher(
            KEY,
            congestion_control=zenoh.CongestionControl.BLOCK,
            reliability=zenoh.Reliability.RELIABLE,
            express=True,
        )
        done = threading.Event()
        ours.declare_subscriber(f"{KEY}/done", lambda _: done.set())
        while not publisher.matching_status:
            time.sleep(0.01)
        began_s = time.perf_counter()
        for _ in range(load.payloads):
            for part in parts:
                publisher.put(part)
        done.wait(TIMEOUT_S)
    return began_s


# Our transport.


def pins_of(home: Path | None, key: int) -> Pins | None:
    """Return whom a peer lets in; anybody, without a folder for devices."""
    if home is None:
        return None
    own = device(home, key)
    return Pins(own.key, own.certificate_file, own.trust_file)


def transport(port: int, home: Path | None, key: int) -> ZenohTransport:
    """Return a peer that reaches the router alone."""
    zenoh_settings = ZenohSettings(run="benchmark", routers=(f"127.0.0.1:{port}",))
    hello = HelloContent({}, key, "bench")
    signer = Signer(bytes([key]) * 32)
    if home is not None:
        own = device(home, key)
        signer, hello = own.signer, replace(hello, endorsement=own.endorse(own.signer.public_key))
    return ZenohTransport(
        zenoh_settings, signer, TransportSettings(), hello, pins=pins_of(home, key)
    )


def our_receiver(port: int, home: Path | None, pipe: Pipe, load: Load) -> None:
    """Receive chunks and say so after the last."""
    asyncio.run(_our_receiver(port, home, pipe, load))


async def _our_receiver(port: int, home: Path | None, pipe: Pipe, load: Load) -> None:
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    payload = memoryview(bytearray(load.payload_bytes))
    received = 0

    def handle(event: TransportEvent) -> None:
        nonlocal received
        if isinstance(event, Received) and event.frame.kind is Kind.CHUNK:
            data = memoryview(event.frame.body)[META_BYTES:]
            place = received % load.payload_bytes
            payload[place : place + len(data)] = data
            received += len(data)
            if received == load.payload_bytes * load.payloads:
                done.set_result(time.perf_counter())
                ours.send(event.peer, encode_frame(Kind.HAVE, b"all"))

    ours = transport(port, home, 1)
    await ours.start(handle)
    pipe.send(None)
    pipe.send(await asyncio.wait_for(done, TIMEOUT_S))
    await ours.close()


def our_sender(port: int, home: Path | None, payload: memoryview, load: Load) -> float:
    """Queue all payloads at once; return when that was."""
    return asyncio.run(_our_sender(port, home, payload, load))


async def _our_sender(port: int, home: Path | None, payload: memoryview, load: Load) -> float:
    done = asyncio.get_running_loop().create_future()
    began_s = 0.0

    def handle(event: TransportEvent) -> None:
        nonlocal began_s
        if isinstance(event, Connected):
            began_s = time.perf_counter()
            for _ in range(load.payloads):
                ours.stream(event.peer, PayloadSource(payload))
        elif isinstance(event, Received):
            done.set_result(None)

    ours = transport(port, home, 2)
    await ours.start(handle)
    await asyncio.wait_for(done, TIMEOUT_S)
    await ours.close()
    return began_s


def sending(sender: Sender, pipe: Pipe, load: Load) -> None:
    """Send, and say when that began."""
    pipe.send(sender(memoryview(os.urandom(load.payload_bytes)), load))


def measure(sender: Sender, receiver: Receiver, load: Load) -> float:
    """Return the megabytes a second, between two processes that have done nothing else."""
    to_receiver, remote = CONTEXT.Pipe()
    receives = CONTEXT.Process(target=receiver, args=(remote, load))
    receives.start()
    to_receiver.recv()
    to_sender, remote = CONTEXT.Pipe()
    sends = CONTEXT.Process(target=sending, args=(sender, remote, load))
    sends.start()
    began_s: float = to_sender.recv()
    ended_s: float = to_receiver.recv()
    for process in (sends, receives):
        process.join()
    return 1000 * load.total_gb / (ended_s - began_s)


@contextmanager
def running_router(port: int, folder: Path | None) -> Iterator[None]:
    """Have a router in a process of its own."""
    pipe, remote = CONTEXT.Pipe()
    process = CONTEXT.Process(target=router, args=(port, folder, remote))
    process.start()
    pipe.recv()
    try:
        yield
    finally:
        pipe.send(None)
        process.join()


def main() -> None:
    """Measure in pairs, and print the medians."""
    parser = argparse.ArgumentParser(description="Throughput over Zenoh against a plain put.")
    parser.add_argument("--payload-mb", type=float, default=25.0)
    parser.add_argument("--payloads", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--port", type=int, default=17447, help="of the router, on loopback")
    parser.add_argument("--tls", action="store_true", help="as in security.mode pinned")
    args = parser.parse_args()
    load = Load(int(args.payload_mb * 1e6), args.payloads)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) if args.tls else None
        if home is not None:
            for key in (1, 2, 3):
                device(home, key)
            (home / "3" / "trust.txt").write_bytes((home / "trust.txt").read_bytes())
        with running_router(args.port, None if home is None else home / "3"):
            pairs = [
                (
                    measure(
                        partial(plain_sender, args.port, home),
                        partial(plain_receiver, args.port, home),
                        load,
                    ),
                    measure(
                        partial(our_sender, args.port, home),
                        partial(our_receiver, args.port, home),
                        load,
                    ),
                )
                for _ in range(args.pairs)
            ]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"Zenoh {version('eclipse-zenoh')}; {load.payloads} x {args.payload_mb:g} MB"
    )
    shares = [ours / plain for plain, ours in pairs]
    print("MB/s, plain put: " + ", ".join(f"{plain:.0f}" for plain, _ in pairs))
    print("ZenohTransport:  " + ", ".join(f"{ours:.0f}" for _, ours in pairs))
    print("share:           " + ", ".join(f"{share:.2f}" for share in shares))
    share = statistics.median(shares)
    print(f"median share {share:.2f}, the bar is {BAR}: {'met' if share >= BAR else 'not met'}")


if __name__ == "__main__":
    main()
