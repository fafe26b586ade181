"""What the book at the papers' scale needs, before hours are spent: `python -m lib.book.plan imagenet --models all`.

It says which images, weights, banks and label files are on this machine and which are missing, with their size and
where they come from; what disk and memory are needed; and how many hours each page takes, from a short calibration on
this device. Nothing is downloaded.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lib import data, models, paths
from lib.data.downloads import rows
from lib.data.folders import IMAGE_SUFFIXES, entries, root_of
from lib.data.shifts import MAPPINGS
from lib.errors import UserError
from lib.models import weights
from lib.models.catalogue import Choice
from lib.mutual.baselines import LARGEST

FEW = 4  # images of the calibration


@dataclass(frozen=True)
class Need:
    """What a page needs: models of these sets (or these), passes of an image through the network, and files.

    passes: dataset ("" for the run's, "train", "shifts", or a name) -> passes an image, after the pages before it.
    """

    models: str
    passes: dict[str, float]
    files: tuple[str, ...] = ()


# An image is embedded (1), its patches are read (1), and 5 parts, found in two ways, are shown in 3 variants (30)
BANK = ("descriptors_{dataset}",)
NEEDS = {
    "table3": Need("mutual", {"": 32}, BANK),
    "figure3": Need("mutual", {}, BANK),
    "matching": Need("mutual", {}, BANK),
    "table2": Need("boost", {}, BANK),
    "sensitivity": Need("mutual", {"": 1}, BANK),  # on the images of five classes, in seven ways
    "explain": Need("ViT-B-16", {}, BANK),
    "foreground": Need("ViT-B-32,ViT-B-16,ViT-L-14-336,RN50,RN101", {"": 14}),  # two facets, twelve blurred pictures
    "table1": Need("ViT-B-16", {"": 200, "train": 1}, BANK),  # seven explanations and random ones, step by step
    "table5": Need("ViT-B-16", {"": 1}, BANK),
    "kurtosis": Need("grid comparison", {"": 2}, ("coco500_clip_vit_b16",)),
    "privileged_directions": Need("grid comparison", {"shifts": 1}, ("imagenet_testbed_top1",)),
    "concepts": Need("grid comparison", {"broden": 1}),
    "effective_robustness": Need("grid comparison", {}, ("imagenet_testbed_top1",)),
    "dissection": Need("dissection", {"": 1}),
    "neurons": Need("dissection", {"": 2}),
    "missing_concepts": Need("dissection", {"cifar100": 1}),
    "describe_class": Need("dissection", {}),
    "dissection_places": Need("dissection", {"broden": 1}, ("labels_NetDissect_resnet18_places365_fc",)),
    "dissection_timing": Need("dissection", {"": 2}),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.book.plan", description=__doc__)
    parser.add_argument("dataset", help="imagenet, places365, food101, or the path of an image folder")
    parser.add_argument("--models", default="", help="names with commas, in place of each page's own")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    try:
        for line in plan(given.dataset, given.models, given.device):
            print(line, flush=True)
    except UserError as error:
        sys.exit(f"plan: {error}")


def plan(dataset: str, asked: str = "", device: str = "auto") -> Iterator[str]:
    """The lines of the plan. asked: models with commas, in place of each page's own. Raises UserError."""
    names = {page: members(need, dataset, asked) for page, need in NEEDS.items()}
    every = list(dict.fromkeys(name for of in names.values() for name in of))
    counts = {what: sum(images_of(name, split)[0] for name, split in sets(dataset, what)) for what in ("", "shifts")}
    counts |= {name: images_of(name, split)[0] for name, split in (("broden", "all"), ("cifar100", "train"))}
    counts["train"] = images_of(dataset, "train")[0]
    yield from ("Images", *map(image_line, *zip(*all_sets(dataset), strict=True)), "")
    yield from ("Weights", *(weight_line(models.choose(name, dataset)) for name in every), "")
    yield from ("Banks, labels, tables", *(file_line(name) for name in files(dataset)), "")
    yield from ("Disk and memory", *memory(names, dataset, counts), "")
    place = models.find_device(device)
    yield f"Hours, by {FEW} images through each architecture on {place} (reading images comes on top)"
    speed, known = {}, dict[str, float]()  # by name, by architecture
    for name in every:
        architecture = models.choose(name, dataset).architecture
        if architecture not in known:
            known[architecture] = seconds_an_image(name, dataset, str(place))
        speed[name] = known[architecture]
    for page, need in NEEDS.items():
        passes = sum(counts[what] * times for what, times in need.passes.items())
        hours = sum(speed[name] for name in names[page]) * passes / 3600
        left = "after the pages above it" if not need.passes else f"{len(names[page])} models"
        yield f"  {page:24}{hours:8.1f} h   {left}"


def members(need: Need, dataset: str, asked: str) -> list[str]:
    """The models of a page at a dataset."""
    known = models.catalogue()
    if need.models in known.index or "," in need.models:
        return need.models.split(",")
    return models.resolve(asked or "all", dataset, need.models)


# --- images


def sets(dataset: str, what: str) -> list[tuple[str, str]]:
    """(dataset, split) of "" (the run's own) or its "shifts"."""
    return [(name, "val") for name in data.published_shifts(dataset)] if what == "shifts" else [(dataset, "val")]


def all_sets(dataset: str) -> list[tuple[str, str]]:
    train = [(dataset, "train")] if "train" in entries().get(dataset, {}).get("splits", {}) else []
    return [*sets(dataset, ""), *train, *sets(dataset, "shifts"), ("broden", "all"), ("cifar100", "train")]


def images_of(name: str, split: str) -> tuple[int, bool]:
    """How many images there are to compute with, on disk or else as published; and whether they are on disk."""
    try:
        data.check(name, split)
        there = True
    except UserError:
        there = False
    published = entries().get(name, {}).get("expected", {}).get(split, 0)
    return (_counted(name, split) if there else 0) or published, there


def _counted(name: str, split: str) -> int:
    if "reader" in entries().get(name, {}):  # not in class folders: all of them, or none
        return 0
    root = root_of(name, split)
    return sum(
        f.suffix.lower() in IMAGE_SUFFIXES for folder in root.iterdir() if folder.is_dir() for f in folder.iterdir()
    )


def image_line(name: str, split: str) -> str:
    count, there = images_of(name, split)
    entry = entries()[name] if name in entries() else {}
    if there:
        published = entry.get("expected", {}).get(split, count)
        return f"  there    {name} ({split}), {count} images" + (f" of {published}" if count < published else "")
    if not entry:
        return f"  missing  {name}: give the path of a folder of class folders"
    extra = f" (with {MAPPINGS}/)" if entry.get("folders") == "objectnet" else ""
    size = f"about {entry['gigabytes'][split]} GB" if split in entry.get("gigabytes", {}) else "size not known"
    return f"  missing  {name} ({split}), {count or 'some'} images, {size}: {entry['how']}{extra}"


# --- weights and files


def weight_line(choice: Choice) -> str:
    path = weights.local(choice)
    if path:
        return f"  there    {choice.name}: {path}"
    where = weights.origin(choice).strip() or f"from {choice.architecture.partition('/')[0]}"
    return f"  missing  {choice.name}, about {4e-9 * parameters(choice):.1f} GB: {where}"


def parameters(choice: Choice) -> int:
    """How many numbers a model has, without making them."""
    import open_clip  # only here, after lib.models, which mends torchvision where that is not whole
    import timm
    import torchvision

    library, _, name = choice.architecture.partition("/")
    with torch.device("meta"), weights.quiet():
        if not choice.has_head:
            model: Any = open_clip.create_model(choice.architecture, device="meta", load_weights=False)
        else:
            model = torchvision.models.get_model(name) if library == "torchvision" else timm.create_model(name)
    return sum(p.numel() for p in model.parameters())


def files(dataset: str) -> list[str]:
    named = [file.format(dataset=dataset) for need in NEEDS.values() for file in need.files]
    return [name for name in dict.fromkeys(named) if name in rows()]


def file_line(name: str) -> str:
    path = paths.download_folder() / rows()[name]["file"]
    if path.is_file():
        return f"  there    {name}: {path}"
    return f"  missing  {name}, a few MB at most: {rows()[name]['address']}"


# --- what it costs


def memory(names: dict[str, list[str]], dataset: str, counts: dict[str, int]) -> Iterator[str]:
    """Disk for embeddings and parts (float32), memory for the features that Tables 1 and 5 train on."""
    rows_kept = sum(counts[what] for what in ("", "shifts", "broden"))
    kept = 4e-9 * 768 * (rows_kept * len(names["kurtosis"]) * 2 + counts[""] * 10 * len(names["table3"]))
    free = shutil.disk_usage(paths.ROOT).free / 1e9
    yield f"  disk     about {kept:.0f} GB for embeddings in {paths.cache_folder()}, {free:.0f} GB are free"
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    most = f"{3 * LARGEST / 1e9:.0f} GB for tables 1 and 5 (less with train_limit)"
    yield f"  memory   up to {most}, {ram:.0f} GB are here"
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / 1e9
        yield f"  GPU      {torch.cuda.device_count()} of {total:.0f} GB"


def seconds_an_image(name: str, dataset: str, device: str) -> float:
    """Seconds of one image through a model's vision tower, its weights random."""
    model: Any = models.load(name, dataset, device, weights="random")
    pixels = torch.zeros(FEW, 3, model.image_size, model.image_size, dtype=torch.uint8)
    model.embed_pixels(pixels[:1])
    began = time.perf_counter()
    model.embed_pixels(pixels).cpu()
    return (time.perf_counter() - began) / FEW


if __name__ == "__main__":
    main()
