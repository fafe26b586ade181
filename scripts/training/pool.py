"""Pictures and captions to train on: a split drawn once by all cores, and kept by the thousand."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from torch.nn import functional as F

from lib import store
from lib.bestiary.world import Bestiary
from lib.progress import progress

SIDE = 128  # pixels of the pictures that are kept
TOGETHER = 1000  # pictures of one entry of the store
FEW = 500  # pictures that are drawn here before other processes have started


def pool(split: str, numbers: Sequence[int] | np.ndarray, size: int) -> tuple[torch.Tensor, list[str]]:
    """Pictures of a split and their captions: uint8 [n, 3, size, size], and n strings.

    numbers: which of the split's pictures, int [n].
    """
    numbers = np.asarray(numbers, np.int64)
    pixels = torch.empty(len(numbers), 3, size, size, dtype=torch.uint8)
    captions = [""] * len(numbers)
    world = Bestiary(split, SIDE)
    # processes of their own making: a forked one may hang in the threads of torch that it does not have
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
        for first in progress(np.unique(numbers // TOGETHER) * TOGETHER, f"pictures of {split}"):
            here = np.flatnonzero((numbers >= first) & (numbers < first + TOGETHER))
            drawn, said = _thousand(world, int(first), workers)
            pixels[here] = resized(drawn[numbers[here] - first], size)
            for k in here:
                captions[k] = said[numbers[k] - first]
    return pixels, captions


def _thousand(world: Bestiary, first: int, workers: ProcessPoolExecutor) -> tuple[torch.Tensor, list[str]]:
    """The pictures from `first` on, uint8 [m, H, W, 3], and their captions; `TOGETHER`, or less at the end."""
    numbers = range(first, min(first + TOGETHER, len(world)))

    def draw() -> dict[str, torch.Tensor]:
        work = map if len(numbers) <= FEW else workers.map
        stretches = [(world.split, list(numbers[k : k + 50])) for k in range(0, len(numbers), 50)]
        drawn, said = zip(*work(_drawn, stretches), strict=True)
        text = "\n".join(sum(said, [])).encode()
        return {
            "pixels": torch.from_numpy(np.concatenate(drawn)),
            "captions": torch.frombuffer(bytearray(text), dtype=torch.uint8),
        }

    kept = store.tensors({"kind": "pool", "world": world.fingerprint, "first": first}, draw)
    return kept["pixels"], kept["captions"].numpy().tobytes().decode().split("\n")


def _drawn(stretch: tuple[str, list[int]]) -> tuple[np.ndarray, list[str]]:
    split, numbers = stretch
    world = Bestiary(split, SIDE)
    return np.stack([np.asarray(world.image(i)) for i in numbers]), [world.caption(i) for i in numbers]


def resized(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Pictures uint8 [n, H, W, 3] as uint8 [n, 3, size, size], with the antialiasing of the evaluation."""
    out = torch.empty(len(pixels), 3, size, size, dtype=torch.uint8)
    for k in range(0, len(pixels), 500):  # not all at once: the way there takes floats
        part = pixels[k : k + 500].permute(0, 3, 1, 2)
        out[k : k + 500] = F.interpolate(part, (size, size), mode="bilinear", antialias=True)
    return out
