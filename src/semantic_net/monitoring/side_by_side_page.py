"""A comparison as people read it: cells first, then the same cells as Markdown, HTML and a table.

The page is one file that needs no network: its plot is drawn into it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from semantic_net.monitoring.page import (
    Cells,
    html_facts,
    html_figure,
    html_list,
    html_table,
    markdown_table,
    markdown_text,
    page,
)
from semantic_net.monitoring.side_by_side import (
    SideBySide,
    Spread,
    Way,
    best,
    differences,
    final,
)
from semantic_net.monitoring.text import (
    format_bytes,
    format_duration,
    format_energy,
    in_percent,
    metric_label,
    percent_factor,
)

_RECEIVED, _SERVER = "received", "through the server"
_NOT_ON_A_TERMINAL = (_RECEIVED, _SERVER)
"""80 columns take no more: the page has these."""


def main_cells(found: SideBySide) -> Cells:
    """Return a row a way: the main metric, if anything was learned, bytes, time and energy."""
    name, factor = found.metric, factor_of(found, found.metric)
    unit = ", %" if in_percent(name) else ""
    of_difference = "points" if in_percent(name) else metric_label(name)
    reference = next(way for way in found.ways if way.name == found.reference)
    has_server = any(o.server_bytes is not None for way in found.ways for o in way.outcomes)
    has_energy = any(o.energy_j is not None for way in found.ways for o in way.outcomes)
    head = ["way of training"]
    if name:
        head += [f"{metric_label(name)}{unit}", f"against {reference.name}, {of_difference}"]
    head += ["sent by a device", _RECEIVED]
    head += ["messages in a round"] if _all_tell_messages(found) else []
    head += [_SERVER] if has_server else []
    head += ["time"]
    head += ["energy"] if has_energy else []
    head += ["energy of a device"] if _all_tell_energy(found) else []
    rows = []
    for way in found.ways:
        rows.append((way.title, *_main_row(way, found, reference, has_server, has_energy)))
        # Of one model there is no best: it was judged on data that differ.
        unlike = [o for o in way.outcomes if not o.is_common]
        if any(len({m[name] for m in o.devices if name in m}) > 1 for o in unlike):
            each = [best(o, name, higher_is_better=found.higher_is_better) for o in way.outcomes]
            value = _spread_text(each, factor)
            rows.append((f"{way.title}: the best", value, *[""] * (len(head) - 2)))
    return Cells(tuple(head), tuple(rows))


def metric_cells(found: SideBySide) -> Cells:
    """Return a row a metric, the mean over devices and seeds, and a column a way."""
    names = dict.fromkeys(
        name for way in found.ways for o in way.outcomes for each in o.devices for name in each
    )
    rows = [
        (
            metric_label(name) + (", %" if in_percent(name) else ""),
            *(
                _spread_text([final(o, name) for o in way.outcomes], factor_of(found, name))
                for way in found.ways
            ),
        )
        for name in names
    ]
    return Cells(("metric", *(way.title for way in found.ways)), tuple(rows))


def notes(found: SideBySide) -> list[str]:
    """Return what has to be known to read the table."""
    seeds = sorted({o.seed for way in found.ways for o in way.outcomes if o.seed is not None})
    lines = []
    if len(seeds) > 1:
        lines.append(
            f"Means of seeds {', '.join(map(str, seeds))}; in brackets the lowest and the highest."
        )
    elif seeds:
        lines.append(f"Seed {seeds[0]} alone: another one may turn out otherwise.")
    if not found.higher_is_better:
        lines.append(f"Of {metric_label(found.metric)}, lower is better.")
    if found.last > 1:
        lines.append(f"Every metric is the mean over the last {found.last} rounds.")
    if not found.metric:
        lines.append("Nothing was learned: these runs are of the protocol only.")
    if _all_tell_messages(found):
        lines.append("Messages are the frames that a device received, the mean over its rounds.")
    lines.append(
        "Bytes are those of sockets, all traffic of a run; time is that of training, encoding, "
        "exchange and fold, without evaluations."
    )
    if any(o.energy_j is not None for way in found.ways for o in way.outcomes):
        lines.append("Energy is the whole machine's while a run took place, evaluations included.")
    telling = _those_that_tell_energy(found)
    if _all_tell_energy(found):
        lines.append("Energy of a device is what the simulation reckons of all its rounds.")
    elif telling:
        lines.append(f"NOTE: only some runs tell the energy of a device: {', '.join(telling)}.")
    tasks = sorted({o.task for way in found.ways for o in way.outcomes if o.task})
    if len(tasks) > 1:
        lines.append(f"NOTE: the runs are of different tasks: {', '.join(tasks)}.")
    rounds = sorted({o.rounds for way in found.ways for o in way.outcomes})
    if len(rounds) > 1:
        lines.append(f"NOTE: the runs differ in rounds: {', '.join(map(str, rounds))}.")
    for way in found.ways:
        for outcome in way.outcomes:
            of = way.title if outcome.seed is None else f"{way.title}, seed {outcome.seed}"
            lines += [f"NOTE {of}: {note}." for note in outcome.notes]
    return lines


def markdown(found: SideBySide, plot: str | None, facts: Sequence[tuple[str, str]]) -> str:
    """Return the comparison as Markdown.

    Args:
        found: The comparison.
        plot: Name of the picture's file; None without one.
        facts: What else to know, as (name, value): versions, machine, command.
    """
    parts = [f"# {markdown_text(found.task)}: ways of training", markdown_table(main_cells(found))]
    words = [*ways_in_words(found), *notes(found)]
    parts.append("\n".join(f"- {markdown_text(line)}" for line in words))
    if plot is not None:
        parts.append(f"![{metric_label(found.metric)} over rounds and over bytes]({plot})")
    if found.metric:
        parts += ["## Every metric", markdown_table(metric_cells(found))]
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts if "\n" not in value))
    parts += [f"{name}:\n\n```\n{value}\n```" for name, value in facts if "\n" in value]
    return "\n\n".join(parts) + "\n"


def html(found: SideBySide, svg: str | None, facts: Sequence[tuple[str, str]]) -> str:
    """Return the comparison as one HTML file; ``svg`` and ``facts`` as for `markdown`."""
    label = f"{metric_label(found.metric)} over rounds and over bytes"
    return page(
        f"{found.task}: ways of training",
        html_table(main_cells(found), "Ways of training side by side"),
        html_list([*ways_in_words(found), *notes(found)]),
        "" if svg is None else html_figure(svg, label),
        html_table(metric_cells(found), "Every metric") if found.metric else "",
        "<h2>How it was made</h2>",
        html_facts(facts),
    )


def console_table(found: SideBySide) -> Table:
    """Return the main table for a terminal."""
    cells = main_cells(found)
    shown = [i for i, name in enumerate(cells.head) if name not in _NOT_ON_A_TERMINAL]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index in shown:
        table.add_column(
            escape(cells.head[index]), justify="right" if index else "left", no_wrap=index == 0
        )
    for row in cells.rows:
        table.add_row(*(escape(row[index]) for index in shown))
    return table


def ways_in_words(found: SideBySide) -> list[str]:
    """Return what each way is."""
    return [f"{way.title}: {way.text}" for way in found.ways if way.text]


def _main_row(
    way: Way, found: SideBySide, reference: Way, has_server: bool, has_energy: bool
) -> list[str]:
    outcomes = way.outcomes
    row = _metric_of_row(way, found, reference) if found.metric else []
    row += [
        _bytes(o.bytes_sent for o in outcomes),
        _bytes(o.bytes_received for o in outcomes),
    ]
    if _all_tell_messages(found):
        messages = [o.messages_received for o in outcomes if o.messages_received is not None]
        row.append(f"{statistics.mean(messages):.1f}")
    if has_server:
        through = [o.server_bytes for o in outcomes if o.server_bytes is not None]
        row.append(_bytes(through) if through else "")
    row.append(format_duration(statistics.mean(o.time_s for o in outcomes)))
    if has_energy:
        row.append(_energy(o.energy_j for o in outcomes))
    if _all_tell_energy(found):
        row.append(_energy(o.device_energy_j for o in outcomes))
    return row


def _metric_of_row(way: Way, found: SideBySide, reference: Way) -> list[str]:
    name, factor = found.metric, factor_of(found, found.metric)
    compared = [] if way is reference else differences(way, reference, name)
    known = [value for o in reference.outcomes if (value := final(o, name)) is not None]
    beside = statistics.mean(known) if known else 0.0
    return [
        _spread_text([final(o, name) for o in way.outcomes], factor),
        _spread_text(compared, factor, beside=beside),
    ]


def _all_tell_messages(found: SideBySide) -> bool:
    return all(o.messages_received is not None for way in found.ways for o in way.outcomes)


def _those_that_tell_energy(found: SideBySide) -> list[str]:
    return [w.title for w in found.ways if all(o.device_energy_j is not None for o in w.outcomes)]


def _all_tell_energy(found: SideBySide) -> bool:
    return len(_those_that_tell_energy(found)) == len(found.ways)


def factor_of(found: SideBySide, name: str) -> float:
    """Return what a metric is shown times, the same in all of a comparison."""
    outcomes = [outcome for way in found.ways for outcome in way.outcomes]
    curves = [metrics for outcome in outcomes for metrics in outcome.curve.values()]
    ends = [metrics for outcome in outcomes for metrics in outcome.devices]
    return percent_factor(name, (each[name] for each in [*curves, *ends] if name in each))


def _spread_text(
    values: Iterable[float | None], factor: float, *, beside: float | None = None
) -> str:
    """Return a mean and its range; a difference is signed, and has the digits of what it is of."""
    known = [factor * value for value in values if value is not None]
    if not known:
        return ""
    spread = Spread.of(known)
    digits = _digits(spread.mean if beside is None else factor * beside, factor)
    sign = "" if beside is None else "+"
    texts = [f"{value:{sign}.{digits}f}" for value in (spread.mean, spread.low, spread.high)]
    return texts[0] if len(known) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"


def _digits(value: float, factor: float) -> int:
    """Return how many decimals a figure has: two for per cent, else four digits in all."""
    if factor != 1:
        return 2
    return max(0, 3 - math.floor(math.log10(abs(value)))) if value else 3


def _bytes(values: Iterable[float]) -> str:
    mean = statistics.mean(values)
    return format_bytes(round(mean)) if mean else "none"


def _energy(joules: Iterable[float | None]) -> str:
    known = [each for each in joules if each is not None]
    return format_energy(statistics.mean(known)) if known else ""
