"""Weights: found on disk or downloaded, and read without running anything that is in them."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torchvision
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import get_session
from safetensors.torch import load_file
from torch import nn

from lib.errors import UserError
from lib.models.catalogue import MINIATURE, Choice
from lib.paths import download_folder

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def find(choice: Choice) -> Path | None:
    """The checkpoint that a Choice stands for: named by path, put there by hand, or downloaded; None for random ones.

    Raises UserError where it cannot be had: what was looked for, and where to put it.
    """
    if choice.kind == "random":
        return None
    if choice.kind == "file":
        return _named(choice)
    folder = download_folder() / "weights"
    stem = choice.architecture.replace("/", "--") + ("" if choice.has_head else f"--{choice.source}")
    for suffix in SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    try:
        with quiet():
            return _downloaded(choice, folder / stem)
    except Exception as error:  # no network, no permission, no such file, ...
        title = choice.architecture if choice.has_head else f"{choice.architecture}/{choice.source}"
        raise UserError(
            f"The weights of {title} could not be downloaded ({type(error).__name__}); fetch them elsewhere "
            f"{_origin(choice)}and put the file at {folder / stem}.safetensors (or {', '.join(SUFFIXES[1:])})."
        ) from None


def _named(choice: Choice) -> Path:
    path = Path(choice.source).expanduser()
    if not path.is_file():
        miniature = choice.miniature and path.parent == MINIATURE / "zoo"
        advice = f"train it: python scripts/train_zoo.py {path.stem}" if miniature else "give the path of a checkpoint"
        raise UserError(f"There is no checkpoint {path} for {choice.name}; {advice}.")
    return path


def pretrained(choice: Choice) -> dict[str, Any]:
    """open_clip's settings of a pair's weights: where they are, and how their images were normalised; else {}."""
    known = choice.kind == "tag" and not choice.has_head
    return open_clip.get_pretrained_cfg(choice.architecture, choice.source) if known else {}


def _downloaded(choice: Choice, stem: Path) -> Path:
    library, _, name = choice.architecture.partition("/")
    if choice.has_head and library == "torchvision":
        weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        path = stem.with_name(f"{stem.name}.pth")
        path.parent.mkdir(parents=True, exist_ok=True)
        # the eight digits in the file's name at its origin are the start of its sha256
        start = weights.url.rsplit("-", 1)[1].split(".")[0]
        torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=start, progress=False)
        return path
    if choice.has_head:
        repository = str(timm.get_pretrained_cfg(name).hf_hub_id)  # type: ignore[union-attr]  # an error is caught
        return _from_hub(repository, ("model.safetensors",)) or Path(hf_hub_download(repository, "model.safetensors"))
    config = pretrained(choice)
    repository, filename = os.path.split(config.get("hf_hub", ""))
    cached = _from_hub(repository, (filename,) if filename else HUB_FILES) if repository else None
    return cached or Path(open_clip.download_pretrained(config))


def _from_hub(repository: str, files: tuple[str, ...]) -> Path | None:
    """A file that the hub's client has on disk. Without one, ask the hub once and shortly whether it is there.

    Without a network its own client would try again for most of a minute. Raises what the network raises.
    """
    for file in files:
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("the hub is set to offline")
    get_session().head(constants.ENDPOINT, timeout=5)
    return None


def _origin(choice: Choice) -> str:
    config = pretrained(choice)
    if not config:
        return ""
    hub = config.get("hf_hub", "").rstrip("/")
    return f"from the model hub's repository '{hub}' " if hub else f"from {config.get('url', 'its origin')} "


def read(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint, without the wrappers that trainings leave around them. Raises UserError."""
    try:
        stored = path.suffix == ".safetensors"
        state: Any = load_file(path) if stored else torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {key.removeprefix("module."): value for key, value in state.items()}
    except Exception as error:  # every format fails in its own way
        raise UserError(
            f"{path} is not a whole checkpoint ({_reason(error)}); fetch it again if it was cut short."
        ) from None


def fill(model: nn.Module, state: dict[str, torch.Tensor], path: Path, name: str) -> None:
    """Put tensors into a classifier, as float32. Raises UserError when they belong to another one."""
    try:
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        raise UserError(
            f"{path} holds another model than {name} ({_reason(error)}); name the one it belongs to."
        ) from None


def fill_clip(model: nn.Module, path: Path, architecture: str) -> None:
    """Put a checkpoint into an open_clip model, by its own reader, which knows its formats. Raises UserError."""
    try:
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except Exception as error:  # every format fails in its own way
        raise UserError(
            f"{path} is not a whole checkpoint of {architecture} ({_reason(error)}); "
            "fetch it again if it was cut short, or name the architecture that it belongs to."
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """open_clip logs that no weights were loaded; they are loaded after it has built the model."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
