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
    found = local(choice)
    if found or choice.kind == "random":
        return found
    stem = _stem(choice)
    try:
        with quiet():
            return _downloaded(choice, stem)
    except Exception as error:  # no network, no permission, no such file, ...
        title = choice.architecture if choice.has_head else f"{choice.architecture}/{choice.source}"
        raise UserError(
            f"The weights of {title} could not be downloaded ({type(error).__name__}); fetch them elsewhere "
            f"{origin(choice)}and put the file at {stem}.safetensors (or {', '.join(SUFFIXES[1:])})."
        ) from None


def local(choice: Choice) -> Path | None:
    """The checkpoint that a Choice stands for where it is on this machine, else None; nothing is downloaded.

    Raises UserError for one that is named by a path that does not exist.
    """
    if choice.kind == "random":
        return None
    if choice.kind == "file":
        return _named(choice)
    stem = _stem(choice)
    put = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
    repository, files = _at_hub(choice)
    cached = [try_to_load_from_cache(repository, file) for file in files]
    there = [path for path in put if path.is_file()] + [Path(path) for path in cached if isinstance(path, str)]
    return there[0] if there else None


def _stem(choice: Choice) -> Path:
    """Where a checkpoint is put by hand, without the file's ending."""
    name = choice.architecture.replace("/", "--") + ("" if choice.has_head else f"--{choice.source}")
    return download_folder() / "weights" / name


def _at_hub(choice: Choice) -> tuple[str, tuple[str, ...]]:
    """The repository of the model hub and the files in it that hold the weights; "" where they lie elsewhere."""
    library, _, name = choice.architecture.partition("/")
    if choice.has_head:
        repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", "") if library == "timm" else ""
        return str(repository), ("model.safetensors",) if repository else ()
    repository, file = os.path.split(pretrained(choice).get("hf_hub", ""))
    return repository, () if not repository else (file,) if file else HUB_FILES


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
    repository, files = _at_hub(choice)
    if repository:
        _ask_hub()
    if choice.has_head:
        return Path(hf_hub_download(repository, files[0]))
    return Path(open_clip.download_pretrained(pretrained(choice)))


def _ask_hub() -> None:
    """Ask the model hub once and shortly whether it is there; raises what the network raises.

    Without a network its own client would try again for most of a minute.
    """
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("the hub is set to offline")
    get_session().head(constants.ENDPOINT, timeout=5)


def origin(choice: Choice) -> str:
    """Where the weights of a Choice come from, in words that end with a space; "" where that is not known."""
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
