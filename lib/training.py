"""Trains the miniature zoo by its recipes, data/bestiary/recipes.csv.

The contrastive models differ in what sets the papers' models apart: how many picture-caption pairs there are,
how many of the captions are wrong, whether a filter threw pairs out, how long the training is, and whether it
starts from another model at a higher resolution. Their comparison models are trained on the labelled split: with
its captions alone, fine-tuned from the zero-shot head, or from scratch with labels alone (the protocols of
Crabbe et al. 2024, scaled down).
"""

import hashlib
import json
import math
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from lib import models
from lib.bestiary import ADVERSARIAL, SPECIES, SPLITS, Bestiary, rendered
from lib.data import load as load_images
from lib.errors import UserError, nearest
from lib.models import classifiers, heads
from lib.paths import DATA, cache_folder

import open_clip  # isort: skip  after lib.models, which prepares it

FOLDER = DATA / "bestiary"
PIXELS = 128  # side of the pictures that the pool keeps


def recipe(name):
    """One row of recipes.csv as a dict; raises UserError for another name, with the nearest ones."""
    rows = pd.read_csv(FOLDER / "recipes.csv", keep_default_na=False).set_index("name")
    if name not in rows.index:
        raise UserError(f"There is no recipe for '{name}' in data/bestiary/recipes.csv.{nearest(name, rows.index)}")
    return rows.loc[name].to_dict()


def _draw_chunk(job):
    """Draw a stretch of a split into the pool's file; returns its captions."""
    split, start, stop, path = job
    bestiary, pool = Bestiary(split, PIXELS), np.lib.format.open_memmap(path, mode="r+")
    said = []
    for i in range(start, stop):
        pool[i] = np.asarray(bestiary.image(i))
        said.append(bestiary.caption(i))
    return said


def pool(split="web"):
    """All pictures and captions of a split, drawn once: (uint8 memory map [n, 128, 128, 3], list of n captions)."""
    bestiary = Bestiary(split, PIXELS)
    stem = cache_folder() / "bestiary" / f"{split}-{bestiary.fingerprint[:16]}"
    pixels, texts = stem.with_suffix(".npy"), stem.with_suffix(".json")
    if not texts.exists():
        stem.parent.mkdir(parents=True, exist_ok=True)
        part = stem.with_suffix(f".{os.getpid()}.npy")
        np.lib.format.open_memmap(part, "w+", np.uint8, (len(bestiary), PIXELS, PIXELS, 3)).flush()
        edges = np.linspace(0, len(bestiary), 65).astype(int)
        jobs = [(split, int(a), int(b), str(part)) for a, b in zip(edges, edges[1:], strict=False)]
        with ProcessPoolExecutor() as workers:
            said = sum(workers.map(_draw_chunk, jobs), [])
        os.replace(part, pixels)
        part = texts.with_suffix(f".{os.getpid()}.json")
        part.write_text(json.dumps(said))
        os.replace(part, texts)
    return np.load(pixels, mmap_mode="r"), json.loads(texts.read_text())


def resized(pixels, side):
    """Pictures uint8 [n, H, W, 3] as uint8 [n, 3, side, side], with the antialiasing of the evaluation."""
    out = torch.empty(len(pixels), 3, side, side, dtype=torch.uint8)
    for k in range(0, len(pixels), 500):
        chunk = torch.from_numpy(np.array(pixels[k : k + 500])).permute(0, 3, 1, 2)
        out[k : k + 500] = F.interpolate(chunk, (side, side), mode="bilinear", antialias=True)
    return out


def create(name, device="cpu", seed=0):
    """The untrained miniature `name`, ready to be trained: `lib.models.Clip`."""
    clip = models.load(f"{name}:random", device=device, seed=seed)
    clip.model.requires_grad_(True)
    return clip


