"""Numbered tables: Markdown for the book (a `{table}` directive with caption and label), HTML for Jupyter."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from lib.errors import nearest

INTERVAL = re.compile(r",? (\[[^\[\]]+\]|published|ours|difference)$")


@dataclass
class Table:
    """A finished table of strings, without index. Jupyter shows its HTML, the book its Markdown."""

    cells: pd.DataFrame
    name: str
    caption: str

    def markdown(self) -> str:
        rows = [list(self.cells.columns), *self.cells.to_numpy().tolist()]
        lines = ["| " + " | ".join(_in_two_lines(_in_a_cell(c)) for c in row) + " |" for row in rows]
        rule = "|" + "|".join("---:" if numeric(self.cells[c]) else ":---" for c in self.cells) + "|"
        body = "\n".join([lines[0], rule, *lines[1:]])
        return f"```{{table}} {self.caption}\n:name: {self.name}\n\n{body}\n```\n"

    def html(self) -> str:
        head = "".join(f"<th>{escape(str(c))}</th>" for c in self.cells.columns)
        body = ["".join(f"<td>{escape(str(c))}</td>" for c in row) for row in self.cells.to_numpy()]
        rows = "".join(f"<tr>{cells}</tr>" for cells in body)
        return f"<table><caption>{escape(self.caption)}</caption><tr>{head}</tr>{rows}</table>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/markdown": self.markdown(), "text/html": self.html(), "text/plain": self.caption}


def show(
    frame: pd.DataFrame,
    name: str,
    caption: str,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    published: pd.DataFrame | None = None,
    formats: Mapping[str, str] | str = ".2f",
    reason: str = "",
) -> Table:
    """A numbered table of `frame`, its index (where it has a name) as the first columns.

    columns: column -> heading, or a list of columns, all by default; one with <column>_low and <column>_high gets its
    interval. name: a label, unique in the book, "tab-...". published: the papers' values, indexed as the last level of
    the index of `frame` (their titles), with columns named like ours; each stands before ours. formats: column ->
    format spec, else ".2f", or one for all. reason: why the data cannot be had; a card takes the table's place then,
    and where it has no lines. A column that the frame lacks is named on stderr.
    """
    if reason or not len(frame):
        return not_run(reason or "none of the models of this run has what this compares", name, caption)
    asked = _without_bounds(frame) if columns is None else columns
    wanted = dict(asked) if isinstance(asked, Mapping) else {c: str(c).replace("_", " ") for c in asked}
    for column in set(wanted) - set(frame):
        print(f"The table {name} has no column '{column}'.{nearest(column, frame)}", file=sys.stderr)
    levels = {k: str(level) for k, level in enumerate(frame.index.names) if level is not None}
    cells = {level: [str(x) for x in frame.index.get_level_values(k)] for k, level in levels.items()}
    theirs = pd.DataFrame() if published is None else published.reindex(frame.index.get_level_values(-1))
    for column, heading in wanted.items():
        spec = formats if isinstance(formats, str) else formats.get(column, ".2f")
        known = column in theirs
        if known:
            cells[f"{heading}, published"] = [number(x, spec) for x in theirs[column]]
        ours = [cell(row, column, spec) for row in frame.to_dict("records")]
        cells[f"{heading}, ours" if known else heading] = ours
    return Table(pd.DataFrame(cells), name, caption)


def _without_bounds(frame: pd.DataFrame) -> dict[Any, str]:
    kept = [c for c in frame if not (str(c).endswith(("_low", "_high")) and str(c).rpartition("_")[0] in frame)]
    return {c: str(c).replace("_", " ") for c in kept}


def not_run(reason: str, name: str, caption: str) -> Table:
    """A card in place of a table whose data cannot be had: why it was not run."""
    return Table(pd.DataFrame({"not run": [reason]}), name, f"{caption.rstrip('. ')} (not run)")


def cell(row: Mapping[Any, Any] | pd.Series, column: str, spec: str = ".2f") -> str:
    """A value with its interval, e.g. "3.61 [3.40, 3.82]"; a dash where there is no number."""
    return estimate((row.get(column, np.nan), row.get(f"{column}_low"), row.get(f"{column}_high")), spec)


def estimate(found: tuple, spec: str = ".2f") -> str:
    """(value, low, high, ...) as "value [low, high]"; a dash for nan, no brackets without an interval."""
    value, low, high = found[:3]
    text = number(value, spec)
    if text == "–" or low is None or high is None or pd.isna(low) or pd.isna(high):
        return text
    return f"{text} [{number(low, spec)}, {number(high, spec)}]"


def number(value: Any, spec: str = ".2f") -> str:
    """A number by its format spec; strings and integers as they are; a dash for nan or None."""
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)) and not spec.startswith("+"):
        return str(value)
    return format(float(value), spec)


def numeric(column: pd.Series) -> bool:
    """Whether a column of strings holds numbers (and dashes) only: those are set flush right."""
    return bool(column.astype(str).str.match(r"[-+–]?(\d|$)").all())


def _in_a_cell(content: Any) -> str:
    return str(content).replace("|", r"\|").replace("\n", " ")


def _in_two_lines(text: str) -> str:
    """A cell whose interval, or a heading whose source, stands small on a line of its own: HTML."""
    return INTERVAL.sub(r"<span class='interval'>\1</span>", text)
