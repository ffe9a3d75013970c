"""The live page in a real browser, while three real peers train."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from browser_support import browsing, chromium, complaints, network_events, until
from processes_support import ROOT, Hold, PeerProcess, running
from selenium.webdriver import Chrome

pytestmark = pytest.mark.page

if chromium() is None:
    text = "needs chromium and chromedriver (Debian: chromium, chromium-driver)"
    pytest.skip(text, allow_module_level=True)

PACED = (
    f"task.name={ROOT / 'tests' / 'faults' / 'paced_task.py'}",
    "task.options={step_s: 0.05}",
    "training.steps=5",
)
LIVENESS_S = 3.0
PICTURES = ROOT / "runs" / "page"
MAX_BYTES = 300_000
LINK_BYTES_S = 125_000
"""1 Mbit/s."""


@dataclass
class Shown:
    """The page of the first of three peers, in a browser."""

    driver: Chrome
    peers: list[PeerProcess]
    url: str

    def rows(self) -> dict[str, str]:
        """Return what the table says of each peer: ok, warn or bad."""
        found: dict[str, str] = self.driver.execute_script(
            "return Object.fromEntries([...document.querySelectorAll('#peers tr')]"
            ".map(row => [row.dataset.peer, row.dataset.kind]))"
        )
        return found

    def num_points(self, chart: str) -> list[int]:
        """Return how many points each curve of a chart has."""
        paths: list[str] = self.driver.execute_script(
            f"return [...document.querySelectorAll('#{chart} path')].map(p => p.getAttribute('d'))"
        )
        return [len(re.findall("[ML]", path)) for path in paths]

    def kind_of(self, peer: PeerProcess) -> str:
        """Return what the table says of a peer."""
        peer.read_rounds()
        return self.rows().get(peer.rounds[-1].peer, "absent")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("page")

    def each(index: int) -> list[str]:
        return [] if index else ["--set", "monitoring.dashboard=127.0.0.1:0"]

    settings = (*PACED, f"p2p.liveness_s={LIVENESS_S}", "p2p.listen_timeout_s=5")
    with (
        running(folder, 3, *settings, rounds=10_000, each=each) as peers,
        browsing(folder / "profile") as driver,
    ):
        peers[0].wait_until(lambda peer: "page at " in peer.said(), "told where its page is")
        url = re.search(r"page at (\S+)", peers[0].said())
        assert url is not None
        driver.get("about:blank")
        network_events(driver, "")  # of the browser's own first page
        driver.execute_cdp_cmd("Network.enable", {})
        yield Shown(driver, peers, url[1])


def test_it_is_there_in_three_seconds_over_a_slow_link(shown: Shown) -> None:
    driver = shown.driver
    shown.peers[0].wait_for_round(12)  # there is a past to be sent
    slow = {"offline": False, "latency": 50, "uploadThroughput": LINK_BYTES_S,
            "downloadThroughput": LINK_BYTES_S}  # fmt: skip
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", slow)
    began = time.monotonic()
    driver.get(shown.url)
    until(driver, lambda: len(shown.rows()) == 3, "a row a peer")
    until(driver, lambda: sum(shown.num_points("metric")) >= 12, "curves")
    took_s = time.monotonic() - began
    received = network_events(driver, "Network.dataReceived")
    fast = {**slow, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", fast)
    num_bytes = sum(max(each["encodedDataLength"], each["dataLength"]) for each in received)
    assert num_bytes < MAX_BYTES
    assert took_s < 3.0 + 2.0, "the drawing, and the driver's own ways"
    print(f"loaded {num_bytes} bytes in {took_s:.1f} s")


def test_curves_of_all_peers_grow(shown: Shown) -> None:
    until(shown.driver, lambda: len(shown.num_points("metric")) == 3, "a curve a peer")
    before = [shown.num_points(chart) for chart in ("metric", "bytes", "loss")]
    until(
        shown.driver,
        lambda: all(
            min(now) > max(then)
            for now, then in zip(
                (shown.num_points(chart) for chart in ("metric", "bytes", "loss")),
                before,
                strict=True,
            )
        ),
        "longer curves of all three",
    )
    until(
        shown.driver,
        lambda: set(shown.driver.execute_script(
            "return [...document.querySelectorAll('#peers td.ok')].map(cell => cell.textContent)"
        )) >= {"equal"},
        "an equal digest",
    )  # fmt: skip


def test_a_killed_peer_turns_red_within_its_liveness_and_recovers(shown: Shown) -> None:
    victim = shown.peers[2]
    until(shown.driver, lambda: shown.kind_of(victim) in ("ok", "warn"), "alive")
    victim.kill()
    began = time.monotonic()
    until(shown.driver, lambda: shown.kind_of(victim) == "bad", "red")
    red_after_s = time.monotonic() - began
    # The page looks once a second, and so does the peer.
    assert red_after_s < LIVENESS_S + 4
    shown.peers[2] = victim.start_again()
    until(shown.driver, lambda: shown.kind_of(victim) in ("ok", "warn"), "alive again")
    until(shown.driver, lambda: shown.kind_of(victim) == "ok", "in order again")


@pytest.mark.parametrize(
    ("name", "width", "height"), [("phone", 390, 844), ("desktop", 1280, 1600)]
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible_and_fits(
    shown: Shown, name: str, width: int, height: int, scheme: str
) -> None:
    driver = shown.driver
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": name == "phone"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    until(driver, lambda: driver.execute_script("return innerWidth") == width, "the new size")
    until(driver, lambda: sum(shown.num_points("metric")) > 0, "drawn")
    found = Axe().run(driver)
    assert [(each["id"], [n["html"] for n in each["nodes"]]) for each in found["violations"]] == []
    too_wide = "return document.documentElement.scrollWidth > innerWidth"
    assert not driver.execute_script(too_wide), "only tables scroll sideways, in their own box"
    save(driver, f"{name}-{scheme}")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def save(driver: Chrome, name: str) -> None:
    """Keep a picture of the whole page, for people to look at."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    whole = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    (PICTURES / f"{name}.png").write_bytes(base64.b64decode(whole["data"]))


