"""Folders of images: the papers' datasets as data/datasets.toml describes them, and any folder of class folders."""

import json
import re
import runpy
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lib import store
from lib.data.dataset import DEFAULT_PROMPT, DEFAULT_TEMPLATES, ImageDataset
from lib.data.digests import THREADS, of_files
from lib.data.downloads import download
from lib.errors import UserError, nearest, note, note_once, some
from lib.paths import DATA, datasets_folder

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}


@lru_cache
def entries() -> dict[str, dict[str, Any]]:
    """data/datasets.toml: name -> settings."""
    return tomllib.loads((DATA / "datasets.toml").read_text())


class Files:
    """Images as files. paths: list of Path, by number."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def image(self, k: int) -> Image.Image:
        try:
            with Image.open(self.paths[k]) as image:
                return image.convert("RGB")
        except Exception as error:  # PIL raises many kinds for damaged files
            raise UserError(
                f"{self.paths[k]} cannot be decoded ({type(error).__name__}: {error}); "
                "repair or remove it, or load with on_error='skip' to leave such images out."
            ) from None

    def digests(self, indices: np.ndarray) -> list[str]:
        return of_files([self.paths[k] for k in indices])


# --- where they lie


def root_of(name: str, split: str) -> Path:
    """Folder of the class folders, of an entry of datasets.toml or by path. Raises UserError where there is none."""
    if name in entries():
        entry = entries()[name]
        if split not in entry["splits"]:
            raise UserError(f"{entry['title']} has no split '{split}' here; it has {', '.join(entry['splits'])}.")
        root = datasets_folder() / entry["folder"] / entry["images"].format(split=entry["splits"][split])
        if not root.is_dir():
            raise UserError(
                f"{entry['title']} ({split}) is not on disk: looked for {root}; {entry['how']}, "
                f"or set COMPANION_DATASETS to the folder that holds {entry['folder']}/."
            )
        return root
    root = Path(name).expanduser()
    if not root.is_dir():
        if "/" in str(name) or "\\" in str(name):
            raise UserError(f"There is no folder {root.resolve()}; give the path of a folder of class folders.")
        known = ["bestiary", *entries()]
        raise UserError(
            f"Dataset '{name}' is unknown; give one of {', '.join(known)}, or the path of a folder "
            f"of class folders.{nearest(name, known)}"
        )
    if split != "val":
        raise UserError(f"An image folder has no split '{split}'; give the path of that split's own folder.")
    return root.resolve()


def class_folders(root: Path) -> list[Path]:
    """Its sub-folders, sorted. Raises UserError where there are none."""
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    if not folders:
        raise UserError(f"{root} has no sub-folders; an image folder has one sub-folder of images per class.")
    return folders


def _images_in(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(files)


# --- what they hold


def known(name: str, split: str) -> ImageDataset:
    """A dataset of datasets.toml, as published. Raises UserError where it is incomplete or not on disk."""
    entry = entries()[name]
    data = listed(name, split, complete(name, split))
    if entry["class_names"] == "imagenet":
        data.classes = imagenet_classes()
    data.descriptors = descriptors_of(entry, data.classes)
    data.templates, data.descriptor_prompt = tuple(entry["templates"]), entry["descriptor_prompt"]
    return data


def complete(name: str, split: str) -> list[Path]:
    """The class folders of an entry of datasets.toml, sorted. Raises UserError unless all are there."""
    entry, folders = entries()[name], class_folders(root_of(name, split))
    if len(folders) != entry["classes"]:
        raise UserError(
            f"{entry['title']} ({split}) has {len(folders)} class folders in {folders[0].parent}, "
            f"expected {entry['classes']}; complete it, or give the folder's path to use it as your own."
        )
    return folders


def listed(name: str, split: str, folders: list[Path]) -> ImageDataset:
    """The images of these class folders of an entry, or those that its list names; classes are called like them."""
    entry = entries()[name]
    files = [_images_in(f) for f in folders]
    if "list" in entry:
        files = _listed(name, split, folders, files)
    found, published = sum(map(len, files)), entry["expected"].get(split)
    if published and found != published:
        note_once(f"{entry['title']} ({split}) has {found} images on disk, {published} are published.")
    return _dataset(name, split, folders, files, [re.sub(r"[_-]+", " ", f.name) for f in folders])


def descriptors_of(entry: dict[str, Any], classes: list[str]) -> list[list[str]]:
    """The descriptors of each class from the bank that an entry names. Raises UserError where that cannot be had."""
    return align(json.loads(download(entry["descriptors"]).read_text()), classes, by=entry["align"])


@lru_cache
def imagenet_classes() -> list[str]:
    """open_clip's names, by index only: 1000 classes have 998 distinct names.

    Read from its file, which imports nothing: the package would load every model that it knows.
    """
    spec = find_spec("open_clip")
    assert spec and spec.origin  # a dependency of this project
    return list(runpy.run_path(str(Path(spec.origin).with_name("zero_shot_metadata.py")))["IMAGENET_CLASSNAMES"])


def _listed(name: str, split: str, folders: list[Path], files: list[list[Path]]) -> list[list[Path]]:
    """Only those files that the split's list names. Raises UserError where it names one that is not there."""
    entry = entries()[name]
    path = datasets_folder() / entry["folder"] / entry["list"].format(split=entry["splits"][split])
    if not path.is_file():
        raise UserError(f"{entry['title']} ({split}) lacks its list {path}; {entry['how']}.")
    wanted = set(path.read_text().split())
    kept = [[p for p in ps if f"{f.name}/{p.stem}" in wanted] for f, ps in zip(folders, files, strict=True)]
    missing = sorted(wanted - {f"{p.parent.name}/{p.stem}" for ps in kept for p in ps})
    if missing:
        raise UserError(
            f"{path} names {len(missing)} of {len(wanted)} images that are not there ({some(missing)}); "
            f"unpack {entry['title']} again."
        )
    return kept


