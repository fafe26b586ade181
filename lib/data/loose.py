"""Images without classes: a folder with pictures anywhere in it, or a list of files."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lib import store
from lib.data.dataset import DEFAULT_PROMPT, DEFAULT_TEMPLATES, ImageDataset
from lib.data.folders import IMAGE_SUFFIXES, Files, readable
from lib.errors import UserError, some


def pictures(where: str | Path | Iterable[str | Path], on_error: str = "raise") -> ImageDataset:
    """All images in a folder and the folders in it, by their paths, or those of a list, in its order.

    They are of one class that means nothing. on_error: see `lib.data.load`. Raises UserError for a folder or file that
    is not there, for no images, and for what is no path.
    """
    store.must_be_handed("pictures")
    paths = _in_folder(Path(where).expanduser()) if isinstance(where, (str, Path)) else _listed(where)
    data = ImageDataset(
        name="pictures",
        split="val",
        classes=["picture"],
        labels=np.zeros(len(paths), np.int64),
        descriptors=[[]],
        templates=DEFAULT_TEMPLATES,
        descriptor_prompt=DEFAULT_PROMPT,
        source=Files(paths),
        indices=np.arange(len(paths)),
    )
    return readable(data, on_error)


def _in_folder(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"There is no folder {root.resolve()}; give a folder of images, or a list of their paths.")
    files = (p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    found = sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(root).parts))
    if not found:
        raise UserError(f"{root.resolve()} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}); add some.")
    return found


def _listed(where: Iterable[str | Path]) -> list[Path]:
    items = list(where)
    strange = [type(item).__name__ for item in items if not isinstance(item, (str, Path))]
    if strange:
        raise UserError(f"The list of images holds a {strange[0]}; give the paths of image files.")
    if not items:
        raise UserError("The list of images is empty; give the paths of image files.")
    found = [Path(item).expanduser() for item in items]
    missing = [str(path) for path in found if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(found)} image files are not there ({some(missing)}); correct the list."
        )
    return found
