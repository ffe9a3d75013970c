"""Who may look at the page: by the host that a browser names, and by a token.

A browser runs pages of strangers beside ours. Such a page may send requests here under a name of
its own that it lets point to this machine (DNS rebinding), so a host is let in only where it is an
address, or a name of this machine.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from semantic_net.errors import StartError

COOKIE = "semantic_net_token"
"""How the names of the cookies begin."""
TOKEN_FILE = "page-token"  # nosec B105  # the name of a file
TOKEN_BYTES = 24


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one page."""

    host: str
    """Where it listens, as it was configured: a name or an address."""
    token: str | None
    """Who shows it is let in; None lets in everybody who can connect."""

    @property
    def cookie(self) -> str:
        """Name of the cookie: another for each token, since all ports of a host share theirs."""
        assert self.token is not None, "without a token none is set"
        return f"{COOKIE}_{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"

    def knows_host(self, header: str) -> bool:
        """Tell whether a ``Host`` header is an address, or a name of this machine."""
        name = _without_port(header)
        if _is_address(name) or name.lower() == "localhost":
            return True
        if self.token is None:
            return False  # whoever answers for names on the network could name this machine
        own = socket.gethostname()
        known = {self.host, own, f"{own}.local", own.partition(".")[0]}
        return name.lower().rstrip(".") in {each.lower() for each in known}

    def lets_in(self, shown: str | None) -> bool:
        """Tell whether a token is the right one, or none is needed."""
        if self.token is None:
            return True
        return shown is not None and hmac.compare_digest(shown.encode(), self.token.encode())


def access_of(host: str, folder: Path) -> Access:
    """Return the rules for a page that listens at a host.

    On loopback nobody needs a token. Elsewhere it is kept in the run's folder, readable by its
    owner alone, so that a link stays good when the run is resumed.

    Raises:
        StartError: The token cannot be written.
    """
    if is_loopback(host):
        return Access(host, None)
    path = folder / TOKEN_FILE
    try:
        token = path.read_text(encoding="ascii").strip() if path.exists() else ""
        if len(token) < TOKEN_BYTES:
            token = secrets.token_urlsafe(TOKEN_BYTES)
            path.unlink(missing_ok=True)  # what is there may be open to others, or lead elsewhere
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(token + "\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise StartError(f"{path}: the page's token cannot be kept: {exc}") from exc
    return Access(host, token)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can connect to a host that one listens at."""
    if host == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header
