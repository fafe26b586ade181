"""Trains members of the miniature zoo by their recipes (data/bestiary/recipes.csv).

    python scripts/train_zoo.py RN50                one model, 2 to 27 minutes on one core
    python scripts/train_zoo.py RN50 RN50-finetuned several; what another starts from is trained first
    python scripts/train_zoo.py all --seed 1        all of them, hours
    python scripts/train_zoo.py                     which there are, and which are trained

Weights go to data/bestiary/zoo and a record of each training to data/bestiary/training, both when it has finished. A
model that has been trained by the same recipe and seed is left alone, so an interrupted `all` goes on where it was.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from lib.bestiary.zoo import FOLDER, records
from lib.errors import UserError
from lib.progress import progress
from training import recipes, zoo


def main(arguments: list[str]) -> None:
    asked = parser().parse_args(arguments)
    known = recipes.all_recipes()
    if not asked.models:
        done = records(folder=asked.folder)
        for name, how in known.items():
            state = f"top-1 {done[name]['top1']:.3f}, seed {done[name]['seed']}" if name in done else "not trained"
            print(f"{name:<26} {how.objective:<12} {how.pool:>6} of {how.split:<6} {state}")
        return
    for name in asked.models:
        if name != "all":
            recipes.recipe(name)
    names = [name for name in known if name in asked.models or "all" in asked.models]
    changes = {"epochs": asked.epochs} if asked.epochs else {}
    write = partial(tqdm.write, file=sys.stdout)
    for name in progress(names, "models"):
        zoo.train(name, asked.seed, asked.device, asked.folder, asked.again, write, **changes)


def parser() -> argparse.ArgumentParser:
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("models", nargs="*", help="names in data/bestiary/recipes.csv, or all")
    about.add_argument("--seed", type=int, default=0)
    about.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1")
    about.add_argument("--folder", type=Path, default=FOLDER, help="where zoo/ and training/ are written")
    about.add_argument("--epochs", type=int, default=0, help="instead of the recipe's, for a trial")
    about.add_argument("--again", action="store_true", help="train even what has been trained by the same recipe")
    return about


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
