"""A simulation spread over several processes, each of which runs some of the peers.

Nothing crosses a link in less than its delay. So as long as no process goes further than the
shortest delay beyond the earliest thing that is still to happen anywhere, nothing can come from
another one that it should have known (Chandy and Misra, 1979; here all meet after each such window
of virtual time, as in Nicol, 1993). What comes at one instant comes in an order that does not
depend on who runs where, so the result is the same to the last byte, however many there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Literal

import msgspec

from semantic_net.errors import StartError
from semantic_net.records import RoundRecord
from semantic_net.simulation.engines import PATIENCE_S, ThereError, sendable
from semantic_net.simulation.virtual_time import DeadlockError, VirtualTimeLoop
from semantic_net.transport.memory_border import Message

SMALL_BYTES = 32 * 1024
"""What fits into a pipe though nobody reads yet: two may write so much to each other at once."""


What = Literal["begun", "closed", "gone"]


class PartnerGoneError(Exception):
    """Another process of this simulation has ended before it was over."""


class Report(msgspec.Struct, array_like=True, frozen=True):
    """What has become of a peer, for the process that shows it."""

    peer: int
    what: What
    at_s: float
    record: RoundRecord | None = None


class _Step(msgspec.Struct, array_like=True, frozen=True):
    """What one process tells another when they meet."""

    next_s: float
    """When the earliest thing that it knows of is to happen, these messages included."""
    quiet_at_s: float | None
    """When the last of its peers has ended, if none runs any more."""
    messages: list[Message]
    reports: list[Report]


class Part:
    """One process' share of a simulation; the `Border` of its network."""

    def __init__(
        self,
        number: int,
        part_of: Mapping[str, int],
        links: Mapping[int, Connection],
        ahead_s: float,
    ) -> None:
        """Take who is where.

        Args:
            number: Of this part; 0 gets the reports of all.
            part_of: The part of each machine.
            links: To the other parts.
            ahead_s: The shortest delay of any link between two of them.
        """
        self.number = number
        self.take: Callable[[Message], None]
        """Where messages go that come from other parts."""
        self.report: Callable[[Report], None] = self._to_first
        """Where reports of peers go."""
        self.is_open = True
        """Whether others are still to be met."""
        self._part_of = part_of
        self._links = links  # in the order of their numbers
        self._ahead_s = ahead_s
        self._outbox: dict[int, list[Message]] = {other: [] for other in {*part_of.values()}}
        self._reports: list[Report] = []
        self._quiet_at_s: float | None = None
        self._all_quiet: asyncio.Future[float] | None = None
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(_Step).decode

    def is_here(self, name: str) -> bool:
        """Tell whether a machine is in this process."""
        return self._part_of[name] == self.number

    def send(self, message: Message) -> None:
        """Bring a message to its target's part when they meet next."""
        self._outbox[self._part_of[message.target]].append(message)

    def _to_first(self, report: Report) -> None:
        self._reports.append(report)

    async def all_quiet(self) -> float:
        """Say that no peer runs here any more; return when the last of all has ended."""
        loop = asyncio.get_running_loop()
        self._quiet_at_s, self._all_quiet = loop.time(), loop.create_future()
        return await self._all_quiet

    def meet(self, next_s: float) -> float:
        """Give the others what has come up for them, and take what they have; return the horizon.

        Args:
            next_s: When something is to happen here next.

        Raises:
            DeadlockError: Nothing is to happen anywhere.
            PartnerGoneError: Another part has ended.
        """
        for messages in self._outbox.values():
            next_s = min((next_s, *(message.at_s for message in messages)))
        steps = [self._exchange(other, next_s) for other in self._links]
        for step in steps:
            next_s = min(next_s, step.next_s)
            for message in step.messages:
                self.take(message)
            for report in step.reports:
                self.report(report)
        quiet_at_s = [self._quiet_at_s, *(step.quiet_at_s for step in steps)]
        if None not in quiet_at_s:
            assert self._all_quiet is not None
            self.close()
            self._all_quiet.set_result(max(at_s for at_s in quiet_at_s if at_s is not None))
            return math.inf
        if next_s == math.inf:
            raise DeadlockError("nothing is scheduled in any process of the simulation")
        return next_s + self._ahead_s

    def _exchange(self, other: int, next_s: float) -> _Step:
        link, reports = self._links[other], self._reports if other == 0 else []
        sent = self._encode(_Step(next_s, self._quiet_at_s, self._outbox[other], reports))
        self._outbox[other] = []
        if other == 0:
            self._reports = []
        try:
            # Pairs meet in the same order everywhere, and of a pair the second waits for the first
            # where both could wait for room.
            if self.number < other or len(sent) <= SMALL_BYTES:
                link.send_bytes(sent)
                return self._decode(link.recv_bytes())
            received = link.recv_bytes()
            link.send_bytes(sent)
            return self._decode(received)
        except (EOFError, OSError) as exc:
            raise PartnerGoneError from exc

    def close(self) -> None:
        """Meet nobody any more."""
        self.is_open = False
        for link in self._links.values():
            link.close()


