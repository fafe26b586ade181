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
        return tqdm(items, desc=what, total=count, leave=False, mininterval=HEADLESS, file=sys.stderr, bar_format=LINE)
    return tqdm(items, desc=what, total=count, leave=False, mininterval=0.2, file=sys.stderr)