def test_nothing_is_asked_of_others_and_nothing_is_complained_of(shown: Shown) -> None:
    driver = shown.driver
    driver.get(shown.url)
    until(driver, lambda: len(shown.rows()) == 3, "a row a peer")
    asked = [each["request"]["url"] for each in network_events(driver, "Network.requestWillBeSent")]
    assert asked
    assert [url for url in asked if not url.startswith((shown.url, "data:"))] == []
    assert complaints(driver) == []


@pytest.mark.parametrize(
    ("task", "config", "pictures", "lines"),
    [("disaster", "task_disaster.yaml", 12, 0), ("netqos", "task_netqos.yaml", 0, 6)],
)
def test_what_the_model_makes_of_a_few_examples_is_shown(
    tmp_path: Path, task: str, config: str, pictures: int, lines: int
) -> None:
    def each(index: int) -> list[str]:
        page = ["--set", "monitoring.dashboard=127.0.0.1:0"] if index == 0 else []
        shard = ["--set", f"data.partition.shard={index}", "--set", "data.partition.num_shards=3"]
        return ["--config", str(ROOT / "configs" / config), *shard, *page]

    settings = (f"task.name={task}", "p2p.liveness_s=10", "training.steps=10")
    with (
        running(tmp_path, 3, *settings, rounds=10_000, each=each) as peers,
        browsing(tmp_path / "profile") as driver,
    ):
        peers[0].wait_for_round(6)
        found = re.search(r"page at (\S+)", peers[0].said())
        assert found is not None
        size = {"width": 1280, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(found[1])
        look = (
            "return [[...document.querySelectorAll('#samples img')].filter(i => i.naturalWidth > 0)"
            ".length, document.querySelectorAll('#samples path').length]"
        )
        until(driver, lambda: driver.execute_script(look) == [pictures, lines], "samples")
        shown = Shown(driver, peers, found[1])
        until(driver, lambda: len(shown.num_points("metric")) == 3, "a curve a peer")
        assert complaints(driver) == []
        save(driver, task)
        size |= {"width": 360, "height": 800, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        until(driver, lambda: driver.execute_script("return innerWidth") == 360, "the new size")
        too_wide = "return document.documentElement.scrollWidth > innerWidth"
        until(driver, lambda: not driver.execute_script(too_wide), "fitting a phone")


def test_the_page_says_how_a_run_has_ended(tmp_path: Path) -> None:
    def each(index: int) -> list[str]:
        return ["--set", "monitoring.dashboard=127.0.0.1:0"] if index == 0 else []

    hold = Hold(tmp_path / "held")
    hold.begin()
    settings = (PACED[0], f"task.options={{held_by: {tmp_path / 'held'}}}", "training.steps=2")
    with (
        running(tmp_path, 2, *settings, rounds=3, each=each) as peers,
        browsing(tmp_path / "profile") as driver,
    ):
        peers[0].wait_until(lambda peer: "page at " in peer.said(), "told where its page is")
        found = re.search(r"page at (\S+)", peers[0].said())
        assert found is not None
        driver.get(found[1])
        shown = Shown(driver, peers, found[1])
        until(driver, lambda: len(shown.rows()) == 2, "a row a peer")
        hold.end()
        assert [peer.wait() for peer in peers] == [0, 0]
        text = "return document.getElementById('stream').textContent"
        until(
            driver,
            lambda: driver.execute_script(text) == "the peer has ended",
            "told that it has ended",
        )
        until(driver, lambda: shown.num_points("metric")[:1] == [3], "the last round, too")


def test_the_page_says_that_the_peer_is_gone(shown: Shown) -> None:
    shown.peers[0].kill()
    until(
        shown.driver,
        lambda: "no connection" in shown.driver.execute_script(
            "return document.getElementById('stream').textContent"
        ),
        "told that the peer is gone",
    )  # fmt: skip
