"""The trained explanations of Tables 1 and 5 on a model's own features: trained once, then found again.

Those of some miniatures lie in data/bestiary/bottlenecks (scripts/train_bottlenecks.py). Where there is no such file,
or it belongs to other weights, other pictures or another recipe, they are trained when needed and kept in the store.

Trained as in appendix D: Adam, batches of 64, a rate that falls along a cosine. Seeds are plain numbers instead of
named streams (`lib.seeds`), because the weights in the repository were drawn so and can be drawn again.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from lib import data, store, training
from lib.data import ImageDataset
from lib.errors import UserError, one_of
from lib.given import Given
from lib.models import Clip
from lib.mutual import bottlenecks, foreground, words
from lib.mutual.options import RATES, Training
from lib.paths import ROOT

FOLDER = Path("data/bestiary/bottlenecks")  # below the project's own folder
BOTTLENECKS = ("mm_cbm", "mm_protosim", "mm_cbm_random", "mm_protosim_random")  # random: the queries, a control
METHODS = ("standard", "standard_embedding", "lf_cbm", *BOTTLENECKS, "feature_maps")
BATCH = 64
LARGEST = 24e9  # bytes of patch features that are held in memory
LOOKED_AT = 48  # pictures of a drawn training set that have to be the same


def recipe(clip: Clip, train: ImageDataset, options: Training, seed: int = 0) -> dict[str, Any]:
    """Everything that decides the trainings, but the code: a dict of JSON values."""
    at = foreground.setting_of(clip, options.foreground)
    return {
        "weights": clip.weights_sha256,
        "feature": at["feature"],
        "layer": at["layer"],
        "train": content(train),
        "classes": store.digest(train.classes),
        "bank": store.digest([train.bank, train.descriptor_prompt]),
        "steps": options.steps,
        "batch": BATCH,
        "rates": list(RATES[options.rates]),
        "inner": options.inner or clip.width,
        "temperature": options.temperature,
        "hard": options.hard,
        "seed": seed,
    }


def content(train: ImageDataset) -> str:
    """Digest of training images.

    Drawn ones are known by the pixels of some and the labels of all, since their fingerprint is that of the code that
    draws them: while that draws the same pictures, trained weights stay valid.
    """
    if hasattr(train.source, "digests"):
        return train.fingerprint
    some = {str(i): torch.from_numpy(np.array(train.image(i))) for i in data.spread(train.labels, LOOKED_AT)}
    return store.digest([store.digest_tensors(some), train.labels.tolist(), train.indices.tolist()])


def train_split(given: Given, images: ImageDataset, options: Training) -> ImageDataset:
    """The images to train on: those of `options.train_data`, or the train split of the run's dataset.

    Raises UserError when there is none, when its classes are others or only one, and without descriptors.
    """
    if not options.train_data and images.name not in data.names():
        raise UserError(f"'{images.name}' has no train split; give the folder of its training images as `train_data`.")
    split = "val" if options.train_data else "train"
    train = given.open_images(split, options.train_data, limit=0, images=options.train_limit)
    if train.classes != images.classes:
        raise UserError(f"The training images have other classes than '{images.name}'; their folders must be the same.")
    if len(train.classes) < 2:
        raise UserError(f"'{images.name}' has a single class, so there is nothing to classify; give two at least.")
    train.require_descriptors(every_class=False)
    return train


# --- what is read


def patch_features(
    clip: Clip, images: ImageDataset, how: dict[str, Any], chunk: int = 256
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Patch features float16 [n, P, C] on the CPU, and their grid (h, w). Raises UserError for too many."""
    found: list[torch.Tensor] = []
    for span in np.array_split(np.arange(len(images)), -(-len(images) // chunk)):
        features, grid = clip.patch_features(clip.pixels(images.subset(span)), how["feature"], how["layer"])
        size = 2 * features[0].numel() * len(images)
        if size > LARGEST:
            held = f"The features of {len(images)} images take {size / 1e9:.0f} GB"
            raise UserError(f"{held}; give a smaller `train_limit`.")
        found.append(features.half().cpu())
    return torch.cat(found), grid


def pooled(features: torch.Tensor) -> torch.Tensor:
    """Mean over the patches, float32 [n, C]."""
    return torch.cat([chunk.float().mean(1) for chunk in features.split(1024)])


def queries(clip: Clip, images: ImageDataset, random: bool = False, seed: int = 0) -> torch.Tensor:
    """Text embeddings of the bank [D, c]; or as many random directions, a control that knows no word."""
    texts = words.concepts(clip, images)
    if not random:
        return texts
    drawn = torch.randn(texts.shape, generator=torch.Generator().manual_seed(seed)).to(texts)
    return F.normalize(drawn, dim=1)


def descriptor_targets(images: ImageDataset) -> torch.Tensor:
    """Which descriptors belong to which class: float [classes, D]."""
    return torch.from_numpy(np.stack([np.isin(images.bank, texts) for texts in images.descriptors])).float()


# --- training


def build(method: str, clip: Clip, images: ImageDataset, how: dict[str, Any], width: int) -> nn.Module:
    """An untrained baseline. width: C of its input."""
    classes, inner = len(images.classes), how["inner"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how["seed"])
        if method.startswith("standard"):
            model: nn.Module = bottlenecks.perceptron(width, classes, inner)
        elif method == "feature_maps":
            model = bottlenecks.labeler(width, len(images.bank))
        else:
            texts = queries(clip, images, method.endswith("random"), how["seed"])
            over = "concepts" if "protosim" in method else "tokens"
            model = bottlenecks.Bottleneck(texts, width, classes, inner, over, how["temperature"], how["hard"])
    return model.to(clip.device)


def fit(
    model: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    how: dict[str, Any],
    loss: Callable[..., torch.Tensor] = F.cross_entropy,
    draw: Callable[..., torch.Tensor] | None = None,
) -> nn.Module:
    """Train `model` in place and return it, ready for inference.

    inputs [n, ...] in any float type, labels [n, ...] as `loss` wants them. how: steps, batch, rates and seed, as in
    `recipe`. `draw(batch, generator)` changes a batch before it is seen (DropBlock). Raises UserError for a training
    that diverges.
    """
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(how["seed"])
    an_epoch = math.ceil(len(inputs) / how["batch"])
    epochs = math.ceil(how["steps"] / an_epoch)
    optimiser = torch.optim.Adam(model.parameters(), lr=how["rates"][0])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * an_epoch, how["rates"][1])

    def batches() -> Sequence[torch.Tensor]:
        return torch.randperm(len(inputs), generator=generator).split(how["batch"])

    def missed(batch: torch.Tensor) -> torch.Tensor:
        seen = inputs[batch].to(device).float()
        return loss(model(draw(seen, generator) if draw else seen), labels[batch].to(device))

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(how["seed"])  # the Gumbel noise
        training.fit(model, batches, missed, optimiser, schedule, epochs)
    return model.eval().requires_grad_(False)


def trained(method: str, clip: Clip, train: ImageDataset, how: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Train one baseline: its tensors by name, float16 on the CPU, as they are kept."""
    labels: torch.Tensor = torch.as_tensor(train.labels)
    features, grid = _train_features(clip, train, how)
    special: dict[str, Any] = {}
    if method == "lf_cbm":
        similarities, vectors = clip.embed_images(train) @ queries(clip, train).T, pooled(features).to(clip.device)
        on = labels.to(clip.device)
        return _halves(bottlenecks.label_free(vectors, on, similarities, len(train.classes), how["seed"]))
    inputs = features
    if method.startswith("standard"):
        inputs = pooled(features) if method == "standard" else clip.embed_images(train).cpu()
    if method == "feature_maps":  # DropBlock: blocks of half the map's side, one tenth left out
        labels = descriptor_targets(train)[labels]
        dropped = partial(bottlenecks.drop_block, grid=grid, block=max(grid) // 2, rate=0.1)
        special = {"loss": F.binary_cross_entropy_with_logits, "draw": dropped}
    model = build(method, clip, train, how, inputs.shape[-1])
    return _halves(fit(model, inputs, labels, how, **special).state_dict())


def _train_features(clip: Clip, train: ImageDataset, how: dict[str, Any]) -> tuple[torch.Tensor, tuple[int, int]]:
    """`patch_features` of the training images, kept in the store."""
    key = {"kind": "patch_features", "model": clip.decides, **{k: how[k] for k in ("feature", "layer", "train")}}

    def compute() -> dict[str, torch.Tensor]:
        features, grid = patch_features(clip, train, how)
        return {"features": features, "grid": torch.tensor(grid)}

    found = store.tensors(key, compute)
    return found["features"], (int(found["grid"][0]), int(found["grid"][1]))


def _halves(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: (v.half() if v.is_floating_point() else v).detach().cpu() for k, v in state.items()}


# --- found again


def tensors(method: str, clip: Clip, train: ImageDataset, how: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The trained tensors of a baseline: from the repository, from the store, or trained now."""
    path = ROOT / FOLDER / f"{clip.name}.safetensors"
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("recipe") == store.digest(how):
                names = [name for name in file.keys() if name.partition(".")[0] == method]
                return {name.partition(".")[2]: file.get_tensor(name) for name in names}
    key = {"kind": "bottlenecks", "method": method, "model": clip.decides, **how}
    return store.tensors(key, lambda: trained(method, clip, train, how))


def load(method: str, clip: Clip, train: ImageDataset, how: dict[str, Any]) -> Any:
    """A trained baseline, float32 on the model's device: a module, or the dict of `bottlenecks.label_free`."""
    one_of("the baseline", method, METHODS)
    state = {k: v.float() if v.is_floating_point() else v for k, v in tensors(method, clip, train, how).items()}
    if method == "lf_cbm":
        return {k: v.to(clip.device) for k, v in state.items()}
    first = {"feature_maps": "names.weight"}.get(method, "hidden.weight" if "standard" in method else "keys.weight")
    model = build(method, clip, train, how, state[first].shape[1])
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def opened(
    given: Given, clip: Clip, images: ImageDataset, options: Training, methods: Sequence[str] = METHODS
) -> tuple[dict[str, Any], dict[str, Any], ImageDataset]:
    """What an observation needs: trained baselines by name, their recipe, and what they were trained on."""
    train = train_split(given, images, options)
    given.open_file(str(FOLDER / f"{clip.name}.safetensors"))  # noted even where there is none yet
    how = recipe(clip, train, options, given.seed)
    return {method: load(method, clip, train, how) for method in methods}, how, train
