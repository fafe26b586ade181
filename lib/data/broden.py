"""Broden, the densely labelled images of Network Dissection (broden1_224), as it lies on disk."""

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib import store
from lib.data.dataset import DEFAULT_PROMPT, DEFAULT_TEMPLATES, ImageDataset, spread
from lib.data.folders import Files
from lib.errors import UserError, some
from lib.paths import datasets_folder

CATEGORIES = ("color", "object", "part", "material", "scene", "texture")


def load(images: int = 0, seed: int = 0) -> ImageDataset:
    """The images of Broden, of a single class. images: so many of them, 0 for all; `seed` decides which.

    Raises UserError where they are not on disk.
    """
    store.must_be_handed("the images 'broden'")
    root, rows = _index()
    paths = [root / "images" / row["image"] for row in rows]
    chosen = spread(np.zeros(len(paths), np.int64), images, seed)
    missing = [rows[k]["image"] for k in chosen if not paths[k].is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(chosen)} images of Broden are missing in {root / 'images'} ({some(missing)}); "
            "unpack broden1_224 again."
        )
    return ImageDataset(
        name="broden",
        split="all",
        classes=["image"],
        labels=np.zeros(len(chosen), np.int64),
        descriptors=[[]],
        templates=DEFAULT_TEMPLATES,
        descriptor_prompt=DEFAULT_PROMPT,
        source=Files(paths),
        indices=chosen,
    )


def labels(images: ImageDataset) -> tuple[np.ndarray, list[str], list[str]]:
    """Which concepts are in images of Broden: (bool [n, C], names [C], categories [C]).

    A concept is in an image if the image has its label or any pixel has.
    """
    root, rows = _index()
    with open(root / "label.csv", newline="", encoding="utf-8") as file:
        about = {int(row["number"]): (row["name"], row["category"].partition("(")[0]) for row in csv.DictReader(file)}
    numbers = sorted(number for number in about if number)
    chosen = [rows[k] for k in images.indices]
    key = {"kind": "probe_labels", "images": images.fingerprint, "concepts": numbers, "rows": store.digest(chosen)}
    found = store.tensors(key, lambda: {"labels": _labels(root, chosen, numbers)})["labels"].numpy()
    return found, [about[k][0] for k in numbers], [about[k][1] for k in numbers]


def _index() -> tuple[Path, list[dict[str, str]]]:
    root = datasets_folder() / "broden1_224"
    if not (root / "index.csv").is_file():
        raise UserError(
            f"Broden is not on disk: looked for {root / 'index.csv'}; download broden1_224 (Network Dissection) and "
            "unpack it there, or set COMPANION_DATASETS to the folder that holds broden1_224/."
        )
    with open(root / "index.csv", newline="", encoding="utf-8") as file:
        return root, list(csv.DictReader(file))


def _labels(root: Path, rows: list[dict[str, str]], numbers: list[int]) -> torch.Tensor:
    """Whether each image has each label anywhere: bool [n, C]."""
    column = np.full(max(numbers) + 1, -1)
    column[numbers] = np.arange(len(numbers))
    found = np.zeros((len(rows), len(numbers)), dtype=bool)
    for i, row in enumerate(rows):
        for item in (item for category in CATEGORIES for item in (row.get(category) or "").split(";") if item):
            present = np.array([int(item)]) if item.isdigit() else _numbers(root / "images" / item)
            columns = column[present[(present > 0) & (present < len(column))]]
            found[i, columns[columns >= 0]] = True
    return torch.from_numpy(found)


def _numbers(path: Path) -> np.ndarray:
    """The label numbers in a map of labels: red plus 256 times green."""
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB")).astype(np.int64)
    return np.unique(rgb[..., 0] + 256 * rgb[..., 1])
