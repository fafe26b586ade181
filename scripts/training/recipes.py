"""The recipes of the miniature zoo, data/bestiary/recipes.csv, and how each becomes a training.

The contrastive models differ in what sets the papers' models apart: how many picture-caption pairs there are,
how many of the captions are wrong, whether a filter threw pairs out, how long the training is, and whether it
starts from another model at a higher resolution. Their comparison models are trained on the labelled split: with
its captions alone, fine-tuned from the zero-shot head, or from scratch with labels alone (the protocols of
Crabbe et al. 2024, scaled down).
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from lib import models, seeds
from lib.bestiary import SPECIES, Bestiary
from lib.bestiary.zoo import FOLDER
from lib.data import ImageDataset
from lib.data import load as load_images
from lib.errors import UserError, nearest
from lib.models import classifiers, heads
from training.pool import pool
from training.steps import augmented, limit_gradient, limit_scale, pace

import open_clip  # isort: skip  after lib.models, which prepares it


@dataclass(frozen=True)
class Recipe:
    """One line of recipes.csv.

    objective: contrastive or captions (pairs of picture and caption), finetuned or supervised (labels); split: what
    is learned from, of which the first `pool` pictures; noise: share of wrong captions; filter: name of the model
    whose judgement throws as many pairs out as there are wrong ones, or ""; epochs; start: name of the model that the
    training starts from, or "".
    """

    objective: str
    split: str
    pool: int
    noise: float
    filter: str
    epochs: int
    start: str
    learning_rate: float
    batch_size: int


@dataclass
class Lesson:
    """A training that can begin: `loss` of a batch of indices into `count` examples. wrong: share of wrong captions."""

    model: nn.Module
    image_size: int
    count: int
    loss: Callable[[np.ndarray], torch.Tensor]
    optimiser: torch.optim.Optimizer
    schedule: LRScheduler
    top1: Callable[[], float]  # on val, as it stands
    wrong: float = 0.0


def all_recipes() -> dict[str, Recipe]:
    """All recipes by the names of their models, those that others start from or filter with before these."""
    with open(FOLDER / "recipes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds: dict[str, Callable] = {f.name: f.type for f in fields(Recipe)}  # type: ignore[misc]  # str, int or float
    return {row["name"]: Recipe(**{key: kind(row[key]) for key, kind in kinds.items()}) for row in rows}


def recipe(name: str) -> Recipe:
    """The recipe of one model; raises UserError for another name, with the nearest ones."""
    known = all_recipes()
    if name not in known:
        raise UserError(f"There is no recipe for '{name}' in data/bestiary/recipes.csv.{nearest(name, known)}")
    return known[name]


# --- from a recipe to a training


def pairs(name: str, how: Recipe, seed: int, device: torch.device, folder: Path = FOLDER) -> Lesson:
    """To learn from pairs of picture and caption: contrastive loss (open_clip's), AdamW, one-cycle learning rate."""
    clip = create(name, device, seed)
    model = clip.model
    if how.start:
        start_from(model, weights(how.start, folder))
    pixels, texts, wrong = web_pairs(how, clip.image_size, device, seed, folder)
    tokens, contrast = clip.tokenizer(texts), open_clip.ClipLoss()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=how.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = OneCycleLR(optimiser, how.learning_rate, how.epochs * (len(texts) // how.batch_size), pct_start=0.1)
    limit_gradient(optimiser, model)
    limit_scale(optimiser, model)

    def loss(batch: np.ndarray) -> torch.Tensor:
        image, text, scale = model(clip.normalised(pixels[batch]), tokens[batch].to(clip.device))
        return contrast(image, text, scale)

    val = load_images("bestiary")
    top1 = partial(zero_shot_top1, clip, clip.pixels(val), val)
    return Lesson(model, clip.image_size, len(texts), loss, optimiser, schedule, top1, wrong)


def labels(name: str, how: Recipe, seed: int, device: torch.device, folder: Path = FOLDER) -> Lesson:
    """To learn from pictures and labels: fine-tuned from a zero-shot model, or supervised from scratch.

    Fine-tuned: from the tower and the zero-shot head of the recipe's `start`, random crops, cosine learning rate,
    weight decay 0.1. Supervised: from scratch, random crops and flips, label smoothing 0.1, weight decay 0.01;
    the learning rate falls tenfold after a third and two thirds (ResNets) or by a cosine (ViTs). Both with AdamW
    and a warm-up of a tenth. Source: Crabbe et al. 2024, the training of the comparison models, scaled down.
    """
    row, tuned = models.choose(name).row, how.objective == "finetuned"
    model = classifiers.build(row["backbone"], len(SPECIES), tuned, seed).to(device)
    if tuned:
        start_from_zero_shot(model, opened(f"{how.start}:{weights(how.start, folder)}", device))
    model.requires_grad_(True)
    clip = opened(f"{row['backbone']}:random", device)  # for its pixels
    species = Bestiary(how.split).labels
    chosen = a_share(species, min(how.pool, len(species)))
    pixels, _ = pool(how.split, chosen, clip.image_size)
    truth = torch.as_tensor(species[chosen]).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=0.1 if tuned else 0.01)
    steps, stairs = how.epochs * (len(chosen) // how.batch_size), not tuned and row["family"] == "ResNet"
    schedule = LambdaLR(optimiser, partial(pace, steps=steps, stairs=stairs))
    limit_gradient(optimiser, model)
    draws = seeds.torch_rng(seed, "crops")

    def loss(batch: np.ndarray) -> torch.Tensor:
        x = augmented(clip.normalised(pixels[batch]), draws, flips=not tuned)
        return F.cross_entropy(model(x), truth[batch], label_smoothing=0.0 if tuned else 0.1)

    val = load_images("bestiary")
    held_out = clip.pixels(val)
    return Lesson(
        model,
        clip.image_size,
        len(chosen),
        loss,
        optimiser,
        schedule,
        lambda: float((labelled(model, clip, held_out) == val.labels).mean()),
    )


# --- what a training starts from, and what it learns from


def opened(name: str, device: torch.device | str, seed: int = 0) -> models.Clip:
    """A miniature with a text tower; raises UserError for one that learned from labels."""
    clip = models.load(name, device=str(device), seed=seed)
    if not isinstance(clip, models.Clip):
        raise UserError(f"{name} learned from labels, so that it cannot be what a recipe starts from or filters with.")
    return clip


def create(name: str, device: torch.device | str = "cpu", seed: int = 0) -> models.Clip:
    """The untrained miniature `name`, ready to be trained."""
    clip = opened(f"{name}:random", device, seed)
    clip.model.requires_grad_(True)
    return clip


def weights(name: str, folder: Path = FOLDER) -> Path:
    """Where the trained weights of `name` lie: in `folder` if it has been trained into it, else the shipped ones."""
    for place in (Path(folder), FOLDER):
        path = place / "zoo" / f"{name}.safetensors"
        if path.is_file():
            return path
    raise UserError(f"{name} has no weights in {path.parent}; train it first: python scripts/train_zoo.py {name}.")


def start_from(model: nn.Module, path: Path) -> None:
    """Load trained weights into a model of the same shape, its resolution the same or higher."""
    state = {k: v.float() for k, v in load_file(path).items()}
    open_clip.model.resize_pos_embed(state, model)
    model.load_state_dict(state)


def start_from_zero_shot(model: classifiers.Headed, clip: models.Clip) -> None:
    """A CLIP's tower, and its zero-shot classifier times its scale as the head."""
    data = load_images("bestiary")
    model.visual.load_state_dict(clip.visual.state_dict())
    with torch.no_grad():
        model.head.weight.copy_(clip.logit_scale * heads.classifier(clip, data.classes, data.templates))
        model.head.bias.zero_()


def web_pairs(
    how: Recipe, size: int, device: torch.device | str, seed: int, folder: Path = FOLDER
) -> tuple[torch.Tensor, list[str], float]:
    """What a recipe learns from: pictures uint8 [n, 3, size, size], n captions, and the share that is wrong."""
    world = Bestiary(how.split)
    numbers = np.arange(min(how.pool, len(world)))
    pixels, texts = pool(how.split, numbers, size)
    wrong = seeds.rng(seed, "wrong captions").random(len(numbers)) < how.noise
    texts = [world.false_caption(i) if wrong[i] else text for i, text in enumerate(texts)]
    if how.filter:
        judge = opened(f"{how.filter}:{weights(how.filter, folder)}", device)
        seen = pixels if size == judge.image_size else pool(how.split, numbers, judge.image_size)[0]
        kept = kept_by(judge, seen, texts, 1 - how.noise)
        pixels, texts, wrong = pixels[kept], [texts[i] for i in kept], wrong[kept]
    return pixels, texts, float(wrong.mean())


def kept_by(judge: models.Clip, pixels: torch.Tensor, texts: list[str], share: float) -> np.ndarray:
    """Indices of the `share` of pairs that a trained model finds the most alike, ascending: a data filter."""
    alike = (judge.embed_pixels(pixels) * judge.embed_texts(texts, cached=False)).sum(1)
    return alike.argsort(descending=True)[: int(share * len(texts))].sort().values.cpu().numpy()


def a_share(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` pictures, as many of every class as can be: the first of each."""
    rank = np.zeros(len(labels), int)
    for species in np.unique(labels):
        rank[labels == species] = np.arange((labels == species).sum())
    return np.sort(np.lexsort((labels, rank))[:count])


# --- how well it does


@torch.inference_mode()
def zero_shot_top1(clip: models.Clip, pixels: torch.Tensor, data: ImageDataset) -> float:
    """Zero-shot top-1 in the middle of training, on pictures uint8 [n, 3, S, S] of `data`."""
    clip.model.eval()
    prompts = [template.format(c) for c in data.classes for template in data.templates]
    texts = clip.embed_texts(prompts, cached=False).view(len(data.classes), len(data.templates), -1)
    logits = clip.embed_pixels(pixels) @ F.normalize(texts.mean(1), dim=-1).T
    return heads.top_k_accuracy(logits, data.labels)


@torch.inference_mode()
def labelled(model: nn.Module, clip: models.Vision, pixels: torch.Tensor) -> np.ndarray:
    """Species that a classifier names for pictures uint8 [n, 3, S, S]: int64 [n]."""
    model.eval()
    return torch.cat([model(clip.normalised(chunk)).argmax(1).cpu() for chunk in pixels.split(128)]).numpy()
