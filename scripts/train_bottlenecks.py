"""Trains the bottlenecks of Tables 1 and 5 for miniatures, and writes them into the repository.

    python scripts/train_bottlenecks.py ViT-B-16 ...   some minutes each

They go to data/bestiary/bottlenecks/NAME.safetensors, float16, which the pages read; `lib.mutual.baselines` trains them
for every other model when they are needed.
"""

import sys

import torch
from safetensors.torch import save
from tqdm import tqdm

from lib import data, models, store
from lib.errors import UserError
from lib.mutual import baselines
from lib.mutual.options import Training
from lib.paths import ROOT
from lib.progress import progress


def main(names: list[str]) -> None:
    """Train every baseline for the miniatures `names` by the default recipe and write each model's at once."""
    train = data.load("bestiary", "train")
    for name in names:
        clip = models.load(name)
        how, found = baselines.recipe(clip, train, Training()), dict[str, torch.Tensor]()
        for method in progress(baselines.METHODS, f"bottlenecks of {name}"):
            trained = baselines.trained(method, clip, train, how)
            found |= {f"{method}.{k}": v.contiguous() for k, v in trained.items()}
        path = ROOT / baselines.FOLDER / f"{name}.safetensors"
        store.replace(path, save(found, metadata={"recipe": store.digest(how)}))
        tqdm.write(f"{name}: {path}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