def own(path: str, split: str) -> ImageDataset:
    """Any image folder; beside its class folders may lie classes.json and descriptors.json. Raises UserError."""
    root = root_of(path, split)
    folders = class_folders(root)
    named = _json_beside(root, "classes.json")
    strange = sorted(set(named) - {f.name for f in folders})
    if strange:
        raise UserError(
            f"{root / 'classes.json'} names folders that do not exist ({some(strange)}); its keys are "
            f"the names of the class folders.{nearest(strange[0], [f.name for f in folders])}"
        )
    classes = [str(named.get(f.name, f.name.replace("_", " "))) for f in folders]
    bank = _json_beside(root, "descriptors.json")
    if not all(isinstance(texts, list) and all(isinstance(t, str) for t in texts) for texts in bank.values()):
        raise UserError(f"{root / 'descriptors.json'} must map each class name to a list of strings.")
    descriptors = [bank.get(c, bank.get(f.name, [])) for c, f in zip(classes, folders, strict=True)]
    data = _dataset(root.name, split, folders, [_images_in(f) for f in folders], classes)
    data.descriptors = descriptors
    return data


def _json_beside(root: Path, filename: str) -> dict[str, Any]:
    path = root / filename
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); correct it or take it away.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; it must be an object of names.")
    return content


def _dataset(name: str, split: str, folders: list[Path], files: list[list[Path]], classes: list[str]) -> ImageDataset:
    """Images and class names, as yet without descriptors."""
    _refuse_empty(folders[0].parent, [f.name for f, ps in zip(folders, files, strict=True) if not ps])
    labels = np.repeat(np.arange(len(files)), [len(ps) for ps in files])
    return ImageDataset(
        name=name,
        split=split,
        classes=classes,
        labels=labels,
        descriptors=[[] for _ in classes],
        templates=DEFAULT_TEMPLATES,
        descriptor_prompt=DEFAULT_PROMPT,
        source=Files([p for ps in files for p in ps]),
        indices=np.arange(len(labels)),
    )


def _refuse_empty(root: Path, empty: Sequence[str]) -> None:
    if empty:
        raise UserError(
            f"{len(empty)} class folders in {root} have no images ({some(empty)}); "
            f"add images ({', '.join(sorted(IMAGE_SUFFIXES))}) or remove the folders."
        )


# --- damaged images


def readable(data: ImageDataset, on_error: str) -> ImageDataset:
    """The images that can be read. on_error: "raise" refuses others (by their headers), "skip" leaves them out."""
    paths = [data.source.paths[k] for k in data.indices]
    bad = unreadable(paths, decode=on_error == "skip")
    if not bad:
        return data
    root = paths[0].parent.parent
    shown = some([f"{paths[i].parent.name}/{paths[i].name}" for i in bad])
    count = f"{len(bad)} of {len(paths)} images in {root} cannot be read ({shown})"
    if on_error == "raise":
        raise UserError(f"{count}; repair or remove them, or load with on_error='skip' to go without.")
    note(f"{count}; they are left out.")
    left = np.setdiff1d(np.arange(len(paths)), bad)
    names = {paths[i].parent.name for i in left}
    _refuse_empty(root, sorted({paths[i].parent.name for i in bad} - names))
    return data.subset(left)


def unreadable(paths: list[Path], decode: bool) -> list[int]:
    """Indices of files that are no image (decode: that do not decode to their end), kept in the store."""

    def look() -> dict[str, torch.Tensor]:
        with ThreadPoolExecutor(THREADS) as pool:
            verdicts = list(pool.map(lambda p: _is_unreadable(p, decode), paths))
        return {"indices": torch.tensor([i for i, bad in enumerate(verdicts) if bad], dtype=torch.int64)}

    files = [[str(p.resolve()), about.st_size, about.st_mtime_ns] for p in paths for about in [p.stat()]]
    key = {"kind": "unreadable", "files": store.digest(files), "decode": decode}
    return store.tensors(key, look)["indices"].tolist()


def _is_unreadable(path: Path, decode: bool) -> bool:
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
    except Exception:
        return True
    return False


# --- descriptor banks


def align(bank: dict[str, list[str]], classes: list[str], by: str = "index") -> list[list[str]]:
    """Descriptors of each class, in the order of `classes`.

    by: "index" (the bank has the classes' order; four of ImageNet's names are spelled otherwise, two occur twice) or
    "name" (compared without case, punctuation and bracketed remarks).
    """
    if by == "index":
        if len(bank) != len(classes):
            raise UserError(f"The bank has {len(bank)} classes and the dataset {len(classes)}; they must agree.")
        return [list(texts) for texts in bank.values()]
    by_name = {_plain(name): list(texts) for name, texts in bank.items()}
    return [by_name.get(_plain(name), []) for name in classes]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"\(.*?\)", "", name.lower())).strip()
