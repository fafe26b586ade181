"""Effective robustness: accuracy under a shift, beyond what accuracy without it predicts.

Models trained in the standard way lie on a line when both accuracies are put through a logit (Taori et al. 2020;
probit: Miller et al. 2021). With beta that line, fitted on such baseline models and mapped back,

    effective robustness = accuracy(shift) - beta(accuracy(no shift)),

in percentage points. Nothing here looks at images: accuracies go in, in per cent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from lib.errors import UserError

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
        intercept, r2 = mean_y - slope * mean_x, np.where(yy > 1e-15, xy**2 / (xx * yy), 1.0)
    if not single:
        return Line(slope, intercept, r2, int(there.sum(-1).max()), axis)
    dropped = tuple(n for n, ok in zip(names, there, strict=True) if not ok)
    return Line(float(slope[0]), float(intercept[0]), float(r2[0]), int(there.sum()), axis, dropped)


def effective(unshifted: Any, shifted: Any, line: Line) -> np.ndarray:
    """Effective robustness in percentage points, elementwise: accuracies in per cent and the baselines' Line."""
    return np.asarray(shifted, dtype=np.float64) - line(unshifted)
