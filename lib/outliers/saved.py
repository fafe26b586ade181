"""Embeddings and heads made elsewhere, read from .npy, .safetensors and .pt files a stretch at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from lib.errors import UserError, nearest
from lib.outliers.streaming import check_shape

FORMATS = (".npy", ".safetensors", ".pt")


@dataclass(frozen=True)
class Rows:
    """Embeddings [n, d] in a file. A slice reads these rows and closes the file, so that nothing else stays in memory.

    key: the tensor's name in a safetensors or .pt file, the number of the set in a stack, or None.
    """

    path: Path
    shape: tuple[int, ...]
    key: Any = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Any:
        if self.path.suffix == ".safetensors":
            with safe_open(self.path, framework="pt") as file:
                return file.get_slice(self.key)[part]
        if self.path.suffix == ".pt":
            return _tensors(self.path)[self.key][part]
        found = np.load(self.path, mmap_mode="r", allow_pickle=False)
        found = found if self.key is None else found[self.key]
        return np.array(found[part])  # a copy: the map ends with this call


def embeddings(path: str | Path) -> dict[str, Rows]:
    """The sets of embeddings in a file, named by the file and, where it holds several, by tensor or place.

    A .npy file holds [images, coordinates], or a stack [sets, images, coordinates]; a .safetensors file one or more
    named tensors [images, coordinates]; a .pt file one tensor or a dict of them. Raises UserError for a missing file,
    another format, rank, or type.
    """
    path, shapes = _opened(path)
    if path.suffix == ".npy" and len(shapes[None]) == 3:
        shapes = {k: shapes[None][1:] for k in range(shapes[None][0])}
    found = {}
    for key, shape in shapes.items():
        place = f", set {key + 1}" if isinstance(key, int) else f" {key}"
        name = path.stem if len(shapes) == 1 else f"{path.stem}{place}"
        found[name] = Rows(path, shape, key)
        check_shape(found[name], f"embeddings in {name}")
    return found


def head(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A head from a file: (weight float64 [classes, d], bias float64 [classes]).

    A .npy file holds the weight; other files the tensors "weight" and perhaps "bias", or a single tensor.
    Raises UserError as `embeddings` does, and where no file is named.
    """
    if not str(path):
        raise UserError("Saved embeddings need a head here; give its file with `-p head FILE`, [classes, coordinates].")
    path, shapes = _opened(path)
    if "weight" not in shapes and len(shapes) > 1:
        raise UserError(f"{path} holds {', '.join(shapes)}; a head is a tensor 'weight', and perhaps a 'bias'.")
    key = "weight" if "weight" in shapes else next(iter(shapes))
    check_shape(Rows(path, shapes[key]), f"rows of the head in {path.name}")
    parts = {k: torch.as_tensor(Rows(path, shapes[k], k)[:]).double().numpy() for k in (key, "bias") if k in shapes}
    weight = parts[key]
    bias = parts.get("bias", np.zeros(len(weight)))
    if bias.shape != (len(weight),):
        raise UserError(f"The bias in {path} has shape {list(bias.shape)}; expected [{len(weight)}], one a class.")
    return weight, bias


def _opened(path: str | Path) -> tuple[Path, dict[Any, tuple[int, ...]]]:
    """The path, and the shapes of what is in the file by key."""
    path = Path(path).expanduser()
    if path.suffix not in FORMATS:
        raise UserError(f"{path} is no embeddings file; expected one of {', '.join(FORMATS)}.")
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*") if p.suffix in FORMATS) if path.parent.is_dir() else []
        raise UserError(f"There is no file {path}; give the path of saved embeddings.{nearest(path.name, beside)}")
    try:
        shapes, types = _shapes(path)
    except Exception as error:  # each format fails in its own way, some on many lines
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); write it again.") from None
    strange = [t for t in types if not any(kind in t for kind in ("float", "F16", "F32", "F64"))]
    if strange:
        raise UserError(f"{path} holds values of type {strange[0]}; expected floating-point embeddings.")
    return path, shapes


def _shapes(path: Path) -> tuple[dict[Any, tuple[int, ...]], list[str]]:
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return {None: array.shape}, [str(array.dtype)]
    if path.suffix == ".pt":
        tensors = _tensors(path)
        return {k: tuple(t.shape) for k, t in tensors.items()}, [str(t.dtype) for t in tensors.values()]
    with safe_open(path, framework="pt") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}
        return {k: tuple(s.get_shape()) for k, s in slices.items()}, [s.get_dtype() for s in slices.values()]


def _tensors(path: Path) -> dict[Any, torch.Tensor]:
    """What a .pt file holds, mapped and not read, and without running anything that lies in it."""
    found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return found if isinstance(found, dict) else {None: found}
