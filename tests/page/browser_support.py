"""A headless Chromium of the machine's, and what it has asked for and complained of."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")

LIMIT_S = 60.0
"""Seconds after which something that should be on the page counts as never coming."""

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def chromium() -> tuple[str, str] | None:
    """Return the paths of Chromium and its driver; None where one is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    return None if browser is None or driver is None else (browser, driver)


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Chrome]:
    """Start a browser that remembers nothing."""
    found = chromium()
    assert found is not None, "the caller looks first"
    options = ChromeOptions()
    options.binary_location = found[0]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, ChromeService(found[1]))
    try:
        yield driver
    finally:
        driver.quit()


def network_events(driver: Chrome, method: str) -> list[dict[str, Any]]:
    """Return the parameters of what the network has done since the last call, by its CDP name."""
    messages = [json.loads(text)["message"] for text in _logged(driver, "performance")]
    return [each["params"] for each in messages if each["method"] == method]


def complaints(driver: Chrome) -> list[str]:
    """Return what the console has said since the last call."""
    return _logged(driver, "browser")


def _logged(driver: Chrome, kind: str) -> list[str]:
    entries: list[dict[str, Any]] = driver.get_log(kind)  # type: ignore[no-untyped-call]  # selenium's
    return [entry["message"] for entry in entries]


def until(driver: Chrome, look: Callable[[], T], what: str, limit_s: float = LIMIT_S) -> T:
    """Look again and again until there is something; return it."""
    wait = WebDriverWait(driver, limit_s, poll_frequency=0.1)
    found: T = wait.until(lambda _: look(), f"never {what}")
    return found
