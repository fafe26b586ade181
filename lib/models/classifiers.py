"""Image classifiers with a head learned from labels: our fine-tuned and supervised models, torchvision's and timm's."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import open_clip
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from lib.bestiary import SPECIES
from lib.errors import UserError
from lib.models import weights
from lib.models.clip import untrained
from lib.models.vision import Opened, View, Vision


class Headed(nn.Module):
    """A vision tower of open_clip and a linear head on its embeddings: normalised pixels -> logits."""

    def __init__(self, visual: Any, classes: int, unit_norm: bool):
        super().__init__()
        self.visual, self.unit_norm = visual, unit_norm
        self.head = nn.Linear(visual.output_dim, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.visual(x)
        return self.head(F.normalize(h, dim=-1) if self.unit_norm else h)


class Classifier(Vision):
    """An image classifier, for inference: `Vision`, and its own head.

    Its embeddings are what the head reads, of norm 1 only where the model makes them so (`unit_norm`: the
    fine-tuned ones). head: (weight float32 [classes, c], bias float32 [classes]).
    """

    default_objective = "supervised"

    def __init__(self, model: nn.Module, last: nn.Linear, opened: Opened, view: View):
        super().__init__(model, model, opened, last.in_features, view)
        self._last, self.unit_norm = last, bool(getattr(model, "unit_norm", False))
        self.head = (last.weight.float(), torch.zeros(last.out_features) if last.bias is None else last.bias.float())

    def embed_texts(self, texts: Iterable[str], batch_size: int = 256, cached: bool = True) -> torch.Tensor:
        """Raises UserError: a classifier has no text tower."""
        raise UserError(f"{self.name} learned from labels alone and reads no text; take a CLIP model for this.")

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        if self.visual is not self.model:  # ours; so that `unprojected` reaches it
            return self.visual(x)
        seen: list[torch.Tensor] = []
        hook = self._last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            self.model(x)
        finally:
            hook.remove()
        return seen[0]


def load(opened: Opened) -> Classifier:
    """The Classifier that an Opened stands for. Raises UserError for weights of another architecture."""
    choice, path = opened.choice, opened.path
    state = weights.read(path) if path else None
    if choice.miniature:
        model, last, view = _miniature(choice.row, opened.seed)
    else:
        library, _, name = choice.architecture.partition("/")
        model, last, view = (_torchvision if library == "torchvision" else _timm)(name, state, opened.seed)
    if state is not None and path:
        weights.fill(model, state, path, choice.architecture if not choice.miniature else choice.name)
    return Classifier(model, last, opened, view)


def build(backbone: str, classes: int, unit_norm: bool, seed: int = 0) -> Headed:
    """An untrained `Headed` miniature on the backbone's vision tower."""
    tower = untrained(f"mini-{backbone}", seed).visual
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Headed(tower, classes, unit_norm)


def _miniature(row: dict[str, str], seed: int) -> tuple[nn.Module, nn.Linear, View]:
    model = build(row["backbone"], len(SPECIES), row["objective"] == "finetuned", seed)
    view = View(int(np.max(model.visual.image_size)), open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    return model, model.head, view


def _torchvision(name: str, state: dict | None, seed: int) -> tuple[nn.Module, nn.Linear, View]:
    known = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    settings, classes = known.transforms(), len(known.meta["categories"])
    if state:  # a checkpoint may have other classes: Places365 has 365
        classes = next((len(v) for k, v in reversed(state.items()) if k.endswith(("weight", "bias"))), classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = torchvision.models.get_model(name, weights=None, num_classes=classes)
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        if not state:  # a ViT's begins with zeros, which would say nothing at a rehearsal
            nn.init.trunc_normal_(last.weight, std=0.02)
    view = View(settings.crop_size[0], tuple(settings.mean), tuple(settings.std), f"crop{settings.resize_size[0]}")
    return model, last, view


def _timm(name: str, state: dict | None, seed: int) -> tuple[nn.Module, nn.Linear, View]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = timm.create_model(name, pretrained=False)
    config, last = model.pretrained_cfg, model.get_classifier()
    if not isinstance(last, nn.Linear):
        raise UserError(f"timm/{name} has no linear head, which this book's exhibits need; take another model.")
    size = config["input_size"][-1]
    resize = f"crop{round(size / config['crop_pct'])}"
    return model, last, View(size, tuple(config["mean"]), tuple(config["std"]), resize)
