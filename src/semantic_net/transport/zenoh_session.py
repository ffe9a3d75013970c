"""A session with Zenoh for an event loop that must not wait for it.

Whatever may wait has a thread: to open and to close a session, and to put. Messages that only
answer have a second one, and a faster lane of Zenoh's, so that they pass those that wait for room.
How much may wait here follows from the windows of the streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from queue import SimpleQueue

import zenoh

from semantic_net.errors import RemoteProtocolError, StartError
from semantic_net.transport.base import Buffer
from semantic_net.transport.zenoh_place import Keys, Place

log = logging.getLogger(__name__)

REOPEN_S = 2.0
"""Seconds between two tries to open a session; Zenoh itself connects again what was open once."""

MAX_INBOX_BYTES = 64 * 1024 * 1024
"""What may wait for the event loop; the rest is dropped, and sent again when it is missed."""

MAX_WAITING = 16
"""Messages that may wait to get there; beyond that Zenoh itself waits."""

ASK_S = 2.0
"""Seconds to wait for a router that is asked who is there."""

TURN_BYTES = 2 * 1024 * 1024
"""What the event loop takes before others have their turn."""

CLOSE_S = 1.0
"""Seconds that a thread may take to come to its end; a link that is out may hold it up."""

Trusted = Callable[[], Collection[str] | None]
"""Returns which devices may be at the other end of a link; None where there is no TLS."""


_Queued = tuple[zenoh.Session, str, Sequence[Buffer]]


class Putter:
    """Puts messages in a thread of its own, in order."""

    def __init__(self, name: str, priority: zenoh.Priority) -> None:
        """Start the thread."""
        self._priority = priority
        self._buffer = bytearray()
        self._messages: SimpleQueue[_Queued | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def put(self, session: zenoh.Session, key: str, message: Sequence[Buffer]) -> None:
        """Queue the parts of a message."""
        self._messages.put((session, key, message))

    def stop(self) -> None:
        """Come to an end after what is queued."""
        self._messages.put(None)

    def _run(self) -> None:
        while (item := self._messages.get()) is not None:
            session, key, message = item
            try:
                session.put(
                    key,
                    self._joined(message),
                    congestion_control=zenoh.CongestionControl.BLOCK,
                    priority=self._priority,
                    express=True,
                )
            except zenoh.ZError as exc:  # closed meanwhile; what is missed is sent again
                log.debug("not put: %s", exc)

    def _joined(self, parts: Sequence[Buffer]) -> bytearray:
        """Return a message in one piece, valid until the next one.

        Always the same memory: to have the system find a megabyte anew costs more than the copy.
        """
        num_bytes = sum(map(len, parts))
        if num_bytes > len(self._buffer):
            self._buffer.extend(bytes(num_bytes - len(self._buffer)))
        del self._buffer[num_bytes:]
        at = 0
        with memoryview(self._buffer) as whole:
            for part in parts:
                whole[at : at + len(part)] = part
                at += len(part)
        return self._buffer


class ZenohSession:
    """What one peer puts, and what comes for it."""

    def __init__(
        self,
        keys: Keys,
        place: Place,
        configure: Callable[[], str],
        trusted: Trusted,
        taken: Callable[[bytes], None],
        seen: Callable[[Place, bool], None],
    ) -> None:
        """Prepare; nothing is opened before the start.

        Args:
            keys: Of the run.
            place: Where we are.
            configure: Returns the configuration; asked at each opening, in a thread.
            trusted: Whom to take for a router; asked in a thread.
            taken: Gets each message, in the event loop.
            seen: Told who is there, and who is not any more, in the event loop.
        """
        self._keys, self._place = keys, place
        self._configure, self._trusted = configure, trusted
        self._taken, self._seen = taken, seen
        self._loop: asyncio.AbstractEventLoop
        self._session: zenoh.Session | None = None
        self._stop = threading.Event()
        self._wakes = threading.Event()
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._lock = threading.Lock()
        self._is_draining = False
        self._told: str | None = None
        self._keeper: threading.Thread | None = None

    async def start(self, wait_s: float, *, must_open: bool) -> None:
        """Open, or go on trying.

        Args:
            wait_s: For how long to wait here until it is open.
            must_open: That it cannot be opened is an error, not a reason to wait.

        Raises:
            StartError: It cannot be opened.
        """
        self._loop = asyncio.get_running_loop()
        self._data = Putter("zenoh data", zenoh.Priority.DATA)
        self._answers = Putter("zenoh answers", zenoh.Priority.INTERACTIVE_HIGH)
        opened: asyncio.Future[None] = self._loop.create_future()
        self._keeper = threading.Thread(
            target=self._keep_open, args=(opened, must_open), name="zenoh session", daemon=True
        )
        self._keeper.start()
        await asyncio.wait({opened}, timeout=wait_s)
        if opened.done():
            opened.result()
        elif must_open:
            raise StartError("cannot listen: Zenoh does not start")

    def put(self, instance: bytes, message: Sequence[Buffer], *, is_answer: bool) -> None:
        """Send a message to a process; without a session it is lost, as it may be on the way."""
        if self._session is not None and not self._stop.is_set():
            putter = self._answers if is_answer else self._data
            putter.put(self._session, self._keys.inbox(instance), message)

    async def who_is_there(self) -> list[Place]:
        """Ask anew what was reported as it changed; nobody is where there is no answer."""
        return await self._loop.run_in_executor(None, self._ask)

    def _ask(self) -> list[Place]:
        places: list[Place] = []
        if self._session is None or self._stop.is_set():
            return places
        try:
            for reply in self._session.liveliness().get(self._keys.all_tokens, timeout=ASK_S):
                with contextlib.suppress(RemoteProtocolError):
                    if reply.ok is not None:
                        places.append(self._keys.place_of(str(reply.ok.key_expr)))
        except zenoh.ZError as exc:  # closed meanwhile
            log.debug("not asked: %s", exc)
        return places

    def look(self) -> None:
        """Look soon whether the router is still one to trust."""
        self._wakes.set()

    async def close(self) -> None:
        """Put what is queued, within a bounded time, and close."""
        if self._keeper is None:
            return
        self._data.stop()
        self._answers.stop()
        await asyncio.gather(_ended(self._data.thread), _ended(self._answers.thread))
        self._stop.set()
        self._wakes.set()
        await _ended(self._keeper)

    # In the keeper's thread.

    def _keep_open(self, opened: asyncio.Future[None], must_open: bool) -> None:
        while not self._stop.is_set():
            try:
                session = self._open()
            except (zenoh.ZError, StartError, OSError) as exc:
                if must_open:
                    self._call(_fail, opened, StartError(f"cannot listen: {first_words(exc)}"))
                    return
                self._tell(first_words(exc))
                self._stop.wait(REOPEN_S)
                continue
            if self._told is not None:
                log.info("there is a router now")
                self._told = None
            self._call(_settle, opened)
            self._watch(session)
            _close(session)

    def _open(self) -> zenoh.Session:
        session = zenoh.open(zenoh.Config.from_json5(self._configure()))
        try:
            if (stranger := self._stranger(session)) is not None:
                raise StartError(f"{stranger} is no device that is paired with this one")
            # In this order: whoever sees the token can send, and what comes of it can be answered.
            self._session = session
            inbox = session.declare_subscriber(
                self._keys.inbox(self._place.instance), zenoh.handlers.FifoChannel(MAX_WAITING)
            )
            threading.Thread(
                target=self._take_all, args=(inbox,), name="zenoh inbox", daemon=True
            ).start()
            session.liveliness().declare_subscriber(
                self._keys.all_tokens,
                zenoh.handlers.Callback(self._token_changed, indirect=False),
                history=True,
            )
            self._token = session.liveliness().declare_token(self._keys.token(self._place))
        except BaseException:
            self._session = None
            _close(session)
            raise
        return session

    def _watch(self, session: zenoh.Session) -> None:
        """Return once the session is to be closed."""
        while not self._stop.is_set():
            self._wakes.wait()
            self._wakes.clear()
            if not self._stop.is_set() and (stranger := self._stranger(session)) is not None:
                self._tell(f"{stranger} is no device that is paired with this one")
                return

    def _stranger(self, session: zenoh.Session) -> str | None:
        """Return who is at the other end of a link and not to be trusted.

        Zenoh's TLS also takes whoever has a certificate of a public authority, for any name.
        """
        trusted = self._trusted()
        if trusted is None:
            return None
        for link in session.info.links():
            if link.auth_identifier not in trusted:
                return f"the router at {link.dst.partition('/')[2]}"
        return None

    def _tell(self, why: str) -> None:
        if why != self._told:
            log.warning("no way to other peers over Zenoh: %s; it is tried again", why)
        self._told = why

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)

    # In a thread for what arrives, so that Zenoh's own need not wait for Python's lock.

    def _take_all(self, inbox: zenoh.Subscriber[zenoh.handlers.Handler[zenoh.Sample]]) -> None:
        with contextlib.suppress(zenoh.ZError):  # the session is closed
            while True:
                sample: zenoh.Sample | None = inbox.recv()
                while sample is not None:  # all that there is, while we have the lock
                    self._arrived(sample.payload.to_bytes())
                    sample = inbox.try_recv()

    def _arrived(self, message: bytes) -> None:
        with self._lock:
            if self._inbox_bytes + len(message) > MAX_INBOX_BYTES:
                return
            self._inbox.append(message)
            self._inbox_bytes += len(message)
            is_first, self._is_draining = not self._is_draining, True
        if is_first:
            self._call(self._drain)

    # In a thread of Zenoh's.

    def _token_changed(self, sample: zenoh.Sample) -> None:
        try:
            place = self._keys.place_of(str(sample.key_expr))
        except RemoteProtocolError as exc:
            log.debug("%s", exc)
            return
        self._call(self._seen, place, sample.kind == zenoh.SampleKind.PUT)

    # In the event loop.

    def _drain(self) -> None:
        taken = 0
        while self._inbox and taken < TURN_BYTES:
            message = self._inbox.popleft()
            taken += len(message)
            self._taken(message)
        with self._lock:
            self._inbox_bytes -= taken
            self._is_draining = bool(self._inbox)
        if self._is_draining:
            self._loop.call_soon(self._drain)


async def _ended(thread: threading.Thread) -> None:
    """Wait a while for a thread's end; all of them may be left behind."""
    await asyncio.get_running_loop().run_in_executor(None, thread.join, CLOSE_S)


def _close(session: zenoh.Session) -> None:
    with contextlib.suppress(zenoh.ZError):  # closed already
        session.close()  # type: ignore[no-untyped-call]  # of zenoh's


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], exc: Exception) -> None:
    if not future.done():
        future.set_exception(exc)


def first_words(exc: BaseException) -> str:
    """Return what Zenoh says is wrong, without where in its source it says so."""
    text = str(exc)
    if "Address already in use" in text:
        return "the port is in use: stop the other program, or choose another port"
    return text.partition(" at /")[0].rstrip(" !.")
