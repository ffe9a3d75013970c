"""The drawings in a real browser, with figures that others may tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from browser_support import browsing, chromium
from selenium.webdriver import Chrome

from semantic_net.monitoring.dashboard.access import Access
from semantic_net.monitoring.dashboard.board import Board
from semantic_net.monitoring.dashboard.server import Page

pytestmark = pytest.mark.page

if chromium() is None:
    text = "needs chromium and chromedriver (Debian: chromium, chromium-driver)"
    pytest.skip(text, allow_module_level=True)

DRAW = """
const [points, done] = arguments;
import("/draw.js").then(({ chart }) => {
  const place = document.createElement("div");
  const axis = { format: String, label: "x", name: "x" };
  chart(place, [{ name: "a", colour: "c0", points }], { x: axis, y: axis, title: "t" });
  done(place.querySelector("path").getAttribute("d"));
}).catch((error) => done(String(error)));
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    facts = {"peer": "a", "name": "a", "metric": "", "task": "t", "run": "r", "percent": False}
    with (
        Page(Board(facts), Access("127.0.0.1", None), 0) as page,
        browsing(tmp_path_factory.mktemp("browser")) as found,
    ):
        found.get(page.url)
        found.set_script_timeout(10)
        yield found


@pytest.mark.parametrize(
    "values",
    [
        (0.9, 0.9000000000000001),  # two devices' figures for one model
        (1.0, 1.0000000000000002),
        (9e299, -9e299),
        (0.0, 5e-324),
        (2.0**60, 2.0**60 + 256),
    ],
)
def test_a_chart_of_any_figures_comes_to_an_end(
    driver: Chrome, values: tuple[float, float]
) -> None:
    path: str = driver.execute_async_script(DRAW, [[i, y] for i, y in enumerate(values)])
    assert re.fullmatch(r"M[\d.]+ [\d.]+L[\d.]+ [\d.]+", path)


def test_figures_beyond_all_scales_are_left_out(driver: Chrome) -> None:
    points = [[0, 1.7e308], [1, 0.5], [2, -1.7e308], [3, 0.6]]
    path: str = driver.execute_async_script(DRAW, points)
    assert re.fullmatch(r"M[\d.]+ [\d.]+L[\d.]+ [\d.]+", path)
