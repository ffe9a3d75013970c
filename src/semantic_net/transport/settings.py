"""What a transport may be told; deliberately independent of the whole configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """Addresses, deadlines and limits of one peer's transport."""

    host: str = "0.0.0.0"  # nosec B104  # a peer is there to be reached
    """Address to listen on."""
    port: int = 0
    """Port to listen on; 0 takes a free one."""
    peers: tuple[str, ...] = ()
    """``host:port`` addresses that are dialled for as long as the transport runs."""
    seeds: tuple[str, ...] = ()
    """Addresses that the user has named as well, but which are dialled only as long as they are
    added: they wait for no learned ones either."""
    connect_timeout_s: float = 5.0
    """Seconds that one dial may take until the connection is open."""
    handshake_timeout_s: float = 10.0
    """Seconds that an open connection may take for its handshake."""
    liveness_s: float = 10.0
    """Seconds without a byte after which a session may be replaced by another instance's."""
    dead_after_s: float = 10.0
    """Seconds of silence on the network after which a connection counts as dead."""
    first_backoff_s: float = 0.1
    """Longest wait before the second dial of an address; it doubles from dial to dial."""
    max_backoff_s: float = 5.0
    """Longest wait between two dials of an address that does not answer."""
    refused_backoff_s: float = 30.0
    """Longest wait between two dials of an address that refuses us."""
    max_pending: int = 256
    """Connections that strangers may hold open without a handshake; the oldest goes first."""
    max_sessions: int = 256
    """Sessions beyond which only peers that we dial get one."""
    max_learned: int = 1024
    """Addresses that are dialled because other peers know them."""
    max_control_bytes: int = 8 * 1024 * 1024
    """Control frames waiting for one peer; a peer that does not read is dropped beyond this."""
    max_rate_bytes_s: float | None = None
    """Bytes a second to send at most, all connections together; None for no limit."""
    cork_s: float = 0.0
    """Seconds that a control frame waits for others to go out with."""
    flush_s: float = 1.0
    """Seconds that an ending connection has to take what was queued."""