@torch.inference_mode()
def zero_shot_top1(clip, pixels, data):
    """Zero-shot top-1 in the middle of training, on pictures uint8 [n, 3, S, S] of `data`."""
    clip.model.eval()
    prompts = [template.format(c) for c in data.classes for template in data.templates]
    texts = clip.embed_texts(prompts, cached=False).view(len(data.classes), len(data.templates), -1)
    logits = clip.embed_pixels(pixels) @ F.normalize(texts.mean(1), dim=-1).T
    return heads.top_k_accuracy(logits, data.labels)


def measured(path, name, device="cpu"):
    """Top-1 on val of the weights at `path`, loaded and evaluated as every page does it."""
    model, data = models.load(f"{name}:{path}", device=str(device)), load_images("bestiary")
    weight, bias = heads.head(model, data)
    return heads.top_k_accuracy(model.embed_images(data) @ weight.T + bias, data.labels)


def kept_by(name, pixels, said, share, device):
    """Indices of the `share` of pairs that the trained miniature `name` finds the most alike: a data filter."""
    clip = models.load(name, device=device)
    images = clip.embed_pixels(resized(pixels, clip.image_size))
    alike = (images * clip.embed_texts(said, cached=False)).sum(1)
    return alike.argsort(descending=True)[: int(share * len(said))].sort().values.cpu().numpy()


def web_pairs(how, device, seed):
    """The pictures and captions that a recipe trains on: (indices into the pool, list of captions, share wrong)."""
    pixels, said = pool(how["split"])
    bestiary = Bestiary(how["split"], PIXELS)
    chosen = np.arange(min(how["pool"], len(said)))
    wrong = np.random.default_rng([seed, 11]).random(len(chosen)) < how["noise"]
    texts = [bestiary.false_caption(i) if wrong[i] else said[i] for i in chosen]
    if how["filter"]:
        chosen = kept_by(how["filter"], pixels[: len(texts)], texts, 1 - how["noise"], device)
        texts, wrong = [texts[i] for i in chosen], wrong[chosen]
    return chosen, texts, float(wrong.mean())


def start_from(model, name):
    """Load the trained miniature `name` into a model of the same shape at a higher resolution."""
    state = {k: v.float() for k, v in load_file(FOLDER / "zoo" / f"{name}.safetensors").items()}
    open_clip.model.resize_pos_embed(state, model)
    model.load_state_dict(state)


def train(name, **options):
    """Train the miniature `name` by its recipe and write its weights and its training record; returns the record.

    options: seed, device, batch_size, epochs (both override the recipe), pairs (fewer than the recipe's, for
    tests), folder, log. Weights go to `folder`/zoo/NAME.safetensors as float16, the record to
    `folder`/training/NAME.json. Raises UserError for a name without a recipe.
    """
    with_labels = recipe(name)["objective"] in models.LEARNED_HEAD
    return (train_labels if with_labels else train_pairs)(name, **options)


