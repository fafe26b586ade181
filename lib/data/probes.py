"""Further sets of probing images: CIFAR-100, and several sets as one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from lib import store
from lib.data.dataset import DEFAULT_PROMPT, DEFAULT_TEMPLATES, ImageDataset
from lib.data.digests import sha256
from lib.data.folders import entries
from lib.errors import UserError
from lib.paths import datasets_folder


def joined(name: str, parts: list[ImageDataset]) -> ImageDataset:
    """Several datasets as one probe, in their order; labels and words are the first one's and mean nothing."""
    source = _Joined(parts)
    split, count = "+".join(p.split for p in parts), int(source.offsets[-1])
    labels = np.zeros(count, np.int64)
    return replace(parts[0], name=name, split=split, labels=labels, source=source, indices=np.arange(count))


class _Joined:
    def __init__(self, parts: list[ImageDataset]):
        self.parts, self.offsets = parts, np.cumsum([0, *(len(p) for p in parts)])

    @property
    def fingerprint(self) -> str:
        return store.digest([p.fingerprint for p in self.parts])

    def image(self, k: int) -> Image.Image:
        part = int(np.searchsorted(self.offsets, k, side="right")) - 1
        return self.parts[part].image(k - int(self.offsets[part]))


def cifar100(split: str = "train") -> ImageDataset:
    """CIFAR-100's images (50,000 "train", 10,000 "val", of 32 x 32) from its *binary* version, without descriptors.

    Raises UserError for another split, and for files that are not there or damaged.
    """
    store.must_be_handed("the images 'cifar100'")
    entry = entries()["cifar100"]
    if split not in entry["splits"]:
        raise UserError(f"CIFAR-100 has no split '{split}' here; it has {', '.join(entry['splits'])}.")
    path = datasets_folder() / entry["folder"] / entry["splits"][split]
    if not path.is_file():
        raise UserError(
            f"CIFAR-100 is not on disk: looked for {path}; {entry['how']}, or set COMPANION_DATASETS to the folder of "
            f"{entry['folder']}/."
        )
    size = path.stat().st_size
    if size == 0 or size % 3074:
        raise UserError(f"{path} has {size} bytes, which is not a number of records of 3074; fetch it again.")
    source = _Cifar(path)
    listed = path.with_name("fine_label_names.txt")
    classes = listed.read_text().split() if listed.is_file() else [str(i) for i in range(100)]
    return ImageDataset(
        name="cifar100",
        split=split,
        classes=[c.replace("_", " ") for c in classes],
        labels=source.records[:, 1].astype(np.int64),
        descriptors=[[] for _ in classes],
        templates=DEFAULT_TEMPLATES,
        descriptor_prompt=DEFAULT_PROMPT,
        source=source,
        indices=np.arange(len(source.records)),
    )


class _Cifar:
    """Records of 3074 bytes: coarse label, fine label, red, green, blue."""

    def __init__(self, path: Path):
        self.path, self.records = path, np.memmap(path, np.uint8, "r").reshape(-1, 3074)

    @property
    def fingerprint(self) -> str:
        return sha256(self.path)

    def image(self, k: int) -> Image.Image:
        return Image.fromarray(self.records[k, 2:].reshape(3, 32, 32).transpose(1, 2, 0))
