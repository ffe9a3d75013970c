"""A comparison as people read it: cells first, then the same cells as Markdown, HTML and a table.

The page is one file that needs no network: its plot is drawn into it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from rich import box
from rich.table import Table

from semantic_net.monitoring.side_by_side import (
    Outcome,
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
    in_percent,
    metric_label,
)

_RECEIVED, _SERVER = "received", "through the server"
_NOT_ON_A_TERMINAL = (_RECEIVED, _SERVER)
"""80 columns take no more: the page has these."""


@dataclass(frozen=True, slots=True)
class Cells:
    """A table of texts; the first column is of names, the others are of figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def main_cells(found: SideBySide) -> Cells:
    """Return a row a way: the main metric, bytes, time and energy."""
    name = found.metric
    unit = ", %" if in_percent(name) else ""
    of_difference = "points" if in_percent(name) else metric_label(name)
    reference = next(way for way in found.ways if way.name == found.reference)
    has_server = any(o.server_bytes is not None for way in found.ways for o in way.outcomes)
    has_energy = any(o.energy_j is not None for way in found.ways for o in way.outcomes)
    head = [
        "way of training",
        f"{metric_label(name)}{unit}",
        f"against {reference.name}, {of_difference}",
        "sent by a device",
        _RECEIVED,
    ]
    head += [_SERVER] if has_server else []
    head += ["time"]
    head += ["energy"] if has_energy else []
    rows = []
    for way in found.ways:
        rows.append((way.title, *_main_row(way, found, reference, has_server, has_energy)))
        if any(not o.is_common and len(o.devices) > 1 for o in way.outcomes):
            each = [best(o, name, higher_is_better=found.higher_is_better) for o in way.outcomes]
            value = _spread_text(name, each)
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
            *(_spread_text(name, [final(o, name) for o in way.outcomes]) for way in found.ways),
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
    lines.append(
        "Bytes are those of sockets, all traffic of a run; time is that of all rounds, evaluations "
        "included, until the slowest process was done."
    )
    if any(o.energy_j is not None for way in found.ways for o in way.outcomes):
        lines.append("Energy is the whole machine's, while a run took place.")
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
    parts = [f"# {found.task}: ways of training", _markdown_table(main_cells(found))]
    parts.append("\n".join(f"- {line}" for line in [*ways_in_words(found), *notes(found)]))
    if plot is not None:
        parts.append(f"![{metric_label(found.metric)} over rounds and over bytes]({plot})")
    parts += ["## Every metric", _markdown_table(metric_cells(found))]
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts if "\n" not in value))
    parts += [f"{name}:\n\n```\n{value}\n```" for name, value in facts if "\n" in value]
    return "\n\n".join(parts) + "\n"


def html(found: SideBySide, svg: str | None, facts: Sequence[tuple[str, str]]) -> str:
    """Return the comparison as one HTML file; ``svg`` and ``facts`` as for `markdown`."""
    words = "".join(f"<li>{escape(line)}</li>" for line in [*ways_in_words(found), *notes(found)])
    told = "".join(f"<dt>{escape(k)}</dt><dd><pre>{escape(v)}</pre></dd>" for k, v in facts)
    label = escape(f"{metric_label(found.metric)} over rounds and over bytes")
    figure = "" if svg is None else f'<figure role="img" aria-label="{label}">{svg}</figure>'
    title = escape(f"{found.task}: ways of training")
    return _PAGE.format(
        title=title,
        main=_html_table(main_cells(found), "Ways of training side by side"),
        words=words,
        figure=figure,
        metrics=_html_table(metric_cells(found), "Every metric"),
        facts=told,
    )


def console_table(found: SideBySide) -> Table:
    """Return the main table for a terminal."""
    cells = main_cells(found)
    shown = [i for i, name in enumerate(cells.head) if name not in _NOT_ON_A_TERMINAL]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index in shown:
        table.add_column(
            cells.head[index], justify="right" if index else "left", no_wrap=index == 0
        )
    for row in cells.rows:
        table.add_row(*(row[index] for index in shown))
    return table


def ways_in_words(found: SideBySide) -> list[str]:
    """Return what each way is."""
    return [f"{way.title}: {way.text}" for way in found.ways if way.text]


def _main_row(
    way: Way, found: SideBySide, reference: Way, has_server: bool, has_energy: bool
) -> list[str]:
    name, outcomes = found.metric, way.outcomes
    row = [_spread_text(name, [final(o, name) for o in outcomes])]
    compared = [] if way is reference else differences(way, reference, name)
    row.append(_spread_text(name, compared, signed=True))
    row += [
        _bytes(o.bytes_sent for o in outcomes),
        _bytes(o.bytes_received for o in outcomes),
    ]
    if has_server:
        through = [o.server_bytes for o in outcomes if o.server_bytes is not None]
        row.append(_bytes(through) if through else "")
    row.append(format_duration(statistics.mean(o.time_s for o in outcomes)))
    if has_energy:
        row.append(_energy(outcomes))
    return row


def _spread_text(name: str, values: Iterable[float | None], *, signed: bool = False) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = Spread.of(known)
    if len(known) == 1:
        return _number(name, spread.mean, signed)
    low, high = _number(name, spread.low, signed), _number(name, spread.high, signed)
    return f"{_number(name, spread.mean, signed)} ({low} to {high})"


def _number(name: str, value: float, signed: bool) -> str:
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.2f}" if in_percent(name) else f"{value:{sign}.4g}"


def _bytes(values: Iterable[float]) -> str:
    mean = statistics.mean(values)
    return format_bytes(round(mean)) if mean else "none"


def _energy(outcomes: Sequence[Outcome]) -> str:
    known = [o.energy_j for o in outcomes if o.energy_j is not None]
    return f"{statistics.mean(known) / 1000:.3g} kJ" if known else ""


def _markdown_table(cells: Cells) -> str:
    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    rule = "|---" + "|---:" * (len(cells.head) - 1) + "|"
    return "\n".join([line(cells.head), rule, *(line(row) for row in cells.rows)])


def _html_table(cells: Cells, caption: str) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in cells.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        + "</tr>"
        for row in cells.rows
    )
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
caption {{ text-align: left; font-weight: bold; padding-bottom: .3rem; }}
th, td {{ padding: .3rem .7rem; border-bottom: 1px solid #8888; text-align: right; }}
th[scope=row], th:first-child {{ text-align: left; font-weight: normal; }}
td {{ white-space: nowrap; }}
h1 {{ font-size: 1.6rem; overflow-wrap: anywhere; }}
figure {{ margin: 1rem 0; background: #fff; border-radius: 4px; overflow-x: auto; }}
svg {{ width: 100%; min-width: 40rem; height: auto; }}
pre {{ margin: 0; white-space: pre-wrap; }}
dt {{ font-weight: bold; }}
dd {{ margin: 0 0 .7rem; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{main}
<ul>{words}</ul>
{figure}
{metrics}
<h2>How it was made</h2>
<dl>{facts}</dl>
</main>
</body>
</html>
"""