def train_pairs(name, seed=0, device="cpu", batch_size=None, folder=FOLDER, pairs=None, epochs=None, log=print):
    """`train` on pairs of picture and caption: contrastive loss, AdamW, one-cycle learning rate (open_clip's loss)."""
    how = recipe(name)
    how["epochs"], batch_size = epochs or how["epochs"], batch_size or how["batch_size"]
    if pairs:
        how["pool"] = min(pairs, how["pool"])
    torch.manual_seed(seed)
    clip = create(name, device, seed)
    model = clip.model
    if how["start"]:
        start_from(model, how["start"])
    chosen, said, wrong = web_pairs(how, device, seed)
    pixels, tokens = resized(pool(how["split"])[0][chosen], clip.image_size), clip.tokenizer(said)
    val = load_images("bestiary")
    held_out = clip.pixels(val)
    steps = how["epochs"] * (len(tokens) // batch_size)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=how["learning_rate"],
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how["learning_rate"], steps, pct_start=0.1)
    contrast, rng, history = open_clip.ClipLoss(), np.random.default_rng([seed, 12]), []
    began = time.perf_counter()
    for epoch in range(how["epochs"]):
        model.train()
        order, losses = rng.permutation(len(tokens)), []
        for batch in np.array_split(order[: len(order) // batch_size * batch_size], len(order) // batch_size):
            image, text, scale = model(clip.normalised(pixels[batch]), tokens[batch].to(clip.device))
            loss = contrast(image, text, scale)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, np.log(100))
            losses.append(loss.item())
        top1 = zero_shot_top1(clip, held_out, val)
        seconds = time.perf_counter() - began
        loss = float(np.mean(losses))
        history.append({"epoch": epoch + 1, "loss": loss, "top1": top1, "seconds": round(seconds, 1)})
        log(f"{name}  epoch {epoch + 1}/{how['epochs']}  loss {loss:.3f}  top-1 {top1:.3f}  {seconds:.0f} s")
    record = {
        "model": name,
        "seed": seed,
        "recipe": how,
        "batch_size": batch_size,
        "pairs": len(tokens),
        "wrong_captions": wrong,
        "image_size": clip.image_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "history": history,
        how["split"]: Bestiary(how["split"], PIXELS).fingerprint,
        "val": val.fingerprint,
        **made_with(clip.device),
    }
    return save(model, record, Path(folder))


def train_labels(name, seed=0, device="cpu", batch_size=None, folder=FOLDER, pairs=None, epochs=None, log=print):
    """`train` on pictures and labels: fine-tuned from a zero-shot model, or supervised from scratch.

    Fine-tuned: from the tower and the zero-shot head of the recipe's `start`, random crops, cosine learning rate,
    weight decay 0.1. Supervised: from scratch, random crops and flips, label smoothing 0.1, weight decay 0.01;
    the learning rate falls tenfold after a third and two thirds (ResNets) or by a cosine (ViTs). Both with AdamW
    and a warm-up of a tenth. Source: Crabbe et al. 2024, the training of the comparison models, scaled down.
    """
    how = recipe(name)
    how["epochs"], batch_size = epochs or how["epochs"], batch_size or how["batch_size"]
    count = min(pairs or how["pool"], how["pool"])
    torch.manual_seed(seed)
    row, tuned = models.catalogue().loc[name], how["objective"] == "finetuned"
    model = classifiers.build(row["backbone"], len(SPECIES), tuned, seed).to(models.find_device(device))
    if tuned:
        start_from_zero_shot(model, how["start"])
    model.requires_grad_(True)
    clip = models.load(f"{row['backbone']}:random", device=device)  # for its pixels
    chosen = a_share(Bestiary("train").labels, count)
    pixels = resized(pool("train")[0][chosen], clip.image_size)
    labels = torch.as_tensor(Bestiary("train").labels[chosen])
    val = load_images("bestiary")
    held_out = clip.pixels(val)
    a_step = len(labels) // batch_size
    optimiser = torch.optim.AdamW(model.parameters(), lr=how["learning_rate"], weight_decay=0.1 if tuned else 0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, partial(pace, steps=how["epochs"] * a_step, stairs=not tuned and row["family"] == "ResNet")
    )
    rng, history, began = np.random.default_rng([seed, 14]), [], time.perf_counter()
    draws = torch.Generator().manual_seed(seed)
    for epoch in range(how["epochs"]):
        model.train()
        order, losses = rng.permutation(len(labels))[: a_step * batch_size], []
        for batch in order.reshape(-1, batch_size):
            x = augmented(clip.normalised(pixels[batch]), draws, flips=not tuned)
            smoothing = 0.0 if tuned else 0.1
            loss = F.cross_entropy(model(x), labels[batch].to(clip.device), label_smoothing=smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        top1, loss = float((labelled(clip, model, held_out) == val.labels).mean()), float(np.mean(losses))
        seconds = time.perf_counter() - began
        history.append({"epoch": epoch + 1, "loss": loss, "top1": top1, "seconds": round(seconds, 1)})
        log(f"{name}  epoch {epoch + 1}/{how['epochs']}  loss {loss:.3f}  top-1 {top1:.3f}  {seconds:.0f} s")
    record = {
        "model": name,
        "seed": seed,
        "recipe": how,
        "batch_size": batch_size,
        "pairs": len(labels),
        "wrong_captions": 0.0,
        "image_size": clip.image_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "history": history,
        "train": Bestiary("train", PIXELS).fingerprint,
        "val": val.fingerprint,
        **made_with(clip.device),
    }
    return save(model, record, Path(folder))


def a_share(labels, count):
    """Indices of `count` pictures, as many of every class as can be: the first of each."""
    rank = np.zeros(len(labels), int)
    for species in np.unique(labels):
        rank[labels == species] = np.arange((labels == species).sum())
    return np.sort(np.lexsort((labels, rank))[:count])


def start_from_zero_shot(model, name):
    """The tower of the trained miniature `name`, and its zero-shot classifier times its scale as the head."""
    clip, data = models.load(name), load_images("bestiary")
    model.visual.load_state_dict(clip.visual.state_dict())
    with torch.no_grad():
        model.head.weight.copy_(clip.logit_scale * heads.classifier(clip, data.classes, data.templates))
        model.head.bias.zero_()


def pace(step, steps, stairs):
    """Learning rate of a step as a share of the highest: a warm-up of a tenth, then stairs or a cosine."""
    rise = min(1.0, (step + 1) / max(1, steps // 10))
    done = step / steps
    return rise * (0.1 ** int(3 * done) if stairs else 0.5 * (1 + math.cos(math.pi * done)))


def augmented(x, generator, flips):
    """Each picture [n, 3, S, S] cut to a random square of 60 to 100 % of its area and scaled back, maybe mirrored."""
    side, across, down, flip = torch.rand(4, len(x), generator=generator).to(x.device)
    side = (0.6 + 0.4 * side).sqrt()
    mirror = torch.where(flip < 0.5, -1.0, 1.0) if flips else torch.ones_like(side)
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = side * mirror, side
    theta[:, 0, 2], theta[:, 1, 2] = (1 - side) * (2 * across - 1), (1 - side) * (2 * down - 1)
    return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), "bilinear", "border", False)


def made_with(device):
    """What a training record says of machine and versions."""
    return {"machine": machine(device), "torch": torch.__version__, "open_clip": open_clip.__version__}


def save(model, record, folder):
    """Write weights (float16) and record; the recorded accuracy is that of the weights as written."""
    for kind in ("zoo", "training"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    weights = folder / "zoo" / f"{record['model']}.safetensors"
    part = weights.with_suffix(".part")
    save_file({k: v.contiguous().cpu() for k, v in state.items()}, part)
    os.replace(part, weights)
    record["top1"] = measured(weights, record["model"], next(model.parameters()).device)
    write_json(folder / "training" / f"{record['model']}.json", record)
    return record


def train_supervised(seed=0, device="cpu", epochs=8, batch_size=128, log=print):
    """A small ResNet trained with labels alone on the train split: (the Clip whose tower it uses, model, top-1 on val).

    Cross-entropy, AdamW, one-cycle learning rate; the vision tower of the miniature RN50 with a linear head.
    """
    torch.manual_seed(seed)
    clip = create("RN50", device, seed)
    tower, side = clip.model.visual, clip.image_size
    model = torch.nn.Sequential(tower, torch.nn.Linear(tower.output_dim, len(SPECIES))).to(device)
    drawn, _ = pool("train")
    pixels, labels = resized(drawn, side), torch.as_tensor(Bestiary("train").labels)
    steps = epochs * (len(labels) // batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.002, steps, pct_start=0.1)
    rng = np.random.default_rng([seed, 13])
    for epoch in range(epochs):
        model.train()
        order = rng.permutation(len(labels))[: len(labels) // batch_size * batch_size]
        for batch in order.reshape(-1, batch_size):
            loss = F.cross_entropy(model(clip.normalised(pixels[batch])), labels[batch].to(clip.device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        log(f"supervised  epoch {epoch + 1}/{epochs}  loss {loss.item():.3f}")
    val = Bestiary("val", PIXELS)
    found = labelled(clip, model, resized(np.stack([np.asarray(val.image(i)) for i in range(len(val))]), side))
    return clip, model, float((found == val.labels).mean())


@torch.inference_mode()
def labelled(clip, model, pixels):
    """Predicted species of pictures uint8 [n, 3, S, S]: int64 [n]."""
    model.eval()
    return torch.cat([model(clip.normalised(chunk)).argmax(1).cpu() for chunk in pixels.split(128)]).numpy()


def filter_adversarially(seed=0, device="cpu", epochs=8, a_species=40, log=print):
    """Choose the pictures of the adversarial split, those that a supervised model gets wrong, and write them down.

    `a_species` candidates a species are drawn; the first wrong ones are kept, as many as the split has places.
    """
    clip, model, top1 = train_supervised(seed, device, epochs, log=log)
    candidates = np.arange(a_species * len(SPECIES))
    pictures = np.stack([rendered("adversarial", int(k), PIXELS)[0] for k in candidates])
    wrong = candidates[labelled(clip, model, resized(pictures, clip.image_size)) != candidates % len(SPECIES)]
    kept = [k for s in range(len(SPECIES)) for k in wrong[wrong % len(SPECIES) == s][: SPLITS["adversarial"][1]]]
    about = {"seed": seed, "candidates": len(candidates), "wrong": len(wrong), "supervised_top1_val": top1}
    write_json(ADVERSARIAL, {**about, "indices": sorted(int(k) for k in kept)}, indent=None)
    return about


def machine(device):
    """What a training ran on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, threads: {torch.get_num_threads()}"


def write_json(path, content, indent=1):
    """Write JSON whole or not at all."""
    part = Path(path).with_suffix(".part")
    part.write_text(json.dumps(content, indent=indent) + "\n")
    os.replace(part, path)


def records(names=None, folder=FOLDER):
    """The training records that exist, in the order of the recipes: dict of name to record. `names`: only these."""
    known = pd.read_csv(FOLDER / "recipes.csv")["name"]
    pages = {name: Path(folder) / "training" / f"{name}.json" for name in known if names is None or name in names}
    return {name: json.loads(page.read_text()) for name, page in pages.items() if page.exists()}


def shipped(found, folder=FOLDER):
    """Size, checksum, machine and seed of each training's weights: DataFrame. `found` as from `records`."""
    lines = []
    for name, record in found.items():
        weights = (Path(folder) / "zoo" / f"{name}.safetensors").read_bytes()
        digest = hashlib.sha256(weights).hexdigest()[:16]
        about = {"machine": record["machine"], "torch": record["torch"], "seed": record["seed"]}
        lines.append({"model": name, "MB": len(weights) / 1e6, "sha256 (first 16)": digest, **about})
    return pd.DataFrame(lines)


def summary(found):
    """One line a training: what was trained on, for how long, how well. `found` as from `records`: DataFrame."""
    columns = {
        "model": lambda name, r: name,
        "objective": lambda name, r: r["recipe"].get("objective", "contrastive"),
        "image": lambda name, r: f"{r['image_size']} px",
        "parameters (M)": lambda name, r: r["parameters"] / 1e6,
        "pairs": lambda name, r: r["pairs"],
        "wrong captions (%)": lambda name, r: 100 * r["wrong_captions"],
        "epochs": lambda name, r: r["recipe"]["epochs"],
        "from": lambda name, r: r["recipe"]["start"] or "scratch",
        "filter": lambda name, r: r["recipe"]["filter"] or "–",
        "loss": lambda name, r: r["history"][-1]["loss"],
        "top-1 (%)": lambda name, r: 100 * r["top1"],
        "minutes": lambda name, r: r["history"][-1]["seconds"] / 60,
    }
    # column by column, so that no training still has the columns
    return pd.DataFrame({heading: [of(*item) for item in found.items()] for heading, of in columns.items()})
