"""How far something is: one bar for models, chunks and resamples, in Jupyter, in a terminal and in papermill's log."""

import os
import sys
from collections.abc import Iterable, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
HEADLESS = 10.0  # seconds between two lines of a bar that nobody watches
LINE = "{desc}: {n_fmt} of {total_fmt}, {remaining} left\n"


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """`items`, with a bar on stderr that names `what`; none for fewer than two. COMPANION_QUIET=1 turns bars off.

    Where pages are made in the background a bar is a line now and then, with the page's name.
    """
    count = total if total is not None or not isinstance(items, Sized) else len(items)
    if os.environ.get("COMPANION_QUIET") or (count is not None and count < 2):
        return items
    page = os.environ.get("COMPANION_PAGE")
    if page or not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        what = f"{page}, {what}" if page else what
        return _bar(items, what, count, HEADLESS, LINE)
    return _bar(items, what, count, 0.2)


def _bar(items: Iterable[T], what: str, count: int | None, often: float, form: str | None = None) -> Iterable[T]:
    """A bar that is drawn so often (s), and not at all for what is done before."""
    about = {"desc": what, "total": count, "leave": False, "mininterval": often, "delay": often, "bar_format": form}
    return tqdm(items, file=sys.stderr, **about)
