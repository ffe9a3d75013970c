"""A run as a page, from one or many of its peers: what was learned, sent and missed, and when.

Read from records alone. The page is one file; its plots lie beside it as PNGs as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

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
    format_energy,
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
    columns: dict[str, Callable[[Participant], str]] = {
        "peer": lambda each: f"{each.name} ({short_id(each.records[-1].peer)})",
        "round": _round,
    }
    if any(each.learns for each in run):
        columns[f"{metric_label(name) or 'metric'}, last"] = lambda each: _last(each, name)
        columns["best"] = lambda each: _best(each, name, higher_is_better=higher)
    columns["sent"] = lambda each: format_bytes(_sent(each))
    columns["received"] = lambda each: format_bytes(_received(each))
    if any(each.learns for each in run):
        columns["smaller than float32"] = _smaller
    columns["time"] = lambda each: format_duration(_time_s(each))
    if any(each.energy_j is not None for each in run):
        columns["energy"] = lambda each: (
            "" if each.energy_j is None else format_energy(each.energy_j)
        )
    columns["rounds without somebody"] = lambda each: _count(_rounds_without(each))
    columns["digest"] = lambda each: short_digest(each.records[-1].state_digest)
    rows = (tuple(cell(each) for cell in columns.values()) for each in run)
    return Cells(tuple(columns), tuple(rows))


def _round(each: Participant) -> str:
    has_ended = each.summary is not None and each.summary.finished
    return str(each.records[-1].round) + ("" if has_ended else ", not ended")


def _last(each: Participant, metric: str) -> str:
    value = each.records[-1].metrics.get(metric)
    return "" if value is None else format_metric(metric, value)


def _best(each: Participant, metric: str, *, higher_is_better: bool) -> str:
    known = [r.metrics[metric] for r in each.records if metric in r.metrics]
    return format_metric(metric, (max if higher_is_better else min)(known)) if known else ""


def _smaller(each: Participant) -> str:
    payload = sum(r.payload_bytes for r in each.records)
    dense = sum(r.dense_bytes for r in each.records if r.payload_bytes)
    return f"{dense / payload:.3g} times" if payload else ""


def fleet_cells(run: Sequence[Participant]) -> Cells:
    """Return what all processes together have cost, and whom it cost most: a row a quantity.

    What a process does not know of itself leaves it out of that row.
    """
    rows = []
    for label, value_of, text_of, adds_up in _QUANTITIES:
        known = [(value, each.name) for each in run if (value := value_of(each)) is not None]
        if not known:
            continue
        values = [value for value, _ in known]
        ends = min(known, key=lambda one: one[0]), max(known, key=lambda one: one[0])
        rows.append(
            (
                label,
                text_of(sum(values)) if adds_up else "",
                text_of(statistics.mean(values)),
                *(f"{text_of(value)} ({name})" for value, name in ends),
            )
        )
    return Cells(("quantity", "all together", "mean", "least", "most"), tuple(rows))


def _sent(each: Participant) -> float:
    return sum(record.bytes_sent for record in each.records)


def _received(each: Participant) -> float:
    return sum(record.bytes_received for record in each.records)


def _messages(each: Participant) -> float | None:
    counts = [record.messages_received for record in each.records]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _time_s(each: Participant) -> float:
    return sum(record.time_s for record in each.records)


def _rounds_without(each: Participant) -> float:
    return sum(bool(record.missing) for record in each.records)


def _count(value: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


_QUANTITIES: tuple[
    tuple[str, Callable[[Participant], float | None], Callable[[float], str], bool], ...
] = (
    ("sent", _sent, format_bytes, True),
    ("received", _received, format_bytes, True),
    ("messages received", _messages, _count, True),
    ("energy", lambda each: each.energy_j, format_energy, True),
    ("time", _time_s, format_duration, False),
    ("rounds without somebody", _rounds_without, _count, True),
)
"""Name, value of a process, its text, and whether those of all add up."""


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
            if each.learns:
                size = f"{each.summary.num_parameters:,} parameters"
                versions += f"; task {each.summary.task}, {size}"
            told.append((each.name, versions))
    if is_fleet:
        first = f"configuration of {run[0].name}, one of {len(run)}"
        return [*told, *((first, text.rstrip()) for text in configs[:1])]
    distinct = list(dict.fromkeys(configs))
    name = "configuration" if len(distinct) == 1 else "configuration, as peers differ"
    return [*told, *((name, text.rstrip()) for text in distinct)]


def _mode(each: Participant) -> str:
    """Return what a process' updates were."""
    assert each.summary is not None
    sizes = [record.payload_bytes for record in each.records if record.payload_bytes]
    if each.learns or not sizes:
        return each.summary.mode
    return f"{each.summary.mode}, {format_bytes(statistics.mean(sizes))} an update"


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
    modes = {_mode(each) for each in run if each.summary is not None}
    peers = [each for each in run if each.role == "peer"]
    words = []
    if modes:
        words.append(f"Updates went out as {', '.join(sorted(modes))}.")
    if len(peers) > 1:
        rounds = max(each.records[-1].round for each in peers)
        words.append(verdict([each.records for each in peers], rounds).sentence + ".")
    happened = events(run)
    metrics = metrics_cells(run)
    return page(
        f"{', '.join(sorted(tasks)) or 'A run'}: {len(run)} process{'es' * (len(run) > 1)}",
        html_table(fleet_cells(run), "What it cost") if len(run) > MAX_COLUMNS else "",
        html_table(peers_cells(run), "Who took part"),
        html_list(words),
        *(html_figure(svg, label) for label, svg in drawings),
        html_table(metrics, "Every metric of the last round") if metrics.rows else "",
        "<h2>What happened</h2>",
        html_list(happened or ["Nobody was missing, and nothing was refused."]),
        "<h2>How it was made</h2>",
        html_facts(facts(run, configs)),
    )
