"""What `run.measure` found or made of several models, gathered."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lib import models
from lib.store import Seen


@dataclass
class Found:
    """What `measure` found or made of several models.

    table: their tables one below the other, with `model`, `title` and `family` in front. tensors, notes: by model.
    missing: models that could not be run, with the reason. cards: the records' cards, for `run.card`.
    """

    table: pd.DataFrame
    tensors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    cards: list[dict] = field(default_factory=list)


def gathered(found: dict[str, tuple[dict, Seen]], missing: dict[str, str]) -> Found:
    """Several models' records as one `Found`."""
    known, result = models.catalogue(), Found(pd.DataFrame(), missing=missing)
    parts = []
    for name, (card, seen) in found.items():
        row = known.loc[name] if name in known.index else {"title": name, "family": "other"}
        about = {"model": name, "title": row["title"], "family": row["family"]}
        parts.append(seen.table.drop(columns=list(about), errors="ignore").assign(**about)[[*about, *seen.table]])
        result.tensors[name], result.notes[name] = seen.tensors, seen.notes
        result.cards.append(card)
    if parts:
        result.table = pd.concat(parts, ignore_index=True)
    return result
