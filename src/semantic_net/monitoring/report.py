"""A run as a page, from one or many of its peers: what was learned, sent and missed, and when.

Read from records alone. The page is one file; its plots lie beside it as PNGs as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from semantic_net.monitoring.digests import verdict
from semantic_net.monitoring.page import (
    Cells,
    html_facts,
    html_figure,
    html_list,
    html_table,
    page,
)
from semantic_net.monitoring.runs import Participant, main_metric_of
from semantic_net.monitoring.text import (
    format_bytes,
    format_duration,
    format_metric,
    in_percent,
    metric_label,
    short_digest,
)
from semantic_net.protocol.identity import short_id

MAX_COLUMNS = 12
"""Most processes of which each has a column of metrics; of more the mean is told."""

MAX_EVENTS = 500
"""Most lines of what happened; the rest is counted."""


def peers_cells(run: Sequence[Participant]) -> Cells:
    """Return a row a process: how far it came, what it knows, what it sent."""
    name, higher = main_metric_of(run)
    head = (
        "peer",
        "round",
        f"{metric_label(name) or 'metric'}, last",
        "best",
        "sent",
        "received",
        "smaller than float32",
        "time",
        "rounds without somebody",
        "digest",
    )
    rows = []
    for each in run:
        last = each.records[-1]
        known = [r.metrics[name] for r in each.records if name in r.metrics]
        payload = sum(r.payload_bytes for r in each.records)
        dense = sum(r.dense_bytes for r in each.records if r.payload_bytes)
        best = (max if higher else min)(known) if known else None
        rows.append(
            (
                f"{each.name} ({short_id(last.peer)})",
                str(last.round) + ("" if each.summary and each.summary.finished else ", not ended"),
                format_metric(name, last.metrics[name]) if name in last.metrics else "",
                "" if best is None else format_metric(name, best),
                format_bytes(sum(r.bytes_sent for r in each.records)),
                format_bytes(sum(r.bytes_received for r in each.records)),
                f"{dense / payload:.3g} times" if payload else "",
                format_duration(sum(r.time_s for r in each.records)),
                str(sum(bool(r.missing) for r in each.records)),
                short_digest(last.state_digest),
            )
        )
    return Cells(head, tuple(rows))


def metrics_cells(run: Sequence[Participant]) -> Cells:
    """Return a row a metric of the last round, classes among them, and a column a process."""
    names = dict.fromkeys(name for each in run for name in each.records[-1].metrics)
    if len(run) > MAX_COLUMNS:
        return _metrics_of_many(run, list(names))
    rows = [
        (
            metric_label(name) + (", %" if in_percent(name) else ""),
            *(
                format_metric(name, each.records[-1].metrics[name])
                if name in each.records[-1].metrics
                else ""
                for each in run
            ),
        )
        for name in names
    ]
    return Cells(("metric", *(each.name for each in run)), tuple(rows))


def _metrics_of_many(run: Sequence[Participant], names: Sequence[str]) -> Cells:
    rows = []
    for name in names:
        values = [v for each in run if (v := each.records[-1].metrics.get(name)) is not None]
        found = (statistics.mean(values), min(values), max(values))
        label = metric_label(name) + (", %" if in_percent(name) else "")
        rows.append((label, *(format_metric(name, value) for value in found)))
    return Cells(("metric", f"mean of {len(run)}", "lowest", "highest"), tuple(rows))


def events(run: Sequence[Participant]) -> list[str]:
    """Return what happened, in the order of rounds: who was missing, what was refused, notes."""
    names = {record.peer: each.name for each in run for record in each.records}
    found: list[tuple[int, str]] = []
    for each in run:
        for record in each.records:
            told = []
            if record.missing:
                who = ", ".join(names.get(p, short_id(p)) for p in sorted(record.missing))
                told.append(f"without {who} ({record.close_reason})")
            if record.unreachable:
                told.append(f"never met {', '.join(record.unreachable)}")
            told += [f"refused {count} times: {why}" for why, count in record.rejected.items()]
            told += record.notes
            found += [(record.round, f"round {record.round}, {each.name}: {text}") for text in told]
    found.sort(key=lambda event: event[0])
    lines = [text for _, text in found[:MAX_EVENTS]]
    if len(found) > MAX_EVENTS:
        lines.append(f"and {len(found) - MAX_EVENTS} more, in the records")
    return lines


def facts(run: Sequence[Participant], configs: Sequence[str]) -> list[tuple[str, str]]:
    """Return what tells how it was made: versions, and the exact configuration."""
    told = []
    is_fleet = len(run) > MAX_COLUMNS  # which was made in one way, but for addresses and shards
    for each in run[:1] if is_fleet else run:
        if each.summary is not None:
            versions = ", ".join(f"{name} {value}" for name, value in each.summary.versions.items())
            size = f"{each.summary.num_parameters:,} parameters"
            told.append((each.name, f"{versions}; task {each.summary.task}, {size}"))
    if is_fleet:
        first = f"configuration of {run[0].name}, one of {len(run)}"
        return [*told, *((first, text.rstrip()) for text in configs[:1])]
    distinct = list(dict.fromkeys(configs))
    name = "configuration" if len(distinct) == 1 else "configuration, as peers differ"
    return [*told, *((name, text.rstrip()) for text in distinct)]


def report(
    run: Sequence[Participant], configs: Sequence[str], drawings: Sequence[tuple[str, str]]
) -> str:
    """Return the page.

    Args:
        run: All processes.
        configs: Their configurations as resolved.
        drawings: Pictures as (label, SVG).
    """
    tasks = {each.summary.task for each in run if each.summary is not None}
    modes = {each.summary.mode for each in run if each.summary is not None}
    peers = [each for each in run if each.role == "peer"]
    words = []
    if modes:
        words.append(f"Updates went out as {', '.join(sorted(modes))}.")
    if len(peers) > 1:
        rounds = max(each.records[-1].round for each in peers)
        words.append(verdict([each.records for each in peers], rounds).sentence + ".")
    happened = events(run)
    return page(
        f"{', '.join(sorted(tasks)) or 'A run'}: {len(run)} process{'es' * (len(run) > 1)}",
        html_table(peers_cells(run), "Who took part"),
        html_list(words),
        *(html_figure(svg, label) for label, svg in drawings),
        html_table(metrics_cells(run), "Every metric of the last round"),
        "<h2>What happened</h2>",
        html_list(happened or ["Nobody was missing, and nothing was refused."]),
        "<h2>How it was made</h2>",
        html_facts(facts(run, configs)),
    )
