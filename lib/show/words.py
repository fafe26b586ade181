"""Sentences that hold numbers, made in the cell that has them."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Words:
    """Markdown that a cell shows: sentences whose numbers come from the cell above."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text


def say(*sentences: str) -> Words:
    """Sentences, usually f-strings, as a paragraph of the page: it reads the same in Jupyter and in the book."""
    return Words(" ".join(sentences))


def glue(**values: Any) -> None:
    """Name numbers and strings for the book's other pages: glue(auc=x), then {glue:text}`auc:.2f` there.

    Each must be a scalar; names are shared by all pages, so begin them with the exhibit's.
    """
    from myst_nb import glue as keep

    for name, value in values.items():
        keep(name, value.item() if isinstance(value, np.generic) else value, display=False)
