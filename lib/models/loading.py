"""A model by its name, and who it is."""

from typing import Any

import torch

from lib import code, store
from lib.data.digests import sha256
from lib.errors import UserError
from lib.models import classifiers, clip
from lib.models.catalogue import choose
from lib.models.classifiers import Classifier
from lib.models.clip import Clip
from lib.models.vision import Opened
from lib.models.weights import find

PRECISIONS = ("auto", "fp32", "bf16")


def load(
    name: str,
    dataset: str = "bestiary",
    device: str = "auto",
    seed: int = 0,
    precision: str = "auto",
    weights: str = "published",
) -> Clip | Classifier:
    """A model, ready for inference: `Clip`, or `Classifier` for one that learned from labels.

    name, dataset, weights: see `catalogue.choose`. device: "auto" (the GPU where there is one), "cpu", "cuda", ...
    seed: of random weights. precision: "fp32", "bf16", or "auto": bf16 on a GPU. Raises UserError: unknown model,
    weights that cannot be had, a damaged or foreign checkpoint, no such device; and inside a measurement (see
    `lib.run`).
    """
    store.must_be_handed(f"the model '{name}'")
    opened = _open(name, dataset, seed, precision, device, weights)
    return classifiers.load(opened) if opened.choice.has_head else clip.load(opened)


def identify(
    name: str,
    dataset: str = "bestiary",
    seed: int = 0,
    precision: str = "auto",
    device: str = "auto",
    weights: str = "published",
) -> dict[str, Any]:
    """All that decides a model's embeddings, as JSON values: the `identity` of what `load` gives, without building it.

    Arguments and errors as of `load`; weights that are not here are fetched.
    """
    return _open(name, dataset, seed, precision, device, weights).identity


def _open(name: str, dataset: str, seed: int, precision: str, device: str, weights: str) -> Opened:
    place, precision = find_device(device), find_precision(precision, device)
    choice = choose(name, dataset, weights)
    path = find(choice)
    identity = {
        "name": choice.name,
        "architecture": choice.architecture,
        "weights": sha256(path) if path else {"random": seed},
        "precision": precision,
        "row": choice.row,
        "code": code.digest(__name__),
    }
    if choice.miniature or not choice.has_head:
        identity |= clip.about(choice)
    return Opened(choice, path, place, seed, identity)


def find_device(device: str = "auto") -> torch.device:
    """torch.device; raises UserError when this machine has no such device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except Exception:  # torch raises AssertionError, RuntimeError, NotImplementedError, ...
        here = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UserError(f"This machine has no device '{device}'; give one of {', '.join(here)}.") from None


def find_precision(precision: str = "auto", device: str = "auto") -> str:
    """ "fp32" or "bf16": what "auto" comes to on a device, bf16 on a GPU. Raises UserError for another precision."""
    if precision not in PRECISIONS:
        raise UserError(f"precision is '{precision}'; give one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        return "bf16" if find_device(device).type == "cuda" else "fp32"
    return precision
