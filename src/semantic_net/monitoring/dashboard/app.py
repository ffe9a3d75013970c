"""The page's HTTP side: four files, a stream of what is new, and the figures for Prometheus.

Read-only: GET and HEAD are all there is. Nothing here waits for the peer, and the peer waits for
nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semantic_net.monitoring.dashboard.access import TOKEN_FILE, Access
from semantic_net.monitoring.dashboard.board import Board, Cursor
from semantic_net.monitoring.dashboard.prometheus import CONTENT_TYPE, exposition

MAX_READERS = 16
"""Streams at a time: each costs some memory, and there are few people in a field."""

PULSE_S = 1.0
"""Seconds between two looks for what is new, at least: a slow link gets the latest, once."""

SILENCE_S = 15.0
"""Seconds after which a stream says something, so that both ends see that the other is there."""

COOKIE_S = 30 * 86_400

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}

_HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; "
    b"img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


def make_app(board: Board, access: Access) -> Starlette:
    """Return the application that shows a board."""
    streams = Streams(board)
    routes = [
        *(Route(path, _file(name, kind)) for path, (name, kind) in _FILES.items()),
        Route("/events", streams.respond),
        Route("/status.json", lambda request: _status(board)),
        Route("/metrics", lambda request: _metrics(board)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, access=access)])


class Guard:
    """Lets in who may look, and says in every answer what a browser may do with it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Take what is guarded, and the rules."""
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        assert scope["type"] == "http", "neither a lifespan nor websockets are asked for"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS.items()]
            await send(message)

        answer = self._answer(Request(scope)) or self._app
        await answer(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        """Return the answer to whom is not let in, or is sent on; None for the others."""
        if not self._access.knows_host(request.headers.get("host", "")):
            text = "This page answers to this machine's addresses and names only.\n"
            return PlainTextResponse(text, status_code=421)
        if (token := request.query_params.get("token")) is not None:
            if not self._access.lets_in(token):
                return PlainTextResponse("This token is not the page's.\n", status_code=403)
            # The token leaves the address bar, and with it what a person may copy or photograph.
            # One slash: after two, a browser reads the name of another host.
            response = RedirectResponse("/" + request.url.path.lstrip("/"), status_code=303)
            if self._access.token is not None:
                response.set_cookie(
                    self._access.cookie,
                    token,
                    max_age=COOKIE_S,
                    httponly=True,
                    samesite="strict",
                    path="/",
                )
            return response
        if self._access.token is None:
            return None
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        cookie = request.cookies.get(self._access.cookie)
        if not self._access.lets_in(bearer if scheme.lower() == "bearer" else cookie):
            text = (
                "Open the link with its token: the peer's console has it (page at ...), and the "
                f"file {TOKEN_FILE} in its folder the token.\n"
            )
            return PlainTextResponse(text, status_code=401)
        return None


class Streams:
    """Server-sent events: what is new on the board, to each reader at its own pace."""

    def __init__(self, board: Board) -> None:
        """Take the board."""
        self._board = board
        self._num_readers = 0

    async def respond(self, request: Request) -> Response:
        """Begin a stream."""
        if request.method == "HEAD":  # who wants no content is not to hold a stream
            return Response(media_type="text/event-stream")
        if self._num_readers >= MAX_READERS:
            text = f"{MAX_READERS} pages are open, and each costs this device something.\n"
            return PlainTextResponse(text, status_code=503, headers={"retry-after": "10"})
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        loop, woken, ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        def wake() -> None:
            # The loop may have ended a moment ago, and whoever tells is the peer, or its log.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(woken.set)
                if self._board.is_closed:
                    loop.call_soon_threadsafe(ended.set)

        self._num_readers += 1
        self._board.add_listener(wake)
        try:
            yield _event("facts", self._board.facts)
            cursor = Cursor()
            while True:
                woken.clear()
                is_last = self._board.is_closed  # before the news: how it ended is among them
                news, cursor = self._board.news(cursor)
                for kind, content in news.items():
                    yield _event(kind, content)
                if is_last:
                    return
                if not await _within(SILENCE_S, woken.wait):
                    yield b": still here\n\n"
                await _within(PULSE_S, ended.wait)
        finally:
            self._board.remove_listener(wake)
            self._num_readers -= 1


async def _within(limit_s: float, wait: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await asyncio.wait_for(wait(), limit_s)
    except asyncio.TimeoutError:
        return False
    return True


def _event(kind: str, content: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(content))


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    content = (files(__package__) / "static" / name).read_bytes()
    return lambda request: Response(content, media_type=kind)


def _status(board: Board) -> Response:
    status = board.status
    if status is None:
        return PlainTextResponse("The peer is starting.\n", status_code=503)
    return Response(msgspec.json.encode(status), media_type="application/json")


def _metrics(board: Board) -> Response:
    return Response(exposition(board.status, board.last), media_type=CONTENT_TYPE)
