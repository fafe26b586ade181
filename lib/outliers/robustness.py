"""Effective robustness: accuracy under a shift, beyond what accuracy without it predicts.

Models trained in the standard way lie on a line when both accuracies are put through a logit (Taori et al. 2020;
probit: Miller et al. 2021). With beta that line, fitted on such baseline models and mapped back,

    effective robustness = accuracy(shift) - beta(accuracy(no shift)),

in percentage points. Nothing here looks at images: accuracies go in, in per cent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special, stats

from lib.errors import UserError

# axis of the fit -> what puts a share on it, and back
AXES = {
    "logit": (special.logit, special.expit),
    "probit": (stats.norm.ppf, stats.norm.cdf),
    "linear": (np.asarray, lambda x: np.clip(x, 0, 1)),
}
NEEDED = 3  # baseline models; a line through two says nothing about how well it fits


def transformed(accuracy: Any, axis: str = "logit") -> np.ndarray:
    """Accuracies in per cent on the axis of the fit, elementwise; 0 and 100 become -inf and inf (not if linear)."""
    share = np.asarray(accuracy, dtype=np.float64) / 100
    if axis not in AXES:
        raise UserError(f"The axis '{axis}' is unknown; choose one of {', '.join(AXES)}.")
    if ((share < 0) | (share > 1)).any():
        raise UserError("An accuracy lies outside 0 to 100; give accuracies in per cent.")
    return AXES[axis][0](share)


def mapped_back(value: Any, axis: str = "logit") -> np.ndarray:
    """The inverse of `transformed`, in per cent."""
    return 100 * AXES[axis][1](np.asarray(value, dtype=np.float64))


@dataclass(frozen=True)
class Line:
    """A fitted line: slope and intercept on the transformed axes, r2, n (models in the fit), dropped (their names).

    slope, intercept and r2 are arrays [rows, 1] where a line was fitted to each row of accuracies.
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

    @property
    def first(self) -> "Line":
        """The line of the first row: numbers, no arrays."""
        slope, intercept, r2 = (float(np.ravel(x)[0]) for x in (self.slope, self.intercept, self.r2))
        return replace(self, slope=slope, intercept=intercept, r2=r2)


def fit(unshifted: Any, shifted: Any, axis: str = "logit", names: Sequence[str] = ()) -> Line:
    """The Line of baseline models: accuracies [models], or [rows, models], in per cent without and with the shift.

    A model without an accuracy (nan) is left out, as is one at exactly 0 or 100 %, which has no place on a logit or
    probit axis and is `dropped` by its name. Each row leaves out its own; n and dropped are of the first. Raises
    UserError where that has fewer than three models, or all of a single accuracy.
    """
    x, y = np.broadcast_arrays(transformed(unshifted, axis), transformed(shifted, axis))
    there, single = np.atleast_2d(np.isfinite(x) & np.isfinite(y)), x.ndim == 1
    ends = np.atleast_2d(np.isinf(x) | np.isinf(y))[0]
    x, y = (np.where(there, a, 0) for a in (x, y))
    if there[0].sum() < NEEDED:
        raise UserError(
            f"{int(there[0].sum())} baseline models lie between 0 and 100 %; a line needs {NEEDED}. Give more models."
        )

    def mean(a: np.ndarray) -> np.ndarray:
        return (there * a).sum(-1, keepdims=True) / np.maximum(there.sum(-1, keepdims=True), 1)

    dx, dy = x - mean(x), y - mean(y)
    xx, xy, yy = mean(dx * dx), mean(dx * dy), mean(dy * dy)
    if xx[0] < 1e-15:
        raise UserError("All baseline models have the same accuracy; a line needs models of several accuracies.")
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(xx > 1e-15, xy / xx, np.nan)
        r2 = np.where(yy > 1e-15, xy**2 / (xx * yy), 1.0)
    dropped = tuple(str(name) for name, end in zip(list(names) or range(len(ends)), ends, strict=True) if end)
    line = Line(slope, mean(y) - slope * mean(x), r2, int(there[0].sum()), axis, dropped)
    return line.first if single else line


def effective(unshifted: Any, shifted: Any, line: Line) -> np.ndarray:
    """Effective robustness in percentage points, elementwise: accuracies in per cent and the baselines' Line."""
    return np.asarray(shifted, dtype=np.float64) - line(unshifted)
