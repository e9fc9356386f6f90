"""Tables as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from .tables import Table

STYLE = """
:root { color-scheme: light dark; --line: #8885; --quiet: light-dark(#666, #aaa); --accent: #3a7bd5; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem }
p { margin: .3rem 0 } .note { color: var(--quiet); font-size: .9rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right }
th:first-child, td:first-child, td.text, th.text { text-align: left }
tbody tr:hover { background: #8881 }
a { color: var(--accent) }
video { width: 100%; background: #000; border-radius: 6px }
.roles { display: flex; margin: 1rem 0 .2rem; font-weight: 600 } .roles span { flex: 1; text-align: center }
blockquote { border-left: 3px solid var(--line); margin: .5rem 0; padding: .2rem 1rem; white-space: pre-wrap }
summary { cursor: pointer; margin-top: 1rem } summary h2 { display: inline }
td { white-space: nowrap } td.text { white-space: normal; min-width: 16rem; overflow-wrap: anywhere }
.contents { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 1rem 0 }
nav { display: flex; justify-content: space-between; margin: 1rem 0 }
"""

TEXT = ("reason", "it is", "instruction", "source", "what it is")
"""Headers of columns that hold text, which stands on the left."""


def markdown(tables: Iterable[Table], level: int = 2) -> str:
    parts = []
    for table in tables:
        lines = [f"{'#' * level} {table.title}", "", *(f"{note}\n" for note in table.notes)]
        if table.rows:
            lines.append("| " + " | ".join(map(_cell, table.header)) + " |")
            lines.append("|" + "|".join(" --- " for _ in table.header) + "|")
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
        parts.append("\n".join(lines).rstrip() + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def html(tables: Iterable[Table]) -> str:
    return "\n".join(_table(table) for table in tables)


def _table(table: Table) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    if not table.rows:
        return f"{_heading(table)}{notes}"
    kinds = [' class="text"' if name in TEXT else "" for name in table.header]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(table.header, kinds))
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds)) + "</tr>\n" for row in table.rows
    )
    whole = f'{notes}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'
    return f"<details><summary>{_heading(table)}</summary>{whole}</details>" if table.folded else f"{_heading(table)}{whole}"


def _heading(table: Table) -> str:
    return f'<h2 id="{escape(_anchor(table.title))}">{escape(table.title)}</h2>'


def _anchor(title: str) -> str:
    return "-".join("".join(char if char.isalnum() else " " for char in title.lower()).split())


def contents(tables: Iterable[Table], *more: str) -> str:
    """Links to the tables that are not folded, and to headings of these titles."""
    titles = [*(table.title for table in tables if not table.folded), *more]
    return (
        '<p class="contents">'
        + "".join(f'<a href="#{escape(_anchor(title))}">{escape(title)}</a>' for title in titles)
        + "</p>"
    )


def page(title: str, body: str) -> str:
    """A whole HTML document that needs nothing from elsewhere."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
