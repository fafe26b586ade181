"""Labelled images and the words that belong to them: the bestiary, the papers' datasets, any image folder."""

import csv
import hashlib
import json
import logging
import re
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib import cache
from lib.errors import UserError, nearest, note, some
from lib.paths import DATA, datasets_folder, download_folder

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}
DEFAULT_TEMPLATES = ("a photo of a {}.",)
DEFAULT_PROMPT = "a photo showing {}"
THREADS = 8  # reading images waits for the disk more than it computes


@dataclass
class ImageDataset:
    """Images, labels, and the words that belong to them.

    classes: class names by index. labels: int64 [n]. descriptors: one list a class, aligned by index.
    templates: zero-shot prompts with {} for the class. descriptor_prompt: prompt with {} for a descriptor.
    fingerprint: sha256 of all that decides pixels and labels. source: what has the images (`source.image(k)`,
    and in the bestiary the truth about them); indices: int64 [n], the k of each image.
    """

    name: str
    split: str
    classes: list[str]
    labels: np.ndarray
    descriptors: list[list[str]]
    templates: tuple[str, ...]
    descriptor_prompt: str
    fingerprint: str
    source: object = field(repr=False)
    indices: np.ndarray = field(repr=False)

    def __len__(self):
        return len(self.labels)

    def image(self, i):
        """Image i, RGB. Raises UserError when its file cannot be decoded."""
        return self.source.image(int(self.indices[i]))

    def part_masks(self, i):
        """Part name -> bool [H, W] of image i. Raises UserError where the truth is not known."""
        return self._truth("part_masks", i)

    def true_descriptors(self, i):
        """Descriptors that hold in image i: list of str. Raises UserError where the truth is not known."""
        return self._truth("true_descriptors", i)

    def _truth(self, what, i):
        if not hasattr(self.source, what):
            raise UserError(f"Dataset '{self.name}' has no {what.replace('_', ' ')}; only 'bestiary' knows them.")
        return getattr(self.source, what)(int(self.indices[i]))

    def subset(self, indices):
        """The images at `indices` (int [m]), in that order; classes and descriptors stay as they are."""
        indices = np.asarray(indices, dtype=np.int64)
        chosen = f"{self.fingerprint} {indices.tolist()}"
        return replace(
            self,
            labels=self.labels[indices],
            fingerprint=hashlib.sha256(chosen.encode()).hexdigest(),
            indices=self.indices[indices],
        )

    @property
    def bank(self):
        """Distinct descriptors in order of first appearance: list of str."""
        return list(dict.fromkeys(text for texts in self.descriptors for text in texts))

    def require_descriptors(self, every_class=True):
        """Raise UserError when a class has no descriptors (every_class=False: when no class has any)."""
        without = [name for name, texts in zip(self.classes, self.descriptors, strict=True) if not texts]
        if without and (every_class or len(without) == len(self.classes)):
            raise UserError(
                f"{len(without)} of {len(self.classes)} classes of '{self.name}' have no descriptors "
                f"({some(without)}); give each a list in descriptors.json beside the class folders."
            )


# --- what can be loaded


@lru_cache
def entries():
    """data/datasets.toml: dict of name to settings."""
    return tomllib.loads((DATA / "datasets.toml").read_text())


def names():
    """Names that `load` knows: list of str."""
    return ["bestiary", *entries()]


def check(name, split="val"):
    """Raise UserError unless `name` can be loaded: an unknown name, or images that are not on disk."""
    if name == "bestiary":
        _bestiary(split)
    elif name in entries():
        _class_folders(_root(name, split))
    else:
        _class_folders(_own_root(name, split))


def load(name="bestiary", split="val", limit=0, seed=0, on_error="raise"):
    """A dataset by name ("bestiary", an entry of data/datasets.toml) or by the path of an image folder.

    An image folder has one sub-folder a class; beside them may lie classes.json (folder -> class name) and
    descriptors.json (class name -> list of str). limit: number of images, spread evenly over the classes in
    an order that `seed` decides; 0 takes all. on_error: "raise" refuses images that cannot be read, "skip"
    leaves them out and says which. Returns ImageDataset. Raises UserError for bad input.
    """
    if int(limit) != limit or limit < 0:
        raise UserError(f"limit is {limit}; give a number of images, or 0 for all of them.")
    if on_error not in ("raise", "skip"):
        raise UserError(f"on_error is '{on_error}'; give 'raise' or 'skip'.")
    if name == "bestiary":
        data = _bestiary(split)
    elif name in entries():
        data = _known(name, split, on_error)
    else:
        data = _own(name, split, on_error)
    data = data.subset(spread(data.labels, int(limit), seed)) if 0 < limit < len(data) else data
    if name == "bestiary":
        data.source.keep(data.indices)
    return data


