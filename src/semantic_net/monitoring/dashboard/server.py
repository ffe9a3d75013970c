"""Runs the page in a thread and an event loop of its own: whoever looks never holds up a round."""

from __future__ import annotations

import logging
import socket
import threading
from types import TracebackType

import uvicorn

from semantic_net.errors import StartError
from semantic_net.monitoring.dashboard.access import Access
from semantic_net.monitoring.dashboard.app import make_app
from semantic_net.monitoring.dashboard.board import Board, BoardHandler
from semantic_net.monitoring.dashboard.connection import (
    MAX_CONNECTIONS,
    Connection,
    bear_no_silence,
)

log = logging.getLogger(__name__)

STOP_S = 3.0
"""Seconds that the page has to end."""

_ELSEWHERE = "192.0.2.1"
"""Of a block kept for documentation: the way there is the way out."""

MAX_ODD_REQUESTS_TOLD = 20
"""Anyone can make odd requests without end: they must not drive out what else the log has."""


class _ToOurLog(logging.Handler):
    """Takes what uvicorn says, mostly of strangers' odd requests, into the log file."""

    def __init__(self) -> None:
        super().__init__()
        self._num_told = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._num_told < MAX_ODD_REQUESTS_TOLD:
            self._num_told += 1
            log.debug("uvicorn: %s", record.getMessage(), exc_info=record.exc_info)


class Page:
    """A page that is served while the context lasts."""

    def __init__(self, board: Board, access: Access, port: int) -> None:
        """Take what it shows, who may look, and its port; 0 takes a free one.

        Raises:
            StartError: The address cannot be listened at.
        """
        self._board = board
        self._access = access
        self._socket = _listening(access.host, port)
        config = uvicorn.Config(
            make_app(board, access),
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=MAX_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._handler = BoardHandler(board)
        uvicorns = logging.getLogger("uvicorn.error")
        uvicorns.propagate = False
        uvicorns.handlers = [_ToOurLog()]
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)

    @property
    def url(self) -> str:
        """Where it is, with the token that lets one in."""
        host, port = self._access.host, self._socket.getsockname()[1]
        if host in ("0.0.0.0", "::", ""):  # nosec B104  # compared, not bound
            host = own_address() or socket.gethostname()
        shown = f"[{host}]" if ":" in host else host
        query = "" if self._access.token is None else f"?token={self._access.token}"
        return f"http://{shown}:{port}/{query}"

    def __enter__(self) -> Page:
        logging.getLogger("semantic_net").addHandler(self._handler)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        logging.getLogger("semantic_net").removeHandler(self._handler)
        self._board.close()
        self._server.should_exit = True
        self._thread.join(STOP_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except Exception as exc:  # the page is a convenience: the run goes on without it
            log.warning("the page is gone: %s: %s", type(exc).__name__, exc)


def own_address() -> str | None:
    """Return this machine's address on its network, as far as it has one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((_ELSEWHERE, 9))
        except OSError:
            return None
        found: str = sock.getsockname()[0]
        return found


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bear_no_silence(sock)
            sock.bind(address)
            sock.listen(MAX_CONNECTIONS)  # so that who comes before the loop runs waits for it
        except OSError:
            sock.close()
            raise
    except OSError as exc:
        raise StartError(
            f"monitoring.dashboard: cannot listen on {host}:{port}: {exc.strerror or exc}"
        ) from exc
    return sock
