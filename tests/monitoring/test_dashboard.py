"""The live page's server: what is on the board, who may look, and what each is sent."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitoring_support import PEERS, make_record, make_status

from semantic_net.errors import StartError
from semantic_net.monitoring.dashboard import app as app_module
from semantic_net.monitoring.dashboard.access import (
    COOKIE,
    TOKEN_FILE,
    Access,
    access_of,
    is_loopback,
)
from semantic_net.monitoring.dashboard.board import (
    MAX_CURVES,
    MAX_EVENTS,
    MAX_POINTS,
    MAX_TIMELINE,
    Board,
    BoardHandler,
    Cursor,
    Event,
)
from semantic_net.monitoring.dashboard.prometheus import exposition
from semantic_net.status import DeviceVitals, LastRound, PeerStatus, Sample, Status

pytest.importorskip("uvicorn", reason="the extra dashboard is not installed")

from semantic_net.monitoring.dashboard import connection as connection_module
from semantic_net.monitoring.dashboard import server as server_module
from semantic_net.monitoring.dashboard.server import Page

FACTS = {"peer": PEERS[0], "metric": "miou", "task": "disaster"}


def told(**changes: Any) -> Status:
    """Return a status with another peer in it."""
    return make_status(**{"peers": [other(3)], "num_peers": 1, **changes})


def other(round_index: int, **changes: Any) -> PeerStatus:
    last = LastRound(
        round=round_index,
        loss=0.5,
        metric="miou",
        value=0.25,
        bytes_sent=10 * round_index,
        bytes_received=5 * round_index,
        num_missing=0,
    )
    found = PeerStatus(
        peer=PEERS[1], name="drone-2", is_connected=True, is_alive=True, agrees=True, last=last
    )
    return msgspec.structs.replace(found, **changes)


# The board.


def test_a_reader_gets_everything_at_first_and_then_what_is_new() -> None:
    board = Board(FACTS)
    board.put_status(told())
    board.put_record(make_record(round=1), 100)
    board.put_record(make_record(round=2), 200)
    board.put_samples([Sample("a")])
    news, cursor = board.news(Cursor())
    assert set(news) == {"status", "rounds", "samples"}
    curves = news["rounds"]["curves"]
    assert [tuple(msgspec.structs.astuple(p)) for p in curves[PEERS[0]]] == [
        (1, 1.234, 0.412, 100),
        (2, 1.234, 0.412, 200),
    ]
    assert [p.round for p in curves[PEERS[1]]] == [3], "another's, as its vitals say"
    assert news["rounds"]["last"]["state_digest"] == make_record().state_digest

    assert board.news(cursor) == ({}, cursor)
    board.put_status(told(peers=[other(4)]))
    board.put_event(Event(1.0, "info", "something"))
    news, cursor = board.news(cursor)
    assert set(news) == {"status", "rounds", "events"}
    assert [(p, [x.round for x in c]) for p, c in news["rounds"]["curves"].items()] == [
        (PEERS[1], [4])
    ]
    board.put_status(told(peers=[other(4)]))
    assert set(board.news(cursor)[0]) == {"status"}, "the same round once more is no news"


def test_a_reader_that_has_missed_many_gets_them_all_of_each_that_changed() -> None:
    board = Board(FACTS)
    board.put_record(make_record(round=1), 1)
    _, cursor = board.news(Cursor())
    for number in range(2, 7):
        board.put_record(make_record(round=number), number)
    assert [p.round for p in board.news(cursor)[0]["rounds"]["curves"][PEERS[0]]] == [2, 3, 4, 5, 6]


def test_a_resumed_run_takes_the_place_of_the_rounds_that_it_runs_again() -> None:
    board = Board(FACTS)
    for number in (1, 2, 3, 2):
        board.put_record(make_record(round=number), number)
    curve = board.news(Cursor())[0]["rounds"]["curves"][PEERS[0]]
    assert [p.round for p in curve] == [1, 2]


@given(st.integers(1, 3 * MAX_POINTS), st.integers(0, 400))
def test_the_board_is_bounded_and_keeps_the_ends_of_a_curve(rounds: int, events: int) -> None:
    board = Board(FACTS)
    step = max(rounds // 50, 1)
    numbers = list(range(1, rounds + 1)) if rounds <= 300 else list(range(1, rounds + 1, step))
    for number in numbers:
        board.put_record(make_record(round=number), number)
    for number in range(events):
        board.put_event(Event(float(number), "info", str(number)))
    news, _ = board.news(Cursor())
    curve = news["rounds"]["curves"][PEERS[0]]
    assert (curve[0].round, curve[-1].round) == (numbers[0], numbers[-1])
    assert len(news["rounds"]["timeline"]) <= MAX_TIMELINE
    assert len(news.get("events", ())) == min(events, MAX_EVENTS)


def test_a_long_curve_is_thinned_where_it_is_old() -> None:
    board = Board(FACTS)
    for number in range(1, MAX_POINTS + 200):
        board.put_record(make_record(round=number), number)
    rounds = [p.round for p in board.news(Cursor())[0]["rounds"]["curves"][PEERS[0]]]
    assert len(rounds) <= MAX_POINTS
    assert rounds[0] == 1
    assert rounds[-1000:] == list(range(MAX_POINTS - 800, MAX_POINTS + 200)), "each recent one"


def test_peers_that_come_and_go_do_not_fill_the_board() -> None:
    board = Board(FACTS)
    board.put_record(make_record(round=1), 100)
    for number in range(3 * MAX_CURVES):
        board.put_status(told(peers=[other(1, peer=f"peer{number}")]))
    curves = board.news(Cursor())[0]["rounds"]["curves"]
    assert len(curves) == MAX_CURVES
    assert {PEERS[0], f"peer{3 * MAX_CURVES - 1}"} <= curves.keys()
    assert "peer0" not in curves


def test_what_is_logged_is_on_the_board_as_one_line() -> None:
    board = Board(FACTS)
    logger = logging.getLogger("semantic_net.test_dashboard")
    handler = BoardHandler(board)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        logger.warning("lost %s:\n%s", "a peer", "x" * 1000)
        logger.debug("not for people")
    finally:
        logger.removeHandler(handler)
    [event] = board.news(Cursor())[0]["events"]
    assert event.level == "warning"
    assert event.text.startswith("lost a peer: xxx")
    assert len(event.text) == 400


# Who may look.


def test_only_this_machines_names_and_addresses_are_answered() -> None:
    access = Access("jetson", "t0ken")
    own = socket.gethostname()
    for header in ("127.0.0.1:80", "[::1]:80", "[fe80::1]", "192.168.0.7", "localhost:1", "JETSON",
                   own, f"{own}.local:8080"):  # fmt: skip
        assert access.knows_host(header), header
    for header in (
        "",
        "evil.example",
        "127.0.0.1.evil.example:80",
        "localhost.evil.example",
        ":80",
    ):
        assert not access.knows_host(header), header
    on_loopback = Access("127.0.0.1", None)
    assert on_loopback.knows_host("localhost:8080")
    assert not on_loopback.knows_host(own), "the network may say who has that name"


def test_loopback_needs_no_token_and_elsewhere_it_stays_the_same(tmp_path: Path) -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert access_of("127.0.0.1", tmp_path).token is None
    first = access_of("0.0.0.0", tmp_path)
    assert first.token is not None
    assert len(first.token) >= 32
    assert (tmp_path / TOKEN_FILE).stat().st_mode & 0o077 == 0
    assert access_of("0.0.0.0", tmp_path) == first
    assert first.lets_in(first.token)
    assert not first.lets_in(None)
    assert not first.lets_in(first.token[:-1] + "\u00e9")
    with pytest.raises(StartError, match="token"):
        access_of("0.0.0.0", tmp_path / "missing")


def test_a_new_token_is_read_by_its_owner_alone_whatever_was_there(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / TOKEN_FILE, tmp_path / "elsewhere"
    path.write_text("short")
    path.chmod(0o644)
    access_of("0.0.0.0", tmp_path)
    assert path.stat().st_mode & 0o077 == 0
    path.unlink()
    elsewhere.write_text("")
    path.symlink_to(elsewhere)
    access_of("0.0.0.0", tmp_path)
    assert not path.is_symlink()
    assert elsewhere.read_text() == ""


def test_peers_that_come_and_go_leave_no_curves_without_end() -> None:
    board = Board(FACTS)
    board.put_record(make_record(round=1), 1)
    for index in range(3 * MAX_CURVES):
        board.put_status(told(peers=[other(1, peer=f"p{index}"), other(2 + index)]))
    curves = board.news(Cursor())[0]["rounds"]["curves"]
    assert len(curves) == MAX_CURVES
    assert {PEERS[0], PEERS[1], f"p{3 * MAX_CURVES - 1}"} <= curves.keys()


# The server.


class Client:
    """Asks a page, with connections of its own."""

    def __init__(self, page: Page) -> None:
        self.port = int(page.url.rpartition(":")[2].partition("/")[0])

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        found = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        connection.close()
        return found

    @contextlib.contextmanager
    def stream(self) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", "/events")
        with connection.getresponse() as response:
            yield response
        connection.close()


def next_event(stream: http.client.HTTPResponse) -> tuple[str, Any]:
    while (kind := stream.readline()).startswith((b":", b"\n")):
        pass
    data = stream.readline()
    assert stream.readline() == b"\n"
    return kind.decode().split()[1], json.loads(data.removeprefix(b"data: "))


@pytest.fixture
def board() -> Board:
    return Board(FACTS)


@pytest.fixture
def client(board: Board) -> Iterator[Client]:
    with Page(board, Access("127.0.0.1", None), 0) as page:
        yield Client(page)


def test_the_page_is_small_and_says_what_a_browser_may_do_with_it(client: Client) -> None:
    total = 0
    for path in ("/", "/page.js", "/draw.js", "/page.css"):
        status, headers, content = client.ask(path)
        assert status == 200
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        total += len(content)
    assert total < 40_000


def test_it_is_read_only_and_knows_no_other_paths(client: Client) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert client.ask("/", method)[0] == 405
    for path in ("/secret", "/../key.pem", "/static/page.js", "/page.js/", "//"):
        assert client.ask(path)[0] in (404, 307), path


def test_a_strangers_name_for_this_machine_is_not_answered(client: Client) -> None:
    assert client.ask("/status.json", Host="evil.example")[0] == 421
    assert client.ask("/", Host="localhost")[0] == 200


def test_a_stream_begins_with_all_and_goes_on_with_what_is_new(
    board: Board, client: Client
) -> None:
    board.put_record(make_record(round=1), 100)
    with client.stream() as stream:
        assert stream.getheader("content-type", "").startswith("text/event-stream")
        assert next_event(stream) == ("facts", FACTS)
        kind, rounds = next_event(stream)
        assert kind == "rounds"
        assert rounds["curves"] == {PEERS[0]: [[1, 1.234, 0.412, 100]]}
        board.put_status(told())
        kind, status = next_event(stream)
        assert (kind, status["doing"]) == ("status", make_status().doing)


def test_more_readers_than_a_device_should_serve_are_sent_away(
    board: Board, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MAX_READERS", 2)
    for _ in range(3):
        assert client.ask("/events", "HEAD")[0] == 200
    with client.stream() as one, client.stream() as two:
        next_event(one)
        next_event(two)
        assert client.ask("/events")[0] == 503


def test_a_token_lets_in_leaves_the_address_and_is_asked_of_all_others(board: Board) -> None:
    board.put_status(told())
    with Page(board, Access("127.0.0.1", "t0ken"), 0) as page:
        client = Client(page)
        assert page.url.endswith("/?token=t0ken")
        for path in ("/", "/events", "/metrics", "/status.json", "/page.js"):
            assert client.ask(path)[0] == 401
        assert client.ask("/?token=guess")[0] == 403
        status, headers, _ = client.ask("/?token=t0ken")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        name = Access("127.0.0.1", "t0ken").cookie
        assert cookie.startswith(f"{name}=t0ken;")
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert client.ask("/status.json", Cookie=f"{name}=t0ken")[0] == 200
        assert client.ask("/metrics", Authorization="Bearer t0ken")[0] == 200
        assert client.ask("/metrics", Authorization="Basic t0ken")[0] == 401


def test_a_link_leads_to_no_other_host(client: Client) -> None:
    for path, leads_to in (("//evil.example/", "/evil.example/"), ("/metrics", "/metrics")):
        status, headers, _ = client.ask(f"{path}?token=any")
        assert (status, headers["location"]) == (303, leads_to)


def test_a_page_whose_loop_has_ended_breaks_nobody_who_tells(board: Board) -> None:
    listeners: list[Callable[[], None]] = []

    async def read() -> None:
        stream = app_module.Streams(board)._stream()
        assert (await stream.__anext__()).startswith(b"event: facts")
        listeners.extend(board._listeners)

    asyncio.run(read())
    [wake] = listeners
    wake()  # by who had begun to tell before
    assert board._listeners == []


def test_the_link_of_one_page_leaves_that_of_another_alone(board: Board) -> None:
    """Cookies are of a host, whatever the port."""
    names = {Access("127.0.0.1", token).cookie for token in ("t0ken", "another")}
    assert len(names) == 2
    assert all(name.startswith(COOKIE) for name in names)
    with Page(board, Access("127.0.0.1", None), 0) as page:  # where none is needed, none is set
        status, headers, _ = Client(page).ask("/?token=guess")
        assert (status, headers["location"]) == (303, "/")
        assert "set-cookie" not in headers


def test_the_link_leads_nowhere_else(client: Client) -> None:
    for path in ("//evil.example/", "///evil.example/", "/\\evil.example/"):
        status, headers, _ = client.ask(f"{path}?token=t")
        assert status == 303
        assert headers["location"].startswith("/"), path
        assert headers["location"][1] not in "/\\", path


def test_a_busy_port_is_said_before_the_run_starts(board: Board) -> None:
    with Page(board, Access("127.0.0.1", None), 0) as page:
        port = Client(page).port
        with pytest.raises(StartError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*in use"):
            Page(board, Access("127.0.0.1", None), port)


def test_the_page_ends_with_its_context_whoever_still_reads(board: Board) -> None:
    with contextlib.ExitStack() as stack:
        with Page(board, Access("127.0.0.1", None), 0) as page:
            stream = stack.enter_context(Client(page).stream())
            next_event(stream)
            board.put_status(told().ended())
        assert all(thread.name != "page" for thread in threading.enumerate())
        kind, status = next_event(stream)
        assert (kind, status["phase"]) == ("status", "finished"), "how it has ended is told"
        assert stream.read().endswith(b"\n\n"), "it has come to its end, and was not cut off"


def test_before_the_peer_has_said_anything(client: Client) -> None:
    assert client.ask("/status.json")[0] == 503
    assert client.ask("/metrics")[2] == b""


# Strangers.


def connected(client: Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=20)


def is_cut_off(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_connections_without_a_request_make_room_for_others(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page has its file descriptors in common with the peer."""
    monkeypatch.setattr(connection_module, "MAX_CONNECTIONS", 4)
    with contextlib.ExitStack() as stack:
        reads = stack.enter_context(client.stream())
        next_event(reads)
        idle = [stack.enter_context(connected(client)) for _ in range(12)]
        assert client.ask("/")[0] == 200
        for each in idle[:9]:
            assert is_cut_off(each)
        assert not reads.closed


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\n", b"GET /page.js HTTP/1.1\r\nHost: ::1\r\n\r\nG"]
)
def test_who_does_not_come_to_its_request_is_cut_off(
    client: Client, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection_module, "ASK_S", 0.1)
    with connected(client) as sock:
        sock.sendall(sent)
        try:
            while sock.recv(65536):
                pass
        except ConnectionResetError:
            pass


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such limit")
def test_a_reader_that_takes_nothing_is_gone(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it holds one of the few streams for as long as it likes."""
    monkeypatch.setattr(connection_module, "TAKE_S", 0.5)
    monkeypatch.setattr(app_module, "PULSE_S", 0.01)
    gone = threading.Event()
    monkeypatch.setattr(Board, "remove_listener", lambda board, listener: gone.set())
    with Page(board, Access("127.0.0.1", None), 0) as page, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", Client(page).port))
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for _ in range(2000):
            board.put_samples([Sample("x" * 100_000)])
            if gone.wait(0.01):
                break
        assert gone.is_set()


def test_odd_requests_do_not_drive_out_what_else_the_log_has(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_ODD_REQUESTS_TOLD", 3)
    caplog.set_level(logging.DEBUG, "semantic_net")
    for _ in range(5):
        with connected(client) as sock:
            sock.sendall(b"\0odd\r\n\r\n")
            while sock.recv(4096):
                pass
    told = [each.getMessage() for each in caplog.records if each.name.startswith("semantic_net")]
    assert sum("Invalid HTTP" in each for each in told) == 3


# Prometheus.


def test_figures_for_prometheus(board: Board, client: Client) -> None:
    device = DeviceVitals(power_w=9.5, temperature_c=51.0)
    board.put_status(told(device=device, bytes_sent=12, phase='odd "phase"\\'))
    board.put_record(make_record(loss=None), 1)
    _, headers, content = client.ask("/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = content.decode().splitlines()
    assert "semantic_net_round 3" in lines
    assert 'semantic_net_phase_seconds{phase="odd \\"phase\\"\\\\"} 1.5' in lines
    assert "# TYPE semantic_net_sent_bytes_total counter" in lines
    assert f'semantic_net_peer_agrees{{peer="{PEERS[1]}",name="drone-2"}} 1' in lines
    assert f'semantic_net_info{{peer="{PEERS[0]}",run="field",task="disaster"}} 1' in lines
    assert 'semantic_net_metric{name="miou"} 0.412' in lines
    assert "semantic_net_device_power_watts 9.5" in lines
    assert not any("battery" in line or "_loss" in line for line in lines), "what is not known"
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert exposition(None, None) == b""
