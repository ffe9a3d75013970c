"""The live page put together: where it is, and what it needs."""

from __future__ import annotations

import sys

import pytest

from semantic_net.errors import ConfigError
from semantic_net.federated.page import load_page, page_address
from semantic_net.protocol.address import Address


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::1]:8080", Address("::1", 8080)),
        ("jetson.local:0", Address("jetson.local", 0)),
    ],
)
def test_where_the_page_is(text: str, found: Address) -> None:
    assert page_address(text) == found


@pytest.mark.parametrize(
    "text", ["", "here", "8080", ":8080", "127.0.0.1:", "127.0.0.1:99999", "a:b"]
)
def test_what_is_no_place_for_a_page(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^monitoring\.dashboard: "):
        page_address(text)


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "semantic_net.monitoring.dashboard.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # how an import fails
    with pytest.raises(ConfigError) as failed:
        load_page()
    assert str(failed.value) == (
        "monitoring.dashboard needs the extra dashboard: pip install 'semantic-net[dashboard]'"
    )
