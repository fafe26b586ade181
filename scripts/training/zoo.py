"""Trains one member of the zoo by its recipe, and writes its weights and the record of its training."""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import PIL
import torch
from safetensors.torch import save
from torch import nn

from lib import models, seeds, store
from lib.bestiary import Bestiary
from lib.bestiary.zoo import FOLDER
from lib.data import load as load_images
from lib.data import sha256
from lib.models import heads
from lib.training import fit
from training.recipes import labels, pairs, recipe, weights
from training.steps import shuffled

import open_clip  # isort: skip  after lib.models, which prepares it


def train(
    name: str,
    seed: int = 0,
    device: str = "auto",
    folder: Path = FOLDER,
    again: bool = False,
    log: Callable[[str], None] = print,
    **changes: Any,
) -> dict:
    """Train the miniature `name` by its recipe, write its weights and its record, and return the record.

    changes: fields of the recipe that are to be others, such as epochs=1. Weights go to folder/zoo/NAME.safetensors
    as float16, the record to folder/training/NAME.json. What has been trained by the same recipe and seed is left
    alone, unless `again`. Raises UserError for a name without a recipe.
    """
    how = replace(recipe(name), **changes)
    sources = {other: sha256(weights(other, folder)) for other in {how.start, how.filter} - {""}}
    about = {"model": name, "seed": seed, "recipe": asdict(how), "from": sources}
    before = None if again else trained(about, folder)
    if before:
        log(f"{name}  has been trained by this recipe: top-1 {before['top1']:.3f}")
        return before
    torch.manual_seed(seeds.number(seed, "training"))  # dropout and the like; what we draw has streams of its own
    prepare = labels if how.objective in models.LEARNED_HEAD else pairs
    lesson = prepare(name, how, seed, models.find_device(device), folder)

    def after(line: dict) -> None:
        line["top1"] = lesson.top1()
        progress = f"epoch {line['epoch']}/{how.epochs}  loss {line['loss']:.3f}  top-1 {line['top1']:.3f}"
        log(f"{name}  {progress}  {line['seconds']:.0f} s")

    order = partial(shuffled, lesson.count, how.batch_size, seeds.rng(seed, "order"), name)
    history = fit(lesson.model, order, lesson.loss, lesson.optimiser, lesson.schedule, how.epochs, after)
    about |= {"pairs": lesson.count, "wrong_captions": lesson.wrong, "image_size": lesson.image_size}
    about |= {"parameters": sum(p.numel() for p in lesson.model.parameters()), "history": history}
    about |= {split: Bestiary(split).fingerprint for split in (how.split, "val")}
    return save_training(lesson.model, about | made_with(models.find_device(device)), Path(folder))


def trained(about: dict, folder: Path) -> dict | None:
    """The record in `folder` of a training with this model, seed, recipe and sources, if its weights are there too."""
    path = Path(folder) / "training" / f"{about['model']}.json"
    made = Path(folder) / "zoo" / f"{about['model']}.safetensors"
    if not path.is_file() or not made.is_file():
        return None
    record = json.loads(path.read_text())
    # the first records did not say which weights a training started from
    known = {"from": about["from"], **record}
    same = all(known.get(key) == value for key, value in about.items())
    return record if same and known.get("weights") == sha256(made) else None


def save_training(model: nn.Module, record: dict, folder: Path) -> dict:
    """Write weights (float16) and record; the recorded accuracy is that of the weights as written."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    path = folder / "zoo" / f"{record['model']}.safetensors"
    store.replace(path, save({k: v.contiguous().cpu() for k, v in state.items()}))
    device = next(model.parameters()).device
    record |= {"weights": sha256(path), "top1": measured(path, record["model"], device)}
    text = json.dumps(record, indent=1) + "\n"
    store.replace(folder / "training" / f"{record['model']}.json", text.encode())
    return record


def measured(path: Path, name: str, device: torch.device | str = "cpu") -> float:
    """Top-1 on val of the weights at `path`, loaded and evaluated as every page does it."""
    model, data = models.load(f"{name}:{path}", device=str(device)), load_images("bestiary")
    weight, bias = heads.head(model, data)
    return heads.top_k_accuracy(model.embed_images(data) @ weight.T + bias, data.labels)


def made_with(device: torch.device) -> dict[str, str]:
    """What a record says of machine and versions."""
    here = f"{platform.processor() or platform.machine()}, threads: {torch.get_num_threads()}"
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else here
    versions = {"torch": torch.__version__, "open_clip": open_clip.__version__, "pillow": PIL.__version__}
    return {"machine": machine, "python": platform.python_version(), **versions}
