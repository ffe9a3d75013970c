"""What two peers make of a slow link: how full it gets, and what an outage costs.

One peer has an update of 8 MiB, the other a tiny one. Measured is what the receiver sees: from its
first request for the payload to the payload's last byte. `make network ARGS=-s` prints it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from namespaces_support import Host, Lan, Star, lan, skip_where_not_permitted, wait_until

pytestmark = pytest.mark.network

PROGRAM = Path(__file__).with_name("stub_peer.py")
RATE_BIT_S = 5_000_000
PAYLOAD_BYTES = 8 * 1024 * 1024
OTHER_BYTES = 1000
ROUTER_PORT = 7447
OUTAGE_S = 10.0
LINE_S = PAYLOAD_BYTES * 8 / RATE_BIT_S
"""Seconds that the payload alone, without any header, takes on the line: 13.4."""

MOST_OVER_S = 2.0
"""Seconds that a transfer with an outage may take beyond the payload's and the outage's. Headers
take 0.6 of them."""

LEAST_GOODPUT = 0.93
"""Of the line rate. The line counts Ethernet frames of 1514 bytes, of which TCP carries 1448, so
that no transfer can reach 0.957."""

STRAY_BYTES = 256 * 1024
"""What may have to be sent again after an outage: it left the sender and never arrived."""

START_S = 30.0
"""Within this a process has started and found the other one; two cores may be busy."""

END_S = LINE_S + OUTAGE_S + START_S
"""Seconds after which a process counts as hung."""


class Report(msgspec.Struct, frozen=True):
    """What `stub_peer.py` tells; the times are those of one clock."""

    wants: list[tuple[float, int]]
    """When something was asked for, and from which byte on."""
    chunks: list[tuple[float, int, int]]
    """When it came, from which byte on, and how much."""
    sessions: list[float]
    bytes_received: int
    """By the sockets."""
    digests: list[str]
    updates: list[int]
    """How many each round folded."""

    @property
    def transfer_s(self) -> float:
        """Seconds from the first request to the last byte."""
        return self.chunks[-1][0] - self.wants[0][0]

    @property
    def over_s(self) -> float:
        """Seconds of that beyond what the payload takes on the line."""
        return self.transfer_s - LINE_S

    @property
    def longest_gap(self) -> tuple[float, float]:
        """Seconds of the longest time in which nothing came, and when it ended."""
        times = [self.wants[0][0], *(time for time, _, _ in self.chunks)]
        return max((after - before, after) for before, after in pairwise(times))


@dataclass(frozen=True, slots=True)
class StubPeer:
    """A `stub_peer.py` on a host."""

    host: Host
    folder: Path
    process: subprocess.Popen[bytes]

    def report(self) -> Report:
        """Wait for its end and return what it tells."""
        try:
            code = self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs:\n{self.said()}") from None
        assert code == 0, self.said()
        return msgspec.json.decode((self.folder / "report.json").read_bytes(), type=Report)

    def said(self) -> str:
        """Return everything that it printed."""
        return (self.folder / "log.txt").read_text()


@contextlib.contextmanager
def stub_peers(
    network: Lan | Star, folder: Path, payloads: list[int], liveness_s: float = 10.0
) -> Iterator[list[StubPeer]]:
    """Start two peers that publish an update of so many bytes each; none is left behind.

    Around a centre they meet at the Zenoh router there.
    """
    paths = [str(PROGRAM.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    addresses = [f"{host.address}:5000" for host in network.hosts]
    peers: list[StubPeer] = []
    try:
        for index, host in enumerate(network.hosts):
            place = folder / f"peer{index}"
            place.mkdir()
            listen, other = addresses[index], addresses[1 - index]
            arguments = [str(place / "report.json"), str(payloads[index]), listen, other]
            if isinstance(network, Star):
                arguments.append(f"{network.centre_addresses[index]}:{ROUTER_PORT}")
                arguments.append(str(liveness_s))
            with (place / "log.txt").open("wb") as log:
                process = subprocess.Popen(
                    [*host.prefix(), sys.executable, str(PROGRAM), *arguments],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            peers.append(StubPeer(host, place, process))
        yield peers
    finally:
        for peer in peers:
            peer.process.kill()
            peer.process.wait()


def transfer(
    network: Lan | Star,
    folder: Path,
    during: Callable[[StubPeer], None] = lambda receiver: None,
    liveness_s: float = 10.0,
) -> Report:
    """Move the payload from the first host to the second; return what the second saw."""
    payloads = [PAYLOAD_BYTES, OTHER_BYTES]
    with stub_peers(network, folder, payloads, liveness_s) as [sender, receiver]:
        during(receiver)
        received, sent = receiver.report(), sender.report()
    assert received.updates == sent.updates == [2], "both have folded both updates in one round"
    assert received.digests == sent.digests
    place = 0
    for _, offset, size in received.chunks:
        assert offset == place, "each byte comes once, in order"
        place += size
    assert place == PAYLOAD_BYTES
    assert received.bytes_received < 1.005 * PAYLOAD_BYTES + STRAY_BYTES
    return received


def outage(set_link: Callable[[str], None], receiver: StubPeer) -> float:
    """Cut the link in the midst of the transfer, for a while; return when it is back."""
    wait_until(
        lambda: receiver.host.received_bytes() > PAYLOAD_BYTES / 3,
        receiver.process,
        START_S + LINE_S,
        "a third of the payload had come",
        receiver.said,
    )
    set_link("down")
    restored_at = time.monotonic() + OUTAGE_S
    with contextlib.suppress(subprocess.TimeoutExpired):  # nothing must happen meanwhile
        receiver.process.wait(OUTAGE_S)
        raise AssertionError(f"it ended in the outage:\n{receiver.said()}")
    set_link("up")
    return restored_at


def test_a_transfer_fills_the_line(tmp_path: Path) -> None:
    skip_where_not_permitted()
    with lan(2, RATE_BIT_S) as network:
        report = transfer(network, tmp_path)
    goodput = LINE_S / report.transfer_s
    print(f"\n{report.transfer_s:.2f} s, goodput {goodput:.4f} of the line rate")
    assert goodput >= LEAST_GOODPUT
    assert goodput < 0.957, "more than the line can carry: the test measures something else"
    assert len(report.sessions) == 1
    assert [offset for _, offset in report.wants] == [0]


@pytest.mark.parametrize("where", ["switch", "sender", "receiver"])
def test_an_outage_costs_hardly_more_than_its_length(tmp_path: Path, where: str) -> None:
    """Down is the switch, which no host is told of, or a host's own interface, which one is."""
    skip_where_not_permitted()
    with lan(2, RATE_BIT_S) as network:
        sender, receiver = network.hosts
        set_link = {
            "switch": network.set_switch,
            "sender": sender.set_link,
            "receiver": receiver.set_link,
        }[where]
        restored: list[float] = []
        report = transfer(network, tmp_path, lambda peer: restored.append(outage(set_link, peer)))
    over_s = report.over_s - OUTAGE_S
    gap_s, until = report.longest_gap
    print(
        f"\n{report.transfer_s:.2f} s, {over_s:.2f} s over the ideal; flowing "
        f"{until - restored[0]:.2f} s after the outage, sessions {len(report.sessions)}"
    )
    assert gap_s > OUTAGE_S - 0.5, "there was an outage"
    assert until > restored[0], "and nothing came in it"
    assert over_s <= MOST_OVER_S
    offsets = [offset for _, offset in report.wants]
    assert offsets == sorted(offsets), "whoever asks again asks for the rest alone"
