"""The miniature zoo: trained model by model, each with a record of its training. See `scripts/train_zoo.py`."""

import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import PIL
import torch
from safetensors.torch import save
from torch import nn

from lib import models, seeds, store
from lib.bestiary.recipes import FOLDER, all_recipes, labels, pairs, recipe, weights
from lib.bestiary.training import fit, shuffled
from lib.bestiary.world import Bestiary
from lib.data import load as load_images
from lib.data import sha256
from lib.models import heads

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


# --- what has been trained


def records(names: Iterable[str] | None = None, folder: Path = FOLDER) -> dict[str, dict]:
    """The training records that exist, in the order of the recipes: dict of name to record. `names`: only these."""
    wanted = list(all_recipes() if names is None else names)
    pages = {name: Path(folder) / "training" / f"{name}.json" for name in all_recipes() if name in wanted}
    return {name: json.loads(page.read_text()) for name, page in pages.items() if page.exists()}


def shipped(found: dict[str, dict], folder: Path = FOLDER) -> pd.DataFrame:
    """Size, checksum, machine and seed of each training's weights. `found` as from `records`."""
    lines = []
    for name, record in found.items():
        path = Path(folder) / "zoo" / f"{name}.safetensors"
        about = {"machine": record["machine"], "torch": record["torch"], "seed": record["seed"]}
        size, sha = path.stat().st_size / 1e6, sha256(path)[:16]
        lines.append({"model": name, "MB": size, "sha256 (first 16)": sha, **about})
    return pd.DataFrame(lines)


def summary(found: dict[str, dict]) -> pd.DataFrame:
    """One line a training: what was trained on, for how long, how well. `found` as from `records`."""
    columns: dict[str, Callable[[dict], Any]] = {
        "model": lambda r: r["model"],
        "objective": lambda r: r["recipe"]["objective"],
        "image": lambda r: f"{r['image_size']} px",
        "parameters (M)": lambda r: r["parameters"] / 1e6,
        "pairs": lambda r: r["pairs"],
        "wrong captions (%)": lambda r: 100 * r["wrong_captions"],
        "epochs": lambda r: r["recipe"]["epochs"],
        "from": lambda r: r["recipe"]["start"] or "scratch",
        "filter": lambda r: r["recipe"]["filter"] or "–",
        "loss": lambda r: r["history"][-1]["loss"],
        "top-1 (%)": lambda r: 100 * r["top1"],
        "minutes": lambda r: r["history"][-1]["seconds"] / 60,
    }
    # column by column, so that no training still has the columns
    return pd.DataFrame({heading: [of(record) for record in found.values()] for heading, of in columns.items()})
