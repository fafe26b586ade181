"""Chooses where the foreground is read in each miniature, and writes it to data/models.csv with its score.

    python scripts/choose_foreground.py            every model of data/models.csv with patch features
    python scripts/choose_foreground.py RN50 ...   these

The paper chose its features by localisation (appendix A.1), and its code warns that the component has to be checked for
each kind of feature. The choice is made on the train split, never on val, by the overlap with the true animals.
"""

import itertools
import sys

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib import models, store
from lib.data import ImageDataset
from lib.data import load as load_images
from lib.mutual import foreground, parts
from lib.paths import DATA
from lib.progress import progress

FEATURES = {"ViT": ("tokens", "keys", "values"), "ResNet": ("tokens",), "ConvNeXt": ("tokens",)}
LAYERS = (-1, -2)


def main(names: list[str]) -> None:
    """Choose for the miniatures `names` (default: all of data/models.csv) and write each choice at once."""
    data = load_images("bestiary", split="train", images=384)
    path = DATA / "models.csv"
    for name in progress(names or list(models.catalogue().index), "models"):
        best = tried(models.load(name), data).iloc[0]
        rows = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("name")
        for key in foreground.RELEASED:
            rows.loc[name, f"mini_{key}"] = str(best[key])
        rows.loc[name, "mini_localisation"] = f"{best['iou']:.3f}"
        store.replace(path, rows.to_csv().encode())
        tqdm.write(" ".join([name, *rows.loc[name, rows.columns.str.startswith("mini_")]]))


def candidates(family: str) -> list[dict]:
    """The settings that are tried for a family."""
    settings = itertools.product(FEATURES[family], LAYERS, ("svd", "pca"), (0, 1))
    return [dict(zip(foreground.RELEASED, setting, strict=True)) for setting in settings]


def tried(clip: models.Vision, data: ImageDataset) -> pd.DataFrame:
    """Mean localisation of every candidate setting on `data`, best first: column `iou` beside the setting's."""
    settings, scores = candidates(clip.family), []
    for members in foreground.groups(data.labels):
        pixels, truth = clip.pixels(data.image(i) for i in members), foreground.animals(data, members)
        read = {key: clip.patch_features(pixels, *key) for key in {(s["feature"], s["layer"]) for s in settings}}
        overlaps = []
        for setting in settings:
            features, grid = read[setting["feature"], setting["layer"]]
            mask = parts.foreground(features, grid, setting["component"], method=setting["method"])
            overlaps.append(foreground.intersection_over_union(mask, truth))
        scores.append(np.stack(overlaps, axis=1))
    table = pd.DataFrame(settings).assign(iou=np.concatenate(scores).mean(0))
    return table.sort_values("iou", ascending=False, ignore_index=True)


if __name__ == "__main__":
    main(sys.argv[1:])
