"""A peer's figures in Prometheus' text format, version 0.0.4."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from semantic_net.records import RoundRecord
from semantic_net.status import Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Series = tuple[Mapping[str, str], float]


def exposition(status: Status | None, last: RoundRecord | None) -> bytes:
    """Return what a scrape gets: what the peer is at, and its last round."""
    lines: list[str] = []

    def add(name: str, kind: str, text: str, series: Iterable[Series]) -> None:
        found = [(labels, value) for labels, value in series if not math.isnan(value)]
        if not found:
            return
        name = f"semantic_net_{name}"
        lines.append(f"# HELP {name} {text}")
        lines.append(f"# TYPE {name} {kind}")
        lines.extend(f"{name}{_labels(labels)} {_number(value)}" for labels, value in found)

    if status is not None:
        about = {"peer": status.peer, "run": status.run, "task": status.task}
        add("info", "gauge", "Which peer this is.", [(about, 1)])
        add("round", "gauge", "The open round.", [({}, status.round)])
        add("rounds", "gauge", "Rounds of the whole run.", [({}, status.rounds)])
        add("phase_seconds", "gauge", "For how long the phase lasts.", [
            ({"phase": status.phase}, status.phase_s)
        ])  # fmt: skip
        alive = sum(peer.is_alive for peer in status.peers)
        connected = sum(peer.is_connected for peer in status.peers)
        waited_for = sum(bool(peer.waited_for) for peer in status.peers)
        add("peers", "gauge", "Other peers.", [
            ({"state": "alive"}, alive),
            ({"state": "connected"}, connected),
            ({"state": "waited_for"}, waited_for),
        ])  # fmt: skip
        add("sent_bytes_total", "counter", "Socket bytes sent.", [({}, status.bytes_sent)])
        add("received_bytes_total", "counter", "Socket bytes received.", [
            ({}, status.bytes_received)
        ])  # fmt: skip
        add("peer_round", "gauge", "The round that is open at another peer.", [
            ({"peer": peer.peer, "name": peer.name}, peer.round) for peer in status.peers
        ])  # fmt: skip
        add("peer_alive", "gauge", "Whether another peer is heard.", [
            ({"peer": peer.peer, "name": peer.name}, peer.is_alive) for peer in status.peers
        ])  # fmt: skip
        add("peer_agrees", "gauge", "Whether another peer's last round led to our model.", [
            ({"peer": peer.peer, "name": peer.name}, peer.agrees)
            for peer in status.peers
            if peer.agrees is not None
        ])  # fmt: skip
        if (device := status.device) is not None:
            for name, text, value in (
                ("power_watts", "That the device takes.", device.power_w),
                ("battery_percent", "Of the battery.", device.battery_percent),
                ("temperature_celsius", "Of its hottest part.", device.temperature_c),
            ):
                add(f"device_{name}", "gauge", text, [] if value is None else [({}, value)])
    if last is not None:
        add("loss", "gauge", "Training loss of the last round.", [
            ({}, math.nan if last.loss is None else last.loss)
        ])  # fmt: skip
        add("metric", "gauge", "Validation after the last fold.", [
            ({"name": name}, value) for name, value in last.metrics.items()
        ])  # fmt: skip
        add("round_seconds", "gauge", "What the last round took.", [
            ({"part": part}, value)
            for part, value in (
                ("train", last.train_s), ("encode", last.encode_s),
                ("exchange", last.exchange_s), ("fold", last.fold_s), ("all", last.time_s),
            )
        ])  # fmt: skip
        add("updates", "gauge", "Updates in the last round's fold.", [({}, len(last.updates_in))])
        add("missing", "gauge", "Peers that the last round missed.", [({}, len(last.missing))])
    return "".join(line + "\n" for line in lines).encode()


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value)) if isinstance(value, float) else str(int(value))