def spread(labels, limit, seed=0):
    """Indices of `limit` images, the same number from each class as far as it goes: int64 [limit], ascending.

    Images come round by round, one a class, in an order within and among classes that `seed` decides; so a
    smaller limit takes a part of what a larger one takes.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    turn = rng.permutation(int(labels.max()) + 1)
    seen = np.zeros(len(turn), dtype=np.int64)
    rounds = np.empty(len(labels), dtype=np.int64)
    for i in order:
        rounds[i] = seen[labels[i]]
        seen[labels[i]] += 1
    return np.sort(np.lexsort((turn[labels], rounds))[:limit])


def _bestiary(split):
    from lib.bestiary import SPLITS, Bestiary, captions

    if split not in SPLITS:
        raise UserError(f"The bestiary has no split '{split}'; it has {', '.join(SPLITS)}.")
    world = Bestiary(split=split)
    return ImageDataset(
        name="bestiary",
        split=split,
        classes=list(world.classes),
        labels=np.asarray(world.labels, dtype=np.int64),
        descriptors=[list(texts) for texts in world.descriptors],
        templates=tuple(captions.TEMPLATES),
        descriptor_prompt=captions.DESCRIPTOR_PROMPT,
        fingerprint=world.fingerprint,
        source=world,
        indices=np.arange(len(world)),
    )


# --- folders of images


def _root(name, split):
    """Folder of the class folders of an entry of datasets.toml."""
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


def _own_root(name, split):
    root = Path(name).expanduser()
    if not root.is_dir():
        if "/" in str(name) or "\\" in str(name):
            raise UserError(f"There is no folder {root.resolve()}; give the path of a folder of class folders.")
        raise UserError(
            f"Dataset '{name}' is unknown; give one of {', '.join(names())}, or the path of a folder "
            f"of class folders.{nearest(name, names())}"
        )
    if split != "val":
        raise UserError(f"An image folder has no split '{split}'; give the path of that split's own folder.")
    return root.resolve()


def _class_folders(root):
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    if not folders:
        raise UserError(f"{root} has no sub-folders; an image folder has one sub-folder of images per class.")
    return folders


def _images_in(folder):
    files = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(files)


def _known(name, split, on_error):
    entry = entries()[name]
    folders = _class_folders(_root(name, split))
    if len(folders) != entry["classes"]:
        raise UserError(
            f"{entry['title']} ({split}) has {len(folders)} class folders in {folders[0].parent}, "
            f"expected {entry['classes']}; complete it, or give the folder's path to use it as your own."
        )
    if entry["class_names"] == "imagenet":
        from lib import operators  # noqa: F401  before open_clip
        from open_clip import IMAGENET_CLASSNAMES  # isort: skip

        classes = list(IMAGENET_CLASSNAMES)  # by index only: 1000 classes have 998 distinct names
    else:
        classes = [re.sub(r"[_-]+", " ", f.name) for f in folders]
    files = [_images_in(f) for f in folders]
    if "list" in entry:
        files = _listed(name, split, folders, files)
    found, published = sum(map(len, files)), entry["expected"].get(split)
    if published and found != published:
        note(f"{entry['title']} ({split}) has {found} images on disk, {published} are published.")
    descriptors = align(json.loads(download(entry["descriptors"]).read_text()), classes, by=entry["align"])
    words = (tuple(entry["templates"]), entry["descriptor_prompt"])
    return _from_files(name, split, folders, files, classes, descriptors, words, on_error)


def _listed(name, split, folders, files):
    """Only those files that the split's list names."""
    entry = entries()[name]
    path = datasets_folder() / entry["folder"] / entry["list"].format(split=entry["splits"][split])
    if not path.is_file():
        raise UserError(f"{entry['title']} ({split}) lacks its list {path}; {entry['how']}.")
    wanted = set(path.read_text().split())
    return [[p for p in ps if f"{f.name}/{p.stem}" in wanted] for f, ps in zip(folders, files, strict=True)]


def _own(path, split, on_error):
    root = _own_root(path, split)
    folders = _class_folders(root)
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
    files = [_images_in(f) for f in folders]
    words = (DEFAULT_TEMPLATES, DEFAULT_PROMPT)
    return _from_files(root.name, split, folders, files, classes, descriptors, words, on_error)


def _json_beside(root, filename):
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


