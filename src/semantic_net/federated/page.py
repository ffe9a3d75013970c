"""A peer's live page, put together: its address, who may look, and what it says of the run."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from semantic_net.config import Config
from semantic_net.errors import ConfigError
from semantic_net.extras import needed_for
from semantic_net.federated.teller import Teller
from semantic_net.monitoring.dashboard.access import access_of
from semantic_net.monitoring.dashboard.board import Board
from semantic_net.monitoring.text import in_percent, metric_label
from semantic_net.protocol.address import Address, parse_address
from semantic_net.protocol.identity import PeerId, short_id

if TYPE_CHECKING:
    from semantic_net.monitoring.dashboard.server import Page

KEY = "monitoring.dashboard"

log = logging.getLogger(__name__)


def page_address(where: str) -> Address:
    """Return where the page is to listen.

    Raises:
        ConfigError: ``monitoring.dashboard`` is no address with a host.
    """
    try:
        address = parse_address(where)
    except ValueError as exc:
        raise ConfigError(f"{KEY}: {exc}") from exc
    if not address.host:
        raise ConfigError(f"{KEY}: {where!r} has no host; give one, such as 127.0.0.1:8080")
    return address


def load_page() -> type[Page]:
    """Import the page.

    Raises:
        ConfigError: The extra is missing.
    """
    with needed_for(KEY, "dashboard"):
        from semantic_net.monitoring.dashboard.server import Page
    return Page


def page_of(
    config: Config, folder: Path, me: PeerId, teller: Teller
) -> AbstractContextManager[object]:
    """Return the live page, to be entered, and let a peer tell it what there is; or nothing.

    Args:
        config: Of the run.
        folder: Where the page's token is kept.
        me: The peer.
        teller: Of it.

    Raises:
        ConfigError: It is asked for, and the extra is missing.
        StartError: It cannot be served there.
    """
    where = config.monitoring.dashboard
    if where is None:
        return nullcontext()
    address = page_address(where)
    page_class = load_page()
    metric = teller.metric
    teller.board = Board(
        {
            "peer": me,
            "name": short_id(me),
            "task": config.task.name,
            "run": config.p2p.run,
            "metric": metric,
            "label": metric_label(metric),
            "percent": in_percent(metric),
        }
    )
    page = page_class(teller.board, access_of(address.host, folder), address.port)
    log.info("page at %s", page.url)
    return page
