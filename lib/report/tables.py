"""Numbered tables: Markdown for the book (a `{table}` directive with caption and label), HTML for Jupyter."""

import re
import sys
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from lib.errors import nearest
from lib.report import published as papers


@dataclass
class Table:
    """A finished table of strings, without index. Jupyter shows its HTML, the book its Markdown."""

    cells: pd.DataFrame
    name: str
    caption: str

    def markdown(self):
        rows = [list(self.cells.columns), *self.cells.to_numpy().tolist()]
        lines = ["| " + " | ".join(two_lines(str(c).replace("|", r"\|")) for c in row) + " |" for row in rows]
        rule = "|" + "|".join("---:" if numeric(self.cells[c]) else ":---" for c in self.cells) + "|"
        body = "\n".join([lines[0], rule, *lines[1:]])
        return f"```{{table}} {self.caption}\n:name: {self.name}\n\n{body}\n```\n"

    def html(self):
        head = "".join(f"<th>{escape(str(c))}</th>" for c in self.cells.columns)
        body = ["".join(f"<td>{escape(str(c))}</td>" for c in row) for row in self.cells.to_numpy()]
        rows = "".join(f"<tr>{cells}</tr>" for cells in body)
        return f"<table><caption>{escape(self.caption)}</caption><tr>{head}</tr>{rows}</table>"

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/markdown": self.markdown(), "text/html": self.html(), "text/plain": self.caption}


def table(rows, columns, name, caption, published=None, difference=False, formats=None, label="title"):
    """A numbered table of `rows`, published values beside ours.

    rows: DataFrame of `run.rows`, one row a model (or any DataFrame with a column `label`). columns: dict of
    metric -> heading; a metric with <metric>_low and <metric>_high gets its interval. name: what {numref}
    refers to. published: DataFrame of report.published.load, indexed by title, with columns named like the
    metrics. difference: add ours minus published (only where both are at the same scale). formats: dict of
    metric -> format spec, ".2f" by default. A row that was not run has dashes, and the caption says why; a
    metric that no row has is named on stderr, which the page then shows.
    """
    if not len(rows):
        return Table(pd.DataFrame({"model": ["none of this run's models"]}), name, caption)
    formats = formats or {}
    theirs = None if published is None else papers.join(rows, published)
    for metric in set(columns) - set(rows) if len(rows) else ():
        print(f"The table {name} has no metric '{metric}'.{nearest(metric, rows)}", file=sys.stderr)
    cells = {"model" if label == "title" else label: rows[label].astype(str)}
    for metric, heading in columns.items():
        spec = formats.get(metric, ".2f")
        known = theirs is not None and metric in theirs
        if known:
            cells[f"{heading}, published"] = [number(x, spec) for x in theirs[metric]]
        ours = [cell(row, metric, spec) for _, row in rows.iterrows()]
        cells[f"{heading}, ours" if known else heading] = ours
        if known and difference:
            cells[f"{heading}, difference"] = [number(x, "+" + spec) for x in rows[metric] - theirs[metric]]
    reasons = rows["reason"] if "reason" in rows else pd.Series("", index=rows.index)
    missing = [f"{model} was not run: {reason}" for model, reason in reasons.items() if reason]
    return Table(pd.DataFrame(cells), name, " ".join([caption, *missing]))


def numeric(column):
    """Whether a column of strings holds numbers (and dashes) only: those are set flush right."""
    return bool(column.astype(str).str.match(r"[-+–]?(\d|$)").all())


def two_lines(text):
    """A cell whose interval, or a heading whose source, stands small on a line of its own: HTML."""
    return re.sub(r",? (\[[^\[\]]+\]|published|ours|difference)$", r"<span class='interval'>\1</span>", text)


def plain(frame, name, caption, formats=None):
    """A numbered table of any DataFrame: numbers by `formats` (column -> spec), ".2f" otherwise."""
    formats = formats or {}
    cells = {column: [number(x, formats.get(column, ".2f")) for x in frame[column]] for column in frame}
    return Table(pd.DataFrame(cells), name, caption)


def not_run(reason, name, caption):
    """A card in place of a table whose data cannot be had: why it was not run."""
    return Table(pd.DataFrame({"not run": [reason]}), name, f"{caption.rstrip('. ')} (not run)")


def cell(row, metric, spec=".2f"):
    """A metric with its interval, e.g. "3.61 [3.40, 3.82]"; a dash where there is no number."""
    value, low, high = (row.get(k, np.nan) for k in (metric, f"{metric}_low", f"{metric}_high"))
    text = number(value, spec)
    return text if text == "–" or pd.isna(low) else f"{text} [{number(low, spec)}, {number(high, spec)}]"


def number(value, spec=".2f"):
    """A number by its format spec; strings and integers as they are; a dash for nan or None."""
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    if isinstance(value, (int, np.integer)) and not spec.startswith("+"):
        return str(value)
    return format(float(value), spec)


def glue(**values):
    """Name numbers and strings for the prose: glue(auc=x), then {glue:text}`auc:.2f` on any page.

    Each must be a scalar; names are shared by all pages, so begin them with the exhibit's.
    """
    from myst_nb import glue as keep

    for name, value in values.items():
        keep(name, value.item() if isinstance(value, np.generic) else value, display=False)
