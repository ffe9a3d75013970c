"""Pages for people: tables, lists and pictures in one HTML file that needs no network.

Whatever is not made here is escaped: names and notes come from records, and those from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Cells:
    """A table of texts; the first column is of names, the others are of figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def markdown_table(cells: Cells) -> str:
    """Return a table in Markdown."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(markdown_text(text).replace("|", "\\|") for text in texts) + " |"

    rule = "|---" + "|---:" * (len(cells.head) - 1) + "|"
    return "\n".join([line(cells.head), rule, *(line(row) for row in cells.rows)])


def markdown_text(text: str) -> str:
    """Return a text as one line that Markdown takes for nothing else than text."""
    return escape(" ".join(text.split()), quote=False)


def html_table(cells: Cells, caption: str) -> str:
    """Return a table with its caption, which may be wider than the page."""
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


def html_list(lines: Iterable[str]) -> str:
    """Return a list of texts."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def html_facts(facts: Iterable[tuple[str, str]]) -> str:
    """Return names and what they stand for, line breaks kept."""
    told = "".join(f"<dt>{escape(k)}</dt><dd><pre>{escape(v)}</pre></dd>" for k, v in facts)
    return f"<dl>{told}</dl>"


def html_figure(svg: str, label: str) -> str:
    """Return a drawing of ours; the label is for those who do not see it."""
    drawing = svg[svg.index("<svg") :]  # a page is no place for the prologue of a file of its own
    return f'<figure role="img" aria-label="{escape(label)}">{drawing}</figure>'


def page(title: str, *parts: str) -> str:
    """Return a page of parts that are HTML."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


_STYLE = """\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; font-weight: bold; padding-bottom: .3rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #8888; text-align: right; }
th[scope=row], th:first-child { text-align: left; font-weight: normal; }
td { white-space: nowrap; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0; background: #fff; border-radius: 4px; overflow-x: auto; }
svg { width: 100%; min-width: 40rem; height: auto; }
pre { margin: 0; white-space: pre-wrap; }
dt { font-weight: bold; }
dd { margin: 0 0 .7rem; }
"""