class PartLoop(VirtualTimeLoop):
    """The event loop of a part: time passes here no further than the others allow."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._part = part
        self._horizon_s = 0.0

    def interrupt(self) -> None:
        """Go on to the end without the others."""
        self._part.close()
        super().interrupt()

    def run_forever(self) -> None:
        """Run until stopped; after an error without the others."""
        try:
            super().run_forever()
        except BaseException:
            self._part.close()
            raise

    def _next_s(self) -> float:
        while self._part.is_open and (next_s := self._next_timer_s()) >= self._horizon_s:
            self._horizon_s = self._part.meet(next_s)
            if self._ready:
                return self._now_s
        return super()._next_s()


@contextlib.contextmanager
def spread(
    names: Sequence[str], num_parts: int, ahead_s: float, run: Callable[[Part], None]
) -> Iterator[Part]:
    """Begin all parts but one, each in a process of its own, and yield that one.

    Args:
        names: Of the machines; they go to the parts in turns.
        num_parts: Two or more.
        ahead_s: The shortest delay of any link.
        run: Runs one of the others to its end.

    Raises:
        StartError: A process has ended that should not; whatever error it had is raised instead.
    """
    part_of = {name: index % num_parts for index, name in enumerate(names)}
    processes: list[ForkProcess] = []
    parts: list[Part] = []
    receivers: list[Connection] = []
    try:
        try:
            _begin(num_parts, part_of, ahead_s, run, parts, receivers, processes)
        except OSError as exc:
            raise StartError(f"--workers {num_parts}: {exc.strerror or exc}") from exc
        yield parts[0]
    except PartnerGoneError as exc:
        parts[0].close()
        for error, trace in _failures(receivers):
            raise error from ThereError(trace)
        for process in processes:
            process.join(PATIENCE_S)
        codes = ", ".join(str(process.exitcode) for process in processes if process.exitcode)
        raise StartError(
            f"a process of the simulation has ended (exit code {codes}); "
            "with -9 memory may have run out: set --workers lower"
        ) from exc
    finally:
        for part in parts:
            part.close()
        _failures(receivers)  # who cannot say it does not end
        for process in processes:
            process.join()


def _begin(
    num_parts: int,
    part_of: Mapping[str, int],
    ahead_s: float,
    run: Callable[[Part], None],
    parts: list[Part],
    receivers: list[Connection],
    processes: list[ForkProcess],
) -> None:
    """Make all parts, and the processes of all but the first.

    Raises:
        OSError: There are too many files or processes.
    """
    context = multiprocessing.get_context("fork")
    links: dict[int, dict[int, Connection]] = {number: {} for number in range(num_parts)}
    parts += [Part(number, part_of, links[number], ahead_s) for number in range(num_parts)]
    for one, other in itertools.combinations(range(num_parts), 2):
        links[one][other], links[other][one] = context.Pipe()
    for part in parts[1:]:
        receiver, errors = context.Pipe(duplex=False)
        with errors:
            # Forked as well, and held open nobody would notice that one of us is gone.
            others = [other for other in parts if other is not part]
            arguments = run, part, errors, others, [*receivers, receiver]
            process = context.Process(target=_run_part, args=arguments, daemon=True)
            process.start()
        processes.append(process)
        receivers.append(receiver)
    for part in parts[1:]:
        part.close()


def _failures(receivers: Sequence[Connection]) -> list[tuple[Exception, str]]:
    """Return what has gone wrong elsewhere, and where, once all have closed their ends."""
    found: list[tuple[Exception, str]] = []
    for receiver in receivers:
        with contextlib.suppress(EOFError, OSError):
            failure = receiver.recv()
            found.append(failure)
        receiver.close()
    return found


def _run_part(
    run: Callable[[Part], None],
    part: Part,
    errors: Connection,
    others: Sequence[Part],
    inherited: Sequence[Connection],
) -> None:
    # The process that began this one gets them as well, and ends it with what it has.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for other in others:
        other.close()
    for connection in inherited:
        connection.close()
    failure: tuple[Exception, str] | None = None
    try:
        run(part)
    except PartnerGoneError:
        pass  # whoever it was has said why
    except Exception as exc:  # whatever it is, the process that shows it gets it
        failure = sendable(exc), traceback.format_exc()
    part.close()  # before anything that may wait: the others do not wait for us any more
    if failure is not None:
        errors.send(failure)