def _from_files(name, split, folders, files, classes, descriptors, words, on_error):
    labels = np.repeat(np.arange(len(files)), [len(ps) for ps in files])
    paths = [p for ps in files for p in ps]
    _refuse_empty(folders, labels)
    fingerprint = cache.digest({"images": [_entry(p, y) for p, y in zip(paths, labels, strict=True)]})
    bad = unreadable(paths, fingerprint, decode=on_error == "skip")
    if bad:
        shown = some([f"{paths[i].parent.name}/{paths[i].name}" for i in bad])
        count = f"{len(bad)} of {len(paths)} images in {folders[0].parent} cannot be read ({shown})"
        if on_error == "raise":
            raise UserError(f"{count}; repair or remove them, or load with on_error='skip' to go without.")
        note(f"{count}; they are left out.")
    every = np.arange(len(paths))
    data = ImageDataset(name, split, classes, labels, descriptors, *words, fingerprint, _Files(paths), every)
    if bad:
        data = data.subset(np.setdiff1d(every, bad))
        _refuse_empty(folders, data.labels)
    return data


def _entry(path, label):
    about = path.stat()
    return [f"{path.parent.name}/{path.name}", about.st_size, about.st_mtime_ns, int(label)]


def _refuse_empty(folders, labels):
    counts = np.bincount(labels, minlength=len(folders))
    empty = [f.name for f, n in zip(folders, counts, strict=True) if n == 0]
    if empty:
        raise UserError(
            f"{len(empty)} class folders in {folders[0].parent} have no images ({some(empty)}); "
            f"add images ({', '.join(sorted(IMAGE_SUFFIXES))}) or remove the folders."
        )


class _Files:
    """Images as files."""

    def __init__(self, paths):
        self.paths = paths

    def image(self, i):
        try:
            with Image.open(self.paths[i]) as image:
                return image.convert("RGB")
        except Exception as error:  # PIL raises many kinds for damaged files
            raise UserError(
                f"{self.paths[i]} cannot be decoded ({type(error).__name__}: {error}); "
                "repair or remove it, or load with on_error='skip' to leave such images out."
            ) from None


def _is_unreadable(path, decode):
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
    except Exception:
        return True
    return False


def unreadable(paths, fingerprint, decode):
    """Indices of files that are no image (decode: that do not decode to their end): list of int, cached."""

    def look():
        with ThreadPoolExecutor(THREADS) as pool:
            verdicts = list(pool.map(lambda p: _is_unreadable(p, decode), paths))
        return {"indices": torch.tensor([i for i, bad in enumerate(verdicts) if bad], dtype=torch.int64)}

    key = {"kind": "unreadable", "version": 1, "images": fingerprint, "decode": decode}
    return cache.tensors(key, look)["indices"].tolist()


# --- descriptor banks and other files from elsewhere


def align(bank, classes, by="index"):
    """Descriptors of each class, in the order of `classes`: list of lists of str.

    bank: dict of class name to list of str. by: "index" (the bank has the classes' order; four of ImageNet's
    names are spelled otherwise, two occur twice) or "name" (compared without case, punctuation and bracketed
    remarks).
    """
    if by == "index":
        if len(bank) != len(classes):
            raise UserError(f"The bank has {len(bank)} classes and the dataset {len(classes)}; they must agree.")
        return [list(texts) for texts in bank.values()]
    by_name = {_plain(name): list(texts) for name, texts in bank.items()}
    return [by_name.get(_plain(name), []) for name in classes]


def _plain(name):
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"\(.*?\)", "", name.lower())).strip()


@lru_cache
def downloads():
    """data/downloads.csv: dict of name to row."""
    with open(DATA / "downloads.csv", newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def download(name):
    """Path of a file of data/downloads.csv, fetched once into `download_folder()` and verified by sha256.

    Raises UserError for an unknown name, and where the file can be put when it cannot be fetched.
    """
    if name not in downloads():
        raise UserError(f"'{name}' is not in data/downloads.csv.{nearest(name, downloads())}")
    row = downloads()[name]
    path = download_folder() / row["file"]
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]:
        return path
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        fetch = pooch.HTTPDownloader(timeout=15)
        pooch.retrieve(row["address"], f"sha256:{row['sha256']}", path.name, path.parent, downloader=fetch)
    except Exception as error:  # no network, no permission, another file at the address
        state = "is damaged" if path.is_file() else "is not there"
        raise UserError(
            f"{path} {state} and could not be fetched from {row['address']} ({type(error).__name__}); "
            f"fetch it elsewhere and put it there, or set COMPANION_DOWNLOADS to a folder with {row['file']}."
        ) from None
    return path
