"""Chooses the pictures of the split `adversarial`, those that a supervised model gets wrong, and writes them down.

    python scripts/choose_adversarial.py

As ImageNet-A was made (Hendrycks et al. 2021), with a small ResNet that learns from the labels of the train split. The
choice, data/bestiary/adversarial.json, is part of the world: a new one means a zoo measured anew.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from lib import models, seeds, store
from lib.bestiary import ADVERSARIAL, SPECIES, SPLITS, Bestiary, rendered
from lib.data import load as load_images
from lib.models import classifiers
from lib.progress import progress
from lib.training import fit
from training.pool import SIDE, pool, resized
from training.recipes import labelled
from training.steps import shuffled

RATE = 0.002


def main(seed: int = 0, device: str = "auto", epochs: int = 8, each: int = 40) -> dict:
    """Draw `each` candidates a species; the first wrong ones are kept, as many as the split has places."""
    model, clip, top1 = supervised(seed, device, epochs)
    candidates = np.arange(each * len(SPECIES))
    drawn = [rendered("adversarial", int(k), SIDE)[0] for k in progress(candidates, "candidates")]
    found = labelled(model, clip, resized(torch.from_numpy(np.stack(drawn)), clip.image_size))
    wrong = candidates[found != candidates % len(SPECIES)]
    kept = [k for s in range(len(SPECIES)) for k in wrong[wrong % len(SPECIES) == s][: SPLITS["adversarial"][1]]]
    about = {"seed": seed, "candidates": len(candidates), "wrong": len(wrong), "supervised_top1_val": top1}
    text = json.dumps({**about, "indices": sorted(int(k) for k in kept)}) + "\n"
    store.replace(ADVERSARIAL, text.encode())
    return about


def supervised(
    seed: int = 0, device: str = "auto", epochs: int = 8, batch_size: int = 128, log: Callable = print
) -> tuple[nn.Module, models.Vision, float]:
    """A small ResNet trained with labels alone on the train split; a CLIP for its pixels; its top-1 on val.

    Cross-entropy, AdamW, one-cycle learning rate, pictures as they are; the tower of RN50 with a linear head.
    """
    clip = models.load("RN50:random", device=device)
    model = classifiers.build("RN50", len(SPECIES), False, seed).to(clip.device)
    truth = torch.as_tensor(Bestiary("train").labels).to(clip.device)
    pixels, _ = pool("train", range(len(truth)), clip.image_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = OneCycleLR(optimiser, RATE, epochs * (len(truth) // batch_size), pct_start=0.1)

    def loss(batch: np.ndarray) -> torch.Tensor:
        return F.cross_entropy(model(clip.normalised(pixels[batch])), truth[batch])

    order = partial(shuffled, len(truth), batch_size, seeds.rng(seed, "order"), "supervised")
    fit(model, order, loss, optimiser, schedule, epochs, log)
    val = load_images("bestiary")
    return model, clip, float((labelled(model, clip, clip.pixels(val)) == val.labels).mean())


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1")
    print(main(**vars(options.parse_args())))
