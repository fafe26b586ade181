"""Embeddings and heads made elsewhere, read from .npy and .safetensors files a stretch at a time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.data import download, downloads
from lib.errors import UserError, nearest
from lib.outliers import streaming

FORMATS = (".npy", ".safetensors")


@dataclass
class Rows:
    """Embeddings [n, d] in a file. Indexing with a slice reads these rows; the file is closed again each time, so
    that no more of it stays in memory than what was asked for."""

    path: Path
    shape: tuple
    key: object = None  # the tensor's name in a safetensors file, or the index of the set in a stack

    def __len__(self):
        return self.shape[0]

    @property
    def title(self):
        """The file's name, and which of its sets this is."""
        return self.path.stem if self.key is None else f"{self.path.stem} [{self.key}]"

    def __getitem__(self, part):
        if self.path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(self.path, framework="pt") as file:
                return file.get_slice(self.key)[part]
        found = np.load(self.path, mmap_mode="r", allow_pickle=False)
        found = found if self.key is None else found[self.key]
        return np.array(found[part])  # a copy: the map ends with this call


def embeddings(path):
    """The sets of embeddings in a file, a dict of title to Rows.

    A .npy file holds [images, coordinates], or a stack [sets, images, coordinates]; a .safetensors file one or more
    named tensors [images, coordinates]. Raises UserError for a missing file, another format, rank, or type.
    """
    path, shapes = _opened(path)
    if path.suffix == ".npy" and len(shapes[None]) == 3:
        shapes = dict(enumerate([shapes[None][1:]] * shapes[None][0]))
    found = [Rows(path, shape, key) for key, shape in shapes.items()]
    for rows in found:
        streaming.check_shape(rows, f"embeddings in {rows.title}")
    return {rows.title: rows for rows in found}


def head(path):
    """A head from a file: (weight float64 [classes, d], bias float64 [classes]).

    A .npy file holds the weight; a .safetensors file the tensors "weight" and perhaps "bias", or a single tensor.
    Raises UserError as `embeddings` does.
    """
    path, shapes = _opened(path)
    if path.suffix == ".npy":
        weight, bias = np.load(path, allow_pickle=False), None
    else:
        from safetensors.numpy import load_file

        found = load_file(path)
        key = "weight" if "weight" in found else next(iter(found))
        if "weight" not in found and len(found) > 1:
            raise UserError(f"{path} holds {', '.join(found)}; a head is a tensor 'weight', and perhaps a 'bias'.")
        weight, bias = found[key], found.get("bias")
    streaming.check_shape(weight, f"rows of the head in {path.name}")
    bias = np.zeros(len(weight)) if bias is None else bias
    if bias.shape != (len(weight),):
        raise UserError(f"The bias in {path} has shape {list(bias.shape)}; expected [{len(weight)}], one a class.")
    return weight.astype(np.float64), bias.astype(np.float64)


def real():
    """The public embeddings of 500 photographs and of a caption each, by OpenAI's ViT-B/16: dict of title to Rows.

    Origin: Liang et al. (2022), fetched by `download`. Raises UserError where they cannot be had.
    """
    try:
        path = download("coco500_clip_vit_b16")
    except UserError:
        address = downloads.rows()["coco500_clip_vit_b16"]["address"]
        raise UserError(
            f"the file could not be fetched from {address}; with a network, or with the file in the folder that "
            "COMPANION_DOWNLOADS names, this page shows it."
        ) from None
    photographs, captions = embeddings(path).values()
    return {"photographs": photographs, "captions": captions}


def _opened(path):
    """The path, and the shapes of what is in the file: dict of key to tuple."""
    path = Path(path).expanduser()
    if path.suffix not in FORMATS:
        raise UserError(f"{path} is no embeddings file; expected one of {', '.join(FORMATS)}.")
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*") if p.suffix in FORMATS) if path.parent.is_dir() else []
        raise UserError(f"There is no file {path}; give the path of saved embeddings.{nearest(path.name, beside)}")
    try:
        shapes, types = _shapes(path)
    except Exception as error:  # each format fails in its own way
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); write it again.") from None
    strange = [t for t in types if not any(kind in t for kind in ("float", "F16", "F32", "F64"))]
    if strange:
        raise UserError(f"{path} holds values of type {strange[0]}; expected floating-point embeddings.")
    return path, shapes


def _shapes(path):
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return {None: array.shape}, [str(array.dtype)]
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}
        return {k: tuple(s.get_shape()) for k, s in slices.items()}, [s.get_dtype() for s in slices.values()]
