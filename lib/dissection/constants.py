"""The constants of the five similarity functions, as the authors' code has them."""

from dataclasses import dataclass, fields, replace
from typing import Any

from lib.errors import UserError, nearest, one_of

SHARE = 0.25  # of a probe that may be among a neuron's top images: small probes get a smaller top_k
CHOICES = {"prior": ("released", "alive"), "ties": ("first", "released")}


@dataclass(frozen=True)
class Constants:
    """What the formulas hold; each similarity reads those that it has.

    prior: the neurons over which p(concept) of WPMI and SoftWPMI is the mean of exp(L). "released": all that are given,
    dead ones too, as the authors' code has it; "alive": those that are not dead. ties: see `top_images`.
    """

    top_k: int = 100
    a: float = 10.0
    lam: float = 1.0
    min_prob: float = 1e-7
    p_start: float = 0.998
    p_end: float = 0.97
    prior: str = "released"
    ties: str = "first"
    top_fraction: float = 0.05
    scale_p: float = 0.5
    min_norm: float = 1e-3

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            one_of(name, getattr(self, name), choices)


PUBLISHED = {
    "cos": Constants(),
    "cos_cubed": Constants(),
    "rank_reorder": Constants(),
    "wpmi": Constants(top_k=28, a=2.0, lam=0.6),
    "soft_wpmi": Constants(),
}


def constants(similarity: str, images: int, **changed: Any) -> Constants:
    """The constants of a similarity function for so many probing images: the published ones, some of them changed.

    Unless they are given, top images are at most a quarter of the probe, and two at least where they are put into an
    order. Raises UserError for an unknown similarity or constant.
    """
    names = [f.name for f in fields(Constants)]
    for what, given, known in [("similarity function", [similarity], PUBLISHED), ("constant", changed, names)]:
        for name in given:
            if name not in known:
                raise UserError(f"There is no {what} '{name}'; there are {', '.join(known)}.{nearest(name, known)}")
    usual = PUBLISHED[similarity]
    top_k, top_fraction = max(1, min(usual.top_k, int(SHARE * images))), max(usual.top_fraction, 2.5 / images)
    return replace(usual, **({"top_k": top_k, "top_fraction": top_fraction} | changed))
