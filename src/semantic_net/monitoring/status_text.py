"""A status in words, for a terminal or a ticket."""

from __future__ import annotations

from semantic_net.monitoring.text import (
    format_bytes,
    format_duration,
    format_loss,
    format_metric,
    metric_label,
)
from semantic_net.status import PeerStatus, Status


def status_text(status: Status) -> str:
    """Return what a peer is at, a line a peer that it knows, and a line an address in vain."""
    lines = [
        f"task {status.task}, run {status.run!r}: round {status.round} of {status.rounds}, "
        f"{status.doing} (for {format_duration(status.phase_s)})",
        f"sent {format_bytes(status.bytes_sent)}, received {format_bytes(status.bytes_received)} "
        "since it started",
        *(f"  {_peer_line(peer)}" for peer in status.peers),
    ]
    if (more := status.num_peers - len(status.peers)) > 0:
        lines.append(f"  and {more} more peers")
    if not status.peers:
        lines.append("  no other peer is known so far")
    for address, why in status.unmet.items():
        reason = f" ({why})" if why else ""
        lines.append(f"  {address}: nobody has said hello there{reason}")
    return "\n".join(lines)


def peer_state(peer: PeerStatus) -> str:
    """Return what another peer is, in a few words."""
    if peer.has_left:
        return "has left"
    if not peer.is_alive:
        return f"silent for {format_duration(peer.heard_s)}" if peer.heard_s else "not heard"
    if peer.agrees is False:
        return "holds another model"
    if peer.is_connected:
        return "connected"
    return f"not connected, heard {format_duration(peer.heard_s or 0.0)} ago"


def _peer_line(peer: PeerStatus) -> str:
    parts = [f"{peer.name or peer.peer}: {peer_state(peer)}"]
    if peer.round:
        parts.append(f"round {peer.round}")
    if (last := peer.last) is not None:
        if last.loss is not None:
            parts.append(f"loss {format_loss(last.loss)}")
        if last.value is not None:
            parts.append(f"{metric_label(last.metric)} {format_metric(last.metric, last.value)}")
    if peer.bytes_per_s is not None:
        parts.append(f"{format_bytes(round(peer.bytes_per_s))}/s")
    if peer.waited_for:
        parts.append(f"waited for: {peer.waited_for}")
    if peer.problem and not peer.has_left:
        parts.append(peer.problem)
    return ", ".join(parts)
