"""Random streams by name: rng(seed, "parts") draws the same whatever else was drawn before it."""

import hashlib

import numpy as np
import torch


def number(seed: int, *names: object) -> int:
    """A seed for the stream `names` (strings or numbers) under the run's `seed`: int below 2**63."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *names: object) -> np.random.Generator:
    """numpy's generator for a named stream."""
    return np.random.default_rng(number(seed, *names))


def torch_rng(seed: int, *names: object) -> torch.Generator:
    """torch's generator, on the CPU, for a named stream."""
    return torch.Generator().manual_seed(number(seed, *names))
