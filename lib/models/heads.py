"""Linear heads: the zero-shot classifier made of prompts, learned heads, their logits and accuracy."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from lib import store
from lib.data import ImageDataset
from lib.errors import UserError


def classifier(clip: Any, classes: Iterable[str], templates: Iterable[str]) -> torch.Tensor:
    """Text classifier float32 [n_classes, c], rows of norm 1.

    Each class's prompts are embedded, normalised, averaged and normalised again (Radford et al. 2021,
    section 3.1.4). classes: list of str. templates: list of str with {} for the class. Raises UserError for
    a template without {}.
    """
    classes, templates = list(classes), list(templates)
    for template in templates:
        if "{}" not in template:
            raise UserError(f"Template '{template}' has no {{}}; write where the class name goes.")

    def compute() -> dict[str, torch.Tensor]:
        prompts = [template.format(name) for name in classes for template in templates]
        embeddings = clip.embed_texts(prompts, cached=False).view(len(classes), len(templates), -1)
        return {"classifier": F.normalize(embeddings.mean(1), dim=-1)}

    words = {"n": len(classes), "classes": store.digest(classes), "templates": templates}
    key = {"kind": "classifier", "model": clip.decides, **words}
    return store.tensors(key, compute)["classifier"].to(clip.device)


def logits(embeddings: torch.Tensor, classifier: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """scale * cosine: float32 [n, n_classes]. embeddings [n, c] and classifier [n_classes, c] of norm 1."""
    return scale * embeddings @ classifier.T


def predict(logits: torch.Tensor) -> torch.Tensor:
    """Index of the highest logit: int64 [n]."""
    return logits.argmax(dim=-1)


def top_k_hits(logits: torch.Tensor, labels: np.ndarray | torch.Tensor, k: int = 1) -> torch.Tensor:
    """Whether the label is among the k highest logits: bool [n].

    logits [n, n_classes]; labels int [n], array or tensor. Raises UserError when k exceeds the classes.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise UserError(f"k is {k}, but there are {logits.shape[-1]} classes; give a k from 1 to that.")
    labels = torch.as_tensor(labels, device=logits.device)
    return (logits.topk(k, dim=-1).indices == labels[:, None]).any(dim=-1)


def top_k_accuracy(logits: torch.Tensor, labels: np.ndarray | torch.Tensor, k: int = 1) -> float:
    """Share of images whose label is among the k highest logits: float in [0, 1]."""
    return top_k_hits(logits, labels, k).float().mean().item()


def head(model: Any, data: ImageDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear head that turns a model's embeddings into logits: (weight [n_classes, c], bias [n_classes]).

    A CLIP's is its zero-shot classifier on the classes and templates of `data`, without bias; a classifier's is
    its own. Raises UserError when a learned head has other classes than `data`.
    """
    if not hasattr(model, "head"):
        weight = classifier(model, data.classes, data.templates)
        return weight, torch.zeros(len(weight), device=weight.device)
    weight, bias = model.head
    if len(weight) != len(data.classes):
        raise UserError(
            f"The head of {model.name} has {len(weight)} classes and {data.name} has {len(data.classes)}; "
            "take the dataset that the model was trained on."
        )
    return weight, bias
