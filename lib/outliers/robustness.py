"""Effective robustness: accuracy under a shift, beyond what accuracy without it predicts.

Models trained in the standard way lie on a line when both accuracies are put through a logit (Taori et al. 2020;
probit: Miller et al. 2021). With beta that line, fitted on such baseline models and mapped back,

    effective robustness = accuracy(shift) - beta(accuracy(no shift)),

in percentage points. Nothing here looks at images: accuracies go in, in per cent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lib.errors import UserError
from lib.outliers.contrasts import Drawn, hits, redrawn
from lib.run import Found
from lib.seeds import number

AXES = ("logit", "probit", "linear")
NEEDED = 3  # baseline models; a line through two says nothing about how well it fits


def transformed(accuracy: Any, axis: str = "logit") -> np.ndarray:
    """Accuracies in per cent on the axis of the fit, elementwise; 0 and 100 become -inf and inf (not if linear)."""
    share = np.asarray(accuracy, dtype=np.float64) / 100
    if axis not in AXES:
        raise UserError(f"The axis '{axis}' is unknown; choose one of {', '.join(AXES)}.")
    if ((share < 0) | (share > 1)).any():
        raise UserError("An accuracy lies outside 0 to 100; give accuracies in per cent.")
    if axis == "linear":
        return share
    with np.errstate(divide="ignore"):
        return np.log(share) - np.log1p(-share) if axis == "logit" else stats.norm.ppf(share)


def mapped_back(value: Any, axis: str = "logit") -> np.ndarray:
    """The inverse of `transformed`, in per cent."""
    value = np.asarray(value, dtype=np.float64)
    if axis == "linear":
        return 100 * np.clip(value, 0, 1)
    with np.errstate(over="ignore"):
        return 100 * (1 / (1 + np.exp(-value)) if axis == "logit" else stats.norm.cdf(value))


@dataclass(frozen=True)
class Line:
    """A fitted line: slope and intercept on the transformed axes, r2, n (models in the fit), dropped (their names).

    slope, intercept and r2 may be arrays [draws, 1]: a line for each bootstrap draw.
    """

    slope: Any
    intercept: Any
    r2: Any
    n: int
    axis: str
    dropped: tuple[str, ...] = ()

    def __call__(self, accuracy: Any) -> np.ndarray:
        """The accuracy under the shift that the line predicts, in per cent."""
        with np.errstate(invalid="ignore"):
            return mapped_back(self.slope * transformed(accuracy, self.axis) + self.intercept, self.axis)


def fit(unshifted: Any, shifted: Any, axis: str = "logit", names: Sequence[str] = ()) -> Line:
    """The Line of baseline models: accuracies [models], or [draws, models], in per cent without and with the shift.

    A model at exactly 0 or 100 % (or nan) has no place on a logit or probit axis and is left out; `names` are how the
    Line calls it in `dropped`. Each draw leaves out its own, and `dropped` is empty. Raises UserError for fewer than
    three models, and for models of a single accuracy.
    """
    x, y = np.broadcast_arrays(transformed(unshifted, axis), transformed(shifted, axis))
    there, single = np.isfinite(x) & np.isfinite(y), x.ndim == 1
    names = list(names) or [str(k) for k in range(x.shape[-1])]
    if single and there.sum() < NEEDED:
        raise UserError(
            f"{int(there.sum())} baseline models lie between 0 and 100 %; a line needs {NEEDED}. Give more models."
        )
    weight = there / np.maximum(there.sum(-1, keepdims=True), 1)
    x, y = np.where(there, x, 0), np.where(there, y, 0)
    mean_x, mean_y = ((weight * a).sum(-1, keepdims=True) for a in (x, y))
    dx, dy = x - mean_x, y - mean_y
    xx, xy, yy = ((weight * a).sum(-1, keepdims=True) for a in (dx * dx, dx * dy, dy * dy))
    if single and xx < 1e-15:
        raise UserError("All baseline models have the same accuracy; a line needs models of several accuracies.")
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(xx > 1e-15, xy / xx, np.nan)
        found = [slope, mean_y - slope * mean_x, np.where(yy > 1e-15, xy**2 / (xx * yy), 1.0)]
    dropped = tuple(n for n, ok in zip(names, there, strict=True) if not ok) if single else ()
    return Line(*(float(a[0]) if single else a for a in found), int(there.sum(-1).max()), axis, dropped)


def effective(unshifted: Any, shifted: Any, line: Line) -> np.ndarray:
    """Effective robustness in percentage points, elementwise: accuracies in per cent and the baselines' Line."""
    return np.asarray(shifted, dtype=np.float64) - line(unshifted)


# --- of models, with draws: Drawn accuracies by split, of which "val" is the unshifted one


def accuracies(table: pd.DataFrame, seed: int = 0) -> dict[str, Drawn]:
    """Accuracy of each model on each split from `observe.robustness`; splits are drawn again independently."""
    wide = {
        s: part.pivot(index="image", columns="model", values="top1") for s, part in table.groupby("split", sort=False)
    }
    return {s: redrawn(w[table["model"].unique()], number(seed, s)) for s, w in wide.items()}


def averaged(found: Mapping[str, Drawn], leave_out: Sequence[str] = ()) -> Drawn:
    """Mean over the shifts of models that have them all."""
    kept = [x for shift, x in found.items() if shift not in ("val", "mean", *leave_out)]
    return Drawn(sum(x.values for x in kept) / len(kept), sum(x.draws for x in kept) / len(kept))


def lines(baselines: Mapping[str, Drawn], axis: str = "logit") -> dict[str, tuple[Line, Line]]:
    """For each shift the line of baseline models, and those of its draws. Raises as `fit` does."""
    x = baselines["val"]
    return {
        shift: (
            fit(x.values, y.values, axis, [str(m) for m in y.values.index]),
            fit(x.draws.to_numpy(), y.draws.to_numpy(), axis),
        )
        for shift, y in baselines.items()
        if shift != "val"
    }


def over_baseline(found: Mapping[str, Drawn], lines: Mapping[str, tuple[Line, Line]]) -> dict[str, Drawn]:
    """Effective robustness of models under each shift that has a line, and "mean" over these shifts.

    Images are drawn again for the models and, where they are known, for the baselines alike.
    """
    x, robust = found["val"], {}
    for shift, (line, drawn) in lines.items():
        y = found[shift]
        values = effective(x.values, y.values, line)
        draws = effective(x.draws, y.draws, drawn)
        robust[shift] = Drawn(pd.Series(values, y.values.index), pd.DataFrame(draws, columns=y.draws.columns))
    return robust | {"mean": averaged(robust)} if robust else {}


def pruned(found: Found, baselines: Mapping[str, Drawn], share: float, seed: int = 0) -> dict[str, Drawn]:
    """Top-1 and mean effective robustness before a share of the directions is pruned by importance, and what changes.

    found: of `observe.pruning`. The lines of the baselines are held fixed; without baselines there is no robustness.
    Returns "top-1", "pruned", "change", "robustness" and "change of robustness".
    """
    fixed = {s: (line, line) for s, (line, _) in lines(baselines).items()} if baselines else {}
    top1, robust = [], []
    for s in (0.0, share):
        at = {x: redrawn(hits(found, x, "importance", s), number(seed, x)) for x in ("val", *fixed)}
        top1.append(at["val"])
        robust.append(over_baseline(at, fixed).get("mean", redrawn(pd.DataFrame())))
    parts = {"top-1": top1[0], "pruned": top1[1], "change": top1[1] - top1[0]}
    return parts | {"robustness": robust[0], "change of robustness": robust[1] - robust[0]}
