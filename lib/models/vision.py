"""The image side of a model: pixels, embeddings of images, features of patches."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import functional as tv

from lib import store
from lib.data import THREADS, ImageDataset
from lib.errors import UserError
from lib.models.catalogue import Choice
from lib.models.features import extractor, family_of, unprojected

CPU_BATCH = 32  # images; the layers of larger batches leave the caches, and ask the system for fresh memory each time
KEPT = 2048  # images at most whose embeddings are one entry of the store
# PyTorch's shortcut for attention at inference, taken for even numbers of heads, is several times slower on a CPU
torch.backends.mha.set_fastpath_enabled(False)
BANNER = "Random weights: this page shows that the code runs; its numbers mean nothing."


@dataclass(frozen=True)
class Opened:
    """What is known of a model before it is built. path: of its weights, None for random ones, drawn from `seed`.

    identity: all that decides its embeddings, as JSON values.
    """

    choice: Choice
    path: Path | None
    device: torch.device
    seed: int
    identity: dict[str, Any]


@dataclass(frozen=True)
class View:
    """How a tower is shown an image: side in pixels, mean and std of the channels, and `resize` as of `pixels`."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "squash"


class Vision:
    """The image side of a model, for inference. Everything it returns lies on its device, in float32.

    model (whole); tower (normalised pixels to embeddings, or to a classifier's logits; its modules are the layers);
    name; title (as in the papers' tables); row (of data/models.csv, or {}); backbone (the row with the same
    architecture); objective ("contrastive", "captions", "finetuned" or "supervised"); family ("ViT", "ResNet",
    "ConvNeXt" or "other"); architecture (the library's name); precision ("fp32" or "bf16"); image_size (S, pixels);
    width (c); unit_norm (of embeddings); banner (for random weights, else None); identity (what decides embeddings).
    """

    unit_norm = True
    default_objective = "contrastive"

    def __init__(self, model: nn.Module, tower: nn.Module, opened: Opened, width: int, view: View):
        choice = opened.choice
        self.model, self.tower = model.to(opened.device).eval().requires_grad_(False), tower
        self.name, self.row, self.architecture = choice.name, choice.row, choice.architecture
        stem, own, _ = choice.name.partition(":")  # weights of one's own are not the paper's row
        self.title = self.row.get("title", stem) + (f" ({Path(choice.source).name})" if own else "")
        self.backbone = self.row.get("backbone", stem)
        self.objective = self.row.get("objective", self.default_objective)
        self.device, self.identity, self.precision = opened.device, opened.identity, opened.identity["precision"]
        self.banner = BANNER if choice.kind == "random" else None
        self.visual: Any = getattr(model, "visual", model)
        self.family = family_of(self.visual)
        self.width, self.image_size, self.mean, self.std = width, view.size, view.mean, view.std
        self.resize, self.miniature = view.resize, choice.miniature

    def __repr__(self) -> str:
        about = f"{self.architecture}, {self.image_size} px, {self.precision} on {self.device}"
        return f"{type(self).__name__}({self.name}: {about})"

    @property
    def weights_sha256(self) -> str:
        """sha256 of the weights' file; "random, seed 0" for random ones."""
        weights = self.identity["weights"]
        return weights if isinstance(weights, str) else f"random, seed {weights['random']}"

    @property
    def decides(self) -> dict[str, Any]:
        """What of `identity` decides embeddings, for their keys in the store: its settings for other things don't."""
        return {k: v for k, v in self.identity.items() if k not in ("name", "row")} | {"objective": self.objective}

    # --- pixels

    def pixels(self, images: ImageDataset | Iterable[Image.Image], resize: str | None = None) -> torch.Tensor:
        """Images as uint8 [n, 3, S, S] on the CPU.

        resize: "squash" to S x S, bilinear with antialias (what the mutual-knowledge code does); "crop", open_clip's:
        shorter side to S, bicubic, then the centre; "crop256": to 256, bilinear. Default: the model's `resize`.
        """
        batches = list(self._pixel_batches(images, 256, resize or self.resize))
        return torch.cat(batches) if batches else torch.empty(0, 3, self.image_size, self.image_size).byte()

    def _pixel_batches(self, images: Any, batch_size: int, resize: str) -> Iterator[torch.Tensor]:
        """uint8 [b, 3, S, S], in order; the next batch is read by threads while the caller uses this one."""
        if resize != "squash" and not re.fullmatch(r"crop\d*", resize):
            raise UserError(f"resize is '{resize}'; give 'squash', 'crop' or 'crop' with the shorter side's pixels.")
        if not isinstance(images, ImageDataset):
            images = list(images)
        read = images.image if isinstance(images, ImageDataset) else images.__getitem__
        with ThreadPoolExecutor(THREADS) as pool:
            ahead: deque = deque()
            for start in range(0, len(images), batch_size):
                chunk = range(start, min(start + batch_size, len(images)))
                ahead.append([pool.submit(lambda i: to_pixels(read(i), self.image_size, resize), i) for i in chunk])
                if len(ahead) == 2:
                    yield torch.stack([future.result() for future in ahead.popleft()])
            if ahead:
                yield torch.stack([future.result() for future in ahead.popleft()])

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [n, 3, S, S] as the vision tower reads it: float32, on the device."""
        mean = torch.tensor(self.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=self.device).view(3, 1, 1)
        return pixels.to(self.device).float().div_(255).sub_(mean).div_(std)

    # --- embeddings

    def embed_pixels(self, pixels: torch.Tensor, batch_size: int = 256, projected: bool = True) -> torch.Tensor:
        """Image embeddings float32 [n, c] from uint8 [n, 3, S, S]; rows of norm 1 if `unit_norm`.

        projected: False for the features before the last projection into the joint space, not normalised.
        """
        _check_pixels(pixels, self.image_size)
        return self._embed_batches(pixels.split(batch_size) if len(pixels) else [], projected)

    def embed_images(
        self,
        images: ImageDataset | Iterable[Image.Image],
        batch_size: int = 256,
        resize: str | None = None,
        projected: bool = True,
    ) -> torch.Tensor:
        """Image embeddings float32 [n, c] as `embed_pixels` gives them.

        images, resize: see `pixels`. Those of an ImageDataset are kept, a chunk of whole classes at a time.
        """
        resize = resize or self.resize
        if not isinstance(images, ImageDataset):
            return self._embed_batches(self._pixel_batches(images, batch_size, resize), projected)
        order, rows = [np.empty(0, np.int64)], []
        for chunk in images.chunks():
            for part in np.array_split(chunk, -(-len(chunk) // KEPT)):
                order.append(part)
                rows.append(self._embed_kept(images.subset(part), batch_size, resize, projected))
        if not rows:
            return self._embed_batches([], projected)
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        return torch.cat(rows)[back].to(self.device)

    def _embed_kept(self, images: ImageDataset, batch_size: int, resize: str, projected: bool) -> torch.Tensor:
        """float32 [n, c] on the CPU, from the store or computed."""

        def compute() -> dict[str, torch.Tensor]:
            return {"embeddings": self._embed_batches(self._pixel_batches(images, batch_size, resize), projected)}

        about = {"dataset": images.name, "split": images.split, "n": len(images), "images": images.fingerprint}
        about |= {"resize": resize, "projected": projected}
        return store.tensors({"kind": "image_embeddings", "model": self.decides, **about}, compute)["embeddings"]

    def _embed_batches(self, batches: Iterable[torch.Tensor], projected: bool = True) -> torch.Tensor:
        with nullcontext() if projected else unprojected(self.name, self.visual, self.family):
            rows = [self._infer(self._embed, batch) for batch in batches]
        if not rows:
            return torch.empty(0, self.width, device=self.device)
        return F.normalize(torch.cat(rows), dim=-1) if projected and self.unit_norm else torch.cat(rows)

    def _embed(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x)

    # --- patches

    def patch_features(
        self, pixels: torch.Tensor, feature: str = "tokens", layer: int | None = None, batch_size: int = 64
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """Features of the patches: (float32 [n, h*w, C], (h, w)), row by row, from uint8 [n, 3, S, S].

        ViT: "tokens" are the outputs of block `layer` before the final layer norm, without the class token;
        "keys", "queries" and "values" are its attention's projections, heads concatenated; "keys_no_bias"
        leaves the bias out, as the mutual-knowledge code does. ResNet: "tokens" are the output of stage
        `layer` of five (stem and four), the others are the attention pool's, which sees the last stage.
        ConvNeXt: "tokens" are the output of stage `layer` of four. layer: index of block or stage, from the
        end if negative; default the last. Raises UserError for a feature or layer that the family lacks.
        """
        _check_pixels(pixels, self.image_size)
        read = extractor(self.name, self.visual, self.family, feature, layer)
        maps = torch.cat([self._infer(read, batch) for batch in pixels.split(batch_size)])
        return maps.flatten(1, 2), (maps.shape[1], maps.shape[2])

    @torch.inference_mode()
    def _infer(self, function: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        """function(normalised pixels on the device), in float32; on a CPU a few images at a time."""
        parts = pixels.split(CPU_BATCH) if self.device.type == "cpu" else [pixels]
        with self._autocast():
            found = [function(self.normalised(part)).float() for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def to_pixels(image: Image.Image, size: int, resize: str = "squash") -> torch.Tensor:
    """One PIL image as uint8 [3, size, size]; resize: see `Vision.pixels`."""
    image, shorter = image.convert("RGB"), resize.removeprefix("crop")
    if resize == "squash":
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    elif shorter:
        image = tv.center_crop(tv.resize(image, int(shorter), tv.InterpolationMode.BILINEAR), size)
    else:
        image = tv.center_crop(tv.resize(image, size, tv.InterpolationMode.BICUBIC), size)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _check_pixels(pixels: torch.Tensor, size: int) -> None:
    if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != (3, size, size):
        given = f"{pixels.dtype} {list(pixels.shape)}"
        raise UserError(f"Pixels are {given}, expected uint8 [n, 3, {size}, {size}]; make them with clip.pixels.")
