"""What labels cost: our way, the released code's way and Network Dissection's, in one run on one machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import pandas as pd
import torch
from torch.nn import functional as F

from lib.dissection import activations, evaluation, inputs, network, plain, similarity, truth
from lib.dissection.options import Options
from lib.dissection.setting import Setting
from lib.errors import UserError
from lib.given import Given
from lib.progress import progress
from lib.seeds import torch_rng
from lib.store import Seen

SOFT = "soft_wpmi"


@contextmanager
def timed(lines: list[dict[str, Any]], **about: Any) -> Iterator[None]:
    """While it lasts the clock runs; then a line with `seconds`, and what they are about, is added to `lines`."""
    start = _now()
    yield
    lines.append({**about, "seconds": _now() - start})


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # what was asked of the GPU is done
    return time.perf_counter()


def steps(given: Given, options: Options) -> Seen:
    """Seconds to label all neurons of a target's layers on the run's images: Table 4. Nothing is taken from the store.

    Lines: step ("read": decode images for both models; "embed": images and concepts; "activations"; "labels", by
    SoftWPMI; "labels, released way"; "Network Dissection": maps against masks, where these are known), seconds; of
    labels also layer, neurons, and how many have the same label both ways. Paper, section 4.4.
    """
    setting = Setting(given, options)
    clip, target, names = setting.clip, setting.target, setting.layers
    found = inputs.concepts(given, options.concepts)
    lines: list[dict[str, Any]] = []
    rows, parts = [], []
    with timed(lines, step="embed"):
        concepts = clip.embed_texts([options.prompt.format(text) for text in found], cached=False)
    for chunk in progress([*setting.images.chunks()], "images"):
        some = setting.images.subset(chunk)
        with timed(lines, step="read"):
            pixels = clip.pixels(some), target.pixels(some)
        with timed(lines, step="embed"):
            rows.append(clip.embed_pixels(pixels[0]))
        with timed(lines, step="activations"):
            batches = (target.normalised(x) for x in pixels[1].split(64))
            parts.append(activations.collect(target.tower, names, batches, options.pool, options.channels))
    for name in names:
        q = torch.cat([part[name] for part in parts])
        lines += _both_ways(SOFT, q, torch.cat(rows), concepts, layer=name)
    if setting.known:
        masks = truth.masks(setting.images, found)
        with timed(lines, step="Network Dissection"):
            again = network.batches(target, setting.images)
            maps = activations.maps(target.tower, names, again, options.channels)
            for name in names:
                evaluation.iou(maps.pop(name), masks)
    return Seen(pd.DataFrame(lines), notes={"concepts": len(found), "layers": names})


def _both_ways(
    name: str, q: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, **about: str
) -> list[dict[str, Any]]:
    """Two lines: seconds from embeddings to labels, ours and in the released way, and how many labels are the same."""
    lines: list[dict[str, Any]] = []
    with timed(lines, step="labels", **about):
        ours = similarity.labels(name, q, images, concepts)[0]
    q, images, concepts = q.cpu(), images.cpu(), concepts.cpu()  # where the released way keeps P
    with timed(lines, step="labels, released way", **about):
        theirs = plain.scores(name, q, images, concepts).argmax(1)
    return [line | {"neurons": len(ours), "same": int((ours.cpu() == theirs).sum())} for line in lines]


# --- the similarity functions alone


@dataclass(frozen=True)
class Problem:
    """A random problem: its images, words and neurons, and the coordinates of an embedding."""

    problem_images: int = 5000
    problem_words: int = 6000
    problem_neurons: int = 32
    problem_width: int = 512

    def __post_init__(self) -> None:
        if min(astuple(self)) < 2:
            raise UserError(f"{self} is no problem; give two at least of images, words, neurons and coordinates.")


def similarities(given: Given, problem: Problem) -> Seen:
    """The functions that the released code makes slowly, on random embeddings and activations.

    Lines: similarity, step ("labels" or "labels, released way"), seconds, neurons, same (labels). No model or image of
    the run plays a part. At full size: benchmarks/dissection.py.
    """
    drawn = random_inputs(problem, given.seed)
    names = progress(["rank_reorder", "wpmi", "soft_wpmi"], "similarities")
    return Seen(pd.DataFrame([line for name in names for line in _both_ways(name, *drawn, similarity=name)]))


def random_inputs(problem: Problem, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations [images, neurons], and embeddings of images and words of norm 1, CLIP-like cosines around 0.2."""
    rng, (images, words, neurons, width) = torch_rng(seed, "problem"), astuple(problem)
    X, T = (torch.randn(n, width, generator=rng) for n in (images, words))
    common = F.normalize(torch.randn(width, generator=rng), dim=0) * (width / 4) ** 0.5
    X, T = F.normalize(X + common, dim=1), F.normalize(T + common, dim=1)
    q = X @ torch.randn(width, neurons, generator=rng)
    return q.add_(0.5 * torch.randn(images, 1, generator=rng)).relu_(), X, T
