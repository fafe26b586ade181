"""Trains outlier twins: the towers of a miniature stay as they are, its two projections into the joint space go on.

    python scripts/train_twins.py                    ViT-B-16 and RN50, AdamW and SGD, three seeds each
    python scripts/train_twins.py RN50 --steps 100   one of them, for a trial

Both optimisers see the same pairs in the same order, at a fixed logit scale of 100. Projections (float16) go to
data/bestiary/twins/NAME.safetensors, and beside them NAME.json says how they came about.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.optim.lr_scheduler import ConstantLR

from lib import models, seeds, store
from lib.bestiary import Bestiary
from lib.data import sha256
from lib.outliers import observe_twins, twins
from lib.paths import ROOT
from lib.training import fit
from training.pool import pool
from training.steps import shuffled
from training.zoo import made_with

import open_clip  # isort: skip  after lib.models, which prepares it

NAMES, SEEDS = ("ViT-B-16", "RN50"), (0, 1, 2)
PAIRS, NOISE, BATCH, STEPS, SCALE = 4096, 0.3, 256, 4000, 100.0
OPTIMISERS = {
    "AdamW": partial(torch.optim.AdamW, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1),
    "SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
}


def main(
    names: list[str], device: str = "auto", steps: int = STEPS, folder: Path = ROOT / observe_twins.FOLDER
) -> None:
    """Train the twins of the miniatures `names` (default: NAMES), and write their projections and records."""
    for name in names or NAMES:
        clip = models.load(name, device=device)
        seen = features(clip)
        trained, lines = {}, []
        for optimiser in OPTIMISERS:
            for seed in SEEDS:
                sides, line = train(clip, seen, optimiser, seed, steps)
                trained |= {f"{optimiser}/{seed}/{side}": x for side, x in sides.items()}
                lines.append({"optimiser": optimiser, "seed": seed, **line})
                print(name, *(f"{k} {v:.4g}" if isinstance(v, float) else v for k, v in lines[-1].items()))
        path = Path(folder) / f"{name}.safetensors"
        store.replace(path, save(trained))
        about = {"model": name, "start": clip.weights_sha256, "web": Bestiary("web").fingerprint, "pairs": PAIRS}
        about |= {"wrong_captions": NOISE, "batch_size": BATCH, "steps": steps, "scale": SCALE, "trainings": lines}
        about |= {"recipes": {k: v.keywords for k, v in OPTIMISERS.items()}, "weights": sha256(path)}
        text = json.dumps(about | made_with(clip.device), indent=1) + "\n"
        store.replace(path.with_suffix(".json"), text.encode())


@torch.inference_mode()
def features(clip: models.Clip) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the towers see of the first PAIRS of the web: pictures, their captions and wrong ones, each [n, w]."""
    web = Bestiary("web")
    pixels, captions = pool("web", range(PAIRS), clip.image_size)
    wrong = [web.false_caption(i) for i in range(PAIRS)]
    return clip.embed_pixels(pixels, projected=False), *(
        clip.embed_texts(texts, cached=False, projected=False) for texts in (captions, wrong)
    )


def train(clip: models.Clip, seen: tuple, optimiser: str, seed: int, steps: int) -> tuple[dict, dict]:
    """One twin: its projections by side, float16 on the CPU, and what its record says."""
    pictures, captions, others = (x.clone() for x in seen)
    wrong = torch.from_numpy(seeds.rng(seed, "wrong captions").random(len(pictures)) < NOISE)
    texts = torch.where(wrong[:, None].to(captions.device), others, captions)
    start = {k: v for k, v in observe_twins.projections(clip)._asdict().items() if v is not None}
    sides = nn.ParameterDict({k: nn.Parameter(v.detach().clone()) for k, v in start.items()})
    contrast = open_clip.ClipLoss()

    def loss(batch: np.ndarray) -> torch.Tensor:
        image = twins.embedded(pictures[batch], sides["image"], sides["image_bias"] if "image_bias" in sides else None)
        return contrast(image, twins.embedded(texts[batch], sides["text"]), SCALE)

    how, began = OPTIMISERS[optimiser](sides.parameters()), time.perf_counter()
    order = partial(shuffled, len(pictures), BATCH, seeds.rng(seed, "order"))
    history = fit(sides, order, loss, how, ConstantLR(how, 1.0), steps // (len(pictures) // BATCH))
    about = {"loss": history[-1]["loss"], "seconds": time.perf_counter() - began}
    return {k: v.detach().half().cpu().contiguous() for k, v in sides.items()}, about


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", help=f"miniatures; by default {' and '.join(NAMES)}")
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1")
    main(**vars(options.parse_args()))
