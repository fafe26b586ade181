"""A picture of one's own as the whole dataset: its classes come from who asks, its descriptors from a bank."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lib.data.dataset import ImageDataset
from lib.data.downloads import download
from lib.data.folders import entries
from lib.errors import UserError, some

NAME = "picture"  # of the dataset that it is; no name of data/datasets.toml
SPLIT = "a file"
BANK = "descriptors_imagenet"  # of data/downloads.csv


@dataclass(frozen=True)
class OnePicture:
    """A source of one picture."""

    picture: Image.Image
    fingerprint: str

    def image(self, k: int) -> Image.Image:
        return self.picture


def source(path: str | Path) -> OnePicture:
    """A picture file as the source of a dataset; its content counts, not its name. Raises as `opened` does."""
    picture = opened(path)
    return OnePicture(picture, hashlib.sha256(picture.tobytes() + repr(picture.size).encode()).hexdigest())


def opened(path: str | Path) -> Image.Image:
    """A picture file as RGB, the right way up. Raises UserError when it is not there, no picture or several."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no file {path}; give `image` a number of the dataset or the path of a picture.")
    try:
        with Image.open(file) as picture:
            # cameras keep a preview beside the picture, as a second one of the format MPO
            several = picture.format != "MPO" and getattr(picture, "is_animated", False)
            upright = None if several else ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:  # PIL raises many kinds for what is no picture
        kind = type(error).__name__
        raise UserError(f"{path} is not a picture that can be read ({kind}); give a JPEG or PNG file.") from None
    if upright is None:
        raise UserError(f"{path} holds several pictures (it is animated or has pages); give one of them.")
    return upright


def load(path: str | Path, classes: str | Sequence[str], descriptors: str | Path | Sequence[str] = "") -> ImageDataset:
    """A picture and the classes that it may be of, in the prompts of the paper for ImageNet. Its label is not known.

    path: of the file. classes: names, in a list or with commas. descriptors: see `bank`. Which class a descriptor was
    written for is not asked: the method takes those nearest to a class from all of them, and from `descriptors` how
    many an average class has; so they are dealt out evenly. Raises UserError.
    """
    names, texts, entry = class_names(classes), bank(descriptors), entries()["imagenet"]
    if len(texts) < len(names):
        raise UserError(f"There are {len(texts)} descriptors for {len(names)} classes; give at least as many.")
    dealt = [part.tolist() for part in np.array_split(np.array(texts, dtype=object), len(names))]
    return ImageDataset(
        name=NAME,
        split=SPLIT,
        classes=names,
        labels=np.zeros(1, np.int64),
        descriptors=dealt,
        templates=tuple(entry["templates"]),
        descriptor_prompt=entry["descriptor_prompt"],
        source=source(path),
        indices=np.zeros(1, np.int64),
    )


def class_names(classes: str | Sequence[str]) -> list[str]:
    """The names in a list, or in a text with commas, without blanks around them.

    Raises UserError for fewer than two, for an empty name and for one that is there twice; capitals don't count, as
    they don't for CLIP.
    """
    listed = classes.split(",") if isinstance(classes, str) else list(classes)
    if not all(isinstance(name, str) for name in listed):
        raise UserError(f"classes holds {some(listed)}; give names, in a list of texts or in one text with commas.")
    names = [" ".join(name.split()) for name in listed]
    if not all(names):
        raise UserError(f"classes has an empty name, number {names.index('') + 1} of {len(names)}; name it or cut it.")
    if len(names) < 2:
        raise UserError(f"classes names {some(names) or 'none'}; a picture is explained against a second: give two.")
    lower = [name.lower() for name in names]
    twice = [name for k, name in enumerate(names) if lower[k] in lower[:k]]
    if twice:
        raise UserError(f"classes names {some(twice)} twice; name each class once.")
    return names


def bank(descriptors: str | Path | Sequence[str] = "") -> list[str]:
    """Distinct descriptors in their order: "" for those of ImageNet's classes, a list, or the path of a file.

    A JSON file holds a list of texts, or class names with a list each; any other file has a descriptor a line. Raises
    UserError.
    """
    if not isinstance(descriptors, str | Path):
        return _texts(list(descriptors), "descriptors")
    file = Path(descriptors).expanduser() if str(descriptors) else download(BANK)
    if not file.is_file():
        raise UserError(f"There is no file {descriptors}; give `descriptors` the path of a JSON or text file.")
    try:
        text = file.read_text(encoding="utf-8-sig")
        content = json.loads(text) if file.suffix.lower() == ".json" else text.splitlines()
    except ValueError as error:  # of the encoding, or of JSON
        raise UserError(f"{file} is not a JSON or text file ({' '.join(str(error).split())}); correct it.") from None
    return _texts(content, str(file))


def _texts(content: Any, where: str) -> list[str]:
    lists = list(content.values()) if isinstance(content, dict) else [content]
    if not all(isinstance(of, list) and all(isinstance(text, str) for text in of) for of in lists):
        raise UserError(f"{where} must be a list of texts, or class names with a list of texts each; correct it.")
    found = list(dict.fromkeys(" ".join(text.split()) for of in lists for text in of if text.strip()))
    if not found:
        raise UserError(f"{where} has no descriptors; give short phrases such as 'pointed ears'.")
    return found
