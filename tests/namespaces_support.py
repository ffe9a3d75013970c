"""Networks of the tests' own: hosts in network namespaces, with slow links that can fail.

Every interface is made inside a namespace and goes with it, so nothing on the machine changes but
the list of namespaces, and what is made is deleted when a test ends, however it ends.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

BURST_BYTES = 10 * 1024
"""What a shaped link lets through at once, unless it says something else."""

QUEUE_BYTES = 64 * 1024
"""What waits in front of a shaped link; beyond that it drops."""

COMMAND_S = 10.0
"""Seconds after which `ip` or `tc` counts as hung."""

POLL_S = 0.05

_numbers = itertools.count()


def run(*command: str) -> str:
    """Run a short command and return what it printed; its failure is the test's."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


@functools.cache
def obstacle() -> str | None:
    """Return why networks cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"needs the program {program} (iproute2)"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    try:
        with namespaces(1) as [name], open("/dev/net/tun", "rb"):
            run("ip", "-n", name, "link", "add", "br0", "type", "bridge")
            run("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
            _shape(name, "eth0", 1_000_000)
    except (AssertionError, OSError) as exc:
        return f"not permitted here: {exc}"
    return None


def skip_where_not_permitted() -> None:
    """Skip the calling test, saying why, where networks cannot be made."""
    if (why := obstacle()) is not None:
        pytest.skip(f"network namespaces: {why}")


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """Make namespaces with a loopback that is up; yield their names."""
    made: list[str] = []
    try:
        for _ in range(count):
            name = f"semnet-{os.getpid()}-{next(_numbers)}"
            run("ip", "netns", "add", name)
            made.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        for name in made:
            run("ip", "netns", "del", name)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of a test's network."""

    namespace: str
    interface: str
    address: str

    def prefix(self) -> tuple[str, ...]:
        """Return what to put before a command that is to run there; the process stays the same."""
        return ("ip", "netns", "exec", self.namespace)

    def received_bytes(self) -> int:
        """Return the bytes of all frames that have come in."""
        shown = run("ip", "-n", self.namespace, "-j", "-s", "link", "show", "dev", self.interface)
        received: int = json.loads(shown)[0]["stats64"]["rx"]["bytes"]
        return received

    def set_link(self, state: str) -> None:
        """Set the host's own interface ``up`` or ``down``, as whoever runs it could."""
        run("ip", "-n", self.namespace, "link", "set", self.interface, state)


@dataclass(frozen=True, slots=True)
class Lan:
    """Hosts on one switch, each of which hears the others at a limited rate."""

    hosts: list[Host]
    switch: str

    def set_switch(self, state: str) -> None:
        """Set the switch ``up`` or ``down``: down, frames vanish and no host is told."""
        run("ip", "-n", self.switch, "link", "set", "br0", state)


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a host hears the others, and how fast it is heard."""

    down_bit_s: int
    up_bit_s: int | None = None
    """None: as fast as the machine."""
    burst_bytes: int = BURST_BYTES


def lan(num_hosts: int, rate_bit_s: int) -> contextlib.AbstractContextManager[Lan]:
    """Connect hosts through a switch whose every port sends at most ``rate_bit_s``."""
    return uneven_lan([Rates(rate_bit_s)] * num_hosts)


@contextlib.contextmanager
def uneven_lan(rates: Sequence[Rates]) -> Iterator[Lan]:
    """Connect a host for each of some rates through a switch."""
    with namespaces(len(rates) + 1) as [switch, *names]:
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        hosts = []
        for number, (name, rate) in enumerate(zip(names, rates, strict=True), 1):
            host, port = Host(name, "eth0", f"10.77.0.{number}"), f"port{number}"
            run(
                *("ip", "-n", name, "link", "add", "eth0", "type", "veth"),
                *("peer", "name", port, "netns", switch),
            )
            run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
            run("ip", "-n", name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            host.set_link("up")
            _shape(switch, port, rate.down_bit_s, rate.burst_bytes)
            if rate.up_bit_s is not None:
                _shape(name, "eth0", rate.up_bit_s, rate.burst_bytes)
            hosts.append(host)
        network = Lan(hosts, switch)
        network.set_switch("up")
        yield network


@dataclass(frozen=True, slots=True)
class Star:
    """Hosts that reach one machine and nobody else, each over a line of its own."""

    hosts: list[Host]
    centre: str
    """The machine's namespace."""
    centre_addresses: list[str]
    """Under which each host knows it."""

    def prefix(self) -> tuple[str, ...]:
        """Return what to put before a command that is to run in the centre."""
        return ("ip", "netns", "exec", self.centre)


@contextlib.contextmanager
def star(num_hosts: int, rate_bit_s: int) -> Iterator[Star]:
    """Connect hosts to a machine that forwards no packet; both ends of a line have its rate."""
    with namespaces(num_hosts + 1) as [centre, *names]:
        hosts, addresses = [], []
        for number, name in enumerate(names, 1):
            host, port = Host(name, "eth0", f"10.78.{number}.2"), f"port{number}"
            addresses.append(f"10.78.{number}.1")
            run(
                *("ip", "-n", name, "link", "add", "eth0", "type", "veth"),
                *("peer", "name", port, "netns", centre),
            )
            run("ip", "-n", name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            run("ip", "-n", centre, "addr", "add", f"{addresses[-1]}/24", "dev", port)
            run("ip", "-n", centre, "link", "set", port, "up")
            host.set_link("up")
            _shape(centre, port, rate_bit_s)
            _shape(name, "eth0", rate_bit_s)
            hosts.append(host)
        yield Star(hosts, centre, addresses)


def _shape(namespace: str, interface: str, rate_bit_s: int, burst_bytes: int = BURST_BYTES) -> None:
    run(
        *("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "tbf"),
        *("rate", f"{rate_bit_s}bit", "burst", f"{burst_bytes}b", "limit", f"{QUEUE_BYTES}b"),
    )


def wait_until(
    condition: Callable[[], bool],
    process: subprocess.Popen[bytes],
    limit_s: float,
    what: str,
    said: Callable[[], str],
) -> None:
    """Wait for something while a process runs; that it ends first is a failure."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, f"it ended before {what}:\n{said()}"
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}:\n{said()}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
